"""Images and notes: which of a patient's are used, and how they become one row a sample."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pandas as pd

from components.preprocess.denoise import smooth_images
from components.preprocess.settings import PreprocessSettings

NOTE_SEPARATOR = "\n"
_Times = TypeVar("_Times", pd.Series, np.ndarray)


def is_too_late(time: _Times, window_end: _Times, later_documents: str) -> _Times:
    """Say which notes or images come too late to be used; training and serving call this.

    Args:
        time: When each is dated; NaT where it is not.
        window_end: End of its sample's window; NaT where the sample has no series.
        later_documents: "keep" or "drop" those dated after the window's end; undated ones stay.

    Returns:
        Bool, one a document.
    """
    return (time > window_end) & (later_documents == "drop")


def usable_documents(documents: pd.DataFrame, samples: pd.DataFrame, later_documents: str) -> pd.DataFrame:
    """Give each note or image its sample, and leave out those that come too late.

    Args:
        documents: Rows with patient_id and time.
        samples: Columns patient_id and window_end (NaT where a sample has no series), one row a sample.
        later_documents: "keep" or "drop" those dated after the window's end; undated ones stay.

    Returns:
        The rows with a column ``sample`` (int, row in ``samples``), ordered by sample and time (undated first), rows
        with one time stamp in their original order.
    """
    keys = samples[["patient_id", "window_end"]].assign(sample=np.arange(len(samples)))
    joined = documents.merge(keys, on="patient_id", how="inner")
    joined = joined[~is_too_late(joined["time"], joined["window_end"], later_documents)]
    return joined.sort_values(["sample", "time"], kind="stable", na_position="first").reset_index(drop=True)


def join_notes(notes: pd.DataFrame, samples: pd.DataFrame, settings: PreprocessSettings) -> list[str]:
    """Join the notes of each sample in the order of their time.

    Args:
        notes: Rows with patient_id, time and text.
        samples: Columns patient_id and window_end, one row a sample.
        settings: Whether later notes are used.

    Returns:
        One text a sample; an empty string where it has none.
    """
    written = notes[notes["text"].fillna("").str.strip() != ""]
    used = usable_documents(written, samples, settings.later_documents)
    texts = used.groupby("sample", sort=False)["text"].agg(NOTE_SEPARATOR.join)
    return texts.reindex(range(len(samples)), fill_value="").tolist()


def latest_images(index: pd.DataFrame, samples: pd.DataFrame, settings: PreprocessSettings) -> np.ndarray:
    """Choose the image of each sample: the patient's latest.

    Args:
        index: Rows with patient_id, time and row (position in the cohort's image array).
        samples: Columns patient_id and window_end, one row a sample.
        settings: Whether later images are used.

    Returns:
        int64 ``[n]``: row of the cohort's images; -1 where a sample has none.
    """
    used = usable_documents(index, samples, settings.later_documents).drop_duplicates("sample", keep="last")
    rows = np.full(len(samples), -1, dtype=np.int64)
    rows[used["sample"].to_numpy(np.int64)] = used["row"].to_numpy(np.int64)
    return rows


def prepare_images(images: np.ndarray, settings: PreprocessSettings) -> np.ndarray:
    """Denoise images; training and serving call this.

    Args:
        images: float ``[n, height, width, channels]`` in [0, 1].
        settings: The settings of the step.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    return np.clip(smooth_images(np.asarray(images, dtype=np.float32), settings.image_sigma), 0.0, 1.0)
