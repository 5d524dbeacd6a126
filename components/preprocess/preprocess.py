"""The preprocess step: a cohort folder becomes a features folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap
from pydantic import BaseModel

from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.preprocess.calibrate import read_certificates
from components.preprocess.documents import join_notes, latest_images, prepare_images
from components.preprocess.impute import Filling
from components.preprocess.patient_rows import PatientRows
from components.preprocess.series import COLUMNS, Readings, concatenate_readings, encode_readings, grid_series
from components.preprocess.settings import PreprocessSettings
from components.preprocess.split import HELD_OUT, split_samples
from data_schemas.cohort import ROW_GROUP, TIME, Cohort, TableWriter, arrow_slices, write_table
from data_schemas.errors import InputError
from data_schemas.features import MODALITIES, FeaturesManifest, Preparation

# Bounds the memory of a chunk: rows of observations read at once, cells of the grid, pixels of images.
ROWS = 500_000
CELLS = 2_000_000
PIXELS = 8_000_000

WINDOWS = "windows"
FEATURE_TABLES = {
    WINDOWS: pa.schema([("patient_id", pa.string()), ("window_end", TIME)]),
    "notes": pa.schema([("patient_id", pa.string()), ("text", pa.string())]),
}
SAMPLES = pa.schema(
    [
        ("patient_id", pa.string()),
        ("label", pa.string()),
        ("window_end", TIME),
        ("split", pa.string()),
        ("fold", pa.int64()),
    ]
)


class Tally(BaseModel):
    """What happened to the readings of some patients; tallies of shards are added up.

    Attributes:
        received: Readings of each channel.
        measured: Readings of each channel that stand on the grid.
        counts: Readings and cells by what happened to them.
        read: Rows of each of the cohort's tables that were read.
    """

    received: list[int]
    measured: list[int]
    counts: dict[str, int]
    read: dict[str, int]

    @classmethod
    def total(cls, tallies: Sequence[Tally]) -> Tally:
        """Add up tallies.

        Args:
            tallies: One at least.

        Returns:
            Their sum.
        """

        def added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
            total: Counter[str] = Counter()
            for count in counts:
                total.update(count)
            return dict(total)

        return cls(
            received=[sum(numbers) for numbers in zip(*(tally.received for tally in tallies), strict=True)],
            measured=[sum(numbers) for numbers in zip(*(tally.measured for tally in tallies), strict=True)],
            counts=added(tally.counts for tally in tallies),
            read=added(tally.read for tally in tallies),
        )


def preprocess_cohort(
    cohort: Path,
    output: Path,
    settings: PreprocessSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Align, calibrate, denoise and impute a cohort, and split it by patient.

    Nothing here learns from the data: each patient's arrays depend on that patient alone. Patients are taken in
    chunks, so that memory does not grow with the cohort.

    Args:
        cohort: The cohort folder.
        output: The features folder to write (see ``data_schemas.features``).
        settings: The settings of the step.
        progress: Receives short texts on what is being done.

    Returns:
        Metrics: samples, modalities, what happened to readings and cells. Warnings: patients without data, and so on.

    Raises:
        InputError: The cohort is empty, has a single class or a class with too few patients, an unknown label, or a
            channel that is never measured.
    """
    source = Cohort.open(cohort)
    fold = split_cohort(source, settings)
    with atomic_folder(output) as folder:
        tally = write_arrays(PatientRows(source), folder, settings, progress, check_measured)
        return write_features(source, folder, fold, tally, settings)


def split_cohort(source: Cohort, settings: PreprocessSettings) -> np.ndarray:
    """Make the split and the folds, once for the whole cohort.

    Args:
        source: The cohort.
        settings: The settings of the step.

    Returns:
        int64 ``[n]``: fold, or ``HELD_OUT`` for held-out patients.

    Raises:
        InputError: The cohort is empty, has a single class or a class with too few patients, or an unknown label.
    """
    patients = source.table("patients", ["patient_id", "label"])
    return split_samples(
        patients["patient_id"].to_numpy(),
        patients["label"].to_numpy(),
        source.manifest.classes,
        folds=settings.folds,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
    )


def write_arrays(
    rows: PatientRows,
    folder: Path,
    settings: PreprocessSettings,
    progress: Callable[[str], None],
    check: Callable[[Cohort, Tally], None] | None = None,
) -> Tally:
    """Write what depends on each patient alone: series, images, notes, window ends, and which modalities there are.

    Args:
        rows: The patients.
        folder: An existing folder.
        settings: The settings of the step.
        progress: Receives short texts on what is being done.
        check: Called once the series are written, where the patients are the whole cohort.

    Returns:
        What happened to the readings.
    """
    window_end, series_present, tally = _write_series(rows, folder, settings, progress)
    if check is not None:
        check(rows.source, tally)
    ends = pd.Series(window_end, dtype="datetime64[us]").dt.tz_localize("UTC").where(series_present)
    samples = pd.DataFrame({"patient_id": rows.patient_ids, "window_end": ends})
    image_present = _write_images(rows, samples, folder, settings, progress)
    texts = join_notes(rows.table("notes", ["patient_id", "time", "text"]), samples, settings)
    for name, table in ((WINDOWS, samples), ("notes", samples[["patient_id"]].assign(text=texts))):
        with TableWriter(folder, name, FEATURE_TABLES[name]) as writer:
            for part in arrow_slices(table, FEATURE_TABLES[name]):
                writer.write(part)
    present = np.stack([series_present, image_present, np.array([bool(text) for text in texts], dtype=bool)], axis=1)
    np.save(folder / "present.npy", present)
    return tally.model_copy(update={"read": dict(rows.read)})


