"""Monitoring, on logs whose drift is known because it was made by hand."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.register.reference import summarise_category, summarise_number
from components.validate.interpreter import find_interpreter
from data_schemas.errors import InputError
from data_schemas.reference import TrainingReference
from evaluation.monitoring import describe_answers, score_answers
from evaluation.rows import PredictedRows
from serving.monitor.drift import FeatureDrift, expand_category, expand_number, measure_drift
from serving.monitor.findings import EXCEEDED, FINE, NOT_JUDGED, Findings, chance_distance, judge
from serving.monitor.labels import read_labels, score_labelled
from serving.monitor.monitor import choose_rows, fetch_reference, find_findings, log_findings, write_findings
from serving.monitor.settings import MonitorSettings
from serving.prediction_log import reference_pseudonym

CLASSES = ["healthy", "ill"]
DIGEST = "a" * 64
KEY = b"a secret key of tests"
SHARES = "shares of the classes"
SETTINGS = MonitorSettings(resamples=200)


@pytest.fixture(scope="session")
def tfdv_interpreter() -> Path:
    try:
        return find_interpreter()
    except InputError as error:
        pytest.skip(str(error))


def people(count: int, seed: int, *, shift: float = 0, male: float = 0.5, image: float = 0.9) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rate = random.normal(80 + shift, 10, count)
    glucose = random.lognormal(4.6, 0.3, count)
    return pd.DataFrame(
        {
            "channel:heart_rate:mean": rate,
            "channel:heart_rate:count": random.poisson(50, count).astype(float),
            "channel:blood_glucose:mean": np.where(random.random(count) < 0.2, np.nan, glucose),
            "age": random.integers(20, 90, count).astype(float),
            "sex": np.where(random.random(count) < male, "male", "female"),
            "has:image": random.random(count) < image,
        }
    )


def answers(labels: np.ndarray, seed: int, signal: float = 2.0, temperature: float = 1.0) -> np.ndarray:
    """Probabilities of the two classes that are calibrated where the temperature is 1."""
    score = np.random.default_rng(seed).normal(np.where(labels == 1, signal / 2, -signal / 2), 1) * signal / temperature
    ill = 1 / (1 + np.exp(-score))
    return np.stack([1 - ill, ill], axis=1)


def sets_of(probabilities: np.ndarray, least: float = 0.12) -> np.ndarray:
    return probabilities >= least


def labels_of(count: int, seed: int, ill: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(seed).random(count) < ill).astype(int)


@pytest.fixture(scope="module")
def reference() -> TrainingReference:
    training = people(1000, seed=1)
    numbers = [name for name in training if name not in ("sex", "has:image")]
    images = pd.Series(np.where(training["has:image"], "yes", "no"))
    truth = labels_of(400, seed=2)
    probabilities = answers(truth, seed=3)
    rows = PredictedRows(truth, probabilities, np.arange(400), np.arange(400), np.full(400, -1))
    sets = sets_of(probabilities)
    return TrainingReference(
        cohort_digest=DIGEST,
        classes=CLASSES,
        rows=1000,
        numbers={name: summarise_number(training[name].to_numpy()) for name in numbers},
        categories={"sex": summarise_category(training["sex"]), "has:image": summarise_category(images)},
        held_out=describe_answers(
            probabilities, sets.sum(axis=1) > 1, CLASSES, score_answers(rows, sets, resamples=200)
        ),
    )


def log_of(people_: pd.DataFrame, probabilities: np.ndarray, version: str = "7") -> pd.DataFrame:
    count = len(people_)
    sets = sets_of(probabilities)
    return people_.assign(
        time=pd.date_range("2022-07-01", periods=count, freq="min", tz="UTC"),
        reference=[reference_pseudonym(f"record {number}", KEY) for number in range(count)],
        model="vitalfuse-diagnosis",
        version=version,
        cohort_digest=DIGEST,
        diagnosis=[CLASSES[place] for place in probabilities.argmax(axis=1)],
        abstained=sets.sum(axis=1) > 1,
        conformal_set=[[name for name, inside in zip(CLASSES, row, strict=True) if inside] for row in sets],
        **{f"probability:{name}": probabilities[:, place] for place, name in enumerate(CLASSES)},
    )


def healthy_log(count: int = 400) -> pd.DataFrame:
    return log_of(people(count, seed=11), answers(labels_of(count, seed=12), seed=13))


def judged(log: pd.DataFrame, reference: TrainingReference, labels: Path | None = None) -> Findings:
    """Judge answers and labels alone: TFDV takes seconds to start."""
    labelled = None
    if labels is not None:
        labelled = score_labelled(log, read_labels(labels, CLASSES, KEY), CLASSES, SETTINGS)
    return judge(log, reference, [], labelled, SETTINGS)


def check(findings, name: str):
    return next(found for found in findings.checks if found.name == name)


@pytest.mark.slow
def test_the_reference_stands_for_the_training_rows_in_tfdv(reference, tfdv_interpreter):
    """The grouped means are as good a baseline as the rows that they were made of."""
    shifted = log_of(people(400, seed=11, shift=8), answers(labels_of(400, seed=12), seed=13))
    by_groups = {f.feature: f for f in measure_drift(shifted, reference, SETTINGS, tfdv_interpreter)}
    training = people(1000, seed=1)
    single = {
        name: number.model_copy(
            update={"means": sorted(training[name].dropna()), "counts": [1] * int(training[name].notna().sum())}
        )
        for name, number in reference.numbers.items()
    }
    by_rows = measure_drift(shifted, reference.model_copy(update={"numbers": single}), SETTINGS, tfdv_interpreter)
    for feature in by_rows:
        assert by_groups[feature.feature].distance == pytest.approx(feature.distance, abs=0.02), feature.feature


@pytest.mark.slow
def test_categories_drift_by_the_l_infinity_distance(reference, tfdv_interpreter):
    log = healthy_log().assign(sex=["male"] * 300 + ["female"] * 100)
    found = {f.feature: f for f in measure_drift(log, reference, SETTINGS, tfdv_interpreter)}
    men = reference.categories["sex"].counts["male"] / 1000
    assert found["sex"].distance == pytest.approx(abs(0.75 - men), abs=1e-6)
    assert found["sex"].drifted and not found["has:image"].drifted


def test_without_drift_nothing_is_advised(reference, tfdv_interpreter):
    findings = find_findings(healthy_log(), reference, None, SETTINGS)
    assert not findings.retrain, findings.headline()
    assert {found.status for found in findings.checks} == {FINE}
    assert findings.headline() == "No reason to retrain: 4 checks are fine."
    assert max(feature.distance for feature in findings.drift) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"shift": 15}, "heart_rate"),
        ({"male": 0.95}, "sex"),
        ({"image": 0.4}, "image"),
    ],
)
def test_an_input_that_drifts_is_a_reason_and_named(reference, tfdv_interpreter, change, part):
    log = log_of(people(400, seed=11, **change), answers(labels_of(400, seed=12), seed=13))
    findings = find_findings(log, reference, None, SETTINGS)
    assert [found.name for found in findings.reasons] == ["inputs that drifted"]
    assert check(findings, "inputs that drifted").detail == f"of 5 inputs: {part}"
    allowed = find_findings(log, reference, None, MonitorSettings(most_drifted=1))
    assert not allowed.retrain


def test_answers_that_drift_are_a_reason(reference):
    sicker = log_of(people(400, seed=11), answers(labels_of(400, seed=12, ill=0.9), seed=13))
    findings = judged(sicker, reference)
    assert [found.name for found in findings.reasons] == ["shares of the classes"]
    unsure = log_of(people(400, seed=11), answers(labels_of(400, seed=12), seed=13, temperature=4))
    names = [found.name for found in judged(unsure, reference).reasons]
    assert names == ["mean confidence", "abstention rate"]
    confidence = unsure[["probability:healthy", "probability:ill"]].max(axis=1).mean()
    found = check(judged(unsure, reference), "mean confidence")
    assert found.value == pytest.approx(reference.held_out.mean_confidence - confidence)


def test_class_shares_that_chance_explains_are_no_reason(reference):
    current = healthy_log(100)
    healthy = float((current["probability:healthy"] > 0.5).mean())
    far = reference.held_out.model_copy(
        update={"rows": 12, "class_shares": {"healthy": healthy - 0.1, "ill": 1.1 - healthy}}
    )
    strict = MonitorSettings(class_share_drift=0.05)
    found = check(judge(current, reference.model_copy(update={"held_out": far}), [], None, strict), SHARES)
    assert found.status == FINE and found.value == pytest.approx(0.1) and "chance alone reaches" in found.detail
    many = far.model_copy(update={"rows": 50_000})
    current = healthy_log(5000)
    found = check(judge(current, reference.model_copy(update={"held_out": many}), [], None, strict), SHARES)
    assert found.status == EXCEEDED
    # Two samples of 400 coins: the standard deviation of the difference is sqrt(1/4 * 2/400).
    coin = chance_distance(np.full((2, 2), 0.5), (400, 400), MonitorSettings(resamples=20_000))
    assert coin == pytest.approx(1.96 * np.sqrt(0.25 * 2 / 400), rel=0.05)


def test_too_few_predictions_are_not_judged(reference):
    findings = find_findings(healthy_log(60), reference, None, SETTINGS)
    assert {found.status for found in findings.checks} == {NOT_JUDGED} and not findings.retrain
    assert findings.headline() == "Nothing could be judged: there are too few predictions."


def write_labels(path: Path, truth: np.ndarray, column: str = "reference") -> Path:
    keys = [f"record {number}" for number in range(len(truth))]
    if column == "pseudonym":
        keys = [reference_pseudonym(key, KEY) for key in keys]
    table = pd.DataFrame({column: keys, "label": [CLASSES[label] for label in truth]})
    (table.to_parquet if path.suffix == ".parquet" else table.to_csv)(path, index=False)
    return path


@pytest.mark.parametrize(("name", "column"), [("l.csv", "reference"), ("l.parquet", "pseudonym")])
def test_labels_that_bear_the_model_out_are_fine(reference, tmp_path, name, column):
    truth = labels_of(400, seed=12)
    path = write_labels(tmp_path / name, np.concatenate([truth, [0, 1]]), column)
    findings = judged(healthy_log(), reference, path)
    assert not findings.retrain, findings.headline()
    assert (findings.labelled.rows, findings.labelled.patients, findings.labelled.unmatched) == (400, 400, 2)
    auc = findings.labelled.scores["macro_auc"]
    assert auc.low < auc.value < auc.high
    assert auc.value == pytest.approx(reference.held_out.scores["macro_auc"].value, abs=0.05)


def test_a_model_that_got_worse_is_a_reason(reference, tmp_path):
    truth = labels_of(400, seed=12)
    wrong = np.where(np.random.default_rng(4).random(400) < 0.3, 1 - truth, truth)
    path = write_labels(tmp_path / "labels.csv", wrong)
    findings = judged(healthy_log(), reference, path)
    names = {found.name for found in findings.reasons}
    assert names == {"fall of the macro AUC", "rise of the calibration error", "fall of the coverage"}
    fall = check(findings, "fall of the macro AUC")
    assert fall.value == pytest.approx(fall.reference - fall.current) and fall.high < fall.reference


def test_a_fall_that_chance_explains_is_no_reason(reference):
    truth = labels_of(60, seed=12)
    log = log_of(people(60, seed=11), answers(truth, seed=14, signal=1.6))
    labels = pd.Series([CLASSES[label] for label in truth], index=log["reference"])
    strict = MonitorSettings(resamples=200, auc_fall=0.001)
    labelled = score_labelled(log, labels, CLASSES, strict)
    auc = labelled.scores["macro_auc"]
    assert auc.value < reference.held_out.scores["macro_auc"].value < auc.high, "the case that this test needs"
    fall = check(judge(log, reference, [], labelled, strict), "fall of the macro AUC")
    assert fall.status == FINE and fall.value > fall.threshold and "interval" in fall.detail
    few = check(judge(log, reference, [], labelled, MonitorSettings(smallest_labelled=61)), "fall of the macro AUC")
    assert few.status == NOT_JUDGED and few.detail == "only 60 patients have a label"


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("reference,diagnosis\na,ill\n", KEY, "field label"),
        ("mrn,label\na,ill\n", KEY, "field pseudonym"),
        ("reference,label\na,ill\nb,dead\n", KEY, "row 3, field label: is no class of the model"),
        ("reference,label\na,ill\n,ill\n", KEY, "row 3, field reference: is empty"),
        ("reference,label\na,ill\nb,ill\na,healthy\n", KEY, "row 4, field reference: has another label"),
        ("reference,label\na,ill\n", None, "needs the secret key"),
        ("", KEY, "can't be read"),
    ],
)
def test_labels_that_cannot_be_used_are_told_by_row_and_field(tmp_path, text, key, words):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(InputError) as told:
        read_labels(path, CLASSES, key)
    assert words in str(told.value) and "dead" not in str(told.value)


def test_the_version_that_answered_last_is_looked_at():
    old, new = healthy_log(20), healthy_log(20).assign(version="8")
    new["time"] += pd.Timedelta(days=1)
    log = pd.concat([old, new], ignore_index=True)
    assert set(choose_rows(log, None, SETTINGS)["version"]) == {"8"}
    assert set(choose_rows(log, "7", SETTINGS)["version"]) == {"7"}
    with pytest.raises(InputError, match=r"has no prediction of version 9.*versions 7, 8"):
        choose_rows(log, "9", SETTINGS)
    with pytest.raises(InputError, match="within 3 days"):
        choose_rows(log, None, MonitorSettings(days=3))
    recent = pd.concat([log, new.assign(time=pd.Timestamp.now(tz="UTC"))], ignore_index=True)
    assert len(choose_rows(recent, None, MonitorSettings(days=3))) == 20


def test_a_reference_of_another_model_is_refused(reference):
    other = reference.model_copy(update={"cohort_digest": "b" * 64})
    with pytest.raises(InputError, match="another model"):
        find_findings(healthy_log(), other, None, SETTINGS)


def test_the_result_is_written_and_kept_in_mlflow(reference, tmp_path):
    from mlflow import MlflowClient

    log = healthy_log()
    path = write_labels(tmp_path / "labels.csv", labels_of(400, seed=12))
    labelled = score_labelled(log, read_labels(path, CLASSES, KEY), CLASSES, SETTINGS)
    drift = [
        FeatureDrift("channel:heart_rate:mean", "heart_rate", 0.4, 0.2, 80.0, 95.0),
        FeatureDrift("age", "age", None, 0.2, 50.0, None, "only 3 predictions have a value"),
    ]
    findings = judge(log, reference, drift, labelled, SETTINGS)
    folder = write_findings(findings, tmp_path / "out")
    document = json.loads((folder / "monitor.json").read_text())
    assert document["retrain"] and document["checks"][0]["status"] == EXCEEDED
    page = (folder / "report.html").read_text()
    assert "Not for clinical use" in page and findings.headline() in page and "heart rate, mean" in page
    for patient in log["reference"]:
        assert patient not in page and patient not in json.dumps(document)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("vitalfuse-monitor", (tmp_path / "artifacts").as_uri())
    run = client.get_run(log_findings(client, experiment, findings, folder))
    assert run.data.tags["vitalfuse.retrain"] == "true" and run.info.status == "FINISHED"
    assert run.data.metrics["drift/channel/heart_rate/mean"] > 0.2 and run.data.params["version"] == "7"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"monitor.json", "report.html"}


def test_expanded_references_have_the_counts_of_the_rows():
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, np.nan])
    expanded = expand_number(summarise_number(values))
    assert expanded.dropna().tolist() == [3.0] * 5 + [8.0] * 5 and expanded.isna().sum() == 1
    assert expand_category(summarise_category(pd.Series(["a"] * 5 + [None]))).tolist() == ["a"] * 5 + [None]


def test_the_reference_is_fetched_from_the_run_that_registered_the_version(reference, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run(client.create_experiment("x", (tmp_path / "artifacts").as_uri()))
    reference.write(tmp_path / "reference.json")
    client.log_artifact(run.info.run_id, str(tmp_path / "reference.json"), "monitoring")
    client.create_registered_model("d")
    with_reference = client.create_model_version("d", f"runs:/{run.info.run_id}/model", run.info.run_id)
    other = client.create_run(run.info.experiment_id)
    without = client.create_model_version("d", f"runs:/{other.info.run_id}/model", other.info.run_id)
    assert fetch_reference(client, "d", str(with_reference.version), tmp_path) == reference
    for version in (str(without.version), "99"):
        with pytest.raises(InputError, match=f"version {version} of d has no reference"):
            fetch_reference(client, "d", version, tmp_path)


@pytest.fixture
def project(reference, tmp_path, monkeypatch) -> Path:
    """A working folder with reference.json and a log without inputs, which needs no TFDV."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "VITALFUSE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    reference.write(tmp_path / "reference.json")
    write_log(tmp_path / "log", answers(labels_of(400, seed=12), seed=13))
    return tmp_path


