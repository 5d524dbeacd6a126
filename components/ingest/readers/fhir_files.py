"""FHIR files -> resources: ndjson and bundles, plain or gzip, with places that name no patient."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from components.ingest.rejections import Rejections
from data_schemas.errors import InputError

_LINES = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")
_DOCUMENTS = (".json", ".json.gz")
_BROKEN = "is not JSON"


@dataclass(frozen=True)
class FhirFile:
    """One file of the source.

    Attributes:
        path: Where it lies.
        label: How messages call it.
        named: Whether the label is its own name; a bundle's name often is the patient's.
    """

    path: Path
    label: str
    named: bool


@dataclass(frozen=True)
class Resource:
    """One resource and its place.

    Attributes:
        content: The parsed resource.
        full_url: Its ``fullUrl`` in a bundle; empty elsewhere.
        file: Label of its file.
        row: Line in an ndjson file, or entry of a bundle, from 1.
    """

    content: dict[str, Any]
    full_url: str
    file: str
    row: int


def fhir_files(path: Path) -> list[FhirFile]:
    """List the FHIR files of a source, in name order.

    Args:
        path: A folder, or one file.

    Returns:
        At least one file.

    Raises:
        InputError: There is none.
    """
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    lines = [file for file in found if file.name.endswith(_LINES)]
    documents = [file for file in found if file.name.endswith(_DOCUMENTS)]
    folders = [file.parent for file in documents]
    labels = [
        f"{folder.name}, file {position - folders.index(folder) + 1} in name order"
        for position, folder in enumerate(folders)
    ]
    files = [FhirFile(file, file.name, named=True) for file in lines]
    files += [FhirFile(file, label, named=False) for file, label in zip(documents, labels, strict=True)]
    if not files:
        raise InputError("has no .ndjson or .json file", file=path.name, remedy="Check the path in the settings")
    return files


def read_resources(files: list[FhirFile], rejections: Rejections) -> Iterator[Resource]:
    """Yield all resources, file by file.

    Args:
        files: From ``fhir_files``.
        rejections: Takes lines and documents that are not JSON.

    Yields:
        Resources in the order of the files.

    Raises:
        InputError: A file cannot be decompressed, or is not JSON and ``on_bad_row`` is "fail".
    """
    for file in files:
        text = _read_text(file)
        if file.path.name.endswith(_LINES):
            pieces = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        else:
            pieces = [(1, text)]
        for row, piece in pieces:
            try:
                content = json.loads(piece)
            except json.JSONDecodeError:
                content = None
            if not isinstance(content, dict):
                rejections.malformed(
                    pd.DataFrame({"file": [file.label], "row": [row]}), "(all)", _BROKEN, remedy="Export the file again"
                )
            elif content.get("resourceType") == "Bundle":
                yield from _entries(content, file.label)
            else:
                yield Resource(content, "", file.label, row)


def _entries(bundle: dict[str, Any], label: str) -> Iterator[Resource]:
    for row, entry in enumerate(bundle.get("entry", []), start=1):
        if isinstance(entry.get("resource"), dict):
            yield Resource(entry["resource"], entry.get("fullUrl", ""), label, row)


def _read_text(file: FhirFile) -> str:
    try:
        data = file.path.read_bytes()
        return (gzip.decompress(data) if file.path.name.endswith(".gz") else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError("is truncated or not UTF-8 text", file=file.label, remedy="Export the file again") from error
