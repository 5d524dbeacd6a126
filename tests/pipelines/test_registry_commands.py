"""compare, promote, rollback and history, as a user calls them, on a small store with made-up versions."""

import json
import os
import re
import sqlite3
from urllib.parse import parse_qs, urlparse

import pytest
from click.testing import CliRunner

from components.register.settings import GateSettings
from tests.registry_store import CLASSES, MODEL, SECRET, predicted_rows, predictions, tamper

WHO = ("--by", "Ada", "--reason", "better on the ward")


@pytest.fixture
def vitalfuse(request, monkeypatch):
    """Call a command in the folder of the test's store, with the key of its predictions."""
    store = request.getfixturevalue("two_versions" if "two_versions" in request.fixturenames else "store")
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "VITALFUSE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", SECRET)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(store.folder.parent)

    def call(*arguments, code=0):
        from pipelines.cli import main

        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def _json(result):
    return json.loads(result.stdout)


# compare


def test_compare_shows_scores_settings_cohorts_and_the_link(store, vitalfuse):
    first = store.run(predictions(2), params={"train.optimiser.epochs": "40"})
    second = store.run(predictions(0.2, seed=1), params={"train.optimiser.epochs": "80", "workspace": "elsewhere"})
    output = vitalfuse("compare", first[:8], second[:8]).stdout
    assert first[:8] in output and second[:8] in output
    assert "cccccccccccc" in output
    lines = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.strip()}
    assert lines["train.optimiser.epochs"] == ["40", "80"]
    assert "workspace" not in lines and "elsewhere" not in output
    assert "60 patients" in output
    url = urlparse(next(line.split()[-1] for line in output.splitlines() if line.startswith("MLflow")))
    query = parse_qs(urlparse(url.fragment).query)
    assert json.loads(query["runs"][0]) == [first, second]
    assert json.loads(query["experiments"][0]) == [store.experiment]
    assert "vitalfuse ui --workspace workspace" in output
    assert "warning" not in output


def test_compare_gives_the_figures_that_evaluation_gives(store, vitalfuse):
    from evaluation.comparisons import compare_pair, holm
    from evaluation.intervals import bootstrap_weights

    frames = [predictions(2), predictions(1.2, seed=1), predictions(0.2, seed=2)]
    runs = [store.run(frame) for frame in frames]
    document = _json(vitalfuse("compare", *runs, "--json"))
    tests = [predicted_rows(frame[frame["set"] == "test"]) for frame in frames]
    figures = {entry["metric"]: entry["runs"] for entry in document["metrics"]}
    from evaluation.metrics import score

    for i, rows in enumerate(tests):
        for metric, value in score(rows).overall.items():
            assert figures[metric][i]["value"] == pytest.approx(value)
        assert figures["macro_auc"][i]["low"] < figures["macro_auc"][i]["value"] < figures["macro_auc"][i]["high"]
    weights = bootstrap_weights(tests[0].labels, tests[0].groups, resamples=1000)
    pairs = [compare_pair(rows, tests[0], weights, name="x") for rows in tests[1:]]
    adjusted = holm([pair.macro_auc.p_value for pair in pairs])
    for found, pair, p in zip(document["differences"], pairs, adjusted, strict=True):
        assert found["common"] == 60
        assert found["macro_auc"]["value"] == pytest.approx(pair.macro_auc.value)
        assert found["accuracy"]["value"] == pytest.approx(pair.accuracy.value)
        assert (found["only_this_right"], found["only_first_right"]) == (pair.only_candidate, pair.only_baseline)
        assert found["mcnemar_p"] == pytest.approx(pair.mcnemar_p_value)
        # Patients are in another order here, so the resamples are others.
        assert found["macro_auc"]["low"] == pytest.approx(pair.macro_auc.interval.low, abs=0.02)
        assert found["macro_auc"]["p_holm"] == pytest.approx(p, abs=0.03)
    assert document["differences"][1]["macro_auc"]["high"] < 0


