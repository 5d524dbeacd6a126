"""The ``ingest`` step: all sources -> one pseudonymised cohort in the contract's form, at once or shard by shard."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from components.common.files import atomic_folder
from components.common.result import StepResult, ignore_progress
from components.common.shards import Shard, places_in_order
from components.ingest.clean import (
    CleanObservations,
    candidate_channels,
    clean_observations,
    demographic_observations,
    drop_unknown_patients,
)
from components.ingest.digest import streams_digest
from components.ingest.images import decode_images
from components.ingest.labels import adjudicate, assign_labels, count_votes, read_label_file, take_known_labels
from components.ingest.locations import (
    CHANGED_REMEDY,
    FileGroup,
    SourceFiles,
    one_file,
    opened_digest,
    source_digest,
)
from components.ingest.merge import merge_parts
from components.ingest.parts import PIXELS_FILE, CohortPart, ListedSource, PartFacts, open_part, write_part
from components.ingest.patient_shard import PatientShard
from components.ingest.pseudonyms import listing_digest, pseudonyms
from components.ingest.readers import OpenSource, list_patients, open_source, read_source
from components.ingest.rejections import Rejections
from components.ingest.settings import IngestSettings
from components.ingest.source_tables import SourceTables, build_table, stack_tables
from data_schemas.channels import Catalogue, load_catalogue
from data_schemas.errors import InputError

__all__ = ["ingest_shard", "ingest_sources", "merge_shards", "source_digest"]

NOTHING_MEASURED = "patient has no observation, note or image"
# Source files that have one digest together, where there are many.
_BLOCK_FILES = 1000


def ingest_sources(
    output: Path,
    settings: IngestSettings,
    *,
    pseudonym_key: bytes,
    listing: str | None = None,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Read all sources into a cohort folder; either the whole folder is written, or nothing.

    Args:
        output: The cohort folder to write.
        settings: Section ``ingest``.
        pseudonym_key: Secret key of the patients' pseudonyms; results do not depend on it.
        listing: From ``source_digest``, by which the result is cached; None: whatever is there.
        progress: Called with a few words on what is being done.

    Returns:
        Counts, rejected rows by reason, corrections and annotator agreement.

    Raises:
        InputError: A source is not there, or changed since it was listed; a row is malformed (unless ``on_bad_row`` is
            "reject"), a channel is never measured, or the cohort is empty or has a single class.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, where there has to be room for it anyway.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".partial", dir=output.parent) as folder:
        part = _read_part(Path(folder), settings, Shard(), pseudonym_key, listing, progress)
        return merge_parts([part], output, settings, progress)


def ingest_shard(
    output: Path,
    settings: IngestSettings,
    shard: Shard,
    *,
    pseudonym_key: bytes,
    listing: str | None = None,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Read one shard of the patients of all sources; what concerns the whole cohort is left to ``merge_shards``.

    Args:
        output: Folder of the part to write.
        settings: Section ``ingest``.
        shard: Which patients.
        pseudonym_key: Secret key of the patients' pseudonyms, the same for all shards.
        listing: As for ``ingest_sources``.
        progress: Called with a few words on what is being done.

    Returns:
        Rows of each table.

    Raises:
        InputError: A source is not there, changed since it was listed, or holds no patient; a row of this shard is
            malformed (unless ``on_bad_row`` is "reject").
    """
    with atomic_folder(output) as folder:
        part = _read_part(folder, settings, shard, pseudonym_key, listing, progress)
        progress("writing")
        write_part(folder, part)
    metrics = {f"{name}_rows": float(len(table)) for name, table in part.tables.items() if not isinstance(table, Path)}
    return StepResult(metrics=metrics, params={"shard": str(shard)})


