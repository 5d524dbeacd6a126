from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tests.training.synthetic import make_features
from training.settings import TrainingSettings


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("features") / "f")


@pytest.fixture(scope="session")
def settings():
    return TrainingSettings(
        members=1,
        network={
            "units": 8,
            "image_filters": (4, 8),
            "text_length": 24,
            "transformer_layers": 1,
            "image_shift": 1,
        },
        optimiser={"epochs": 15, "batch_size": 16, "learning_rate": 0.015, "patience": 10},
        words={"dimensions": 8, "max_words": 64},
        tabular={
            "forest_trees": 30,
            "boosting_rounds": 20,
            "boosting_leaf": 3,
            "image_size": 4,
            "image_components": 4,
            "text_components": 4,
        },
    )
