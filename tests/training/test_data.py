from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from tests.training.synthetic import make_features
from training.data import (
    InputSpec,
    augment,
    class_weights,
    gather,
    validation_split,
)
from training.settings import NetworkSettings

ALL = ("series", "image", "text")


def test_spec_leaves_out_what_no_training_row_has(tmp_path):
    spec = InputSpec.of(make_features(tmp_path, image=None, text=False, patients=20, classes=2))
    assert spec.modalities == ("series",)
    assert spec.image is None
    assert spec.classes == ("class 0", "class 1")


def test_balanced_class_weights_are_those_of_scikit_learn():
    labels = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(labels, 3, "balanced"), expected, rtol=1e-6)
    np.testing.assert_array_equal(class_weights(labels, 4, "none"), np.ones(4))
    assert class_weights(labels, 4, "balanced")[3] == 1


@given(st.integers(0, 1000))
def test_validation_split_is_stratified_and_covers_the_rows(shared_features, seed):
    rows = shared_features.train_rows
    fit, validate = validation_split(shared_features, rows, 0.25, seed)
    assert np.array_equal(np.sort(np.concatenate([fit, validate])), rows)
    counts = np.bincount(shared_features.labels[validate], minlength=3)
    assert counts.min() >= 1 and counts.max() - counts.min() <= 2


@pytest.fixture(scope="module")
def shared_features(tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("split") / "f")


def test_other_parts_validate_on_other_rows(features):
    rows = features.train_rows
    parts = [validation_split(features, rows, 0.25, 7, part)[1] for part in range(5)]
    assert sorted(np.concatenate(parts[:4])) == rows.tolist()
    np.testing.assert_array_equal(parts[4], parts[0])


def test_validation_split_keeps_a_patient_on_one_side(features, tmp_path):
    copy = make_features(tmp_path, patients=24, classes=2)
    copy.samples["patient_id"] = [f"p{i // 2}" for i in range(24)]
    copy.samples["label"] = [f"class {i // 2 % 2}" for i in range(24)]
    fit, validate = validation_split(copy, np.arange(24), 0.25, 0)
    patients = copy.samples["patient_id"].to_numpy()
    assert not set(patients[fit]) & set(patients[validate])


def test_augment_always_leaves_a_modality_that_was_there(features):
    rows = np.arange(40)
    inputs = gather(features, rows, ALL)
    inputs["tokens"] = np.full((40, 5), 7, dtype=np.int32)
    settings = NetworkSettings(modality_dropout=0.9, word_dropout=0.5, image_shift=2)
    harder = augment(inputs, ALL, settings, np.random.default_rng(0))
    had = inputs["present"].any(axis=1)
    assert (harder["present"].any(axis=1) == had).all()
    assert not (harder["present"] & ~inputs["present"]).any()
    assert harder["present"].sum() < inputs["present"].sum()
    assert set(np.unique(harder["tokens"])) == {1, 7}
    assert harder["image"].shape == inputs["image"].shape
    assert not np.array_equal(harder["image"], inputs["image"])
    np.testing.assert_array_equal(inputs["tokens"], 7)


def test_image_shift_by_hand():
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    batch = {"present": np.ones((1, 3), dtype=bool), "image": np.repeat(image, 200, axis=0)}
    shifted = augment(batch, ("image",), NetworkSettings(image_shift=1), np.random.default_rng(0))["image"]
    seen = {tuple(item.reshape(-1)) for item in shifted}
    assert len(seen) == 9
    assert (4, 5, 5, 7, 8, 8, 7, 8, 8) in seen
