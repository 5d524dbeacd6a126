from dataclasses import replace

import numpy as np
import pytest

from components.ingest.demo.classes import DISEASES
from components.ingest.demo.images import draw_images
from components.ingest.demo.patients import draw_patients
from components.ingest.demo.settings import DemoSettings

SIZE = (48, 40)


def _draw(disease=None):
    """Return the mean image of the same patients, all with one disease fully shown, or none; rows, then columns."""
    patients = draw_patients(DemoSettings(patients=150))
    shown = np.zeros_like(patients.severity)
    if disease is not None:
        shown[:, DISEASES.index(disease)] = 1.0
    patients = replace(patients, expression={**patients.expression, "image": shown})
    images = draw_images(np.random.default_rng(2), patients, SIZE)
    assert images.shape == (150, *SIZE)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    return images.mean(axis=0)


def _place(x, y):
    """Return the pixel at a place of the trunk, from -1 (left, top) to 1."""
    return round((y + 1) / 2 * (SIZE[0] - 1)), round((x + 1) / 2 * (SIZE[1] - 1))


@pytest.fixture(scope="module")
def healthy():
    return _draw()


@pytest.mark.parametrize(
    ("disease", "place", "sign"),
    [
        ("cardiovascular_disease", (0.33, -0.20), 1),  # the heart reaches into the lung
        ("diabetes", (-0.30, 0.22), 1),  # bright liver
        ("copd", (-0.36, -0.30), -1),  # dark lung
        ("hypertension", (0.20, -0.20), -1),  # wall in place of the bright chamber
        ("chronic_kidney_disease", (0.34, 0.60), -1),  # dark kidney
    ],
)
def test_findings_are_where_they_belong(healthy, disease, place, sign):
    change = _draw(disease) - healthy
    assert sign * change[_place(*place)] > 0.04


def test_healthy_people_differ_from_each_other_too():
    patients = draw_patients(DemoSettings(patients=50))
    none = replace(patients, expression={"image": np.zeros_like(patients.severity)})
    images = draw_images(np.random.default_rng(2), none, SIZE)
    assert images.std(axis=0).mean() > 0.03