def merge_shards(
    parts: list[Path],
    output: Path,
    settings: IngestSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Join the parts of all shards into the cohort that a single shard would have given.

    Args:
        parts: Outputs of ``ingest_shard``, in any order.
        output: The cohort folder to write.
        settings: Section ``ingest``, as the shards had it.
        progress: Called with a few words on what is being done.

    Returns:
        What ``ingest_sources`` returns.

    Raises:
        InputError: The sources changed between shards, a channel is never measured, or the cohort is empty or has a
            single class.
        ValueError: The parts are not those of all shards.
    """
    opened = [open_part(part) for part in parts]
    opened = [opened[place] for place in places_in_order([part.facts.shard for part in opened])]
    return merge_parts(opened, output, settings, progress)


def _read_part(
    folder: Path,
    settings: IngestSettings,
    shard: Shard,
    pseudonym_key: bytes,
    listing: str | None,
    progress: Callable[[str], None],
) -> CohortPart:
    """Read a shard of all sources; only the images are written, into the folder."""
    catalogue = load_catalogue()
    _check_channels(settings, catalogue)
    rejections = Rejections(settings.on_bad_row)
    with ExitStack() as stack:
        sources = [open_source(source, stack) for source in settings.sources]
        label_file = one_file(settings.labels.file, stack) if settings.labels else None
        # In the order of ``all_locations``.
        files = [source.files for source in sources]
        files += [named[0] for named in (*(source.outcomes for source in sources), label_file) if named]
        found = opened_digest(files)
        if listing is not None and listing != found:
            raise InputError("changed since the run began", file="sources", remedy=CHANGED_REMEDY)
        patient_shard = _find_patients(sources, shard, settings, progress)
        tables = []
        for position, source in enumerate(sources, start=1):
            progress(f"reading source {position}/{len(sources)} ({source.settings.format})")
            tables.append(read_source(source, patient_shard, catalogue, rejections))
        progress("checking values")
        patients, facts = _labelled_patients(settings, tables, label_file, patient_shard, rejections)
        cohort, cleaned = _assemble(settings, tables, patients, catalogue, folder / PIXELS_FILE, rejections)
        cohort["patients"] = cohort["patients"].assign(
            patient_id=pseudonyms(cohort["patients"]["key"], pseudonym_key),
            birth_year=cohort["patients"]["birth_date"].dt.year.astype("Int32"),
        )
        cohort["rejected"] = rejections.table()
        progress("digests of the source files")
        not_used: Counter[str] = Counter()
        for table in tables:
            not_used.update(table.not_used)
        facts |= {
            "number": shard.number,
            "count": shard.count,
            "source_digest": found,
            "patient_digest": listing_digest(patient_shard.listed, pseudonym_key),
            "offered": list(cleaned.offered),
            "measured": sorted(str(name) for name in cohort["observations"]["channel"].unique()),
            "corrected": cleaned.corrected,
            "not_selected": cleaned.not_selected,
            "not_used": dict(not_used),
            "without_channel": [name for table in tables for name in table.without_channel],
            "sources": _listed_sources(tables, label_file, shard),
            "provenance": _provenance(settings, tables),
        }
        for one in files:
            one.check_unchanged()
        return CohortPart(PartFacts.model_validate(facts), dict(cohort), folder / PIXELS_FILE)


def _find_patients(
    sources: list[OpenSource], shard: Shard, settings: IngestSettings, progress: Callable[[str], None]
) -> PatientShard:
    """List the patients of all sources where the shard takes some of them only."""
    if shard.count == 1:
        return PatientShard()
    progress("listing patients")
    # What is wrong with a patient is told when its shard is read.
    ignored = Rejections("reject")
    listed = pd.concat([list_patients(source, ignored) for source in sources]).unique()
    if not len(listed):
        raise _no_patient(settings)
    return PatientShard(shard, pd.Index(listed, dtype=object))


def _no_patient(settings: IngestSettings) -> InputError:
    return InputError(
        "holds no patient: the cohort is empty",
        file=", ".join(source.path for source in settings.sources),
        remedy="Check the source, or its path in the settings",
    )


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
    settings: IngestSettings,
    tables: list[SourceTables],
    label_file: tuple[SourceFiles, str] | None,
    shard: PatientShard,
    rejections: Rejections,
) -> tuple[pd.DataFrame, dict]:
    """Return the patients of all sources that have a label, in source order, and what the labels tell."""
    listed = pd.concat([table.patients for table in tables], ignore_index=True)
    listed["sex"] = listed["sex"].where(listed["sex"] != "unknown", None)
    # Patients of several sources are matched by their key; the first source that knows a fact is believed.
    patients = listed.groupby("key", sort=False, as_index=False).first()
    patients["sex"] = patients["sex"].fillna("unknown")
    if shard.whole and not len(patients):
        raise _no_patient(settings)
    names = {label: name for table in tables for label, name in table.label_names.items()} | settings.label_names
    own_classes = next((table.classes for table in tables if table.classes), None)
    # The classes of a label file need not be those of the annotators.
    classes = settings.classes if settings.labels else settings.classes or own_classes
    votes = []
    for position, table in enumerate(tables):
        checked = None if settings.labels else classes
        table.annotations = take_known_labels(table.annotations, names, checked, rejections)
        votes += count_votes(table.annotations, position)
    if settings.labels and label_file:
        labels = read_label_file(settings.labels, label_file, shard, rejections)
    else:
        found = [table.labels for table in tables if len(table.labels)]
        found += [adjudicate(table.annotations, rejections) for table in tables if len(table.annotations)]
        labels = pd.concat(found, ignore_index=True) if found else build_table("labels")
    has_labels = bool(len(labels))
    labels = take_known_labels(labels, names, classes, rejections)
    labelled = assign_labels(patients, labels, rejections)
    return labelled, {
        "declared_classes": classes,
        "found_labels": sorted(name for name in labels["label"].dropna().unique() if name),
        "has_labels": has_labels,
        "labelled": sorted(labelled["label"].unique()),
        "votes": votes,
    }


def _assemble(
    settings: IngestSettings,
    tables: list[SourceTables],
    patients: pd.DataFrame,
    catalogue: Catalogue,
    pixels: Path,
    rejections: Rejections,
) -> tuple[dict[str, pd.DataFrame], CleanObservations]:
    """Clean all tables, and keep the patients of whom anything is known, in the order of the contract."""
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
    notes = notes[notes["key"].isin(chosen)]
    # Images are stored in the order of their table.
    index = _ordered(drop_unknown_patients(gather("images"), listed, rejections), chosen, "time")
    index = decode_images(index, settings.image_size, pixels, rejections)
    if settings.demographics:
        span = _time_span(patients, [observations, notes, index])
        at_ends = settings.demographics_at == "first_and_last"
        demographics = demographic_observations(span, list(settings.demographics), at_ends)
        observations = stack_tables("observations", [observations, demographics])
    known = {key for table in (observations, notes, index) for key in table["key"].unique()}
    present = patients["key"].isin(known)
    rejections.add(patients[~present], "patient", NOTHING_MEASURED)
    patients = patients[present].reset_index(drop=True)
    position = pd.Index(patients["key"])
    candidates = pd.Index(candidate_channels(settings.channels, list(settings.demographics), catalogue))
    observations = observations.assign(rank=_positions(observations["channel"], candidates))
    cohort = {
        "patients": patients,
        "observations": _ordered(observations, position, "rank", "time"),
        "notes": _ordered(notes, position, "time"),
        "images": _ordered(index, position, "time"),
        "annotations": _ordered(gather("annotations"), position, "time"),
        "devices": gather("devices").drop_duplicates(["device_id", "channel"], keep="last"),
    }
    return cohort, cleaned


def _ordered(table: pd.DataFrame, patients: pd.Index, *by: str) -> pd.DataFrame:
    """Sort rows by the position of their patient, told in a column of its own, and leave out those of others."""
    patient = _positions(table["key"], patients)
    order = np.lexsort([*[table[name].astype("int64").to_numpy() for name in reversed(by)], patient])
    order = order[patient[order] >= 0]
    return table.iloc[order].assign(patient=patient[order])


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


def _positions(values: pd.Series, index: pd.Index) -> np.ndarray:
    """Return the position of each value in an index, -1 where it is not there; looks up each distinct one once."""
    codes, distinct = pd.factorize(values)
    return index.get_indexer(pd.Index(distinct, dtype=object))[codes]


def _listed_sources(
    tables: list[SourceTables], label_file: tuple[SourceFiles, str] | None, shard: Shard
) -> list[ListedSource]:
    """Return all source files, with the digests of those that are this shard's turn."""
    groups = [group for table in tables for group in table.listed]
    if label_file is not None:
        groups.append(FileGroup(label_file[1], label_file[0], [label_file[1]]))
    # A file that two sources name is listed once.
    named = {(group.files.location, group.names[0]): group for group in groups if group.named}
    groups = [*named.values(), *(group for group in groups if not group.named)]
    listed, turn = [], 0
    for group in groups:
        blocks: list[str | None] = []
        for start in range(0, len(group.names), _BLOCK_FILES):
            own = turn % shard.count == shard.number - 1
            blocks.append(_block_digest(group.files, group.names[start : start + _BLOCK_FILES]) if own else None)
            turn += 1
        name = group.name if group.named else f"{group.name} ({len(group.names)} files)"
        size = sum(group.files.size(file) for file in group.names)
        listed.append(ListedSource(name=name, bytes=size, blocks=blocks))
    return listed


def _block_digest(files: SourceFiles, names: list[str]) -> str:
    return streams_digest(files.open(name) for name in names)


def _provenance(settings: IngestSettings, tables: list[SourceTables]) -> dict[str, str | int | float | bool | None]:
    facts = {key: value for table in tables for key, value in table.provenance.items()}
    facts["formats"] = ", ".join(source.format for source in settings.sources)
    facts["synthetic"] = bool(settings.synthetic or facts.get("synthetic"))
    return facts
