"""Throughput of the preprocess step on cohorts of growing size; the aim is that it is linear."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from data_schemas.cohort import Channel, Cohort, ImageShape, Manifest, write_cohort

CHANNELS = [Channel(name=f"channel_{i}", unit="1", low=-10.0, high=10.0) for i in range(6)]
READINGS = 28  # A patient and channel: two a day for a fortnight.
CLASSES = ["a", "b", "c"]
SIDE = 32


def write_synthetic_cohort(folder: Path, patients: int, seed: int = 0) -> None:
    """Write a cohort of noise with series, images and notes, straight in the contract's form.

    Args:
        folder: Folder to create.
        patients: Number of patients.
        seed: Seed of the noise.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    identifiers = np.array([f"{i:016x}" for i in range(patients)], dtype=object)
    names = np.array([channel.name for channel in CHANNELS], dtype=object)
    devices = np.array([f"device_{i}" for i in range(20)], dtype=object)
    rows = patients * len(CHANNELS) * READINGS
    start = np.datetime64("2022-06-01", "us")
    minutes = np.sort(random.integers(0, 14 * 24 * 60, (patients * len(CHANNELS), READINGS)), axis=1).ravel()
    day = pd.Series(start + minutes.astype("timedelta64[m]")).dt.tz_localize("UTC")
    once = pd.Series(np.full(patients, start)).dt.tz_localize("UTC")
    observations = pd.DataFrame(
        {
            "patient_id": np.repeat(identifiers, len(CHANNELS) * READINGS),
            "device_id": devices[random.integers(0, len(devices), rows)],
            "channel": np.tile(np.repeat(names, READINGS), patients),
            "time": day,
            "value": random.normal(size=rows),
            "unit": "1",
        }
    )
    certificates = pd.DataFrame(
        [(device, name, 1.1, 0.2, 90.0) for device in devices for name in names],
        columns=["device_id", "channel", "gain", "bias", "clock_offset_seconds"],
    )
    labels = np.array(CLASSES, dtype=object)[np.arange(patients) % len(CLASSES)]
    tables = {
        "patients": pd.DataFrame(
            {
                "patient_id": identifiers,
                "label": labels,
                "labels": [[label] for label in labels],
                "site": None,
                "sex": "unknown",
                "birth_year": pd.array(np.full(patients, 1960), dtype="Int32"),
            }
        ),
        "observations": observations,
        "devices": certificates,
        "notes": pd.DataFrame({"patient_id": identifiers, "time": once, "text": "short note without findings"}),
        "images": pd.DataFrame(
            {"patient_id": identifiers, "time": once, "modality": "synthetic", "row": np.arange(patients)}
        ),
    }
    manifest = Manifest(
        name="throughput",
        classes=CLASSES,
        channels=CHANNELS,
        image=ImageShape(height=SIDE, width=SIDE, channels=1),
        counts={"patients": patients, "observations": rows},
        provenance={"synthetic": True},
        digest="0" * 64,
    )
    images = random.random((patients, SIDE, SIDE, 1), dtype=np.float32)
    write_cohort(folder, manifest, tables, images)


def measure(patients: int) -> tuple[float, int]:
    """Preprocess a synthetic cohort.

    Args:
        patients: Number of patients.

    Returns:
        Seconds of the step, and readings of the cohort.
    """
    with tempfile.TemporaryDirectory() as name:
        cohort, output = Path(name) / "cohort", Path(name) / "features"
        write_synthetic_cohort(cohort, patients)
        readings = Cohort.open(cohort).manifest.counts["observations"]
        start = time.perf_counter()
        preprocess_cohort(cohort, output, PreprocessSettings())
        return time.perf_counter() - start, readings


def main(patients: list[int]) -> dict[int, float]:
    """Print the throughput at each size.

    Args:
        patients: Numbers of patients.

    Returns:
        Samples a second by number of patients.
    """
    throughput = {}
    print(f"{'patients':>10}{'readings':>12}{'seconds':>10}{'samples/s':>12}")
    for number in patients:
        seconds, readings = measure(number)
        throughput[number] = number / seconds
        print(f"{number:>10}{readings:>12}{seconds:>10.2f}{throughput[number]:>12.0f}", flush=True)
    return throughput


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [300, 3_000, 30_000])
