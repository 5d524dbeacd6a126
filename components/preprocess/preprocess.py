"""The preprocess step: a cohort folder becomes a features folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.preprocess.calibrate import read_certificates
from components.preprocess.documents import join_notes, latest_images, prepare_images
from components.preprocess.impute import Filling
from components.preprocess.series import COLUMNS, Readings, concatenate_readings, encode_readings, grid_series
from components.preprocess.settings import PreprocessSettings
from components.preprocess.split import HELD_OUT, split_samples
from data_schemas.cohort import Cohort, write_table
from data_schemas.errors import InputError
from data_schemas.features import MODALITIES, FeaturesManifest, Preparation

# Bounds the memory of a chunk: rows of observations read at once, cells of the grid, pixels of images.
ROWS = 500_000
CELLS = 2_000_000
PIXELS = 8_000_000


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
    patients = source.patients
    fold = split_samples(
        patients["patient_id"].to_numpy(),
        patients["label"].to_numpy(),
        source.manifest.classes,
        folds=settings.folds,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
    )
    with atomic_folder(output) as folder:
        window_end, series_present, counts = _write_series(source, folder, settings, progress)
        samples = pd.DataFrame(
            {
                "patient_id": patients["patient_id"],
                "label": patients["label"],
                "window_end": pd.Series(window_end, dtype="datetime64[us]").dt.tz_localize("UTC").where(series_present),
                "split": np.where(fold == HELD_OUT, "test", "train"),
                "fold": fold,
            }
        )
        samples.to_parquet(folder / "samples.parquet", index=False)
        image_present = _write_images(source, samples, folder, settings, progress)
        texts = join_notes(source.notes, samples, settings)
        pd.DataFrame({"patient_id": samples["patient_id"], "text": texts}).to_parquet(
            folder / "notes.parquet", index=False
        )
        write_table(folder, "devices", applied_certificates(source, settings))
        present = np.stack([series_present, image_present, np.array([bool(text) for text in texts])], axis=1)
        np.save(folder / "present.npy", present)
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
            preparation=Preparation(
                settings=settings.model_dump(mode="json"), demographics=source.manifest.demographics
            ),
        )
        (folder / "features.json").write_text(manifest.model_dump_json(indent=2))
    return _result(fold, present, counts, settings)


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
    source: Cohort, folder: Path, settings: PreprocessSettings, progress: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Write series.npy and series_observed.npy; return window ends (int64 us), series present (bool) and counts."""
    channels = source.manifest.channels
    patients = len(source.patients)
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
    if not channels:
        return window_end, present, counts

    def encode(table: pa.Table) -> Readings:
        return encode_readings(table, patient_ids, channels, certificates)

    patient_ids = pa.array(source.patients["patient_id"], pa.string())
    for chunk, start, stop in _patient_chunks(source.folder / "observations.parquet", encode, patients, most):
        prepared = grid_series(chunk, stop - start, channels, certificates, settings)
        series[start:stop], observed[start:stop] = prepared.series, prepared.observed
        window_end[start:stop], present[start:stop] = prepared.window_end, prepared.present
        measured += prepared.measured
        received += np.bincount(chunk.channel, minlength=len(channels))
        counts.update(prepared.counts)
        progress(f"series {stop}/{patients}")
    _check_measured(source, received, measured)
    return window_end, present, counts


def _patient_chunks(
    path: Path, encode: Callable[[pa.Table], Readings], patients: int, most: int
) -> Iterator[tuple[Readings, int, int]]:
    """Yield the readings of whole patients, with patient indices counted from the chunk's first patient.

    Every patient is in one chunk of at most ``most`` patients, those without readings too.
    """
    reader = pq.ParquetFile(path, read_dictionary=["patient_id", "device_id", "channel"])
    rest: Readings | None = None
    done = 0
    for batch in reader.iter_batches(batch_size=ROWS, columns=list(COLUMNS)):
        readings = encode(pa.Table.from_batches([batch]))
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


def _check_measured(source: Cohort, received: np.ndarray, measured: np.ndarray) -> None:
    """Raise for a channel that no patient has on the grid."""
    for channel, rows, used in zip(source.manifest.channels, received, measured, strict=True):
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
    source: Cohort,
    samples: pd.DataFrame,
    folder: Path,
    settings: PreprocessSettings,
    progress: Callable[[str], None],
) -> np.ndarray:
    """Write images.npy, one row a sample; return bool ``[n]``: whether the sample has an image."""
    image = source.manifest.image
    if image is None:
        _array(folder, "images", (len(samples), 0, 0, 0), np.float32)
        return np.zeros(len(samples), dtype=bool)
    rows = latest_images(source.image_index, samples, settings)
    shape = (len(samples), image.height, image.width, image.channels)
    images = _array(folder, "images", shape, np.float32)
    present = np.flatnonzero(rows >= 0)
    most = max(1, PIXELS // (image.height * image.width * image.channels))
    for start in range(0, len(present), most):
        chosen = present[start : start + most]
        images[chosen] = prepare_images(source.images[rows[chosen]], settings)
        progress(f"images {start + len(chosen)}/{len(present)}")
    return rows >= 0


def _result(fold: np.ndarray, present: np.ndarray, counts: Counter[str], settings: PreprocessSettings) -> StepResult:
    """Summarise the step."""
    metrics: dict[str, float] = {
        "samples": len(fold),
        "train_samples": int((fold != HELD_OUT).sum()),
        "test_samples": int((fold == HELD_OUT).sum()),
        "samples_without_data": int((~present.any(axis=1)).sum()),
    }
    metrics |= {f"samples_with_{name}": int(present[:, i].sum()) for i, name in enumerate(MODALITIES)}
    names = ("readings", "calibrated", "not_finite", "implausible", "outliers", "outside_window")
    metrics |= {f"readings_{name}" if name != "readings" else name: counts[name] for name in names}
    kinds = [kind.name.lower() for kind in Filling] + ["carried_in"]
    cells = sum(counts[kind] for kind in kinds)
    metrics |= {f"cells_{kind}_fraction": counts[kind] / cells for kind in kinds if cells}
    warnings = []
    if metrics["samples_without_data"]:
        warnings.append(f"{metrics['samples_without_data']:.0f} patients have no usable series, image or note.")
    if counts["implausible"]:
        warnings.append(
            f"{counts['implausible']} of {counts['readings']} readings are outside their channel's plausible range "
            f"and count as not measured."
        )
    params = {f"preprocess.{name}": value for name, value in settings.model_dump().items()}
    return StepResult(metrics=metrics, params=params, warnings=warnings)
