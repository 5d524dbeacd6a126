"""The ``ingest`` step: all sources -> one pseudonymised cohort in the contract's form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.ingest.clean import (
    CleanObservations,
    channels_in_order,
    clean_observations,
    demographic_observations,
    drop_unknown_patients,
)
from components.ingest.digest import content_digest, file_digest
from components.ingest.images import read_images
from components.ingest.labels import adjudicate, annotator_agreement, assign_labels, read_label_file, take_known_labels
from components.ingest.locations import local_copy, source_digest
from components.ingest.pseudonyms import pseudonyms
from components.ingest.readers import read_source
from components.ingest.rejections import Rejections
from components.ingest.settings import IngestSettings
from components.ingest.source_tables import SourceTables, build_table, stack_tables
from data_schemas.channels import Catalogue, load_catalogue
from data_schemas.cohort import SCHEMAS, Demographics, ImageShape, Manifest, SourceFile, write_cohort
from data_schemas.errors import InputError

__all__ = ["ingest_sources", "source_digest"]

NOTHING_MEASURED = "patient has no observation, note or image"


@dataclass
class _Parts:
    """The cohort's tables before pseudonyms, keyed by the source's patient key."""

    patients: pd.DataFrame
    observations: pd.DataFrame
    notes: pd.DataFrame
    image_index: pd.DataFrame
    images: np.ndarray | None
    annotations: pd.DataFrame
    devices: pd.DataFrame


def ingest_sources(
    output: Path,
    settings: IngestSettings,
    *,
    pseudonym_key: bytes,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Read all sources into a cohort folder; either the whole folder is written, or nothing.

    Args:
        output: The cohort folder to write.
        settings: Section ``ingest``.
        pseudonym_key: Secret key of the patients' pseudonyms; results do not depend on it.
        progress: Called with a few words on what is being done.

    Returns:
        Counts, rejected rows by reason, corrections and annotator agreement.

    Raises:
        InputError: A source is not there, a row is malformed (unless ``on_bad_row`` is "reject"), a channel is never
            measured, or the cohort is empty or has a single class.
    """
    catalogue = load_catalogue()
    _check_channels(settings, catalogue)
    rejections = Rejections(settings.on_bad_row)
    with ExitStack() as stack:
        tables = []
        for position, source in enumerate(settings.sources, start=1):
            progress(f"reading source {position}/{len(settings.sources)} ({source.format})")
            tables.append(read_source(source, stack, catalogue, rejections))
        label_file = local_copy(settings.labels.file, stack) if settings.labels else None
        progress("checking values")
        patients, classes = _labelled_patients(settings, tables, label_file, rejections)
        parts, cleaned = _assemble(settings, tables, patients, catalogue, rejections)
        progress("writing the cohort")
        names = channels_in_order(
            parts.observations, settings.channels, list(settings.demographics), catalogue, cleaned.offered
        )
        channels = [catalogue.contract(name) for name in names]
        cohort = _pseudonymise(parts, names, pseudonym_key)
        cohort["rejected"] = rejections.table()
        height, width, depth = parts.images.shape[1:] if parts.images is not None else (0, 0, 0)
        manifest = Manifest(
            name=settings.name,
            classes=classes,
            channels=channels,
            image=ImageShape(height=height, width=width, channels=depth) if parts.images is not None else None,
            demographics=Demographics(names=list(settings.demographics), at=settings.demographics_at),
            counts={name: len(table) for name, table in cohort.items()},
            sources=_source_files(tables, label_file),
            provenance=_provenance(settings, tables),
            digest=content_digest(cohort, parts.images, classes, channels),
        )
        with atomic_folder(output) as folder:
            write_cohort(folder, manifest, cohort, parts.images)
    return _result(output, manifest, cohort["rejected"], cleaned, tables)


def _check_channels(settings: IngestSettings, catalogue: Catalogue) -> None:
    unknown = [name for name in settings.channels or [] if name not in catalogue.channels]
    if unknown:
        raise InputError(
            f"channel {unknown[0]} is not in the catalogue",
            file="settings",
            field="ingest.channels",
            remedy=f"Choose among {', '.join(catalogue.channels)}",
        )