def write_log(folder: Path, probabilities: np.ndarray) -> None:
    (folder / "date=2022-07-01").mkdir(parents=True, exist_ok=True)
    table = log_of(pd.DataFrame(index=range(len(probabilities))), probabilities).assign(
        sex=None, age=None, latency_ms=1
    )
    table.to_parquet(folder / "date=2022-07-01" / "part-000000-aaaa.parquet")


def call(*arguments: str):
    from click.testing import CliRunner

    from pipelines.cli import main

    common = ["--reference", "reference.json", "--set", "monitor.resamples=200"]
    return CliRunner().invoke(main, ["monitor", "log", *common, *arguments])


def test_the_command_tells_by_its_exit_code_whether_to_retrain(project, monkeypatch):
    fine = call()
    assert fine.exit_code == 0 and "No reason to retrain: 3 checks are fine." in fine.output, fine.output
    (report,) = (project / "workspace" / "monitor").glob("*/report.html")
    assert "vitalfuse monitor" in report.read_text()
    write_labels(project / "labels.csv", 1 - labels_of(400, seed=12))
    monkeypatch.setenv("VITALFUSE_PREDICTION_KEY", KEY.decode())
    worse = call("--labels", "labels.csv", "--output", "out")
    assert worse.exit_code == 3 and "Retraining is advised" in worse.output, worse.output
    assert json.loads((project / "out" / "monitor.json").read_text())["labels"]["patients"] == 400
    monkeypatch.setenv("VITALFUSE_PREDICTION_KEY", "another key of the tests only")
    astray = call("--labels", "labels.csv")
    assert astray.exit_code == 2 and "none of its 400 labels belongs to a logged prediction" in astray.output
    monkeypatch.delenv("VITALFUSE_PREDICTION_KEY")
    keyless = call("--labels", "labels.csv")
    assert keyless.exit_code == 2 and "needs the secret key" in keyless.output
    (project / "reference.json").write_text("{}")
    broken = call()
    assert broken.exit_code == 2 and "is no reference" in broken.output


