"""The prediction log: what monitoring needs of every answer, in Parquet, and nothing that tells who the patient is.

Notes, images, readings, names and ids never reach it: a row holds a few numbers a channel, age in years, sex, the
answer, and a keyed hash of the caller's reference. Rows are written in batches by a thread of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.common.files import atomic_file
from data_schemas.errors import InputError
from data_schemas.features import MODALITIES
from evaluation.summaries import series_summaries, summary_columns
from serving.log_settings import PredictionLogSettings
from serving.patients import ABSTAIN, Diagnosis, Patient
from serving.preparation import Preparer

_log = logging.getLogger("vitalfuse.predictions")
_PSEUDONYM_LENGTH = 32
_FIXED = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("reference", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("cohort_digest", pa.string()),
        ("latency_ms", pa.float64()),
        ("diagnosis", pa.string()),
        ("abstained", pa.bool_()),
        ("conformal_set", pa.list_(pa.string())),
        ("sex", pa.string()),
        ("age", pa.float64()),
    ]
)


def reference_pseudonym(reference: str, key: bytes) -> str:
    """Return the pseudonym of a caller's patient reference: 32 hexadecimal characters of HMAC-SHA256.

    Args:
        reference: The reference, as the caller sent it.
        key: The secret key.

    Returns:
        The pseudonym.
    """
    return hmac.digest(key, reference.encode(), hashlib.sha256).hex()[:_PSEUDONYM_LENGTH]


@dataclass(frozen=True)
class _Answered:
    patient: Patient
    diagnosis: Diagnosis
    latency: float
    time: datetime
    reference: str | None
    preparer: Preparer


class PredictionLog:
    """Writes predictions down in the background.

    Args:
        folder: Where the files go.
        settings: Sizes and times.
        preparer: Returns the preparation of the model that is served now; None while there is none.
        key: Secret key of the references' pseudonyms; without it they are left out.
        dropped: Told how many predictions could not be kept.
    """

    def __init__(
        self,
        folder: Path,
        settings: PredictionLogSettings,
        preparer: Callable[[], Preparer | None],
        key: bytes | None,
        dropped: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._folder, self._settings, self._preparer, self._key = folder, settings, preparer, key
        self._count_dropped = dropped
        self._waiting: list[_Answered] = []
        self._writing = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def on_predictions(self, patients: Sequence[Patient], diagnoses: Sequence[Diagnosis], latency: float) -> None:
        """Take the answers of one request; returns at once.

        Args:
            patients: Its patients.
            diagnoses: Their diagnoses, in order.
            latency: Seconds that the request took.
        """
        preparer = self._preparer()
        if preparer is None:
            self._drop(len(diagnoses))
            return
        now = datetime.now(UTC)
        taken = [
            _Answered(_without_documents(patient), diagnosis, latency, now, self._pseudonym(patient), preparer)
            for patient, diagnosis in zip(patients, diagnoses, strict=True)
        ]
        with self._changed:
            room = 0 if self._closed else self._settings.max_rows - self._writing - len(self._waiting)
            kept = taken[: max(room, 0)]
            self._waiting += kept
            self._changed.notify()
        if len(kept) < len(taken):
            self._drop(len(taken) - len(kept))

    def close(self) -> None:
        """Write what is waiting, and end; later answers are dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _pseudonym(self, patient: Patient) -> str | None:
        if patient.reference is None or self._key is None:
            return None
        return reference_pseudonym(patient.reference, self._key)

    def _drop(self, count: int) -> None:
        self._count_dropped(count)

    def _run(self) -> None:
        while True:
            rows, last = self._next()
            if rows:
                self._write(rows)
            with self._changed:
                self._writing = 0
            if last:
                return

    def _next(self) -> tuple[list[_Answered], bool]:
        """Wait until a batch is due; return it, and whether it is the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            due = time.monotonic() + self._settings.flush_seconds
            self._changed.wait_for(
                lambda: self._closed or len(self._waiting) >= self._settings.flush_rows, due - time.monotonic()
            )
            rows, self._waiting = self._waiting, []
            self._writing = len(rows)
            return rows, self._closed

    def _write(self, rows: list[_Answered]) -> None:
        by_preparer: dict[int, list[_Answered]] = {}
        for row in rows:
            by_preparer.setdefault(id(row.preparer), []).append(row)
        for same in by_preparer.values():
            try:
                table = _table(same)
                now = datetime.now(UTC)
                name = f"part-{now:%H%M%S}-{uuid.uuid4().hex[:12]}.parquet"
                with atomic_file(self._folder / f"date={now:%Y-%m-%d}" / name) as path:
                    pq.write_table(table, path)
            except Exception as error:
                # Its message might tell of a patient.
                _log.error("%d predictions could not be logged: %s", len(same), type(error).__name__)
                self._drop(len(same))


def _without_documents(patient: Patient) -> Patient:
    """Let go of image, notes and reference, which would fill the memory; their dates may place facts in the series."""
    notes = patient.note if isinstance(patient.note, list) else []
    return patient.model_copy(
        update={
            "image": None if patient.image is None else "",
            "note": [note.model_copy(update={"text": "."}) for note in notes if note.text.strip()],
            "reference": None,
        }
    )


def _table(rows: list[_Answered]) -> pa.Table:
    """Return the rows of one model as they are written."""
    diagnoses = [row.diagnosis for row in rows]
    fixed = {
        "time": [row.time for row in rows],
        "reference": [row.reference for row in rows],
        "model": [diagnosis.model.name for diagnosis in diagnoses],
        "version": [diagnosis.model.version for diagnosis in diagnoses],
        "cohort_digest": [diagnosis.model.cohort_digest for diagnosis in diagnoses],
        "latency_ms": [1000 * row.latency for row in rows],
        "diagnosis": [diagnosis.diagnosis for diagnosis in diagnoses],
        "abstained": [diagnosis.diagnosis == ABSTAIN for diagnosis in diagnoses],
        "conformal_set": [diagnosis.conformal_set for diagnosis in diagnoses],
        "sex": [row.patient.sex for row in rows],
        "age": [_age(row.patient) for row in rows],
    }
    table = pa.table(fixed, schema=_FIXED)
    numbers: dict[str, np.ndarray | list] = {}
    for name in diagnoses[0].probabilities:
        numbers[f"probability:{name}"] = [diagnosis.probabilities[name] for diagnosis in diagnoses]
    for name in MODALITIES:
        numbers[f"attention:{name}"] = [diagnosis.attention.get(name, 0.0) for diagnosis in diagnoses]
        numbers[f"has:{name}"] = [name in diagnosis.modalities for diagnosis in diagnoses]
    for name, values in (numbers | _summaries(rows)).items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table


def _summaries(rows: list[_Answered]) -> dict[str, np.ndarray]:
    """Prepare the series of all rows together, as the model saw them, and summarise them."""
    preparer = rows[0].preparer
    if "series" not in preparer.modalities:
        return {}
    inputs = preparer.prepare([row.patient for row in rows]).inputs
    summaries = series_summaries(inputs["series"], inputs["series_observed"])
    return summary_columns([channel.name for channel in preparer.reader.channels], summaries)


def _age(patient: Patient) -> float | None:
    """Return whole years at the start of the stay: the first reading where it is not told or, without one, now."""
    if patient.age is not None:
        return float(int(patient.age))
    if patient.birth_date is None:
        return None
    first = patient.start or min((reading.time for reading in patient.observations), default=datetime.now(UTC))
    return float(first.year - int(patient.birth_date[:4]))


def read_log(folder: Path) -> pd.DataFrame:
    """Read all files of a log; those that a killed server left unfinished are no files of it.

    Args:
        folder: The log's folder.

    Returns:
        One row a prediction, in the order of time; a column that a file lacks is null there.

    Raises:
        InputError: There is no log, or a file is none of it.
    """
    files = sorted(folder.glob("date=*/part-*.parquet"))
    if not files:
        raise InputError(
            "holds no prediction log", file=str(folder), remedy="Name the folder of serve.log.folder, or wait"
        )
    try:
        tables = [pq.ParquetFile(path).read() for path in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError("can't be read as Parquet", file=str(folder)) from error
    missing = [name for name in _FIXED.names for table in tables if name not in table.column_names]
    if missing:
        raise InputError("is no column of a file", file=str(folder), field=missing[0], remedy="Take the file away")
    table = pa.concat_tables(tables, promote_options="permissive")
    return table.to_pandas().sort_values("time", kind="stable", ignore_index=True)