def _labelled_patients(
    settings: IngestSettings, tables: list[SourceTables], label_file: Path | None, rejections: Rejections
) -> tuple[pd.DataFrame, list[str]]:
    """Return the patients of all sources that have a label, in source order, and the class names."""
    listed = pd.concat([table.patients for table in tables], ignore_index=True)
    listed["sex"] = listed["sex"].where(listed["sex"] != "unknown", None)
    # Patients of several sources are matched by their key; the first source that knows a fact is believed.
    patients = listed.groupby("key", sort=False, as_index=False).first()
    patients["sex"] = patients["sex"].fillna("unknown")
    if not len(patients):
        raise InputError(
            "holds no patient: the cohort is empty",
            file=", ".join(source.path for source in settings.sources),
            remedy="Check the source, or its path in the settings",
        )
    names = {label: name for table in tables for label, name in table.label_names.items()} | settings.label_names
    own_classes = next((table.classes for table in tables if table.classes), None)
    # The classes of a label file need not be those of the annotators.
    classes = settings.classes if settings.labels else settings.classes or own_classes
    for table in tables:
        checked = None if settings.labels else classes
        table.annotations = take_known_labels(table.annotations, names, checked, rejections)
    if settings.labels and label_file:
        labels = read_label_file(settings.labels, label_file, rejections)
    else:
        found = [table.labels for table in tables if len(table.labels)]
        found += [adjudicate(table.annotations, rejections) for table in tables if len(table.annotations)]
        labels = pd.concat(found, ignore_index=True) if found else build_table("labels")
    if not len(labels):
        raise InputError(
            "the sources hold no label",
            file="settings",
            field="ingest.labels",
            remedy="Name a label file in the settings",
        )
    labels = take_known_labels(labels, names, classes, rejections)
    labelled, classes = assign_labels(patients, labels, classes=classes, rejections=rejections)
    if not len(labelled):
        raise _empty(rejections)
    return labelled, classes


def _assemble(
    settings: IngestSettings,
    tables: list[SourceTables],
    patients: pd.DataFrame,
    catalogue: Catalogue,
    rejections: Rejections,
) -> tuple[_Parts, CleanObservations]:
    """Clean all tables and keep the patients of whom anything is known."""
    listed = pd.Index(pd.concat([table.patients["key"] for table in tables]).unique())
    chosen = pd.Index(patients["key"])

    def gather(name: str) -> pd.DataFrame:
        return stack_tables(name, [getattr(table, name) for table in tables])

    cleaned = clean_observations(
        gather("observations"),
        patients=listed,
        channels=_measured_channels(settings),
        catalogue=catalogue,
        rejections=rejections,
    )
    observations = cleaned.table[cleaned.table["key"].isin(chosen)]
    notes = drop_unknown_patients(gather("notes"), listed, rejections)
    index = drop_unknown_patients(gather("images"), listed, rejections)
    notes, index = notes[notes["key"].isin(chosen)], index[index["key"].isin(chosen)]
    index, images = read_images(index.reset_index(drop=True), settings.image_size, rejections)
    if settings.demographics:
        span = _time_span(patients, [observations, notes, index])
        at_ends = settings.demographics_at == "first_and_last"
        demographics = demographic_observations(span, list(settings.demographics), at_ends)
        observations = stack_tables("observations", [observations, demographics])
    known = {key for table in (observations, notes, index) for key in table["key"].unique()}
    present = patients["key"].isin(known)
    rejections.add(patients[~present], "patient", NOTHING_MEASURED)
    if not present.any():
        raise _empty(rejections)
    annotations = gather("annotations")
    parts = _Parts(
        patients=patients[present],
        observations=observations,
        notes=notes,
        image_index=index,
        images=images,
        annotations=annotations[annotations["key"].isin(chosen)],
        devices=gather("devices").drop_duplicates(["device_id", "channel"], keep="last"),
    )
    return parts, cleaned


def _measured_channels(settings: IngestSettings) -> list[str] | None:
    return (
        None if settings.channels is None else [name for name in settings.channels if name not in settings.demographics]
    )


