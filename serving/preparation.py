"""From patients as they are sent to the arrays that the model takes, by the functions that made its training data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.ingest.clean import DemographicRows, demographic_rows
from components.preprocess.calibrate import read_certificates
from components.preprocess.documents import join_texts, prepare_images, usable_order
from components.preprocess.series import Readings, concatenate_readings, grid_series
from components.preprocess.settings import PreprocessSettings
from data_schemas.channels import Catalogue
from data_schemas.cohort import Channel, Demographics, ImageShape
from data_schemas.errors import InputError
from data_schemas.features import MODALITIES, Preparation
from serving.images import ImageError, read_image
from serving.patients import Fault, Note, Patient
from serving.readings import EPOCH, Reader, Remarks, counted, microseconds
from training.text import encode_words, word_numbers

SERIES, IMAGE, TEXT = (MODALITIES.index(name) for name in ("series", "image", "text"))
_TOO_LATE = "left out, as dated after the window of the readings"
# What preprocess leaves out.
_NOT_USED = {
    "implausible": "left out, as outside the plausible range after its device's calibration",
    "outliers": "left out, as far from the readings before and after",
}


@dataclass(frozen=True)
class Batch:
    """Patients, prepared.

    Attributes:
        inputs: Arrays of the ONNX model by name, one row a patient.
        present: Bool ``[n, 3]``: what each patient has of ``MODALITIES``.
        remarks: What is wrong with each patient, and what was left out; rows of patients with a fault hold nothing to
            rely on.
    """

    inputs: dict[str, np.ndarray]
    present: np.ndarray
    remarks: Remarks

    @property
    def faults(self) -> list[list[Fault]]:
        """What is wrong, by patient."""
        return self.remarks.faults

    @property
    def warnings(self) -> list[list[str]]:
        """What was left out or corrected, by patient."""
        return self.remarks.warnings


@dataclass(frozen=True)
class Preparer:
    """Everything that turns a patient into the model's inputs, as it was for the training data.

    Attributes:
        modalities: Those that the model reads.
        reader: Reads observations.
        settings: Section ``preprocess`` of the training run's settings.
        demographics: Facts on patients that stand among the observations.
        image: Shape of the images, or None.
        vocabulary: Words by number.
        text_length: Words of a note that are read.
    """

    modalities: tuple[str, ...]
    reader: Reader
    settings: PreprocessSettings
    demographics: Demographics
    image: ImageShape | None
    vocabulary: tuple[str, ...]
    text_length: int

    @classmethod
    def load(cls, folder: Path, contract: dict[str, Any]) -> Preparer:
        """Read what a model folder holds on the preparation of its inputs.

        Args:
            folder: Output of ``train``.
            contract: Content of its contract.json.

        Returns:
            The preparer.

        Raises:
            InputError: The folder does not say how raw data are prepared.
        """
        if not contract.get("preparation"):
            raise InputError(
                "does not say how raw data are prepared", file=str(folder / "contract.json"), remedy="Train it again"
            )
        preparation = Preparation.model_validate(contract["preparation"])
        channels = tuple(Channel.model_validate(channel) for channel in contract["channels"])
        devices = pd.read_parquet(folder / "devices.parquet")
        return cls(
            modalities=tuple(contract["modalities"]),
            reader=Reader(
                channels=channels,
                catalogue=Catalogue.read(folder / "channels.json"),
                certificates=read_certificates(devices, [channel.name for channel in channels]),
            ),
            settings=PreprocessSettings.model_validate(preparation.settings),
            demographics=preparation.demographics,
            image=ImageShape.model_validate(contract["image"]) if contract["image"] else None,
            vocabulary=tuple(json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))),
            text_length=contract["text_length"],
        )

    @cached_property
    def _word_numbers(self) -> dict[str, int]:
        return word_numbers(self.vocabulary)

    def prepare(self, patients: Sequence[Patient]) -> Batch:
        """Turn patients into the model's inputs.

        Args:
            patients: One at least.

        Returns:
            The inputs, and what is wrong with whom.
        """
        count = len(patients)
        batch = Batch(
            inputs={},
            present=np.zeros((count, len(MODALITIES)), dtype=bool),
            remarks=Remarks(faults=[[] for _ in patients], warnings=[[] for _ in patients]),
        )
        notes = _dated_notes(patients, batch)
        with_image, image_times = _image_times(patients, batch)
        window_end = np.full(count, np.datetime64("NaT", "us"))
        if "series" in self.modalities:
            numbers = np.concatenate([notes.patient, np.arange(count)])
            times = np.concatenate([notes.time, image_times])
            dated = ~np.isnat(times)
            window_end = self._series(patients, numbers[dated], times[dated].astype(np.int64), batch)
        if "image" in self.modalities:
            self._images(patients, with_image, image_times, window_end, batch)
        if "text" in self.modalities:
            self._texts(notes, window_end, batch)
        for number, patient in enumerate(patients):
            batch.warnings[number] += self._unread(patient)
        for number in np.flatnonzero(~batch.present.any(axis=1)).tolist():
            if not batch.faults[number]:
                batch.faults[number].append(self._nothing())
        batch.inputs["present"] = batch.present
        return batch

    def _unread(self, patient: Patient) -> list[str]:
        """Name what was sent that the model has no input for."""
        sent = {
            "series": ("observations", bool(patient.observations)),
            "image": ("image", patient.image is not None),
            "text": ("note", patient.note is not None),
        }
        return [
            f"{name}: left out, as the model does not read any"
            for modality, (name, given) in sent.items()
            if given and modality not in self.modalities
        ]

    def _nothing(self) -> Fault:
        wanted = {
            "series": f"readings of {', '.join(self.reader.index)}",
            "image": "an image",
            "text": "a note",
        }
        return Fault(
            "",
            "holds nothing that the model can read",
            f"Send {' or '.join(wanted[modality] for modality in self.modalities)}",
        )

    def _series(
        self, patients: Sequence[Patient], document_patients: np.ndarray, document_times: np.ndarray, batch: Batch
    ) -> np.ndarray:
        """Add the series to the inputs; return the window's end by patient, NaT where there is no series."""
        readings = self.reader.read(patients, batch.remarks)
        if self.demographics.names:
            numbers = np.concatenate([readings.patient, document_patients])
            times = np.concatenate([readings.time, document_times])
            readings = concatenate_readings(readings, self._demographics(patients, numbers, times, batch))
        prepared = grid_series(readings, len(patients), self.reader.channels, self.reader.certificates, self.settings)
        batch.inputs["series"], batch.inputs["series_observed"] = prepared.series, prepared.observed
        batch.present[:, SERIES] = prepared.present
        window = f"outside the window of {self.settings.steps} steps of {self.settings.step}"
        for reason, words in {**_NOT_USED, "outside_window": window}.items():
            for number in np.flatnonzero(prepared.left_out[reason]).tolist():
                count = counted(int(prepared.left_out[reason][number]))
                batch.warnings[number].append(f"observations: {count} {words}")
        return np.where(prepared.present, prepared.window_end.astype("datetime64[us]"), np.datetime64("NaT", "us"))

    def _demographics(
        self, patients: Sequence[Patient], numbers: np.ndarray, times: np.ndarray, batch: Batch
    ) -> Readings:
        """Write age and sex at each patient's first (and last) time stamp, as ingest does."""
        first = np.full(len(patients), np.iinfo(np.int64).max)
        last = np.full(len(patients), np.iinfo(np.int64).min)
        np.minimum.at(first, numbers, times)
        np.maximum.at(last, numbers, times)
        born = np.array([patient.birth_date for patient in patients], dtype="datetime64[us]")
        for number, patient in enumerate(patients):
            start = microseconds(patient.start) if patient.start else first[number]
            if first[number] > last[number]:
                first[number] = last[number] = self._undated(patient, number, born, batch)
            else:
                first[number] = min(first[number], start)
        rows = demographic_rows(
            self.demographics.names,
            first=first.astype("datetime64[us]"),
            last=last.astype("datetime64[us]"),
            sex=[patient.sex or "unknown" for patient in patients],
            birth_date=born,
            age=np.array([np.nan if patient.age is None else patient.age for patient in patients]),
            last_too=self.demographics.at == "first_and_last",
        )
        kept = self._plausible_ages(rows, batch)
        return Readings(
            patient=rows.patient[kept],
            device=np.full(int(kept.sum()), -1, dtype=np.int64),
            channel=np.array([self.reader.index[name] for name in rows.channel[kept]], dtype=np.int64),
            time=rows.time[kept].astype(np.int64),
            value=rows.value[kept],
        )

    def _undated(self, patient: Patient, number: int, born: np.ndarray, batch: Batch) -> int:
        """Return an instant for the facts on a patient of whom no reading or document is dated, in microseconds."""
        known = patient.start or patient.as_of
        if known is None and patient.birth_date:
            born[number] = np.datetime64("NaT")
            batch.warnings[number].append("birth_date: not used, as nothing that was sent is dated")
        # Any instant gives the same series, for the window is anchored to it.
        return microseconds(known or EPOCH)

    def _plausible_ages(self, rows: DemographicRows, batch: Batch) -> np.ndarray:
        """Return the rows that preprocess will not leave out anyway (bool), and warn of the others."""
        entry = self.reader.catalogue.channels["age"]
        plausible = (rows.value >= entry.low) & (rows.value <= entry.high)
        wrong = (rows.channel == "age") & ~plausible & self.settings.drop_implausible
        for number in np.unique(rows.patient[wrong]).tolist():
            batch.warnings[number].append(
                f"age: left out, as outside the plausible range {entry.low:g} to {entry.high:g} years"
            )
        return ~wrong

    def _images(
        self, patients: Sequence[Patient], given: np.ndarray, times: np.ndarray, window_end: np.ndarray, batch: Batch
    ) -> None:
        """Add the images to the inputs; zeros where there is none."""
        assert self.image is not None, "a model that reads images has a shape for them"
        numbers = np.flatnonzero(given)
        used = numbers[usable_order(numbers, times[given], window_end[given], self.settings.later_documents)]
        for number in np.setdiff1d(numbers, used).tolist():
            batch.warnings[number].append(f"image: {_TOO_LATE}")
        shape = (len(patients), self.image.height, self.image.width, self.image.channels)
        images = np.zeros(shape, dtype=np.float32)
        for number in used.tolist():
            try:
                image = patients[number].image
                images[number], warnings = read_image("" if image is None else image, self.image)
            except ImageError as error:
                batch.faults[number].append(error.fault("image"))
                continue
            batch.warnings[number] += warnings
            batch.present[number, IMAGE] = True
        there = batch.present[:, IMAGE]
        images[there] = prepare_images(images[there], self.settings)
        batch.inputs["image"] = images

    def _texts(self, notes: _Notes, window_end: np.ndarray, batch: Batch) -> None:
        """Add the notes to the inputs, as word numbers."""
        used = usable_order(notes.patient, notes.time, window_end[notes.patient], self.settings.later_documents)
        for number in np.unique(np.delete(notes.patient, used)).tolist():
            batch.warnings[number].append(f"note: {_TOO_LATE}")
        texts = join_texts(notes.text[used], notes.patient[used], len(window_end))
        batch.present[:, TEXT] = [bool(text) for text in texts]
        batch.inputs["tokens"] = encode_words(texts, self._word_numbers, self.text_length)


