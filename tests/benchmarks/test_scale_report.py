"""The projection from costs that are made up: every task's formula gives back what the costs were made from."""

import pytest

from benchmarks.projection import project
from benchmarks.scale_report import EPOCHS, FOLDS, MEMBERS, RESAMPLES, WORD_EPOCHS, artifacts, build_tasks, print_report

SIZES = (10_000, 100_000)
# Rows that a task resamples, of the patients.
WEIGHTS = {"compare": 0.8, "register": 0.2}
TABULAR = {"gradient_boosting": 1.0, "random_forest": 1.2, "svm": 2.0}


def _process(task, patients, own, seconds, memory, size=1.0, **more):
    costs = {"wall_s": seconds, "cpu_s": seconds, "memory_mb": memory, "resident_mb": memory, "bytes": size}
    return {"task": task, "patients": patients, "own": own, "metrics": {}, **costs, **more}


def _shards(patients, count):
    own = patients / count
    one = "" if count == 1 else "_shard"
    processes = []
    for step, merge in (("ingest", "merge_cohort"), ("preprocess", "merge_features")):
        seconds, memory = 2 + 1e-5 * patients + 1e-3 * own, 200 + 5e-4 * patients + 4e-2 * own
        processes += [_process(f"{step}{one}", patients, own, seconds, memory, 500 * own) for _ in range(count)]
        if count > 1:
            processes.append(_process(merge, patients, patients, 1 + 1e-4 * patients, 100 + 1e-3 * patients))
    return {
        "stage": f"shards-{count}",
        "patients": patients,
        "shards": count,
        "processes": processes,
        "cohort_bytes": 2000 * patients,
        "features_bytes": 4000 * patients,
        "cohort_digest": "a",
        "features_digest": "b",
        **{f"{step}_{name}": 1.0 for step in ("ingest", "preprocess") for name in ("s", "disk_peak")},
    }


def _repeated(stage, task, patients, repeats, field):
    processes = [
        _process(
            task,
            patients,
            patients,
            5 + 1e-4 * patients + 1e-6 * patients * number,
            300 + 1e-2 * patients + WEIGHTS.get(task, 0) * patients * number / 2**20,
        )
        for number in repeats
    ]
    return {
        "stage": stage,
        "patients": patients,
        "processes": processes,
        field: repeats,
        "predictions_bytes": 800 * patients,
    }


def _found():
    found = []
    for patients in SIZES:
        found.append(
            {
                "stage": "source",
                "patients": patients,
                "processes": [],
                "source_rows": patients,
                "source_bytes": 3000 * patients,
                "read_by_all_bytes": 400 * patients,
            }
        )
        found += [_shards(patients, count) for count in (1, 2, 4, 8)]
        validate = _process("validate", patients, patients, 4 + 2e-4 * patients, 400 + 1e-2 * patients)
        stage = {"stage": "validate", "patients": patients, "runner": "in_memory", "workers": 1}
        found.append(stage | {"processes": [validate]})
        beam = _process("validate", patients, patients, 9 + 3e-4 * patients, 700 + 1e-3 * patients)
        found.append({"stage": "validate-beam", "patients": patients, "runner": "DirectRunner", "workers": 2})
        found[-1]["processes"] = [beam]
        several = patients == SIZES[0]
        found.append(_repeated("text", "embed_text", patients, [2, 6] if several else [1], "epochs"))
        found.append(_repeated("train", "train", patients, [1, 5] if several else [1], "epochs"))
        found.append(_repeated("compare", "compare", patients, [100, 1000] if several else [100], "resamples"))
        found.append(_repeated("register", "register", patients, [100, 1000] if several else [100], "resamples"))
    folds = [
        _process("cross_validate", 10_000, own, 9.0, 300 + 0.1 * own, model=model)
        | {"metrics": {"fit_seconds_mean": 3 * (own / 2500) ** exponent}}
        for own in (2500, 10_000)
        for model, exponent in TABULAR.items()
    ]
    return [*found, {"stage": "tabular", "patients": 10_000, "processes": folds}]


def _projected(patients=10_000_000, shards=200):
    return {task.name: project(task, patients, shards, 16) for task in build_tasks(_found())}


def test_shards_read_what_is_shared_again_and_again():
    found = _projected()["ingest_shard"]
    seconds = 2 + 100 + 50
    assert found.pods == 200
    assert found.hours == pytest.approx(13 * seconds / 3600)
    assert found.memory_mb == pytest.approx(200 + 5000 + 2000)
    assert found.read_bytes == pytest.approx(200 * 400 * 1e7 + 2600 * 1e7)
    assert found.written_bytes == pytest.approx(500 * 1e7)
    # Each preprocess_shard gets the whole cohort.
    assert _projected()["preprocess_shard"].read_bytes == pytest.approx(200 * 2000 * 1e7)


