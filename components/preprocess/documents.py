"""Images and notes: which of a patient's are used, and how they become one row a sample."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.preprocess.denoise import smooth_images
from components.preprocess.settings import PreprocessSettings

NOTE_SEPARATOR = "\n"


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
    order = usable_order(
        joined["sample"].to_numpy(np.int64),
        joined["time"].to_numpy("datetime64[us]"),
        joined["window_end"].to_numpy("datetime64[us]"),
        later_documents,
    )
    return joined.iloc[order].reset_index(drop=True)


def usable_order(sample: np.ndarray, time: np.ndarray, window_end: np.ndarray, later_documents: str) -> np.ndarray:
    """Say which documents are used, and in which order; training and serving call this.

    Args:
        sample: int64 ``[m]``, the sample of each document.
        time: datetime64 ``[m]``; NaT where it is not dated.
        window_end: datetime64 ``[m]``, end of its sample's window; NaT where the sample has no series.
        later_documents: "keep" or "drop" those dated after the window's end; undated ones stay.

    Returns:
        int64: positions of the used documents, ordered by sample and time (undated first), those with one time stamp in
        their original order.
    """
    used = np.flatnonzero(~((time > window_end) & (later_documents == "drop")))
    # As an integer, NaT is the smallest of all times.
    return used[np.lexsort((time[used].astype("datetime64[us]").astype(np.int64), sample[used]))]


def join_texts(texts: np.ndarray, sample: np.ndarray, samples: int) -> list[str]:
    """Join the notes of each sample; training and serving call this.

    Args:
        texts: Texts ``[m]`` in the order of ``usable_order``.
        sample: int64 ``[m]``, the sample of each, ascending.
        samples: Number of samples.

    Returns:
        One text a sample; an empty string where it has none.
    """
    joined = [""] * samples
    starts = np.flatnonzero(np.diff(sample, prepend=-1))
    for place, parts in zip(sample[starts].tolist(), np.split(texts, starts[1:]), strict=False):
        joined[place] = NOTE_SEPARATOR.join(parts)
    return joined


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
    return join_texts(used["text"].to_numpy(object), used["sample"].to_numpy(np.int64), len(samples))


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
