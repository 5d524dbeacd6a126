"""Parts of a cohort -> the cohort: decisions on the whole, then one pass over the rows, some at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from components.common.arrays import ArrayWriter
from components.common.environment import PSEUDONYM_KEY
from components.common.files import atomic_folder
from components.common.parent_run import COHORT_PARAM, DIGEST_PARAM, SOURCES_PARAM
from components.common.result import StepResult
from components.ingest.clean import channels_in_order
from components.ingest.digest import ContentDigest
from components.ingest.images import common_shape, read_images
from components.ingest.labels import annotator_agreement
from components.ingest.parts import CohortPart
from components.ingest.rejections import in_order
from components.ingest.settings import IngestSettings
from data_schemas.channels import load_catalogue
from data_schemas.cohort import SCHEMAS, Demographics, ImageShape, Manifest, SourceFile, TableWriter, write_table
from data_schemas.errors import InputError

_REQUIRED = ("patients", "observations")
_OPTIONAL = ("annotations", "devices", "images", "notes")
# Names of source files that are told to MLflow.
_SOURCES_LIMIT = 20


def merge_parts(
    parts: list[CohortPart], output: Path, settings: IngestSettings, progress: Callable[[str], None]
) -> StepResult:
    """Join parts into a cohort folder; either the whole folder is written, or nothing.

    Args:
        parts: The parts of all shards, in their order.
        output: The cohort folder to write.
        settings: Section ``ingest``.
        progress: Called with a few words on what is being done.

    Returns:
        Counts, rejected rows by reason, corrections and annotator agreement.

    Raises:
        InputError: The sources changed between shards, a channel is never measured, or the cohort is empty or has a
            single class.
    """
    _check_same_sources(parts)
    rejected = _rejected(parts)
    patients = [part.table("patients") for part in parts]
    classes = _classes(parts, rejected)
    if not any(table.num_rows for table in patients):
        raise _empty(rejected)
    _check_pseudonyms(patients)
    catalogue = load_catalogue()
    names = channels_in_order(
        {name for part in parts for name in part.facts.measured},
        settings.channels,
        list(settings.demographics),
        catalogue,
        {name for part in parts for name in part.facts.offered},
    )
    channels = [catalogue.contract(name) for name in names]
    digest = ContentDigest()
    with atomic_folder(output) as folder:
        counts = {}
        for name in (*_REQUIRED, *_OPTIONAL):
            progress(f"writing {name}")
            counts[name] = _write_rows(folder, name, parts, patients, digest)
            if name in _OPTIONAL and not counts[name]:
                del counts[name]
                (folder / f"{name}.parquet").unlink()
        shape = _write_images(folder, parts, digest) if "images" in counts else None
        write_table(folder, "rejected", rejected)
        manifest = Manifest(
            name=settings.name,
            classes=classes,
            channels=channels,
            image=ImageShape(height=shape[0], width=shape[1], channels=shape[2]) if shape else None,
            demographics=Demographics(names=list(settings.demographics), at=settings.demographics_at),
            counts=dict(sorted(counts.items())) | {"rejected": len(rejected)},
            sources=_source_files(parts),
            provenance=parts[0].facts.provenance,
            digest=digest.hexdigest(classes, channels, shape),
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=2))
    return _result(output, manifest, rejected, parts)


def _rejected(parts: list[CohortPart]) -> pd.DataFrame:
    """Return the rejected rows of all parts in their order, with texts as categories in the order of their names."""
    texts = ["file", "field", "reason"]
    rejected = pa.concat_tables([part.table("rejected") for part in parts]).to_pandas(categories=texts)
    for name in texts:
        rejected[name] = rejected[name].cat.reorder_categories(sorted(rejected[name].cat.categories))
    return in_order(rejected)


def _classes(parts: list[CohortPart], rejected: pd.DataFrame) -> list[str]:
    """Return the ordered class names, and check that there are patients of two of them."""
    unknown = [set(part.facts.without_channel) for part in parts]
    if nowhere := sorted(set.intersection(*unknown)):
        raise InputError(
            "no column is a measurement that the catalogue knows",
            file=nowhere[0],
            row=1,
            remedy="Name columns as in Table I, such as Body temperature (°C)",
        )
    if not any(part.facts.has_labels for part in parts):
        raise InputError(
            "the sources hold no label",
            file="settings",
            field="ingest.labels",
            remedy="Name a label file in the settings",
        )
    labelled = sorted({name for part in parts for name in part.facts.labelled})
    if not labelled:
        raise _empty(rejected)
    if len(labelled) == 1:
        raise InputError(
            f"all patients have the label {labelled[0]}",
            file="sources",
            field="label",
            remedy="Give a cohort with at least two classes",
        )
    declared = parts[0].facts.declared_classes
    return declared if declared is not None else sorted({name for part in parts for name in part.facts.found_labels})


def _empty(rejected: pd.DataFrame) -> InputError:
    reasons = rejected["reason"].value_counts()
    why = f"; most rows were rejected because: {reasons.index[0]}" if len(reasons) else ""
    return InputError(f"give an empty cohort{why}", file="sources", remedy="Check sources, labels and channels")


def _check_same_sources(parts: list[CohortPart]) -> None:
    """Refuse parts that divide different lists of patients: some patients would be in two of them or in none."""
    if len({part.facts.source_digest for part in parts}) > 1:
        raise InputError(
            "changed after the first shards were read, so the parts don't belong together",
            file="sources",
            remedy="Start a new run; a repetition keeps the parts of the finished shards",
        )
    if len({part.facts.patient_digest for part in parts}) > 1:
        raise InputError(
            "the shards had different secret keys, or found different patients",
            field=PSEUDONYM_KEY,
            remedy="Set the key that finished shards had, or start a new run without their cached results",
        )


def _check_pseudonyms(patients: list[pa.Table]) -> None:
    identifiers = pa.chunked_array([chunk for table in patients for chunk in table["patient_id"].chunks], pa.string())
    if len(identifiers.unique()) < len(identifiers):
        raise ValueError("Two patients have the same pseudonym; choose another key.")


def _write_rows(
    folder: Path, name: str, parts: list[CohortPart], patients: list[pa.Table], digest: ContentDigest
) -> int:
    """Write one table of all parts, part by part; return its rows."""
    schema = SCHEMAS[name]
    before = 0
    with TableWriter(folder, name) as writer:
        for part, own in zip(parts, patients, strict=True):
            identifiers = pa.concat_arrays([pa.array([], pa.string()), *own["patient_id"].chunks])
            for batch in part.batches(name):
                position = None
                if name == "patients":
                    position = np.arange(batch.num_rows) + writer.rows
                elif name != "devices":
                    patient = batch["patient"].combine_chunks()
                    position = patient.to_numpy() + before
                    batch = batch.append_column("patient_id", identifiers.take(patient))
                if name == "images":
                    batch = batch.append_column("row", pa.array(np.arange(batch.num_rows) + writer.rows))
                batch = batch.select(schema.names)
                digest.update(name, batch, position)
                writer.write(batch)
            before += own.num_rows
    return writer.rows


def _write_images(folder: Path, parts: list[CohortPart], digest: ContentDigest) -> tuple[int, int, int]:
    """Write images.npy in the order of the table of images; return the shape of an image."""
    tables = [part.table("images").select(["height", "width", "depth"]).to_pandas() for part in parts]
    shape = common_shape(pd.concat(tables, ignore_index=True))
    with ArrayWriter(folder / "images.npy", (sum(map(len, tables)), *shape), np.dtype(np.float32)) as writer:
        for part, table in zip(parts, tables, strict=True):
            if len(table):
                for images in read_images(table, part.pixels, shape):
                    digest.update_images(images)
                    writer.write(images)
    return shape


def _source_files(parts: list[CohortPart]) -> list[SourceFile]:
    """Put together the digests of source files that the shards took in turn."""
    files = []
    for entries in zip(*(part.facts.sources for part in parts), strict=True):
        found = zip(*(entry.blocks for entry in entries), strict=True)
        blocks = ["".join(block for block in of_shards if block) for of_shards in found]
        digest = blocks[0] if len(blocks) == 1 else hashlib.sha256("".join(blocks).encode()).hexdigest()
        files.append(SourceFile(name=entries[0].name, bytes=entries[0].bytes, sha256=digest))
    return files


def _result(output: Path, manifest: Manifest, rejected: pd.DataFrame, parts: list[CohortPart]) -> StepResult:
    not_used: Counter[str] = Counter()
    corrected: Counter[str] = Counter()
    for part in parts:
        not_used.update(part.facts.not_used)
        corrected.update(part.facts.corrected)
    reasons = rejected["reason"].value_counts()
    metrics = {f"{name}_rows": float(count) for name, count in manifest.counts.items()}
    # Names of metrics may hold letters, digits and a few signs only.
    metrics |= {
        f"rejected/{re.sub(r'[^0-9A-Za-z]+', '_', str(reason)).strip('_')}": float(count)
        for reason, count in reasons.items()
    }
    metrics |= {
        "channels": float(len(manifest.channels)),
        "corrected_values": float(corrected.total()),
        "not_used_rows": float(not_used.total() + sum(part.facts.not_selected for part in parts)),
        "not_used_kinds": float(len(not_used)),
    }
    kappa = annotator_agreement([vote for part in parts for vote in part.facts.votes])
    if kappa is not None:
        metrics["annotator_kappa"] = kappa
    warnings = [f"{count} {'row' if count == 1 else 'rows'} rejected: {reason}" for reason, count in reasons.items()]
    warnings += [
        f"{count} values of {name} corrected: typed in another unit than declared"
        for name, count in sorted(corrected.items())
    ]
    return StepResult(
        metrics=metrics,
        params={
            COHORT_PARAM: manifest.name,
            "classes": len(manifest.classes),
            DIGEST_PARAM: manifest.digest,
            SOURCES_PARAM: json.dumps([source.name for source in manifest.sources[:_SOURCES_LIMIT]]),
        },
        artifacts={"cohort": output / "manifest.json", "rejected": output / "rejected.parquet"},
        warnings=warnings,
    )