def test_a_version_that_mlflow_does_not_know_needs_its_reference_by_name(project):
    from click.testing import CliRunner
    from mlflow import MlflowClient

    from pipelines.cli import main

    told = CliRunner().invoke(main, ["monitor", "log", "--workspace", "here"])
    assert told.exit_code == 2 and "here, field --workspace: holds no MLflow store" in told.output
    assert not (project / "here").exists()
    (project / "here").mkdir()
    MlflowClient("sqlite:///here/mlflow.db").search_experiments()
    told = CliRunner().invoke(main, ["monitor", "log", "--workspace", "here"])
    assert told.exit_code == 2 and "version 7 of vitalfuse-diagnosis has no reference in MLflow" in told.output


def test_the_table_fits_a_terminal_of_80_columns(reference):
    from rich.console import Console

    from pipelines.monitoring import print_findings

    log = healthy_log()
    drift = [FeatureDrift("channel:heart_rate:mean", "heart_rate", 0.4, 0.2, 80.0, 95.0)]
    labelled = score_labelled(log, pd.Series({"unknown": CLASSES[0]}), CLASSES, SETTINGS)
    console = Console(width=80, record=True, file=io.StringIO())
    print_findings(console, judge(log, reference, drift, labelled, SETTINGS))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    for line in ("inputs that drifted", "of 1 inputs: heart_rate", "rise of the calibration error not judged"):
        assert any(" ".join(found.split()).startswith(line) for found in lines), line