def write_features(
    source: Cohort, folder: Path, fold: np.ndarray, tally: Tally, settings: PreprocessSettings
) -> StepResult:
    """Complete a features folder that has the arrays of all patients.

    Args:
        source: The cohort.
        folder: The folder; its file of window ends becomes that of the samples.
        fold: int64 ``[n]``, from ``split_cohort``.
        tally: What happened to the readings.
        settings: The settings of the step.

    Returns:
        The result of the step.
    """
    labels = source.table("patients", ["label"])["label"]
    with pq.ParquetFile(folder / f"{WINDOWS}.parquet") as parquet, TableWriter(folder, "samples", SAMPLES) as writer:
        for batch in parquet.iter_batches(batch_size=ROW_GROUP):
            part = slice(writer.rows, writer.rows + batch.num_rows)
            columns = {
                "patient_id": batch["patient_id"],
                "label": pa.array(labels.iloc[part], pa.string()),
                "window_end": batch["window_end"],
                "split": pa.array(np.where(fold[part] == HELD_OUT, "test", "train"), pa.string()),
                "fold": pa.array(fold[part]),
            }
            writer.write(pa.table(columns, schema=SAMPLES))
    (folder / f"{WINDOWS}.parquet").unlink()
    write_table(folder, "devices", applied_certificates(source, settings))
    manifest = FeaturesManifest(
        name=source.manifest.name,
        classes=source.manifest.classes,
        channels=source.manifest.channels,
        steps=settings.steps,
        step_seconds=settings.step_seconds,
        image=source.manifest.image,
        folds=settings.folds,
        cohort_digest=source.manifest.digest,
        synthetic=bool(source.manifest.provenance.get("synthetic", False)),
        preparation=Preparation(settings=settings.model_dump(mode="json"), demographics=source.manifest.demographics),
    )
    (folder / "features.json").write_text(manifest.model_dump_json(indent=2))
    return _result(fold, np.load(folder / "present.npy"), tally.counts, settings)


def applied_certificates(source: Cohort, settings: PreprocessSettings) -> pd.DataFrame:
    """Return the calibration certificates that the series were corrected by.

    Args:
        source: The cohort.
        settings: The settings of the step.

    Returns:
        Rows of the cohort's devices table; none where nothing is calibrated.
    """
    devices = source.devices
    return devices[devices["channel"].isin(source.manifest.channel_names) & settings.calibrate]


