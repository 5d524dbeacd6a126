"""The reference that monitoring compares with: distributions of training rows, and the held-out answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from components.compare.compare import compare_models
from components.compare.settings import CompareSettings
from components.register.reference import SMALLEST_GROUP, build_reference, summarise_category, summarise_number
from data_schemas.calibration import Calibration
from data_schemas.cohort import Channel, Manifest, write_cohort
from data_schemas.features import Features
from data_schemas.predictions import TEST, class_probabilities, read_predictions
from data_schemas.reference import TrainingReference
from evaluation.recalibration import decide
from tests.components.compare.conftest import Steps, write_steps


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    steps = write_steps(root)
    compare_models(**steps.arguments(), output=root / "out", settings=CompareSettings(resamples=100))
    random = np.random.default_rng(0)
    series = random.normal(80, 10, size=(len(steps.samples), 24, 1)).astype(np.float32)
    observed = random.random(series.shape) < 0.5
    observed[3] = False
    np.save(steps.features / "series.npy", series)
    np.save(steps.features / "series_observed.npy", observed)
    return steps, root / "out"


def write_people(folder, steps: Steps) -> None:
    """A cohort whose patients are all 62 at their first reading; every third is male."""
    count = len(steps.samples)
    identifiers = steps.samples["patient_id"]
    patients = pd.DataFrame(
        {
            "patient_id": identifiers,
            "label": steps.samples["label"],
            "labels": [[]] * count,
            "site": "north",
            "sex": ["male" if place % 3 == 0 else "female" for place in range(count)],
            "birth_year": pd.Series([1960] * count, dtype="Int64"),
        }
    ).iloc[::-1]
    observations = pd.DataFrame(
        {
            "patient_id": patients["patient_id"].to_numpy(),
            "device_id": "d",
            "channel": "heart_rate",
            "time": pd.Timestamp("2022-06-01T10:00:00Z"),
            "value": 70.0,
            "unit": "/min",
        }
    )
    manifest = Manifest(
        name="fixture",
        classes=steps.classes,
        channels=[Channel(name="heart_rate", unit="/min", low=20, high=300)],
        image=None,
        counts={},
        digest="0" * 64,
    )
    folder.mkdir()
    write_cohort(folder, manifest, {"patients": patients, "observations": observations})


def test_distributions_are_those_of_the_training_rows(compared):
    steps, out = compared
    reference = build_reference(steps.features, steps.candidate, out)
    features = Features.open(steps.features)
    rows = features.train_rows
    mean = np.nanmean(np.where(features.series_observed[rows], features.series[rows], np.nan)[:, :, 0], axis=1)
    number = reference.numbers["channel:heart_rate:mean"]
    assert reference.rows == len(rows) == sum(number.counts) + number.missing
    assert number.missing == np.isnan(mean).sum()
    assert np.average(number.means, weights=number.counts) == pytest.approx(np.nanmean(mean))
    assert min(number.counts) >= SMALLEST_GROUP and number.means == sorted(number.means)
    # No value of a single patient stands in it.
    assert not set(np.round(number.means, 9)) & set(np.round(mean[np.isfinite(mean)], 9))
    present = features.present[rows]
    assert reference.categories["has:text"].counts == {"yes": present[:, 2].sum(), "no": (~present[:, 2]).sum()}
    assert "age" not in reference.numbers


def test_age_and_sex_come_from_the_cohort(compared, tmp_path):
    steps, out = compared
    write_people(tmp_path / "cohort", steps)
    reference = build_reference(steps.features, steps.candidate, out, tmp_path / "cohort")
    assert set(reference.numbers["age"].means) == {62.0}
    train = np.flatnonzero(steps.samples["split"] == "train")
    assert reference.categories["sex"].counts == {"female": (train % 3 != 0).sum(), "male": (train % 3 == 0).sum()}


def test_held_out_answers_are_calibrated_as_they_are_served(compared):
    steps, out = compared
    held_out = build_reference(steps.features, steps.candidate, out).held_out
    frame = read_predictions(steps.candidate / "predictions.parquet")
    frame = frame[frame["set"] == TEST]
    calibration = Calibration.read(out)
    assert calibration is not None
    decisions = decide(class_probabilities(frame, steps.classes), calibration)
    labels = frame["label"].map({name: place for place, name in enumerate(steps.classes)}).to_numpy()
    assert held_out.rows == len(frame)
    assert held_out.mean_confidence == pytest.approx(decisions.probabilities.max(axis=1).mean())
    assert held_out.abstention_rate == pytest.approx(decisions.abstained.mean())
    assert held_out.scores["coverage"].value == pytest.approx(decisions.sets[np.arange(len(labels)), labels].mean())
    auc = sk.roc_auc_score(labels, decisions.probabilities, multi_class="ovr", average="macro")
    assert held_out.scores["macro_auc"].value == pytest.approx(auc)
    assert held_out.scores["macro_auc"].low < auc < held_out.scores["macro_auc"].high
    assert sum(held_out.class_shares.values()) == pytest.approx(1)


def test_it_survives_a_round_trip_and_names_no_patient(compared, tmp_path):
    steps, out = compared
    reference = build_reference(steps.features, steps.candidate, out)
    reference.write(tmp_path / "reference.json")
    assert TrainingReference.read(tmp_path / "reference.json") == reference
    text = (tmp_path / "reference.json").read_text()
    assert not [patient for patient in steps.samples["patient_id"] if patient in text]


def test_what_few_patients_have_is_not_told():
    few = summarise_number(np.array([1.0, 2, 3, 4, np.nan]))
    assert (few.means, few.counts, few.missing) == ([], [], 5)
    counted = summarise_category(pd.Series(["female"] * 9 + ["other"] * 2 + [None]))
    assert (counted.counts, counted.missing) == ({"female": 9, "rare": 2}, 1)
