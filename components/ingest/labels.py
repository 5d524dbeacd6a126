"""One label a patient: from annotators and their adjudicator, from a label file, or from the source itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from pydantic import BaseModel
from sklearn.metrics import cohen_kappa_score

from components.ingest.locations import SourceFiles
from components.ingest.patient_shard import PatientShard
from components.ingest.rejections import UNKNOWN_PATIENT, Rejections
from components.ingest.settings import LabelSettings
from components.ingest.source_tables import build_table
from components.ingest.text_tables import TextColumns, read_text_table

ADJUDICATOR = "adjudicator"
DISAGREEMENT = "annotators disagree and nobody adjudicated"
NO_LABEL = "patient has no label"
SEVERAL_LABELS = "patient has several different labels"


def read_label_file(
    settings: LabelSettings, file: tuple[SourceFiles, str], shard: PatientShard, rejections: Rejections
) -> pd.DataFrame:
    """Read a CSV file of labels.

    Args:
        settings: Its columns.
        file: Where the file is, and its name.
        shard: Whose rows to take.
        rejections: Takes rows with a wrong number of fields.

    Returns:
        Columns key, label, labels (a list, or None without flag columns), file, row.

    Raises:
        InputError: The file or one of its columns is not there.
    """
    required = [settings.patient_column, settings.label_column, *settings.flag_columns]
    columns = TextColumns(required, key=settings.patient_column)
    table = read_text_table(*file, columns, rejections, shard)
    labels = None
    if settings.flag_columns:
        names = np.array(settings.flag_columns, dtype=object)
        flags = table[settings.flag_columns].isin(["1", "1.0", "true", "True"]).to_numpy()
        labels = pd.Series([names[row].tolist() for row in flags], dtype=object)
    return build_table(
        "labels",
        key=table[settings.patient_column],
        label=table[settings.label_column],
        labels=labels,
        file=table["file"],
        row=table["row"],
    )


def take_known_labels(
    rows: pd.DataFrame, label_names: dict[str, str], classes: list[str] | None, rejections: Rejections
) -> pd.DataFrame:
    """Translate labels into class names and drop the rows whose label is no class.

    Args:
        rows: Columns label, file, row, and perhaps labels (lists).
        label_names: Class name by label in the source; others stay as they are.
        classes: Class names; None: any name is good.
        rejections: Takes rows with an unknown label. Empty labels stay.

    Returns:
        The remaining rows.

    Raises:
        InputError: A label is no class and ``on_bad_row`` is "fail".
    """
    named = rows.assign(label=rows["label"].map(lambda label: label_names.get(label, label)))
    if "labels" in rows:
        lists = rows["labels"].map(
            lambda labels: [label_names.get(label, label) for label in labels] if isinstance(labels, list) else None
        )
        named = named.assign(labels=lists)
    if classes is None:
        return named
    unknown = ~named["label"].isin(["", *classes]) & named["label"].notna()
    remedy = f"Use one of {', '.join(classes)}, or map it in ingest.label_names"
    rejections.malformed(named[unknown], "label", "is not a known label", remedy=remedy)
    return named[~unknown]


def adjudicate(annotations: pd.DataFrame, rejections: Rejections) -> pd.DataFrame:
    """Turn annotations into one label a patient.

    Annotators who agree decide; where they differ the adjudicator does; without one the patient is rejected.
    The latest annotation of each annotator counts.

    Args:
        annotations: Columns key, annotator, label, time, file, row.
        rejections: Takes patients on whom the annotators disagree.

    Returns:
        Columns of a labels table, in the order in which patients first appear; no label (NaN) where rejected.
    """
    latest = annotations.sort_values("time", kind="stable").drop_duplicates(["key", "annotator"], keep="last")
    latest = latest.sort_index(kind="stable")
    adjudicated = latest["annotator"].str.casefold() == ADJUDICATOR
    votes = latest[~adjudicated].groupby("key", sort=False)["label"].agg(["nunique", "first"])
    agreed = votes.loc[votes["nunique"] == 1, "first"]
    decided = latest[adjudicated].drop_duplicates("key", keep="last").set_index("key")["label"]
    first = latest.drop_duplicates("key")
    label = first["key"].map(agreed)
    label = label.where(label.notna(), first["key"].map(decided))
    rejections.add(first[label.isna()], "label", DISAGREEMENT)
    return build_table("labels", key=first["key"], label=label, file=first["file"], row=first["row"])


class Votes(BaseModel):
    """How often two annotators gave two labels to the same patients.

    Attributes:
        source: Position of the source in the settings.
        annotators: The two, in the order of their names.
        labels: The label of each.
        patients: Number of patients.
    """

    source: int
    annotators: tuple[str, str]
    labels: tuple[str, str]
    patients: int


def count_votes(annotations: pd.DataFrame, source: int) -> list[Votes]:
    """Count the labels of each pair of annotators, before adjudication.

    Args:
        annotations: Columns key, annotator, label, time.
        source: Position of their source.

    Returns:
        Counts; the latest annotation of each annotator counts.
    """
    votes = annotations[annotations["annotator"].str.casefold() != ADJUDICATOR].sort_values("time", kind="stable")
    votes = votes.drop_duplicates(["key", "annotator"], keep="last")
    wide = votes.pivot(index="key", columns="annotator", values="label")
    return [
        Votes(source=source, annotators=pair, labels=labels, patients=int(count))
        for pair in combinations(wide.columns, 2)
        for labels, count in wide[list(pair)].dropna().value_counts().sort_index().items()
    ]


def annotator_agreement(votes: list[Votes]) -> float | None:
    """Return Cohen's kappa between the annotators of all sources.

    Args:
        votes: From ``count_votes``; counts of several shards may stand beside each other.

    Returns:
        Kappa in [-1, 1]: of each source the mean over the pairs of annotators, weighted by their patients in common,
        then the mean over the sources; None where no pair has two labels or more.
    """
    pairs: dict[int, dict[tuple[str, str], list[Votes]]] = {}
    for vote in sorted(votes, key=lambda vote: (vote.source, vote.annotators, vote.labels)):
        pairs.setdefault(vote.source, {}).setdefault(vote.annotators, []).append(vote)
    sources = []
    for of_source in pairs.values():
        several = [pair for pair in of_source.values() if len({label for vote in pair for label in vote.labels}) > 1]
        if several:
            weights = [sum(vote.patients for vote in pair) for pair in several]
            sources.append(np.average([_kappa(pair) for pair in several], weights=weights))
    return float(np.mean(sources)) if sources else None


def _kappa(votes: list[Votes]) -> float:
    first, second = zip(*(vote.labels for vote in votes), strict=True)
    return cohen_kappa_score(first, second, sample_weight=[vote.patients for vote in votes])


def assign_labels(patients: pd.DataFrame, labels: pd.DataFrame, rejections: Rejections) -> pd.DataFrame:
    """Give each patient a label; patients without one are rejected.

    Args:
        patients: Columns key, file, row and others.
        labels: Columns of a labels table, with class names; NaN for patients that are rejected already.
        rejections: Takes labels of unknown patients, and patients without one label.

    Returns:
        The labelled patients, in their order, with columns ``label`` and ``labels``.
    """
    named = labels[labels["label"].notna()]
    empty = named["label"] == ""
    rejections.add(named[empty], "label", NO_LABEL)
    named = named[~empty]
    stranger = ~named["key"].isin(patients["key"])
    rejections.add(named[stranger], "patient", UNKNOWN_PATIENT)
    named = named[~stranger].drop_duplicates(["key", "label"])
    several = named["key"].duplicated(keep=False)
    rejections.add(named[several].drop_duplicates("key"), "label", SEVERAL_LABELS)
    single = named[~several].set_index("key")
    rejections.add(patients[~patients["key"].isin(labels["key"])], "label", NO_LABEL)
    labelled = patients[patients["key"].isin(single.index)]
    labelled = labelled.assign(label=labelled["key"].map(single["label"]), labels=labelled["key"].map(single["labels"]))
    conditions = [
        several_labels if isinstance(several_labels, list) else [label]
        for several_labels, label in zip(labelled["labels"], labelled["label"], strict=True)
    ]
    return labelled.assign(labels=pd.Series(conditions, index=labelled.index, dtype=object))