def _array(folder: Path, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Create an array file to fill; arrays without elements cannot be memory-mapped."""
    path = folder / f"{name}.npy"
    if 0 in shape:
        np.save(path, np.zeros(shape, dtype=dtype))
        return np.load(path)
    return open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _write_series(
    rows: PatientRows, folder: Path, settings: PreprocessSettings, progress: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, Tally]:
    """Write series.npy and series_observed.npy; return window ends (int64 us), series present (bool) and a tally."""
    source, patients = rows.source, len(rows)
    channels = source.manifest.channels
    certificates = read_certificates(source.devices, source.manifest.channel_names)
    shape = (patients, settings.steps, len(channels))
    series = _array(folder, "series", shape, np.float32)
    observed = _array(folder, "series_observed", shape, np.bool_)
    window_end = np.zeros(patients, dtype=np.int64)
    present = np.zeros(patients, dtype=bool)
    measured = np.zeros(len(channels), dtype=np.int64)
    received = np.zeros(len(channels), dtype=np.int64)
    counts: Counter[str] = Counter()
    most = max(1, CELLS // max(1, settings.steps * len(channels)))
    if channels:
        tables = (
            encode_readings(table, rows.positions, channels, certificates)
            for table in rows.batches("observations", list(COLUMNS), ROWS)
        )
        for chunk, start, stop in _patient_chunks(tables, patients, most):
            prepared = grid_series(chunk, stop - start, channels, certificates, settings)
            series[start:stop], observed[start:stop] = prepared.series, prepared.observed
            window_end[start:stop], present[start:stop] = prepared.window_end, prepared.present
            measured += prepared.measured
            received += np.bincount(chunk.channel, minlength=len(channels))
            counts.update(prepared.counts)
            progress(f"series {stop}/{patients}")
    tally = Tally(received=received.tolist(), measured=measured.tolist(), counts=dict(counts), read={})
    return window_end, present, tally


def _patient_chunks(tables: Iterator[Readings], patients: int, most: int) -> Iterator[tuple[Readings, int, int]]:
    """Yield the readings of whole patients, with patient indices counted from the chunk's first patient.

    Every patient is in one chunk of at most ``most`` patients, those without readings too.
    """
    rest: Readings | None = None
    done = 0
    for readings in tables:
        if rest is not None:
            readings = concatenate_readings(rest, readings)
        if not len(readings.patient):
            continue
        if readings.patient[0] < done or (np.diff(readings.patient) < 0).any():
            raise InputError(
                "is not sorted in the order of patients.parquet",
                file="observations.parquet",
                remedy="Ingest the source again",
            )
        # More rows of the last patient may follow in the next batch.
        last = int(readings.patient[-1])
        yield from _whole_patients(readings, done, last, most)
        rest, done = readings.take(readings.patient == last), last
    empty = np.zeros(0, dtype=np.int64)
    remaining = rest if rest is not None else Readings(empty, empty, empty, empty, empty.astype(np.float64))
    yield from _whole_patients(remaining, done, patients, most)


def _whole_patients(readings: Readings, first: int, end: int, most: int) -> Iterator[tuple[Readings, int, int]]:
    """Yield chunks for the patients ``first`` to ``end`` - 1 out of readings sorted by patient."""
    for start in range(first, end, most):
        stop = min(start + most, end)
        low, high = np.searchsorted(readings.patient, (start, stop))
        chunk = readings.take(slice(low, high))
        yield (
            Readings(chunk.patient - start, chunk.device, chunk.channel, chunk.time, chunk.value),
            start,
            stop,
        )


def check_measured(source: Cohort, tally: Tally) -> None:
    """Check that every channel stands on the grid of some patient.

    Args:
        source: The cohort.
        tally: What happened to all of its readings.

    Raises:
        InputError: A channel is never measured, or has no usable value.
    """
    for channel, rows, used in zip(source.manifest.channels, tally.received, tally.measured, strict=True):
        if used:
            continue
        if rows:
            problem = (
                f"Channel {channel.name} has no usable value: all its {rows} observations are outside the plausible "
                f"range [{channel.low:g}, {channel.high:g}] {channel.unit} or outside the window"
            )
        else:
            problem = f"Channel {channel.name} is never measured in this cohort"
        raise InputError(
            problem,
            file="observations.parquet",
            field="channel",
            remedy=f"Leave {channel.name} out of the channels at ingest, or check its unit and the window",
        )


def _write_images(
    rows: PatientRows,
    samples: pd.DataFrame,
    folder: Path,
    settings: PreprocessSettings,
    progress: Callable[[str], None],
) -> np.ndarray:
    """Write images.npy, one row a sample; return bool ``[n]``: whether the sample has an image."""
    source = rows.source
    image = source.manifest.image
    if image is None:
        _array(folder, "images", (len(samples), 0, 0, 0), np.float32)
        return np.zeros(len(samples), dtype=bool)
    chosen_rows = latest_images(rows.table("images", ["patient_id", "time", "row"]), samples, settings)
    shape = (len(samples), image.height, image.width, image.channels)
    images = _array(folder, "images", shape, np.float32)
    present = np.flatnonzero(chosen_rows >= 0)
    most = max(1, PIXELS // (image.height * image.width * image.channels))
    for start in range(0, len(present), most):
        chosen = present[start : start + most]
        images[chosen] = prepare_images(source.images[chosen_rows[chosen]], settings)
        progress(f"images {start + len(chosen)}/{len(present)}")
    return chosen_rows >= 0


def _result(fold: np.ndarray, present: np.ndarray, counts: dict[str, int], settings: PreprocessSettings) -> StepResult:
    """Summarise the step."""
    metrics: dict[str, float] = {
        "samples": len(fold),
        "train_samples": int((fold != HELD_OUT).sum()),
        "test_samples": int((fold == HELD_OUT).sum()),
        "samples_without_data": int((~present.any(axis=1)).sum()),
    }
    metrics |= {f"samples_with_{name}": int(present[:, i].sum()) for i, name in enumerate(MODALITIES)}
    names = ("readings", "calibrated", "not_finite", "implausible", "outliers", "outside_window")
    metrics |= {f"readings_{name}" if name != "readings" else name: counts.get(name, 0) for name in names}
    kinds = [kind.name.lower() for kind in Filling] + ["carried_in"]
    cells = sum(counts.get(kind, 0) for kind in kinds)
    metrics |= {f"cells_{kind}_fraction": counts[kind] / cells for kind in kinds if cells}
    warnings = []
    if metrics["samples_without_data"]:
        warnings.append(f"{metrics['samples_without_data']:.0f} patients have no usable series, image or note.")
    if counts.get("implausible"):
        warnings.append(
            f"{counts['implausible']} of {counts['readings']} readings are outside their channel's plausible range "
            f"and count as not measured."
        )
    params = {f"preprocess.{name}": value for name, value in settings.model_dump().items()}
    return StepResult(metrics=metrics, params=params, warnings=warnings)
