"""Makes the reference of a version, for monitoring: distributions of its training rows, and its held-out answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.calibration import Calibration
from data_schemas.cohort import ROW_GROUP, TIME, Cohort
from data_schemas.features import MODALITIES, Features
from data_schemas.predictions import TEST, class_probabilities, read_predictions
from data_schemas.reference import AnswersReference, CategoryReference, NumberReference, TrainingReference
from evaluation.intervals import DEFAULT_RESAMPLES
from evaluation.monitoring import describe_answers, score_answers
from evaluation.recalibration import decide
from evaluation.rows import PredictedRows
from evaluation.summaries import series_summaries, summary_columns

# No number of the reference tells of fewer patients than this.
SMALLEST_GROUP = 5
MOST_GROUPS = 200
RARE = "rare"


def build_reference(
    features: Path,
    candidate: Path,
    comparison: Path,
    cohort: Path | None = None,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> TrainingReference:
    """Describe the training rows and the held-out answers of a model.

    Args:
        features: Output of ``preprocess``.
        candidate: Output of ``train``, with its held-out predictions.
        comparison: Output of ``compare``, with the calibration where there is one.
        cohort: Output of ``ingest``, for age and sex; without it, these are left out.
        resamples: Bootstrap resamples of patients behind the intervals of the held-out scores.
        seed: Seed of the resampling.

    Returns:
        The reference.
    """
    opened = Features.open(features)
    rows = opened.train_rows
    summaries = series_summaries(opened.series[rows], opened.series_observed[rows])
    numbers = summary_columns(opened.manifest.channel_names, summaries)
    present = np.asarray(opened.present[rows])
    categories = {
        f"has:{name}": pd.Series(np.where(present[:, place], "yes", "no")) for place, name in enumerate(MODALITIES)
    }
    if cohort is not None:
        people = _people(opened.samples.iloc[rows], Cohort.open(cohort))
        numbers["age"] = people["age"].to_numpy(np.float64)
        categories["sex"] = people["sex"]
    return TrainingReference(
        cohort_digest=opened.manifest.cohort_digest,
        classes=opened.manifest.classes,
        rows=len(rows),
        numbers={name: summarise_number(values) for name, values in numbers.items()},
        categories={name: summarise_category(values) for name, values in categories.items()},
        held_out=_held_out(opened, candidate, comparison, resamples, seed),
    )


def summarise_number(values: np.ndarray) -> NumberReference:
    """Bring a number's values down to means of groups of neighbours, each of five patients at least.

    Args:
        values: float ``[n]``; NaN where a row has none.

    Returns:
        The distribution; without any group where fewer than five rows have a value.
    """
    known = np.sort(values[np.isfinite(values)])
    groups = min(MOST_GROUPS, len(known) // SMALLEST_GROUP)
    parts = np.array_split(known, groups) if groups else []
    return NumberReference(
        means=[float(part.mean()) for part in parts],
        counts=[len(part) for part in parts],
        missing=len(values) - (len(known) if groups else 0),
    )


def summarise_category(values: pd.Series) -> CategoryReference:
    """Count the values of a category; those of fewer than five patients are counted together.

    Args:
        values: Strings, missing where a row has none.

    Returns:
        The counts.
    """
    counts = values.dropna().value_counts()
    common = counts[counts >= SMALLEST_GROUP]
    named = {str(name): int(count) for name, count in common.items()}
    rare = int(counts.sum() - common.sum())
    return CategoryReference(counts=named | ({RARE: rare} if rare else {}), missing=int(values.isna().sum()))


def _people(samples: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """Return sex, and age in years at the first observation, of each sample; rows as in ``samples``."""
    patients = cohort.patients.set_index("patient_id")
    first = _first_times(cohort)
    people = patients.loc[samples["patient_id"], ["sex", "birth_year"]]
    year = first.reindex(people.index).dt.year.to_numpy(np.float64)
    return pd.DataFrame(
        {
            "sex": people["sex"].astype(object).to_numpy(),
            "age": year - people["birth_year"].to_numpy(np.float64, na_value=np.nan),
        }
    )


def _first_times(cohort: Cohort) -> pd.Series:
    """Return the time of each patient's first observation, by patient id; reads some rows at a time."""
    path, parts = cohort.folder / "observations.parquet", []
    # A cohort of images or notes alone may have no such file.
    if path.is_file():
        with pq.ParquetFile(path) as parquet:
            parts = [
                pa.Table.from_batches([batch]).group_by("patient_id").aggregate([("time", "min")])
                for batch in parquet.iter_batches(batch_size=ROW_GROUP, columns=["patient_id", "time"])
            ]
    schema = pa.schema([("patient_id", pa.string()), ("time_min", TIME)])
    joined = pa.concat_tables([schema.empty_table(), *(part.select(schema.names).cast(schema) for part in parts)])
    first = joined.group_by("patient_id").aggregate([("time_min", "min")]).to_pandas()
    return first.set_index("patient_id")["time_min_min"]


def _held_out(features: Features, candidate: Path, comparison: Path, resamples: int, seed: int) -> AnswersReference:
    frame = read_predictions(candidate / "predictions.parquet")
    frame = frame[frame["set"] == TEST].sort_values("sample", kind="stable")
    rows, classes = frame["sample"].to_numpy(), features.manifest.classes
    probabilities = class_probabilities(frame, classes)
    calibration = Calibration.read(comparison)
    if not len(frame):
        return describe_answers(probabilities, None, classes, {})
    sets = abstained = None
    if calibration is not None:
        decisions = decide(probabilities, calibration)
        probabilities, sets, abstained = decisions.probabilities, decisions.sets, decisions.abstained
    samples = features.samples.iloc[rows]
    predicted = PredictedRows(
        labels=features.labels[rows],
        probabilities=probabilities,
        groups=pd.factorize(samples["patient_id"])[0],
        rows=rows,
        folds=np.full(len(rows), -1),
    )
    scores = score_answers(predicted, sets, resamples=resamples, seed=seed)
    return describe_answers(probabilities, abstained, classes, scores)
