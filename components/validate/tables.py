"""A cohort's tables, with strings as category codes: what the checks and the TFDV examples are made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.cohort import ROW_GROUP, SCHEMAS, Cohort, Manifest

# Bounds the memory of a chunk of images.
PIXELS = 8_000_000


@dataclass(frozen=True)
class CohortTables:
    """A cohort, read once but for its observations, which are read some patients at a time.

    Attributes:
        folder: The cohort's folder.
        manifest: Its manifest.
        patients: The patients table, without their lists of labels.
        identifiers: Index of distinct patient ids; a patient's index is its position here.
        observation_rows: Rows of observations.
        in_order: Whether the observations are in the order of the patients, those of unknown patients first.
        notes: Columns patient (int64 index into ``patients``, -1 = unknown) and words (int64).
        images: Columns patient (as above) and row.
        annotations: Columns patient and label.
        brightness: float64 ``[image rows]``: mean of each image of images.npy.
        contrast: float64 ``[image rows]``: standard deviation of each image.
        image_range: Smallest and largest pixel of the cohort; NaN where a pixel is NaN or there is no image.
        rejected: The table of rejected rows, strings as categories.
    """

    folder: Path
    manifest: Manifest
    patients: pd.DataFrame
    identifiers: pd.Index
    observation_rows: int
    in_order: bool
    notes: pd.DataFrame
    images: pd.DataFrame
    annotations: pd.DataFrame
    brightness: np.ndarray
    contrast: np.ndarray
    image_range: tuple[float, float]
    rejected: pd.DataFrame

    def observations(self, patients: int) -> Iterator[tuple[int, int, pd.DataFrame]]:
        """Read the observations, those of some patients at a time; memory does not grow with the cohort.

        Observations that are not in the order of the patients are read and sorted as a whole first.

        Args:
            patients: How many patients at a time.

        Yields:
            First patient, the one after the last, and their rows: patient (int64 index into ``patients``), channel
            (int64 index into the manifest's channels, -1 = another channel), unit, time (UTC) and value (float64). Rows
            of unknown patients (-1) are among the first ones.
        """
        read = _observation_batches(self.folder, self.identifiers, pd.Index(self.manifest.channel_names))
        if not self.in_order:
            read = iter([pd.concat(read, ignore_index=True).sort_values("patient", kind="stable", ignore_index=True)])
        yield from _by_patients(read, len(self.patients), patients)


def _observation_batches(folder: Path, identifiers: pd.Index, channels: pd.Index) -> Iterator[pd.DataFrame]:
    columns = ["patient_id", "channel", "unit", "time", "value"]
    for table in _read_batches(folder, "observations", columns, columns[:3]):
        rows = table.to_pandas()
        yield pd.DataFrame(
            {
                "patient": category_codes(rows["patient_id"], identifiers),
                "channel": category_codes(rows["channel"], channels),
                "unit": rows["unit"].astype(object),
                "time": rows["time"],
                "value": rows["value"],
            }
        )


def _by_patients(tables: Iterable[pd.DataFrame], patients: int, most: int) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Cut rows that are sorted by patient into those of some patients at a time; every patient is in one cut."""
    waiting: list[pd.DataFrame] = []
    start = 0

    def cut(stop: int) -> pd.DataFrame:
        joined = pd.concat(waiting, ignore_index=True)
        place = int(np.searchsorted(joined["patient"].to_numpy(), stop))
        waiting[:] = [joined.iloc[place:]]
        return joined.iloc[:place]

    for table in tables:
        waiting.append(table)
        while len(table) and table["patient"].iloc[-1] >= start + most:
            yield start, start + most, cut(start + most)
            start += most
    for first in range(start, patients, most):
        stop = min(first + most, patients)
        yield first, stop, cut(stop)


def _read_batches(folder: Path, name: str, columns: list[str], categories: list[str]) -> Iterator[pa.Table]:
    """Yield rows of a table of the cohort, some at a time; one empty table where it has none or is not there."""
    path = folder / f"{name}.parquet"
    schema = pa.schema(
        [
            (
                column,
                pa.dictionary(pa.int32(), pa.string()) if column in categories else SCHEMAS[name].field(column).type,
            )
            for column in columns
        ]
    )
    rows = 0
    if path.is_file():
        with pq.ParquetFile(path, read_dictionary=categories) as parquet:
            for batch in parquet.iter_batches(batch_size=ROW_GROUP, columns=columns):
                rows += batch.num_rows
                yield pa.Table.from_batches([batch])
    if not rows:
        yield schema.empty_table()


def _categories(folder: Path, name: str, columns: list[str], categories: list[str]) -> pd.DataFrame:
    """Read columns of a table as a whole, strings that repeat as categories."""
    tables = list(_read_batches(folder, name, columns, categories))
    return pa.concat_tables(tables).unify_dictionaries().to_pandas()


def read_tables(cohort: Cohort) -> CohortTables:
    """Read what validation needs of a cohort.

    Args:
        cohort: The opened cohort.

    Returns:
        Its tables.
    """
    folder = cohort.folder
    patients = _categories(
        folder, "patients", ["patient_id", "label", "site", "sex", "birth_year"], ["label", "site", "sex"]
    )
    # Repeated ids are reported by the checks; here the first one counts.
    identifiers = pd.Index(patients["patient_id"].drop_duplicates())
    brightness, contrast, image_range = image_statistics(cohort.images)
    return CohortTables(
        folder=folder,
        manifest=cohort.manifest,
        patients=patients,
        identifiers=identifiers,
        observation_rows=pq.read_metadata(folder / "observations.parquet").num_rows,
        in_order=_in_order(folder, identifiers),
        notes=_of_patients(folder, "notes", "text", identifiers).rename(columns={"text": "words"}),
        images=_of_patients(folder, "images", "row", identifiers),
        annotations=_of_patients(folder, "annotations", "label", identifiers),
        brightness=brightness,
        contrast=contrast,
        image_range=image_range,
        rejected=_categories(folder, "rejected", ["file", "row", "field", "reason"], ["file", "field", "reason"]),
    )


def _in_order(folder: Path, identifiers: pd.Index) -> bool:
    """Tell whether the observations are in the order of the patients."""
    last = -1
    for table in _read_batches(folder, "observations", ["patient_id"], ["patient_id"]):
        patient = category_codes(table.to_pandas()["patient_id"], identifiers)
        if (np.diff(patient, prepend=last) < 0).any():
            return False
        last = int(patient[-1]) if len(patient) else last
    return True


def _of_patients(folder: Path, name: str, column: str, identifiers: pd.Index) -> pd.DataFrame:
    """Read a column of a table with the index of each row's patient; of texts, the number of words."""
    strings = ["patient_id", "label"] if column == "label" else ["patient_id"]
    parts = []
    for table in _read_batches(folder, name, ["patient_id", column], strings):
        rows = table.to_pandas()
        values = rows[column].astype(object) if column == "label" else rows[column]
        if column == "text":
            values = rows[column].fillna("").str.count(r"\S+").astype("int64")
        parts.append(pd.DataFrame({"patient": category_codes(rows["patient_id"], identifiers), column: values}))
    return pd.concat(parts, ignore_index=True)


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