def test_single_tasks_are_extrapolated_by_a_line():
    found = _projected()
    assert found["merge_cohort"].hours == pytest.approx((1 + 1000) / 3600)
    assert found["merge_cohort"].read_bytes == pytest.approx(500 * 1e7)
    assert found["merge_cohort"].written_bytes == pytest.approx(2000 * 1e7)
    assert found["merge_features"].read_bytes == pytest.approx(2500 * 1e7)
    assert found["validate"].memory_mb == pytest.approx(400 + 100_000)


@pytest.mark.parametrize(
    ("task", "repeats"),
    [("embed_text", WORD_EPOCHS), ("train", MEMBERS * EPOCHS), ("compare", RESAMPLES), ("register", RESAMPLES)],
)
def test_epochs_and_resamples_multiply(task, repeats):
    found = _projected()[task]
    assert found.hours == pytest.approx((5 + 1000 + 10 * repeats) / 3600)
    assert found.memory_mb == pytest.approx(300 + 100_000 + WEIGHTS.get(task, 0) * 1e7 * repeats / 2**20)


def test_folds_cost_what_their_rows_do():
    found = _projected()
    candidate = found["cross_validate[cnn_lstm_attention]"]
    assert candidate.hours == pytest.approx((FOLDS - 1) * (found["embed_text"].hours + found["train"].hours))
    assert candidate.memory_mb == found["train"].memory_mb
    for model, exponent in TABULAR.items():
        own = found[f"cross_validate[{model}]"]
        assert own.hours == pytest.approx((FOLDS + 1) * 3 * 4000**exponent / 3600)
        assert own.memory_mb == pytest.approx(300 + 1e6)
        assert own.written_bytes == pytest.approx(100 * 1e7)


def test_a_fold_needs_the_memory_of_its_word_vectors_where_they_need_more():
    found = _found()
    for entry in found:
        for one in entry["processes"]:
            if one["task"] == "embed_text":
                one["memory_mb"] = 50 + 0.1 * one["own"]
    tasks = {task.name: project(task, 10_000_000, 200, 16) for task in build_tasks(found)}
    assert tasks["cross_validate[cnn_lstm_attention]"].memory_mb == pytest.approx(50 + 0.8e6)
    assert tasks["embed_text"].memory_mb == pytest.approx(50 + 1e6)


def test_statistics_by_beam_stand_beside_those_in_memory_and_are_not_added():
    found = _projected()
    assert found["validate, by Beam"].hours == pytest.approx((9 + 3000) / 3600)
    assert found["validate, by Beam"].memory_mb == pytest.approx(700 + 10_000)
    assert found["validate"].hours == pytest.approx((4 + 2000) / 3600)
    tasks = build_tasks(_found())
    assert [task.name for task in tasks if task.alternative] == ["validate, by Beam"]


def test_artifacts_are_in_bytes_a_patient():
    sizes = {name: size(1e7) / 1e7 for name, size in artifacts(_found()).items()}
    assert sizes == pytest.approx(
        {
            "source": 3000,
            "cohort parts": 500,
            "cohort": 2000,
            "features parts": 500,
            "features": 4000,
            "predictions of 8 models": 800,
        }
    )


def test_the_report_has_every_task_and_tells_where_they_end(capsys):
    print_report(_found(), 10_000_000)
    printed = capsys.readouterr().out
    for task in build_tasks(_found()):
        assert f"| {task.name} |" in printed
    [validate] = [line for line in printed.splitlines() if line.startswith("| validate | 1 |")]
    # 64 GiB hold 6.5 million patients at 10 KiB each.
    assert validate.split("|")[8].strip() == "6.5 M"
    assert "are byte for byte equal" in printed
    [total] = [line.split("|") for line in printed.splitlines() if line.startswith("| all |")]
    counted = [project(task, 10_000_000, 100, 16) for task in build_tasks(_found()) if not task.alternative]
    assert total[3].strip() == ""
    assert float(total[4].replace(",", "")) == pytest.approx(sum(one.pod_hours for one in counted), rel=0.01)


def test_a_cost_that_is_not_seen_to_grow_has_no_largest_cohort(capsys):
    found = _found()
    for entry in found:
        for one in entry["processes"]:
            if one["task"].startswith("ingest"):
                one["memory_mb"] = 200 + 4e-2 * one["own"]
    print_report(found, 10_000_000)
    printed = capsys.readouterr().out
    [ingest] = [line.split("|") for line in printed.splitlines() if line.startswith("| ingest_shard | 100 |")]
    assert ingest[8].strip() == "-"


def test_without_a_second_size_nothing_is_extrapolated(capsys):
    print_report([entry for entry in _found() if entry["patients"] == SIZES[0]], 10_000_000)
    assert "No projection yet" in capsys.readouterr().out
