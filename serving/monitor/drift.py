"""Drift of the inputs: TFDV compares what was logged with the training rows, number by number."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.validate.interpreter import find_interpreter, run_job
from data_schemas.reference import CategoryReference, NumberReference, TrainingReference
from serving.monitor.settings import MonitorSettings

JOB = Path(__file__).with_name("drift_job.py")
# What the log calls a value that the reference does not name.
OTHER = "other"


@dataclass(frozen=True)
class FeatureDrift:
    """The drift of one feature.

    Attributes:
        feature: Such as ``channel:heart_rate:mean``, ``age`` or ``has:image``.
        part: The input that it belongs to, such as ``heart_rate``: its features count once.
        distance: Jensen-Shannon divergence of a number, L-infinity distance of a category; None where it is not judged.
        threshold: Above it, the feature has drifted.
        reference: Mean of the training rows, or share of the most frequent value there; None without any.
        current: The same of the logged rows.
        reason: Why it is not judged; empty where it is.
    """

    feature: str
    part: str
    distance: float | None
    threshold: float
    reference: float | None
    current: float | None
    reason: str = ""

    @property
    def drifted(self) -> bool:
        """Whether the distance is above the threshold."""
        return self.distance is not None and self.distance > self.threshold


def part_of(feature: str) -> str:
    """Return the input that a feature belongs to.

    Args:
        feature: Name of a feature.

    Returns:
        The channel of a channel's summaries; the modality of ``has:<modality>``; else the feature itself.
    """
    return feature.split(":")[1] if ":" in feature else feature


def measure_drift(
    log: pd.DataFrame, reference: TrainingReference, settings: MonitorSettings, interpreter: Path | None = None
) -> list[FeatureDrift]:
    """Measure the drift of every feature that both the reference and the log have.

    Args:
        log: Rows of one version.
        reference: Its reference.
        settings: Thresholds and the smallest sample.
        interpreter: Python that has TFDV; None to look for it once there is something to measure.

    Returns:
        One entry a feature, in the order of the reference.

    Raises:
        InputError: There is no interpreter that has TFDV.
        RuntimeError: The TFDV job failed.
    """
    current = {name: log[name] for name in (*reference.numbers, *reference.categories) if name in log}
    expected: dict[str, pd.Series] = {}
    for name in current:
        if name in reference.numbers:
            expected[name] = expand_number(reference.numbers[name])
        else:
            expected[name] = expand_category(reference.categories[name])
            current[name] = _known_values(current[name], reference.categories[name])
    reasons = {name: _too_few(expected[name], current[name], settings) for name in current}
    judged = {
        name: "number" if name in reference.numbers else "category" for name, reason in reasons.items() if not reason
    }
    distances = {}
    if judged:
        distances = _run_tfdv(expected, current, judged, settings, interpreter or find_interpreter())
    return [
        FeatureDrift(
            feature=name,
            part=part_of(name),
            distance=distances.get(name),
            threshold=settings.number_drift if name in reference.numbers else settings.category_drift,
            reference=_centre(expected[name], expected[name]),
            current=_centre(current[name], expected[name]),
            reason=reasons[name],
        )
        for name in current
    ]


def expand_number(number: NumberReference) -> pd.Series:
    """Return values with the distribution of the reference: each group's mean, as often as it has rows.

    Args:
        number: The reference.

    Returns:
        float64, one a training row; NaN where missing.
    """
    known = np.repeat(np.asarray(number.means, dtype=np.float64), number.counts)
    return pd.Series(np.concatenate([known, np.full(number.missing, np.nan)]))


def expand_category(category: CategoryReference) -> pd.Series:
    """Return values with the distribution of the reference.

    Args:
        category: The reference.

    Returns:
        Strings, one a training row; None where missing.
    """
    known = [name for name, count in category.counts.items() for _ in range(count)]
    return pd.Series([*known, *[None] * category.missing], dtype=object)


def _known_values(values: pd.Series, category: CategoryReference) -> pd.Series:
    """Write the log's values as the reference does: yes and no for bool, and values that it does not name together."""
    named = values.map({True: "yes", False: "no"}) if pd.api.types.is_bool_dtype(values) else values
    rare = "rare" if "rare" in category.counts else OTHER
    return named.astype(object).where(named.isin(list(category.counts)) | named.isna(), rare)


def _too_few(reference: pd.Series, current: pd.Series, settings: MonitorSettings) -> str:
    for values, which in ((reference, "training rows"), (current, "predictions")):
        count = int(values.notna().sum())
        if count < settings.smallest_sample:
            return f"only {count} {which} have a value"
    return ""


def _centre(values: pd.Series, reference: pd.Series) -> float | None:
    """Return the mean of numbers, or the share of the reference's most frequent value."""
    known = values.dropna()
    if not len(known):
        return None
    if known.dtype != object:
        return float(known.mean())
    common = reference.dropna().mode()
    return float((known == common.iloc[0]).mean()) if len(common) else None


def _run_tfdv(
    reference: dict[str, pd.Series],
    current: dict[str, pd.Series],
    kinds: dict[str, str],
    settings: MonitorSettings,
    interpreter: Path,
) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="vitalfuse-drift-") as name:
        work = Path(name)
        for file, values in (("reference", reference), ("current", current)):
            pq.write_table(_examples({key: values[key] for key in kinds}, kinds), work / f"{file}.parquet")
        job = {
            "reference": str(work / "reference.parquet"),
            "current": str(work / "current.parquet"),
            "features": kinds,
            "thresholds": {"number": settings.number_drift, "category": settings.category_drift},
        }
        return run_job(interpreter, JOB, job, quiet=True)["drift"]


def _examples(values: dict[str, pd.Series], kinds: dict[str, str]) -> pa.Table:
    """Return list columns, null where a row has no value: what TFDV reads."""
    columns = {}
    for name, series in values.items():
        kind = pa.float32() if kinds[name] == "number" else pa.string()
        columns[name] = pa.array([None if pd.isna(value) else [value] for value in series], type=pa.list_(kind))
    return pa.table(columns)