def test_compare_warns_of_different_test_patients_and_uses_the_common_ones(store, vitalfuse):
    first = store.run(predictions(2))
    second = store.run(predictions(2, patients=range(20, 80)), cohort="d" * 64)
    document = _json(vitalfuse("compare", first, second, "--json"))
    (difference,) = document["differences"]
    assert (difference["common"], difference["own"], difference["of_first"]) == (40, 60, 60)
    # The same model: no difference on the patients that both have, though the scores differ.
    assert difference["macro_auc"]["value"] == 0
    assert document["metrics"][0]["runs"][0]["value"] != document["metrics"][0]["runs"][1]["value"]
    output = " ".join(vitalfuse("compare", first, second).stdout.split())
    assert "saw different held-out patients: 40 in common, of 60 and 60" in output
    assert "different cohorts" in output
    assert "dddddddddddd" in output


def test_compare_tells_of_patients_with_another_label(store, vitalfuse):
    first = store.run(predictions(2))
    second = store.run(predictions(2, labels={0: "copd", 3: "copd", 4: "healthy"}))
    output = " ".join(vitalfuse("compare", first, second).stdout.split())
    assert "3 common patients have another label" in output
    assert _json(vitalfuse("compare", first, second, "--json"))["differences"][0]["common"] == 57


def test_compare_without_common_patients_says_so(store, vitalfuse):
    first, second = store.run(predictions(2)), store.run(predictions(2, patients=range(100, 160)))
    output = " ".join(vitalfuse("compare", first, second).stdout.split())
    assert "no patients in common" in output
    assert "saw different held-out patients" in output


def test_compare_on_out_of_fold_rows_leaves_held_out_ones_alone(store, vitalfuse):
    frames = [predictions(2), predictions(2, seed=1)]
    runs = [store.run(frame) for frame in frames]
    document = _json(vitalfuse("compare", *runs, "--rows", "out_of_fold", "--json"))
    rows = [predicted_rows(frame[frame["set"] == "out_of_fold"]) for frame in frames]
    from evaluation.metrics import score

    expected = score(rows[1]).overall["macro_auc"] - score(rows[0]).overall["macro_auc"]
    assert document["differences"][0]["macro_auc"]["value"] == pytest.approx(expected)


def test_compare_names_versions_by_number_and_alias(store, vitalfuse):
    runs = [store.run(predictions(signal)) for signal in (2, 1)]
    for run in runs:
        store.version(run=run)
    for names in (["@champion", f"models:/{MODEL}/2"], ["1", "2"]):
        document = _json(vitalfuse("compare", *names, "--json"))
        assert [entry["run_id"] for entry in document["runs"]] == runs
    assert [entry["model"] for entry in document["runs"]] == [f"{MODEL}/1", f"{MODEL}/2"]
    assert document["runs"][0]["aliases"] == ["champion"]
    assert document["runs"][1]["gates"] == "passed"
    assert document["differences"][0]["common"] == 60


def test_compare_finds_the_scores_of_a_step_from_the_cache(store, vitalfuse):
    first = store.run(predictions(2))
    second = store.run(predictions(2), cached_from=first)
    document = _json(vitalfuse("compare", first, second, "--json"))
    assert document["differences"][0]["macro_auc"]["value"] == 0
    assert document["metrics"][0]["runs"][0] == document["metrics"][0]["runs"][1]


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "no key to open"), ("another key of the tests", "sealed with another key")]
)
def test_compare_without_the_key_still_shows_the_scores(store, vitalfuse, monkeypatch, key, reason):
    runs = [store.run(predictions(2)), store.run(predictions(1, patients=range(30, 90)))]
    monkeypatch.delenv("VITALFUSE_EVIDENCE_KEY")
    if key:
        monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", key)
    output = " ".join(vitalfuse("compare", *runs).stdout.split())
    assert reason in output
    assert "macro AUC" in output
    # The digests tell it also without the key.
    assert "saw different held-out patients" in output


def test_compare_takes_the_key_of_the_workspace(store, vitalfuse, monkeypatch):
    runs = [store.run(predictions(2)), store.run(predictions(1))]
    monkeypatch.delenv("VITALFUSE_EVIDENCE_KEY")
    (store.folder / "pseudonym.key").write_text(SECRET + "\n")
    assert _json(vitalfuse("compare", *runs, "--json"))["differences"][0]["common"] == 60