def _known_by(time: datetime | None, patient: Patient, name: str, warnings: list[str]) -> bool:
    """Say whether a document may be used by its date; warn where not."""
    if time is None or patient.as_of is None or time <= patient.as_of:
        return True
    warnings.append(f"{name}: left out, as dated after as_of")
    return False


def _naive(time: datetime | None) -> datetime | None:
    """Return a time in UTC without saying so, as NumPy wants it."""
    return time.astimezone(UTC).replace(tzinfo=None) if time else None


@dataclass(frozen=True)
class _Notes:
    """Notes of a batch, one element each: patients (int64), times (datetime64[us]; NaT for undated) and texts."""

    patient: np.ndarray
    time: np.ndarray
    text: np.ndarray


def _dated_notes(patients: Sequence[Patient], batch: Batch) -> _Notes:
    """Return all notes that say anything and were known by ``as_of``."""
    rows = [
        (number, _naive(note.time), note.text)
        for number, patient in enumerate(patients)
        for note in ([Note(text=patient.note)] if isinstance(patient.note, str) else patient.note or [])
        if note.text.strip() and _known_by(note.time, patient, "note", batch.warnings[number])
    ]
    return _Notes(
        patient=np.array([row[0] for row in rows], dtype=np.int64),
        time=np.array([row[1] for row in rows], dtype="datetime64[us]"),
        text=np.array([row[2] for row in rows], dtype=object),
    )


def _image_times(patients: Sequence[Patient], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return which images were known by ``as_of`` (bool), and when they are dated (datetime64[us], NaT for not)."""
    used = [
        patient.image is not None and _known_by(patient.image_time, patient, "image", batch.warnings[number])
        for number, patient in enumerate(patients)
    ]
    times = [_naive(patient.image_time) if use else None for patient, use in zip(patients, used, strict=True)]
    return np.array(used, dtype=bool), np.array(times, dtype="datetime64[us]")
