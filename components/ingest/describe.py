"""What a cohort holds, for people: ``vitalfuse cohort describe``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_schemas.cohort import Cohort

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def describe_cohort(folder: Path) -> dict[str, Any]:
    """Describe a cohort without naming anybody.

    Args:
        folder: The output of ``ingest``.

    Returns:
        A dictionary that JSON and YAML can hold: name, digest, synthetic, patients, classes (count by class),
        conditions (count by label where patients have several), sexes, sites (number of them), channels (unit, share of
        patients with a value, values, median values a patient, quantiles), modalities (patients with each),
        time (first, last), rejected (rows by reason) and sources.

    Raises:
        InputError: The folder is no cohort.
    """
    cohort = Cohort.open(folder)
    manifest, patients, observations = cohort.manifest, cohort.patients, cohort.observations
    classes = patients["label"].value_counts()
    conditions = patients["labels"].explode().value_counts()
    rejected = cohort.rejected
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "synthetic": bool(manifest.provenance.get("synthetic", False)),
        "patients": len(patients),
        "classes": {name: int(classes.get(name, 0)) for name in manifest.classes},
        "conditions": {str(name): int(count) for name, count in conditions.items()},
        "sexes": {str(name): int(count) for name, count in patients["sex"].value_counts().items()},
        "sites": int(patients["site"].nunique()),
        "channels": _channels(cohort, observations, len(patients)),
        "modalities": {
            "series": int(observations["patient_id"].nunique()),
            "image": int(cohort.image_index["patient_id"].nunique()),
            "text": int(cohort.notes["patient_id"].nunique()),
        },
        "time": _span(observations),
        "rejected": {str(name): int(count) for name, count in rejected["reason"].value_counts().items()},
        "sources": [source.model_dump() for source in manifest.sources],
    }


def _channels(cohort: Cohort, observations: pd.DataFrame, patients: int) -> dict[str, dict[str, Any]]:
    groups = {str(name): rows for name, rows in observations.groupby("channel")}
    return {
        channel.name: {"unit": channel.unit} | _values(groups[channel.name], patients)
        for channel in cohort.manifest.channels
    }


def _values(rows: pd.DataFrame, patients: int) -> dict[str, Any]:
    counts = rows["patient_id"].value_counts()
    values = np.quantile(rows["value"].to_numpy(np.float64), QUANTILES)
    return {
        "values": len(rows),
        "coverage": len(counts) / patients,
        "values_a_patient": float(counts.median()),
        "quantiles": {f"{share:g}": float(value) for share, value in zip(QUANTILES, values, strict=True)},
    }


def _span(observations: pd.DataFrame) -> dict[str, str]:
    if observations.empty:
        return {}
    return {"first": observations["time"].min().isoformat(), "last": observations["time"].max().isoformat()}
