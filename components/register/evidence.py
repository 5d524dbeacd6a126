"""Finds the predictions behind a run or a version: sealed in MLflow, in the run of the ``compare`` step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from components.common.sealed import SEALED_FILE, SEALED_FOLDER, unseal
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARE_RUN_TAG = "vitalfuse.compare_run_id"


def read_sealed(client: MlflowClient, run_id: str | None, key: bytes | None) -> pd.DataFrame:
    """Read the blinded predictions that a ``compare`` step left in MLflow.

    Args:
        client: MLflow client.
        run_id: The run of the step; None where it is not known.
        key: From ``components.common.evidence_key.evidence_key``.

    Returns:
        The candidate's test and out-of-fold predictions.

    Raises:
        InputError: They were not kept, are gone, or are sealed with another key; says which.
    """
    from mlflow.exceptions import MlflowException

    if key is None:
        raise InputError("there is no key to open its predictions with", remedy="Set VITALFUSE_EVIDENCE_KEY")
    if run_id is None:
        raise InputError("its predictions were not kept")
    with tempfile.TemporaryDirectory(prefix="vitalfuse-sealed-") as folder:
        try:
            kept = {item.path for item in client.list_artifacts(run_id, SEALED_FOLDER)}
            if f"{SEALED_FOLDER}/{SEALED_FILE}" not in kept:
                raise InputError("its predictions were not kept")
            path = client.download_artifacts(run_id, f"{SEALED_FOLDER}/{SEALED_FILE}", folder)
        except (MlflowException, OSError) as error:
            raise InputError("its predictions can't be read from MLflow") from error
        return unseal(Path(path).read_bytes(), key)


def version_predictions(client: MlflowClient, name: str, version: str, key: bytes | None) -> pd.DataFrame:
    """Read the blinded predictions of a registered version.

    Args:
        client: MLflow client.
        name: Registered model.
        version: Its version.
        key: From ``components.common.evidence_key.evidence_key``.

    Returns:
        As ``read_sealed``.

    Raises:
        InputError: As ``read_sealed``.
    """
    tags = client.get_model_version(name, version).tags
    return read_sealed(client, tags.get(COMPARE_RUN_TAG), key)
