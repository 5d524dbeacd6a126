"""Labels that arrive after the predictions: read, checked, and joined by the pseudonym of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from data_schemas.errors import InputError
from data_schemas.reference import Figure
from evaluation.monitoring import score_answers
from evaluation.rows import PredictedRows
from serving.monitor.settings import MonitorSettings
from serving.prediction_log import reference_pseudonym

PSEUDONYM, REFERENCE, LABEL = "pseudonym", "reference", "label"


@dataclass(frozen=True)
class Labelled:
    """Logged predictions whose labels are known.

    Attributes:
        rows: Predictions with a label.
        patients: Patients behind them.
        unmatched: Labels without a prediction.
        scores: macro_auc, calibration_error and, where there are conformal sets, coverage; empty without rows.
    """

    rows: int
    patients: int
    unmatched: int
    scores: dict[str, Figure]


def read_labels(path: Path, classes: list[str], key: bytes | None) -> pd.Series:
    """Read labels.

    Args:
        path: CSV or Parquet with the columns ``label`` and either ``pseudonym``, as in the log, or ``reference``, as
            the caller sent it.
        classes: Known classes.
        key: Secret key of the pseudonyms; needed for references.

    Returns:
        Label by pseudonym.

    Raises:
        InputError: The file can't be read, lacks a column or a value, has an unknown class, or two labels for one
            patient.
    """
    table = _read(path)
    if LABEL not in table or not {PSEUDONYM, REFERENCE} & set(table.columns):
        raise InputError(
            "lacks a column",
            file=str(path),
            field=LABEL if LABEL not in table else PSEUDONYM,
            remedy=f"Give {LABEL}, and either {PSEUDONYM} or {REFERENCE}",
        )
    column = PSEUDONYM if PSEUDONYM in table else REFERENCE
    for name in (column, LABEL):
        _refuse(
            table[name].isna() | (table[name].str.strip() == ""), path, name, "is empty", "Fill it, or drop the row"
        )
    known = ", ".join(classes)
    _refuse(~table[LABEL].isin(classes), path, LABEL, "is no class of the model", f"Use one of {known}")
    if column == REFERENCE:
        if key is None:
            raise InputError(
                "needs the secret key of the prediction log",
                file=str(path),
                field=REFERENCE,
                remedy=f"Set the variable of serve.log.key_environment, or give the column {PSEUDONYM}",
            )
        table[PSEUDONYM] = [reference_pseudonym(reference, key) for reference in table[REFERENCE]]
    distinct = table[[PSEUDONYM, LABEL]].drop_duplicates()
    _refuse(
        table.index.isin(distinct.index[distinct[PSEUDONYM].duplicated()]),
        path,
        column,
        "has another label in an earlier row",
        "Keep one label a patient",
    )
    return distinct.set_index(PSEUDONYM)[LABEL]


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
            return table.astype(dict.fromkeys(table.columns, "object")).map(
                lambda value: None if pd.isna(value) else str(value)
            )
        return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise InputError("can't be read as a table", file=str(path), remedy="Give CSV (UTF-8) or Parquet") from error


def _refuse(wrong: pd.Series | np.ndarray, path: Path, field: str, problem: str, remedy: str) -> None:
    places = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if len(places):
        # Counted from 1, after the header.
        raise InputError(problem, file=str(path), row=int(places[0]) + 2, field=field, remedy=remedy)


def require_logged(labels: pd.Series, log: pd.DataFrame, path: Path) -> None:
    """Refuse labels of which none belongs to any prediction: under another key all would stay unjudged unnoticed.

    Args:
        labels: From ``read_labels``.
        log: The whole log, of all versions.
        path: File of the labels, for the message.

    Raises:
        InputError: None belongs to a prediction.
    """
    if len(labels) and not labels.index.isin(log[REFERENCE]).any():
        raise InputError(
            f"none of its {len(labels)} labels belongs to a logged prediction",
            file=str(path),
            remedy="Give the key that the server had (serve.log.key_environment), and patients whose requests carried "
            "a reference",
        )


def score_labelled(log: pd.DataFrame, labels: pd.Series, classes: list[str], settings: MonitorSettings) -> Labelled:
    """Score the logged predictions whose labels are known.

    Args:
        log: Rows of one version.
        labels: Label by pseudonym.
        classes: Class names.
        settings: Intervals.

    Returns:
        Counts and scores; all predictions of a patient count, and stay together in the resamples.
    """
    found = log[REFERENCE].map(labels)
    rows = log[found.notna()]
    if rows.empty:
        return Labelled(0, 0, len(labels), {})
    predicted = PredictedRows(
        labels=found[rows.index].map({name: place for place, name in enumerate(classes)}).to_numpy(np.int64),
        probabilities=rows[[f"probability:{name}" for name in classes]].to_numpy(np.float64),
        groups=pd.factorize(rows[REFERENCE])[0],
        rows=np.arange(len(rows)),
        folds=np.full(len(rows), -1),
    )
    sets = None
    if rows["conformal_set"].notna().all():
        sets = np.array([[name in members for name in classes] for members in rows["conformal_set"]])
    options = {"resamples": settings.resamples, "seed": settings.seed}
    return Labelled(
        rows=len(rows),
        patients=predicted.group_count,
        unmatched=int((~labels.index.isin(log[REFERENCE])).sum()),
        scores=score_answers(predicted, sets, confidence=settings.confidence, **options),
    )
