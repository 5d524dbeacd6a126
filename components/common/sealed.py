"""Predictions of single patients, sealed so that they can lie in MLflow beside the scores.

Two versions can be compared on the patients that both held out only where each patient's prediction was kept. MLflow is
read by more people than the cohort is. So the predictions are encrypted, and each patient stands in them under a keyed
digest of the pseudonym. Without the key nobody learns who, how many of which class, or what was predicted; the digests
of two runs fit together only where cohort and key are the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io

import numpy as np
import pandas as pd

from data_schemas.errors import InputError
from data_schemas.predictions import class_probabilities
from evaluation.rows import PredictedRows

SEALED_FILE = "predictions.sealed"
SEALED_FOLDER = "held_out"
PATIENT, SAMPLE = "patient", "sample_of_patient"
_DIGEST_LENGTH = 32


def blind(frame: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Replace sample numbers and pseudonyms of a predictions table by keyed digests.

    Args:
        frame: From ``data_schemas.predictions.predictions_frame``; samples in the order of the features.
        key: From ``components.common.evidence_key.evidence_key``.

    Returns:
        The table with ``patient`` (32 hexadecimal digits) and ``sample_of_patient`` (0, 1, ...), sorted by both, in
        place of ``sample`` and ``patient_id``.
    """
    ordered = frame.sort_values("sample", kind="stable")
    pseudonyms = ordered["patient_id"].astype(str)
    blinded = ordered.drop(columns=["sample", "patient_id"])
    blinded.insert(0, PATIENT, [_digest(key, b"patient", name.encode()) for name in pseudonyms])
    blinded.insert(1, SAMPLE, ordered.groupby(["patient_id", "set"]).cumcount().to_numpy())
    # The digest's order says nothing of the source's.
    return blinded.sort_values(["set", PATIENT, SAMPLE], kind="stable").reset_index(drop=True)


def seal(blinded: pd.DataFrame, key: bytes) -> bytes:
    """Encrypt and sign a blinded table.

    Args:
        blinded: From ``blind``.
        key: 32 bytes.

    Returns:
        A Fernet token of the table as Parquet.
    """
    from cryptography.fernet import Fernet

    buffer = io.BytesIO()
    blinded.to_parquet(buffer, index=False, compression="zstd")
    return Fernet(base64.urlsafe_b64encode(key)).encrypt(buffer.getvalue())


def unseal(token: bytes, key: bytes) -> pd.DataFrame:
    """Open what ``seal`` wrote.

    Args:
        token: Content of the file.
        key: 32 bytes.

    Returns:
        The blinded table.

    Raises:
        InputError: It was sealed with another key, or changed since.
    """
    from cryptography.fernet import Fernet, InvalidToken

    try:
        content = Fernet(base64.urlsafe_b64encode(key)).decrypt(token)
    except InvalidToken as error:
        raise InputError("the sealed predictions were changed, or sealed with another key") from error
    return pd.read_parquet(io.BytesIO(content))


def patients_digest(blinded: pd.DataFrame, key: bytes) -> str:
    """Return digits that are equal where two tables have the same patients and samples, and tell no more.

    Args:
        blinded: From ``blind``, rows of one set.
        key: 32 bytes.

    Returns:
        32 hexadecimal digits.
    """
    rows = blinded.sort_values([PATIENT, SAMPLE], kind="stable")
    text = "\n".join(f"{patient} {sample}" for patient, sample in zip(rows[PATIENT], rows[SAMPLE], strict=True))
    return _digest(key, b"patients", text.encode())


def matched_rows(
    tables: dict[str, pd.DataFrame], classes: list[str]
) -> tuple[dict[str, PredictedRows], dict[str, int]]:
    """Turn blinded tables of one set into rows that ``evaluation`` can pair: one number for one patient's sample.

    Args:
        tables: By run or version.
        classes: Class names, the same for all, in one order.

    Returns:
        Rows by run, only those that all runs have with the same label; and counts: ``common``, and ``relabelled`` (left
        out, because their label differs).
    """
    keyed = {name: table.set_index([PATIENT, SAMPLE]) for name, table in tables.items()}
    first = next(iter(keyed.values()))
    common = first.index
    for table in keyed.values():
        common = common.intersection(table.index)
    common = common.sort_values()
    labels = first["label"].reindex(common).to_numpy()
    same = np.ones(len(common), dtype=bool)
    for table in keyed.values():
        same &= table["label"].reindex(common).to_numpy() == labels
    kept = common[same]
    groups = pd.factorize(kept.get_level_values(PATIENT))[0]
    index = {name: i for i, name in enumerate(classes)}
    rows = {
        name: PredictedRows(
            labels=np.array([index[label] for label in labels[same]], dtype=np.int64),
            probabilities=class_probabilities(table.loc[kept], classes),
            groups=groups,
            rows=np.arange(len(kept)),
            folds=np.full(len(kept), -1),
        )
        for name, table in keyed.items()
    }
    return rows, {"common": len(kept), "relabelled": int(len(common) - len(kept))}


def _digest(key: bytes, purpose: bytes, content: bytes) -> str:
    return hmac.digest(key, purpose + b"\0" + content, hashlib.sha256).hex()[:_DIGEST_LENGTH]
