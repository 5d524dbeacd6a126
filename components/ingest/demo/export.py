"""Writer of the hospital export: the layout that ``components.ingest.readers.export`` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from PIL import Image

from components.common.files import atomic_folder
from components.common.result import ignore_progress
from components.ingest.demo.annotators import annotate
from components.ingest.demo.classes import CLASS_LABELS, CLASSES
from components.ingest.demo.devices import draw_devices
from components.ingest.demo.images import draw_images
from components.ingest.demo.notes import write_notes
from components.ingest.demo.observations import local_times, observe
from components.ingest.demo.patients import Patients, draw_patients
from components.ingest.demo.physiology import DAY_SECONDS, simulate
from components.ingest.demo.randomness import stream
from components.ingest.demo.settings import DemoSettings

MODALITY = "MR"
# Patients that are made at a time, and written to one observation file: bounds the memory.
BLOCK = 1000
_NOTICE = "Invented by a generator. No patient exists; results on it prove nothing clinical."


def write_export(output: Path, settings: DemoSettings, progress: Callable[[str], None] = ignore_progress) -> None:
    """Write a cohort as a hospital would export it; either the whole folder, or nothing.

    Args:
        output: The folder to write; an earlier one is replaced.
        settings: Settings of the cohort.
        progress: Called with a few words on what is being done.
    """
    patients = draw_patients(settings)
    devices, assignment = draw_devices(settings.seed, patients, settings.days)
    with atomic_folder(output) as folder:
        (folder / "observations").mkdir()
        _write_description(folder / "source.yaml", settings)
        patients.table().to_csv(folder / "patients.csv", index=False)
        devices.certificates().to_csv(folder / "devices.csv", index=False)
        annotations = annotate(stream(settings.seed, "annotators"), patients, settings.disagreement_rate, settings.days)
        annotations.to_csv(folder / "annotations.csv", index=False)
        notes, images = [], []
        for number, (start, stop) in enumerate(_blocks(len(patients))):
            progress(f"patients {start + 1} to {stop} of {len(patients)}")
            block = patients.block(start, stop)
            series = simulate(stream(settings.seed, "series", number), block, settings)
            rng = stream(settings.seed, "observations", number)
            table = observe(rng, block, series, devices, assignment.block(start, stop), settings)
            _write_table(folder / "observations" / f"part-{number:04d}.{settings.file_format}", table)
            notes.append(write_notes(stream(settings.seed, "notes", number), block, settings))
            if settings.missing_images < 1:
                images.append(_write_images(folder / "images", number, start, block, settings))
        if settings.missing_notes < 1:
            pd.concat(notes).to_csv(folder / "notes.csv", index=False)
        if settings.missing_images < 1:
            pd.concat(images).to_csv(folder / "images" / "images.csv", index=False)
        progress("done")


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, BLOCK):
        yield start, min(start + BLOCK, count)


def _write_description(path: Path, settings: DemoSettings) -> None:
    content = {
        "name": "vitalfuse synthetic demo cohort",
        "synthetic": True,
        "notice": _NOTICE,
        "classes": list(CLASSES),
        "class_labels": dict(CLASS_LABELS),
        "time_zone": settings.time_zone,
        "image_modality": MODALITY,
        "generator": settings.model_dump(mode="json"),
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_table(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pacsv.write_csv(table, path, pacsv.WriteOptions(quoting_style="none"))


def _write_images(folder: Path, number: int, first: int, patients: Patients, settings: DemoSettings) -> pd.DataFrame:
    """Write the images of a block, named by their number in the cohort, and return their index."""
    folder.mkdir(exist_ok=True)
    rng = stream(settings.seed, "images", number)
    pixels = draw_images(rng, patients, settings.image_size)
    deep = rng.random(len(patients)) < settings.deep_image_fraction
    seconds = (rng.uniform(8, 17, size=len(patients)) * 3600).round()
    days = rng.integers(settings.days, size=len(patients))
    rows = np.flatnonzero(patients.present["image"])
    files = [f"image-{first + row + 1:06d}.png" for row in rows]
    for row, file in zip(rows, files, strict=True):
        highest, kind = (65535, np.uint16) if deep[row] else (255, np.uint8)
        Image.fromarray(np.rint(pixels[row] * highest).astype(kind)).save(folder / file)
    times = local_times(patients.start, days * DAY_SECONDS + seconds, settings.time_zone)
    return pd.DataFrame({"mrn": patients.mrn[rows], "time": times[rows], "modality": MODALITY, "file": files})