def test_compare_tells_of_runs_whose_predictions_were_not_kept(store, vitalfuse):
    runs = [store.run(predictions(2)), store.run(predictions(1), key=None)]
    assert "its predictions were not kept" in " ".join(vitalfuse("compare", *runs).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["@champion"], "two runs at least"),
        (["@champion", "@nothing"], "has no alias @nothing. There are: @challenger, @champion."),
        (["@champion", f"{MODEL}/9"], "has no version 9. There are: 1."),
        (["@champion", "other/1"], f"no registered model 'other'. There are: {MODEL}."),
        (["@champion", "9"], "has no version 9. There are: 1."),
        (["@champion", "ffffffff"], "no pipeline run begins with ffffffff"),
        (["@champion", "1234"], "no pipeline run begins with 1234"),
        (["@champion", "f" * 32], "MLflow has no run ffff"),
        (["@champion", "yesterday"], "'yesterday' is neither a run nor a version"),
        (["@champion", "@challenger"], "are the same run"),
    ],
)
def test_compare_says_what_it_did_not_find(store, vitalfuse, arguments, message):
    store.version(run=store.run(predictions(2)))
    result = vitalfuse("compare", *arguments, code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_ambiguous_run_is_refused_with_the_candidates(store, vitalfuse, monkeypatch):
    from pipelines import registry

    runs = [store.client.get_run(store.run(predictions(2))) for _ in range(2)]
    for run in runs:
        run.info._run_id = "abcd" + run.info.run_id[4:]
    monkeypatch.setattr(registry, "_pipeline_runs", lambda client: runs)
    result = vitalfuse("compare", "abcd", "@champion", code=2)
    assert "2 runs begin with abcd" in result.stderr
    assert runs[0].info.run_id[:12] in result.stderr


def test_commands_make_no_store_where_there_is_none(vitalfuse, store):
    for command in (
        ["compare", "abcd", "ef01"],
        ["history"],
        ["rollback", *WHO],
        ["promote", "1", "--to", "champion", *WHO],
        ["deploy"],
    ):
        result = vitalfuse(*command, "--workspace", "elsewhere", code=2)
        assert "elsewhere, field --workspace: holds no MLflow store" in result.stderr
    assert not (store.folder.parent / "elsewhere").exists()


def test_a_database_that_is_not_there_is_not_made(vitalfuse, store):
    for command in (["history"], ["deploy"]):
        result = vitalfuse(*command, "--tracking-uri", "sqlite:///nowhere.db", code=2)
        assert "nowhere.db, field --tracking-uri: there is no such database" in result.stderr
    assert not (store.folder.parent / "nowhere.db").exists()


def test_what_the_server_refuses_while_a_command_runs_is_told_in_one_line(vitalfuse, two_versions, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*arguments, **named):
        raise MlflowException("Permission denied by http://ada:secret@mlflow:5000\nlong story")

    monkeypatch.setattr(MlflowClient, "log_param", refuse)
    result = vitalfuse("promote", "2", "--to", "champion", *WHO, code=1)
    assert "vitalfuse: MLflow could not do it: Permission denied by http://mlflow:5000." in result.stderr
    assert result.stderr.count("\n") == 1
    assert two_versions.aliases()["champion"] == "1"


def test_a_server_that_is_away_is_told_in_one_line(vitalfuse):
    result = vitalfuse("history", "--tracking-uri", "http://me:secret@127.0.0.1:9", code=2)
    assert "http://127.0.0.1:9" in result.stderr and "secret" not in result.stderr
    assert "Connection refused" in result.stderr


@pytest.mark.parametrize("width", [60, 80, 120])
def test_compare_fits_the_terminal(store, vitalfuse, monkeypatch, width):
    names = "preprocess.imputation.longest_gap", "train.optimiser.learning_rate"
    runs = [store.run(predictions(2, seed=i), params=dict.fromkeys(names, f"{i}0.125")) for i in range(4)]
    monkeypatch.setenv("COLUMNS", str(width))
    output = vitalfuse("compare", *runs).stdout
    lines = output.splitlines()
    assert max(len(line.rstrip()) for line in lines if "compare-runs" not in line) <= width
    for i, run in enumerate(runs):
        assert any(run[:8] in line for line in lines)
        assert output.count(f"{i}0.125") == 2
    # Nothing is broken in the middle: facts, settings, intervals.
    assert output.count("60 patients, digest ") == 4
    assert all(name in output for name in names)
    assert len(re.findall(r"[+-]0\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", output)) == 6


def test_no_patient_is_in_what_is_printed_or_in_mlflow(store, vitalfuse):
    runs = [store.run(predictions(2)), store.run(predictions(1))]
    output = vitalfuse("compare", *runs).output + vitalfuse("compare", *runs, "--json").output
    assert "pseudonym" not in output.replace("pseudonym.key", "")
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert b"pseudonym-" not in path.read_bytes(), path
    with sqlite3.connect(store.folder / "mlflow.db") as connection:
        dump = "\n".join(connection.iterdump())
    assert "pseudonym-" not in dump
    assert not [name for name in CLASSES if f"'{name}'" in dump]


# promote, rollback, history


def test_promote_moves_the_alias_and_history_tells_why(two_versions, vitalfuse):
    result = vitalfuse("promote", "2", "--to", "champion", *WHO)
    assert f"{MODEL}: champion 1 → 2, previous – → 1" in result.stdout
    assert two_versions.aliases() == {"champion": "2", "previous": "1", "challenger": "2"}
    told = vitalfuse("history").stdout
    assert "Ada" in told and "better on the ward" in told
    document = _json(vitalfuse("history", "--json"))
    assert document["aliases"] == two_versions.aliases()
    assert [entry["action"] for entry in document["entries"]] == ["register", "register", "promote"]
    assert document["entries"][2]["evidence"]["gates"] == "passed"
    assert document["entries"][2]["evidence"]["verified"] == ["vitalfuse.model_digest", "vitalfuse.package_digest"]
    assert document["head"] in result.stdout


def test_rollback_returns_to_the_champion_before(store, vitalfuse):
    store.version()
    assert "no previous champion" in vitalfuse("rollback", *WHO, code=2).stderr
    store.version()
    vitalfuse("promote", "@challenger", "--to", "champion", *WHO)
    result = vitalfuse("rollback", "--by", "Bob", "--reason", "alarms at night")
    assert "champion 2 → 1, previous 1 → 2" in result.stdout
    assert store.aliases() == {"champion": "1", "previous": "2", "challenger": "2"}
    entry = _json(vitalfuse("history", "--json"))["entries"][-1]
    assert (entry["action"], entry["by"], entry["reason"]) == ("rollback", "Bob", "alarms at night")


def test_promote_twice_is_once(store, vitalfuse):
    store.version()
    assert "is champion already" in vitalfuse("promote", "1", "--to", "champion", *WHO).stdout
    assert len(_json(vitalfuse("history", "--json"))["entries"]) == 1


def test_failed_gates_refuse_unless_overridden_and_then_the_record_says_so(store, vitalfuse):
    store.version()
    store.version(passed=False)
    refused = vitalfuse("promote", "2", "--to", "champion", *WHO, code=2)
    assert "did not pass its gates: macro_auc" in refused.stderr
    assert "--override-gates" in refused.stderr
    assert vitalfuse("promote", "2", "--to", "challenger", *WHO, code=2)
    assert store.aliases()["champion"] == "1"
    result = vitalfuse("promote", "2", "--to", "champion", "--override-gates", *WHO)
    assert "in spite of its gates: macro_auc" in result.stderr
    assert store.aliases()["champion"] == "2"
    assert _json(vitalfuse("history", "--json"))["entries"][-1]["evidence"]["overridden"] == ["macro_auc"]
    assert "in spite of: macro_auc" in vitalfuse("history").stdout


def test_a_version_without_gates_needs_the_override_too(store, vitalfuse):
    store.version()
    number = store.version(record=False)
    for tag in [tag for tag in store.client.get_model_version(MODEL, number).tags if tag.startswith("vitalfuse.gates")]:
        store.client.delete_model_version_tag(MODEL, number, tag)
    refused = vitalfuse("promote", number, "--to", "champion", *WHO, code=2)
    assert "no gates were evaluated" in refused.stderr


@pytest.mark.parametrize("file", ["artifacts/model/model.onnx", "MLmodel", "artifacts/gates/gates.json"])
def test_a_version_whose_files_were_changed_is_refused(two_versions, vitalfuse, file):
    path = two_versions.files("2") / file
    path.write_text(path.read_text() + " ")
    refused = vitalfuse("promote", "2", "--to", "champion", *WHO, code=2)
    assert "are not those that were registered" in refused.stderr
    assert two_versions.aliases()["champion"] == "1"
    assert vitalfuse("promote", "2", "--to", "champion", "--override-gates", *WHO, code=2)


def test_an_added_file_and_a_missing_one_are_refused_and_what_loading_leaves_is_not(two_versions, vitalfuse):
    two_versions.version()
    (two_versions.files("2") / "code").mkdir()
    (two_versions.files("2") / "code" / "extra.py").write_text("pass")
    assert "not those that were registered" in vitalfuse("promote", "2", "--to", "champion", *WHO, code=2).stderr
    (two_versions.files("2") / "code" / "extra.py").unlink()
    (two_versions.files("2") / "registered_model_meta").write_text("model_name: x")
    (two_versions.files("2") / "code" / "__pycache__").mkdir()
    (two_versions.files("2") / "code" / "__pycache__" / "a.pyc").write_text("compiled")
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    (two_versions.files("3") / "artifacts" / "model" / "model.onnx").unlink()
    refused = vitalfuse("promote", "3", "--to", "champion", *WHO, code=2).stderr
    assert "not those that were registered" in refused


def test_digests_in_tags_do_not_outvote_the_record(store, vitalfuse):
    """Whoever changes the files can change the tags as well; the record of the registration they can't."""
    from components.register.integrity import MODEL_DIGEST_TAG, PACKAGE_DIGEST_TAG, folder_digest, package_digest

    store.version()
    store.version()
    folder = store.files("2")
    (folder / "artifacts" / "model" / "model.onnx").write_text("another model")
    store.client.set_model_version_tag(MODEL, "2", PACKAGE_DIGEST_TAG, package_digest(folder))
    store.client.set_model_version_tag(MODEL, "2", MODEL_DIGEST_TAG, folder_digest(folder / "artifacts" / "model"))
    refused = vitalfuse("promote", "2", "--to", "champion", *WHO, code=2)
    assert "isn't what was recorded at its registration" in refused.stderr


def test_a_changed_previous_champion_is_not_gone_back_to(two_versions, vitalfuse):
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    (two_versions.files("1") / "artifacts" / "model" / "model.onnx").write_text("another model")
    assert "not those that were registered" in vitalfuse("rollback", *WHO, code=2).stderr
    assert two_versions.aliases()["champion"] == "2"


def test_expected_champion_is_compared_before_anything_is_done(two_versions, vitalfuse):
    refused = vitalfuse("promote", "2", "--to", "champion", "--expect-champion", "7", *WHO, code=2)
    assert "the champion is version 1, not 7" in refused.stderr
    vitalfuse("promote", "2", "--to", "champion", "--expect-champion", "1", *WHO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["9", "--to", "champion", *WHO], "has no version 9. There are: 1."),
        (["best", "--to", "champion", *WHO], "'best' is no version"),
        (["1", "--to", "champion", "--by", " ", "--reason", "x"], "field --by: is empty"),
        (["1", "--to", "champion", "--by", "Ada", "--reason", "x" * 1001], "field --reason: has 1001 characters"),
        (["1", "--to", "champion", "--model", "nothing", *WHO], "no registered model 'nothing'"),
    ],
)
def test_promote_says_what_is_wrong(store, vitalfuse, arguments, message):
    store.version()
    assert message in vitalfuse("promote", *arguments, code=2).stderr


