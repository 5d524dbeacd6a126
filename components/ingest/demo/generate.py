"""Writes the synthetic cohort: a hospital's export, or one file in the format of the paper's Table I."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from components.common.files import atomic_file, atomic_folder
from components.common.result import ignore_progress
from components.ingest.demo.annotators import annotate
from components.ingest.demo.images import MODALITY, write_images
from components.ingest.demo.notes import write_notes
from components.ingest.demo.people import People, invent_people
from components.ingest.demo.physiology import CHANNELS, START, make_devices, read_devices, true_signals
from components.ingest.demo.settings import CLASSES, DemoSettings

TIME_ZONE = "Asia/Shanghai"
_NOTICE = "Synthetic: invented by a program. Proves nothing clinical. No patient is behind it."


def generate_source(
    output: Path, settings: DemoSettings, progress: Callable[[str], None] = ignore_progress
) -> None:
    """Write the source files of a synthetic cohort; the same settings give the same files.

    Args:
        output: Folder to write, or the CSV file where the layout is ``table_one``.
        settings: The settings.
        progress: Told what is being done.
    """
    people_random, *randoms = (np.random.default_rng(seed) for seed in np.random.SeedSequence(settings.seed).spawn(7))
    people = invent_people(settings, people_random)
    if settings.layout == "table_one":
        progress(f"writing {len(people)} patients in the format of Table I")
        with atomic_file(output) as path:
            table_one(people, settings, randoms[0]).to_csv(path, index=False)
        return
    with atomic_folder(output) as folder:
        _write_export(folder, people, settings, randoms, progress)


def _write_export(
    folder: Path,
    people: People,
    settings: DemoSettings,
    randoms: list[np.random.Generator],
    progress: Callable[[str], None],
) -> None:
    progress(f"inventing {len(people)} patients")
    (folder / "source.yaml").write_text(yaml.safe_dump(_description(), sort_keys=False))
    people.table.drop(columns="label").to_csv(folder / "patients.csv", index=False)
    annotate(people, settings, randoms[1]).to_csv(folder / "annotations.csv", index=False)
    progress("writing notes")
    write_notes(people, settings, randoms[2]).to_csv(folder / "notes.csv", index=False)
    progress("drawing images")
    (folder / "images").mkdir()
    write_images(folder / "images", people, settings, randoms[3]).to_csv(folder / "images" / "images.csv", index=False)
    progress("reading devices")
    devices = make_devices(people, randoms[4])
    devices.table.to_csv(folder / "devices.csv", index=False)
    hours, signal = true_signals(people, settings, randoms[0])
    observations = read_devices(people, hours, signal, devices, settings, randoms[5])
    (folder / "observations").mkdir()
    for site in sorted(people.table["site"].unique()):
        of_site = people.table.loc[people.table["site"] == site, "mrn"]
        _write_observations(folder / "observations", site, observations[observations["mrn"].isin(of_site)], settings)


def _write_observations(folder: Path, site: str, table: pd.DataFrame, settings: DemoSettings) -> None:
    table = table.assign(time=table["time"].dt.strftime("%Y-%m-%d %H:%M:%S"))
    if settings.file_format == "parquet":
        table.to_parquet(folder / f"{site}.parquet", index=False)
    else:
        table.to_csv(folder / f"{site}.csv", index=False)


def _description() -> dict[str, object]:
    return {
        "name": "vitalfuse demo",
        "synthetic": True,
        "notice": _NOTICE,
        "time_zone": TIME_ZONE,
        "classes": list(CLASSES),
        "class_labels": {f"Z{i + 1}": name for i, name in enumerate(CLASSES)},
        "image_modality": MODALITY,
    }


def table_one(people: People, settings: DemoSettings, random: np.random.Generator) -> pd.DataFrame:
    """Return the patients' daily means in the format of the paper's Table I.

    Args:
        people: The patients; all get a series, which is all that this format has.
        settings: The settings.
        random: Source of chance.

    Returns:
        One row a patient and day: Patient, Diagnosis, Date (2022-6-1), blood pressure (120/80), and so on.
    """
    _, signal = true_signals(people, settings, random)
    daily = signal.reshape(len(people), settings.days, settings.samples_a_day, len(CHANNELS)).mean(axis=2)
    daily = daily.reshape(-1, len(CHANNELS))
    days = START + pd.to_timedelta(np.tile(np.arange(settings.days), len(people)), unit="D")
    pressure = np.char.mod("%d", np.round(daily[:, 1:3]))
    return pd.DataFrame(
        {
            "Patient": np.repeat(people.table["mrn"].to_numpy(), settings.days),
            "Diagnosis": np.repeat(people.table["label"].to_numpy(), settings.days),
            "Date": [f"{day.year}-{day.month}-{day.day}" for day in days],
            "Blood pressure (mmHg)": np.char.add(np.char.add(pressure[:, 0], "/"), pressure[:, 1]),
            "Body temperature (°C)": np.round(daily[:, 3], 1),
            "Blood glucose (mg/dL)": np.round(daily[:, 4]).astype(int),
            "Blood oxygen saturation (%)": np.round(daily[:, 5]).astype(int),
        }
    )