def _time_span(patients: pd.DataFrame, tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Add each patient's first and last time stamp; the source's start where nothing has one."""
    spans = [table.groupby("key", observed=True)["time"].agg(["min", "max"]) for table in tables]
    span = (
        pd.concat([span.set_axis(span.index.astype(object)) for span in spans])
        .groupby("key")
        .agg({"min": "min", "max": "max"})
    )
    first = patients["key"].map(span["min"])
    earliest = pd.concat([first, patients["start"]], axis=1).min(axis=1)
    last = patients["key"].map(span["max"])
    return patients.assign(first=earliest, last=last.where(last.notna(), earliest))


def _pseudonymise(parts: _Parts, channels: list[str], secret: bytes) -> dict[str, pd.DataFrame]:
    """Sort all tables by patient and replace the keys by pseudonyms."""
    patients = parts.patients.reset_index(drop=True)
    ids = pseudonyms(patients["key"], secret)
    if ids.duplicated().any():
        raise ValueError("Two patients have the same pseudonym; choose another key.")
    position = pd.Index(patients["key"])

    def ordered(table: pd.DataFrame, *by: str) -> pd.DataFrame:
        patient = _positions(table["key"], position)
        order = np.lexsort([*[table[name].astype("int64").to_numpy() for name in reversed(by)], patient])
        order = order[patient[order] >= 0]
        return table.iloc[order].assign(patient_id=pd.Categorical.from_codes(patient[order], pd.Index(ids)))

    observations = parts.observations.assign(rank=_positions(parts.observations["channel"], pd.Index(channels)))
    observations = observations[observations["rank"] >= 0]
    image_rows = parts.image_index.assign(row=np.arange(len(parts.image_index)))
    cohort = {
        "patients": patients.assign(patient_id=ids, birth_year=patients["birth_date"].dt.year.astype("Int32")),
        "observations": ordered(observations, "rank", "time"),
        "notes": ordered(parts.notes, "time"),
        "images": ordered(image_rows, "time"),
        "annotations": ordered(parts.annotations, "time"),
        "devices": parts.devices,
    }
    required = {"patients", "observations"}
    return {name: table[SCHEMAS[name].names] for name, table in cohort.items() if len(table) or name in required}


def _positions(values: pd.Series, index: pd.Index) -> np.ndarray:
    """Return the position of each value in an index, -1 where it is not there; looks up each distinct one once."""
    codes, distinct = pd.factorize(values)
    return index.get_indexer(pd.Index(distinct, dtype=object))[codes]


def _source_files(tables: list[SourceTables], label_file: Path | None) -> list[SourceFile]:
    files = [path for table in tables for path in table.files] + ([label_file] if label_file else [])
    named = [file_digest(path.name, [path]) for path in dict.fromkeys(files)]
    return named + [
        file_digest(f"{name} ({len(paths)} files)", paths) for table in tables for name, paths in table.groups.items()
    ]


def _provenance(settings: IngestSettings, tables: list[SourceTables]) -> dict[str, str | int | float | bool | None]:
    facts = {key: value for table in tables for key, value in table.provenance.items()}
    facts["formats"] = ", ".join(source.format for source in settings.sources)
    facts["synthetic"] = bool(settings.synthetic or facts.get("synthetic"))
    return facts


def _empty(rejections: Rejections) -> InputError:
    reasons = rejections.table()["reason"].value_counts()
    why = f"; most rows were rejected because: {reasons.index[0]}" if len(reasons) else ""
    return InputError(f"give an empty cohort{why}", file="sources", remedy="Check sources, labels and channels")


def _result(
    output: Path, manifest: Manifest, rejected: pd.DataFrame, cleaned: CleanObservations, tables: list[SourceTables]
) -> StepResult:
    not_used: Counter[str] = Counter()
    for table in tables:
        not_used.update(table.not_used)
    reasons = rejected["reason"].value_counts()
    metrics = {f"{name}_rows": float(count) for name, count in manifest.counts.items()}
    # Names of metrics may hold letters, digits and a few signs only.
    metrics |= {
        f"rejected/{re.sub(r'[^0-9A-Za-z]+', '_', str(reason)).strip('_')}": float(count)
        for reason, count in reasons.items()
    }
    metrics |= {
        "channels": float(len(manifest.channels)),
        "corrected_values": float(sum(cleaned.corrected.values())),
        "not_used_rows": float(not_used.total() + cleaned.not_selected),
        "not_used_kinds": float(len(not_used)),
    }
    kappas = [annotator_agreement(table.annotations) for table in tables if len(table.annotations)]
    known = [kappa for kappa in kappas if kappa is not None]
    if known:
        metrics["annotator_kappa"] = float(np.mean(known))
    warnings = [f"{count} {'row' if count == 1 else 'rows'} rejected: {reason}" for reason, count in reasons.items()]
    warnings += [
        f"{count} values of {name} corrected: typed in another unit than declared"
        for name, count in cleaned.corrected.items()
    ]
    return StepResult(
        metrics=metrics,
        params={"cohort": manifest.name, "classes": len(manifest.classes), "cohort_digest": manifest.digest},
        artifacts={"cohort": output / "manifest.json", "rejected": output / "rejected.parquet"},
        warnings=warnings,
    )
