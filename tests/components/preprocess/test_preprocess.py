import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from components.preprocess import preprocess
from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import Cohort
from data_schemas.errors import InputError
from data_schemas.features import Features
from tests.components.preprocess.conftest import prepare_series

START = pd.Timestamp("2022-06-01T08:00:00Z")
SETTINGS = PreprocessSettings(step="6h", steps=6, anchor="first", folds=3)


def test_features_hold_what_the_contract_says(make_cohort, tmp_path):
    cohort = make_cohort()
    result = preprocess_cohort(cohort, tmp_path / "features", SETTINGS)
    features = Features.open(tmp_path / "features")
    assert features.manifest.model_dump(include={"steps", "step_seconds", "folds", "synthetic", "classes"}) == {
        "steps": 6,
        "step_seconds": 21_600.0,
        "folds": 3,
        "synthetic": True,
        "classes": ["well", "ill"],
    }
    assert features.series.dtype == np.float32 and features.series.shape == (20, 6, 2)
    assert features.series_observed[:, :, 0].tolist() == [[True, True, False, False, False, True]] * 20
    assert np.isfinite(features.series).all()
    assert features.present.tolist() == [[True, True, True]] * 20
    assert features.texts == [f"note {i}" for i in range(20)]
    samples = features.samples
    assert (samples["window_end"] == START + pd.Timedelta("36h")).all()
    assert samples.groupby("label")["split"].value_counts().to_dict() == {
        ("ill", "train"): 8,
        ("ill", "test"): 2,
        ("well", "train"): 8,
        ("well", "test"): 2,
    }
    assert ((samples["fold"] >= 0) == (samples["split"] == "train")).all()
    source = Cohort.open(cohort).images[19]
    np.testing.assert_allclose(features.images[0, :, :, 0], gaussian_filter(source[:, :, 0], 0.5), atol=1e-6)
    assert result.metrics["samples"] == 20
    assert result.metrics["readings"] == 160
    assert result.metrics["cells_measured_fraction"] == pytest.approx(3 / 6)
    assert result.metrics["cells_long_gap_fraction"] == pytest.approx(3 / 6)
    assert result.warnings == []


def test_serving_one_patient_gives_the_row_of_the_features(make_cohort, tmp_path):
    cohort = make_cohort()
    preprocess_cohort(cohort, tmp_path / "features", SETTINGS)
    features, source = Features.open(tmp_path / "features"), Cohort.open(cohort)
    observations = source.observations
    patient = source.patients["patient_id"][7]
    mine = observations[observations["patient_id"] == patient].drop(columns="patient_id")
    series, observed = prepare_series(mine, source.devices, source.manifest.channels, SETTINGS)
    np.testing.assert_array_equal(series[0], features.series[7])
    np.testing.assert_array_equal(observed[0], features.series_observed[7])


def test_small_chunks_change_nothing(make_cohort, tmp_path, monkeypatch):
    cohort = make_cohort()
    preprocess_cohort(cohort, tmp_path / "whole", SETTINGS)
    monkeypatch.setattr(preprocess, "ROWS", 7)
    monkeypatch.setattr(preprocess, "CELLS", 30)
    monkeypatch.setattr(preprocess, "PIXELS", 70)
    preprocess_cohort(cohort, tmp_path / "parts", SETTINGS)
    whole, parts = Features.open(tmp_path / "whole"), Features.open(tmp_path / "parts")
    np.testing.assert_array_equal(whole.series, parts.series)
    np.testing.assert_array_equal(whole.series_observed, parts.series_observed)
    np.testing.assert_array_equal(whole.images, parts.images)


def test_another_pseudonym_key_gives_the_same_arrays_and_folds(make_cohort, tmp_path):
    results = []
    for prefix in ("p", "zz"):
        cohort = make_cohort(prefix, prefix=prefix)
        preprocess_cohort(cohort, tmp_path / f"features_{prefix}", SETTINGS)
        results.append(Features.open(tmp_path / f"features_{prefix}"))
    np.testing.assert_array_equal(results[0].series, results[1].series)
    assert results[0].samples["fold"].tolist() == results[1].samples["fold"].tolist()


def test_any_modality_can_be_missing(make_cohort, observations_frame, tmp_path):
    rows = [("p001", "", "heart_rate", 0, 80), ("p001", "", "body_temperature", 1, 37)]
    cohort = make_cohort(observations=observations_frame(rows), documents=False)
    result = preprocess_cohort(cohort, tmp_path / "features", SETTINGS)
    features = Features.open(tmp_path / "features")
    assert features.images.shape == (20, 0, 0, 0)
    assert features.texts == [""] * 20
    assert np.argwhere(features.present).tolist() == [[1, 0]]
    assert np.isnan(features.series[0]).all()
    assert features.samples["window_end"].notna().tolist() == [False, True] + [False] * 18
    assert result.metrics["samples_without_data"] == 19
    assert result.warnings == ["19 patients have no usable series, image or note."]


def test_a_cohort_without_series_is_taken(make_cohort, observations_frame, tmp_path):
    cohort = make_cohort(observations=observations_frame([]), channels=[])
    preprocess_cohort(cohort, tmp_path / "features", SETTINGS)
    features = Features.open(tmp_path / "features")
    assert features.series.shape == (20, 6, 0)
    assert features.present.tolist() == [[False, True, True]] * 20


def test_a_channel_that_is_never_measured_is_refused_and_leaves_nothing(make_cohort, observations_frame, tmp_path):
    rows = [("p000", "", "heart_rate", 0, 80)]
    cohort = make_cohort(observations=observations_frame(rows))
    with pytest.raises(InputError, match="Channel body_temperature is never measured"):
        preprocess_cohort(cohort, tmp_path / "features", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_a_channel_without_a_plausible_value_is_refused_with_its_range(make_cohort, observations_frame, tmp_path):
    rows = [("p000", "", "body_temperature", 0, 98.6), ("p000", "", "heart_rate", 0, 80)]
    cohort = make_cohort(observations=observations_frame(rows))
    with pytest.raises(InputError, match=r"all its 1 observations are outside the plausible range \[25, 45\] Cel"):
        preprocess_cohort(cohort, tmp_path / "features", SETTINGS)


def test_an_empty_cohort_is_refused(make_cohort, observations_frame, tmp_path):
    cohort = make_cohort(labels=[], observations=observations_frame([]), documents=False)
    with pytest.raises(InputError, match="0 patients"):
        preprocess_cohort(cohort, tmp_path / "features", SETTINGS)


@pytest.mark.parametrize(
    ("patients", "message"), [(["p001", "p000"], "not sorted"), (["p000", "stranger"], "belong to no patient")]
)
def test_observations_that_do_not_fit_the_patients(make_cohort, observations_frame, tmp_path, patients, message):
    rows = [(patient, "", channel, 0, 40) for patient in patients for channel in ("heart_rate", "body_temperature")]
    with pytest.raises(InputError, match=message) as caught:
        preprocess_cohort(make_cohort(observations=observations_frame(rows)), tmp_path / "features", SETTINGS)
    assert "stranger" not in str(caught.value)
