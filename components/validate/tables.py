"""A cohort's tables, with strings as category codes: what the checks and the TFDV examples are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from data_schemas.cohort import Cohort, Manifest

# Bounds the memory of a chunk of images.
PIXELS = 8_000_000


@dataclass(frozen=True)
class CohortTables:
    """A cohort, read once.

    Attributes:
        manifest: Its manifest.
        patients: The patients table.
        observations: Columns patient (int64 index into ``patients``, -1 = unknown), channel (int64 index into the
            manifest's channels, -1 = another channel), unit (category), time (UTC) and value (float64).
        notes: Columns patient (as above) and words (int64).
        images: Columns patient and row.
        annotations: Columns patient and label.
        brightness: float64 ``[image rows]``: mean of each image of images.npy.
        contrast: float64 ``[image rows]``: standard deviation of each image.
        image_range: Smallest and largest pixel of the cohort; NaN where a pixel is NaN or there is no image.
        rejected: The table of rejected rows.
    """

    manifest: Manifest
    patients: pd.DataFrame
    observations: pd.DataFrame
    notes: pd.DataFrame
    images: pd.DataFrame
    annotations: pd.DataFrame
    brightness: np.ndarray
    contrast: np.ndarray
    image_range: tuple[float, float]
    rejected: pd.DataFrame


def read_tables(cohort: Cohort) -> CohortTables:
    """Read what validation needs of a cohort.

    Args:
        cohort: The opened cohort.

    Returns:
        Its tables.
    """
    patients = cohort.patients
    # Repeated ids are reported by the checks; here the first one counts.
    identifiers = pd.Index(patients["patient_id"].drop_duplicates())
    strings = ["patient_id", "channel", "unit"]
    observations = pq.read_table(
        cohort.folder / "observations.parquet", columns=[*strings, "time", "value"], read_dictionary=strings
    ).to_pandas()
    notes, images, annotations = cohort.notes, cohort.image_index, cohort.table("annotations")
    brightness, contrast, image_range = image_statistics(cohort.images)
    return CohortTables(
        manifest=cohort.manifest,
        patients=patients,
        observations=pd.DataFrame(
            {
                "patient": category_codes(observations["patient_id"], identifiers),
                "channel": category_codes(observations["channel"], pd.Index(cohort.manifest.channel_names)),
                "unit": observations["unit"],
                "time": observations["time"],
                "value": observations["value"],
            }
        ),
        notes=pd.DataFrame(
            {
                "patient": identifiers.get_indexer(notes["patient_id"]),
                "words": notes["text"].fillna("").str.count(r"\S+").astype("int64"),
            }
        ),
        images=pd.DataFrame({"patient": identifiers.get_indexer(images["patient_id"]), "row": images["row"]}),
        annotations=pd.DataFrame(
            {"patient": identifiers.get_indexer(annotations["patient_id"]), "label": annotations["label"]}
        ),
        brightness=brightness,
        contrast=contrast,
        image_range=image_range,
        rejected=cohort.rejected,
    )


def category_codes(column: pd.Series, names: pd.Index) -> np.ndarray:
    """Return the position of each value in ``names``, looking up each distinct value once.

    Args:
        column: Categorical strings ``[m]``.
        names: Distinct names.

    Returns:
        int64 ``[m]``; -1 where a value is missing or not among the names.
    """
    positions = np.append(names.get_indexer(column.cat.categories), -1)
    return positions[column.cat.codes.to_numpy()].astype(np.int64)


def image_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Compute brightness and contrast of images, some at a time.

    Args:
        images: float32 ``[n, height, width, channels]``, may be memory-mapped.

    Returns:
        float64 ``[n]`` means, float64 ``[n]`` standard deviations, and the smallest and largest pixel (NaN where there
        is no image, or a pixel is NaN).
    """
    number = len(images)
    brightness, contrast = np.zeros(number), np.zeros(number)
    low, high = (np.inf, -np.inf) if number else (np.nan, np.nan)
    most = max(1, PIXELS // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, number, most):
        chunk = np.asarray(images[start : start + most]).reshape(len(images[start : start + most]), -1)
        brightness[start : start + most] = chunk.mean(axis=1, dtype=np.float64)
        contrast[start : start + most] = chunk.std(axis=1, dtype=np.float64)
        low, high = float(np.minimum(low, chunk.min())), float(np.maximum(high, chunk.max()))
    return brightness, contrast, (low, high)
