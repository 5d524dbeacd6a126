import numpy as np
import pandas as pd
import pytest

from components.preprocess.documents import join_notes, latest_images, prepare_images
from components.preprocess.settings import PreprocessSettings

KEEP = PreprocessSettings()
DROP = PreprocessSettings(later_documents="drop")


def day(number: int) -> pd.Timestamp:
    return pd.Timestamp("2022-06-01T00:00:00Z") + pd.Timedelta(number, "D")


SAMPLES = pd.DataFrame({"patient_id": ["p", "q", "r"], "window_end": [day(10), day(10), pd.NaT]})


def test_notes_are_joined_in_the_order_of_time():
    notes = pd.DataFrame(
        {
            "patient_id": ["r", "p", "p", "p", "p"],
            "time": [day(99), day(12), day(3), pd.NaT, day(2)],
            "text": ["only", "later", "second", "undated", "  "],
        }
    )
    assert join_notes(notes, SAMPLES, KEEP) == ["undated\nsecond\nlater", "", "only"]
    assert join_notes(notes, SAMPLES, DROP) == ["undated\nsecond", "", "only"]


def test_a_cohort_without_notes_has_empty_texts():
    assert join_notes(pd.DataFrame(columns=["patient_id", "time", "text"]), SAMPLES, KEEP) == ["", "", ""]


def test_the_latest_image_is_used():
    index = pd.DataFrame(
        {"patient_id": ["q", "q", "q"], "time": [day(8), day(20), day(1)], "modality": "MR", "row": [5, 6, 7]}
    )
    assert latest_images(index, SAMPLES, KEEP).tolist() == [-1, 6, -1]
    assert latest_images(index, SAMPLES, DROP).tolist() == [-1, 5, -1]


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_images_stay_in_range(sigma):
    images = np.random.default_rng(0).integers(0, 2, (4, 9, 9, 1)).astype(np.float32)
    prepared = prepare_images(images, PreprocessSettings(image_sigma=sigma))
    assert prepared.dtype == np.float32 and prepared.shape == images.shape
    assert prepared.min() >= 0 and prepared.max() <= 1
    assert (prepared.std() < images.std()) == (sigma > 0)