def test_promote_wants_a_name_and_a_reason(vitalfuse):
    assert "--by" in vitalfuse("promote", "1", "--to", "champion", "--reason", "x", code=2).stderr
    assert "--reason" in vitalfuse("promote", "1", "--to", "champion", "--by", "x", code=2).stderr
    assert "--reason" in vitalfuse("rollback", "--by", "x", code=2).stderr


GATES = GateSettings(resamples=100)


def test_a_champion_that_is_newer_than_the_gates_is_compared_at_promotion(store, vitalfuse):
    """Versions 2 and 3 were both held against champion 1; by the time of 3's promotion 2 is the champion."""
    good, bad = store.run(predictions(3)), store.run(predictions(0.1, seed=2))
    store.version(run=store.run(predictions(0.2)), gates=GATES)
    store.version(run=good, champion="1", gates=GATES)
    store.version(run=bad, champion="1", gates=GATES)
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    refused = vitalfuse("promote", "3", "--to", "champion", *WHO, code=2)
    assert "non_inferiority to version 2, failed: -0." in refused.stderr
    assert store.aliases()["champion"] == "2"
    # The other way round it holds.
    vitalfuse("promote", "3", "--to", "champion", "--override-gates", *WHO)
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    entry = _json(vitalfuse("history", "--json"))["entries"][-1]
    assert entry["evidence"]["compared_now"]["with"] == "3"
    assert entry["evidence"]["compared_now"]["result"].startswith("passed")


