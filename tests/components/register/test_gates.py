"""The gates, one by one, against figures found by other means."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from components.common.sealed import blind
from components.register.gates import Champion, evaluate_gates, non_inferiority_gate
from components.register.settings import GateSettings
from components.register.subgroups import attributes_of
from tests.registry_store import CLASSES, KEY, predictions


def _verdict(outputs, champion=None, **settings):
    return evaluate_gates(
        **outputs.paths(), champion=champion or Champion(), settings=GateSettings(resamples=100, **settings)
    )


def _gate(verdict, name):
    (found,) = [gate for gate in verdict.gates if gate.name == name]
    return found


def test_a_good_model_passes_and_every_figure_is_told(outputs):
    verdict = _verdict(outputs)
    assert verdict.status == "passed"
    assert {gate.name: gate.status for gate in verdict.gates} == {
        "macro_auc": "passed",
        "kappa": "passed",
        "calibration_error": "passed",
        "worst_subgroup_auc": "passed",
        "non_inferiority": "not evaluated",
        "validation": "passed",
        "latency": "passed",
    }
    assert _gate(verdict, "macro_auc").value == outputs.scores["macro_auc"]
    assert _gate(verdict, "latency").value == pytest.approx(4)
    assert verdict.patients == 60


@pytest.mark.parametrize(
    ("name", "score", "settings", "status"),
    [
        ("macro_auc", 0.7, {}, "passed"),
        ("macro_auc", 0.699, {}, "failed"),
        ("macro_auc", None, {}, "not evaluated"),
        ("kappa", 0.3, {"kappa": 0.31}, "failed"),
        ("kappa", -0.2, {"kappa": -0.2}, "passed"),
        ("calibration_error", 0.25, {}, "passed"),
        ("calibration_error", 0.26, {}, "failed"),
    ],
)
def test_a_score_is_held_against_its_floor_or_ceiling(outputs, name, score, settings, status):
    outputs.write_scores({**outputs.scores, name: score})
    verdict = _verdict(outputs, **settings)
    assert _gate(verdict, name).status == status
    assert verdict.status == ("failed" if status == "failed" else "passed")
    assert [gate.name for gate in verdict.failed] == ([name] if status == "failed" else [])


def test_calibration_error_is_that_of_what_is_served(outputs):
    path = outputs.root / "comparison" / "metrics.json"
    content = json.loads(path.read_text())
    content["models"]["a"]["test"]["calibration_error"] = 0.9
    content["calibration"] = {"test": {"after": {"calibration_error": 0.1}, "before": {"calibration_error": 0.9}}}
    path.write_text(json.dumps(content))
    gate = _gate(_verdict(outputs), "calibration_error")
    assert (gate.status, gate.value, gate.detail) == ("passed", 0.1, "calibrated, as served")
    content["calibration"] = None
    path.write_text(json.dumps(content))
    assert _gate(_verdict(outputs), "calibration_error").status == "failed"


def test_a_skipped_gate_never_fails(outputs):
    outputs.write_scores({**outputs.scores, "macro_auc": 0.1, "kappa": -1})
    verdict = _verdict(outputs, skip=["macro_auc", "kappa"])
    assert verdict.status == "passed"
    assert _gate(verdict, "macro_auc").status == "skipped"
    assert _gate(verdict, "macro_auc").value is None


def test_strict_fails_what_cannot_be_evaluated(outputs):
    verdict = _verdict(outputs, strict=True)
    assert [gate.name for gate in verdict.failed] == ["non_inferiority"]
    assert _verdict(outputs, strict=True, skip=["non_inferiority"]).status == "passed"


def test_worst_subgroup_is_the_one_that_scikit_learn_finds(outputs):
    verdict = _verdict(outputs)
    test = outputs.frame[outputs.frame["set"] == "test"].reset_index(drop=True)
    patients = outputs.patients.iloc[: len(test)]
    expected = {}
    for name, chosen in {
        "sex female": patients["sex"] == "female",
        "sex male": patients["sex"] == "male",
        "site north": patients["site"] == "north",
        "site south": patients["site"] == "south",
        "age 18 to 39": patients["birth_year"] == 1990,
    }.items():
        own = test[chosen.to_numpy()]
        columns = own[[f"probability:{label}" for label in CLASSES]].to_numpy()
        aucs = [roc_auc_score(own["label"] == label, columns[:, k]) for k, label in enumerate(CLASSES)]
        expected[name] = np.mean(aucs)
    found = {group.name: group.macro_auc for group in verdict.subgroups}
    # 15 patients are 72 years old: fewer than the smallest group.
    assert found == pytest.approx(expected)
    worst = min(expected, key=expected.__getitem__)
    assert _gate(verdict, "worst_subgroup_auc").value == pytest.approx(expected[worst])
    assert worst in _gate(verdict, "worst_subgroup_auc").detail
    assert all(group.low <= group.macro_auc <= group.high for group in verdict.subgroups)
    assert verdict.subgroups[0].name == worst


def test_a_class_with_few_patients_in_a_subgroup_is_left_out(outputs):
    wide = _verdict(outputs, smallest_group=2, smallest_class=6)
    classes = {group.name: group.classes for group in wide.subgroups}
    # The 15 patients of 72 years are five of each class.
    assert "age 65 to 79" not in classes
    assert _verdict(outputs, smallest_group=2, smallest_class=5).subgroups[-1].classes == 3


def test_one_bad_subgroup_fails_a_model_that_is_good_on_the_whole(outputs):
    test = outputs.frame["set"] == "test"
    female = test & (outputs.patients["sex"] == "female").to_numpy()
    columns = [f"probability:{label}" for label in CLASSES]
    turned = outputs.frame.loc[female, columns].to_numpy()[:, [1, 2, 0]]
    outputs.frame.loc[female, columns] = turned
    outputs.frame[test].to_parquet(outputs.root / "candidate" / "predictions.parquet", index=False)
    verdict = _verdict(outputs)
    assert [gate.name for gate in verdict.failed] == ["worst_subgroup_auc"]
    assert "sex female, 30 patients" in _gate(verdict, "worst_subgroup_auc").detail


def test_without_attributes_subgroups_are_not_evaluated(outputs):
    outputs.patients[["sex", "site"]] = None
    outputs.patients["birth_year"] = None
    outputs.patients["birth_year"] = outputs.patients["birth_year"].astype("Int32")
    outputs.write_patients()
    gate = _gate(_verdict(outputs), "worst_subgroup_auc")
    assert gate.status == "not evaluated"
    assert "20 patients" in gate.detail


def test_age_bands_follow_the_settings(outputs):
    found = attributes_of(outputs.samples, outputs.patients, [18, 40, 65])["age"]
    assert set(found) == {"18 to 39", "65 and over"}
    # Born in 1990 and observed in 2022: 32 years.
    assert set(attributes_of(outputs.samples, outputs.patients, [33])["age"]) == {"under 33", "33 and over"}
    assert set(attributes_of(outputs.samples, outputs.patients, [32])["age"]) == {"32 and over"}
    assert set(attributes_of(outputs.samples, outputs.patients, [73])["age"]) == {"under 73"}
    assert attributes_of(outputs.samples, outputs.patients, [])["age"].isna().all()
    with pytest.raises(ValidationError, match="rising ages"):
        GateSettings(age_bands=[40, 18])


@pytest.mark.parametrize(
    ("anomaly", "failed"),
    [
        ({"feature": "sex", "kind": "DRIFT", "severity": "warning", "reason": "r"}, False),
        ({"feature": "sex", "kind": "DRIFT", "severity": "error", "reason": "r"}, True),
        # Of error grade, though the settings of validate let it pass.
        ({"feature": "patients", "kind": "DUPLICATE_PATIENTS", "severity": "warning", "reason": "r"}, True),
    ],
)
def test_anomalies_of_error_grade_fail(outputs, anomaly, failed):
    outputs.write_anomalies([anomaly])
    gate = _gate(_verdict(outputs), "validation")
    assert gate.status == ("failed" if failed else "passed")
    assert gate.value == int(failed)
    if failed:
        assert anomaly["kind"] in gate.describe()


def test_latency_is_that_of_the_slowest_class(outputs):
    assert _gate(_verdict(outputs, latency_ms=4), "latency").status == "passed"
    assert _gate(_verdict(outputs, latency_ms=3.9), "latency").status == "failed"
    outputs.write_timing({})
    assert _gate(_verdict(outputs), "latency").status == "not evaluated"


def _champion(signal, own=2.0, **arguments):
    other, mine = predictions(signal, **arguments), predictions(own)
    return Champion("3", blind(other, KEY), blind(mine, KEY))


def test_equal_to_the_champion_is_not_inferior():
    gate = non_inferiority_gate(_champion(2.0), GateSettings(non_inferiority_margin=0))
    assert gate.status == "passed"
    assert gate.value == gate.low == 0


def test_far_behind_the_champion_fails_and_ahead_of_it_passes():
    worse = non_inferiority_gate(_champion(4.0, own=0.3), GateSettings())
    assert worse.status == "failed"
    assert worse.value < -0.2 and worse.low < worse.value
    better = non_inferiority_gate(_champion(0.3, own=4.0), GateSettings(non_inferiority_margin=0))
    assert better.status == "passed"
    assert better.low > 0
    assert "version 3, 60 common patients" in better.detail


def test_the_bound_counts_and_not_the_difference():
    champion = _champion(2.0, own=1.9, seed=5)
    gate = non_inferiority_gate(champion, GateSettings(non_inferiority_margin=0.001))
    between = -(gate.low + gate.value) / 2
    assert gate.low < -between < gate.value
    assert between > 0
    assert non_inferiority_gate(champion, GateSettings(non_inferiority_margin=between)).status == "failed"
    assert non_inferiority_gate(champion, GateSettings(non_inferiority_margin=abs(gate.low) + 1e-6)).status == "passed"


def _macro_auc(labels, probabilities):
    return np.mean([roc_auc_score(labels == label, probabilities[:, k]) for k, label in enumerate(CLASSES)])


def test_the_bound_is_the_one_sided_quantile_of_a_plain_bootstrap():
    champion = _champion(1.5, own=1.0, seed=4)
    gate = non_inferiority_gate(champion, GateSettings(resamples=2000))
    own = champion.own[champion.own["set"] == "test"].sort_values("patient")
    other = champion.predictions[champion.predictions["set"] == "test"].sort_values("patient")
    labels = own["label"].to_numpy()
    columns = [f"probability:{label}" for label in CLASSES]
    random = np.random.default_rng(1)
    differences = []
    for _ in range(400):
        rows = np.concatenate([random.choice(np.flatnonzero(labels == label), 20) for label in CLASSES])
        scores = [_macro_auc(labels[rows], frame[columns].to_numpy()[rows]) for frame in (own, other)]
        differences.append(scores[0] - scores[1])
    assert gate.low == pytest.approx(np.quantile(differences, 0.05), abs=0.015)


def test_only_patients_that_both_held_out_count():
    gate = non_inferiority_gate(_champion(2.0, patients=range(20, 80)), GateSettings())
    assert "40 common patients" in gate.detail
    gate = non_inferiority_gate(_champion(2.0, patients=range(40, 80)), GateSettings())
    assert gate.status == "not evaluated"
    assert "20 of the same patients" in gate.detail
    gate = non_inferiority_gate(Champion("3", reason="its predictions were not kept"), GateSettings())
    assert gate.detail == "its predictions were not kept"


def test_a_champion_of_other_classes_is_not_compared():
    champion = _champion(2.0)
    renamed = champion.predictions.rename(columns={"probability:copd": "probability:asthma"})
    gate = non_inferiority_gate(Champion("3", renamed, champion.own), GateSettings())
    assert gate.status == "not evaluated" and "other classes" in gate.detail


def test_everything_is_written_for_people_programs_and_tags(outputs, tmp_path):
    verdict = _verdict(outputs, macro_auc=0.99)
    folder = verdict.write(tmp_path / "gates")
    document = json.loads((folder / "gates.json").read_text())
    assert document["verdict"] == "failed"
    assert document["failed"] == ["macro_auc"]
    assert GateSettings.model_validate(document["settings"]).macro_auc == 0.99
    assert len(document["gates"]) == 7
    first = document["gates"][0]
    assert (first["threshold"], first["direction"]) == (0.99, "at least")
    text = (folder / "gates.txt").read_text()
    assert "Gates: failed, on 60 held-out patients" in text
    assert "sex female" in text
    tags = verdict.tags()
    assert tags["vitalfuse.gates"] == "failed"
    assert tags["vitalfuse.gates.macro_auc"].startswith("failed: 0.")
    assert "at least 0.99" in tags["vitalfuse.gates.macro_auc"]
    assert not [name for name in outputs.frame["patient_id"] if name in text + json.dumps(document)]
