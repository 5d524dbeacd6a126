from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from data_schemas.features import Features
from tests.training.synthetic import make_features
from training.data import InputSpec
from training.names import MODEL_NAMES
from training.registry import create_model


@pytest.fixture(scope="module")
def spoilt(features, tmp_path_factory):
    """The same features with the values and labels of every row outside fold 0's training rows replaced."""
    folder = tmp_path_factory.mktemp("spoilt") / "f"
    shutil.copytree(features.folder, folder)
    others = np.setdiff1d(np.arange(len(features.samples)), features.fold_rows(0)[0])
    for name, value in (("series", 1e4), ("series_observed", True), ("images", 0.9), ("present", True)):
        array = np.array(getattr(features, name))
        array[others] = value
        np.save(folder / f"{name}.npy", array)
    notes = pd.read_parquet(folder / "notes.parquet")
    notes.loc[others, "text"] = "strange words that occur nowhere else " * 3
    notes.to_parquet(folder / "notes.parquet")
    samples = pd.read_parquet(folder / "samples.parquet")
    samples.loc[others, "label"] = "class 0"
    samples.to_parquet(folder / "samples.parquet")
    return Features.open(folder)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_model_learns_forgets_and_does_not_leak(features, spoilt, settings, name):
    fit_rows, held_out = features.fold_rows(0)
    model = create_model(name, settings, InputSpec.of(features))
    assert model.unavailable() is None
    report = model.fit(features, fit_rows)
    probabilities = model.predict(features, held_out)
    assert probabilities.dtype == np.float64 and probabilities.shape == (len(held_out), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert roc_auc_score(features.labels[held_out], probabilities, multi_class="ovr") > 0.8
    assert report.seconds > 0
    on_fit_rows = model.predict(features, fit_rows)

    # Another fit in between leaves no trace, and rows outside the fit rows have no influence.
    model.fit(features, features.fold_rows(1)[0])
    model.fit(spoilt, fit_rows)
    np.testing.assert_array_equal(model.predict(features, fit_rows), on_fit_rows)
    np.testing.assert_array_equal(model.predict(features, held_out), probabilities)
    assert model.predict(features, held_out[:0]).shape == (0, 3)


def test_a_seed_decides_the_result(features, settings):
    rows = features.train_rows
    brief = settings.model_copy(update={"optimiser": settings.optimiser.model_copy(update={"epochs": 1})})
    results = []
    for seed in (1, 1, 2):
        model = create_model("lstm", brief.model_copy(update={"seed": seed}), InputSpec.of(features))
        model.fit(features, rows)
        results.append(model.predict(features, rows))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_models_without_their_modality_say_so(tmp_path, settings):
    features = make_features(tmp_path, image=None, series=False, patients=20, classes=2)
    reasons = {name: create_model(name, settings, InputSpec.of(features)).unavailable() for name in MODEL_NAMES}
    assert {name for name, reason in reasons.items() if reason} == {"cnn", "lstm", "gru"}
    assert reasons["cnn"] == "The cohort has no image."
    with pytest.raises(ValueError, match="has no series"):
        create_model("lstm", settings, InputSpec.of(features)).fit(features, features.train_rows)


def test_an_unknown_name_is_refused(features, settings):
    with pytest.raises(ValueError, match="received 'resnet'"):
        create_model("resnet", settings, InputSpec.of(features))