def test_without_the_key_the_newer_champion_is_not_compared_and_that_is_told(store, vitalfuse, monkeypatch):
    for signal in (2, 2, 0.1):
        store.version(run=store.run(predictions(signal)), champion="1", gates=GATES)
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    monkeypatch.delenv("VITALFUSE_EVIDENCE_KEY")
    result = vitalfuse("promote", "3", "--to", "champion", *WHO)
    assert "not compared with version 2, the present champion" in result.stderr


def test_history_of_a_new_model_is_empty_and_changes_nothing(store, vitalfuse):
    before = len(store.client.search_experiments())
    assert "no promotion was recorded yet" in vitalfuse("history").stdout
    assert len(store.client.search_experiments()) == before
    assert "no registered model 'x'" in vitalfuse("history", "--model", "x", code=2).stderr


def test_history_tells_of_an_alias_moved_in_the_ui(two_versions, vitalfuse):
    two_versions.client.set_registered_model_alias(MODEL, "champion", "2")
    assert "moved by other means" in vitalfuse("history", code=1).stdout
    result = vitalfuse("promote", "1", "--to", "champion", *WHO)
    assert "aliases were moved by other means: champion 1 → 2" in result.stderr
    vitalfuse("history")


def test_history_tells_of_a_record_changed_in_the_database(two_versions, vitalfuse):
    vitalfuse("promote", "2", "--to", "champion", *WHO)
    tamper(
        two_versions.folder / "mlflow.db", "UPDATE params SET value = replace(value, 'Ada', 'Eve') WHERE key = '000003'"
    )
    assert "entry 3 was changed after it was written" in vitalfuse("history", code=1).stdout
    assert "entry 3 was changed" in vitalfuse("promote", "1", "--to", "champion", *WHO, code=2).stderr


def test_a_record_written_wholly_anew_lacks_the_digest_that_was_printed(store, vitalfuse):
    store.version()
    head = _json(vitalfuse("history", "--json"))["head"]
    vitalfuse("history", "--head", head[:16])
    for digest in ("", head[:15], head.upper(), "0x" + head):
        assert "is no digest" in vitalfuse("history", "--head", digest, code=2).stderr
    tamper(store.folder / "mlflow.db", "DELETE FROM params WHERE key LIKE '00000%'")
    store.version()
    assert "no entry with the digest" in vitalfuse("history", "--head", head, code=1).stdout


def test_history_tells_of_a_promotion_that_was_cut_off(two_versions, vitalfuse, monkeypatch):
    from components.register import promotion

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "finish", lambda *_: None)
        vitalfuse("promote", "2", "--to", "champion", *WHO)
    assert two_versions.aliases()["champion"] == "1"
    told = vitalfuse("history").stdout
    assert "entry 3 was cut off" in told
    result = vitalfuse("rollback", *WHO)
    assert "finished entry 3" in result.stderr
    assert two_versions.aliases() == {"champion": "1", "previous": "2", "challenger": "2"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_history_fits_the_terminal(two_versions, vitalfuse, monkeypatch, width):
    vitalfuse("promote", "2", "--to", "champion", "--by", "Ada Lovelace", "--reason", "a rather long reason " * 10)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = vitalfuse("history").stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines if not line.startswith("digest")) <= width
    words = " ".join(lines).split()
    assert (words.count("rather"), words.count("reason")) == (10, 10)
    # A reason that is squeezed into a column of a few letters takes dozens of lines.
    assert len(lines) < 25
    assert "champion 1 → 2" in " ".join(words) and "Ada Lovelace" in " ".join(words)


def test_stores_of_two_folders_do_not_mix(two_versions, vitalfuse, tmp_path):
    other = two_versions.copied(tmp_path / "other")
    vitalfuse("promote", "2", "--to", "champion", "--workspace", str(other.folder), *WHO)
    assert other.aliases()["champion"] == "2"
    assert two_versions.aliases()["champion"] == "1"


def test_a_failure_of_the_store_does_not_pass_for_a_missing_model(two_versions, monkeypatch):
    from mlflow.exceptions import MlflowException

    from pipelines.registry import find_model

    def failing(name):
        raise MlflowException("the disk is full")

    monkeypatch.setattr(two_versions.client, "get_registered_model", failing)
    with pytest.raises(MlflowException, match="disk is full"):
        find_model(two_versions.client, MODEL)
