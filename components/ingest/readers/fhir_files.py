"""FHIR files -> resources: ndjson and bundles, plain or gzip, with places that name no patient."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from components.ingest.locations import SourceFiles
from components.ingest.rejections import Rejections
from data_schemas.errors import InputError

_LINES = (".ndjson", ".ndjson.gz", ".jsonl", ".jsonl.gz")
_DOCUMENTS = (".json", ".json.gz")
_BROKEN = "is not JSON"


@dataclass(frozen=True)
class FhirFile:
    """One file of the source.

    Attributes:
        name: Its name in the source.
        label: How messages call it.
        named: Whether the label is its own name; a bundle's name often is the patient's.
    """

    name: str
    label: str
    named: bool


@dataclass(frozen=True)
class Piece:
    """A line of an ndjson file, or a whole document.

    Attributes:
        text: Its JSON.
        file: Label of its file.
        row: Line in an ndjson file, from 1; 1 for a document.
        is_line: Whether it is a line.
    """

    text: str
    file: str
    row: int
    is_line: bool


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


def fhir_files(files: SourceFiles) -> list[FhirFile]:
    """List the FHIR files of a source, in name order.

    Args:
        files: A folder, or one file.

    Returns:
        At least one file.

    Raises:
        InputError: There is none.
    """
    lines = files.below("", *_LINES)
    documents = files.below("", *_DOCUMENTS)
    found = [FhirFile(name, name.rpartition("/")[2], named=True) for name in lines]
    seen: dict[str, int] = {}
    for name in documents:
        folder = folder_name(files, name)
        seen[folder] = seen.get(folder, 0) + 1
        found.append(FhirFile(name, f"{folder}, file {seen[folder]} in name order", named=False))
    if not found:
        raise InputError("has no .ndjson or .json file", file=files.name, remedy="Check the path in the settings")
    return found


def folder_name(files: SourceFiles, name: str) -> str:
    """Return the name of the folder that a file lies in.

    Args:
        files: The source.
        name: The file.
    """
    folder = name.rpartition("/")[0]
    return folder.rpartition("/")[2] or files.name


def read_pieces(source: SourceFiles, files: list[FhirFile]) -> Iterator[Piece]:
    """Yield lines and documents, file by file; a file of lines is never held as a whole.

    Args:
        source: Where the files are.
        files: From ``fhir_files``.

    Yields:
        Pieces in the order of the files; blank lines are left out.

    Raises:
        InputError: A file cannot be decompressed, or is not UTF-8.
    """
    for file in files:
        path = source.path(file.name)
        try:
            with gzip.open(path) if file.name.endswith(".gz") else path.open("rb") as stream:
                if not file.name.endswith(_LINES):
                    yield Piece(stream.read().decode("utf-8-sig"), file.label, 1, is_line=False)
                    continue
                for row, line in enumerate(stream, start=1):
                    text = line.decode("utf-8-sig" if row == 1 else "utf-8")
                    if text.strip():
                        yield Piece(text, file.label, row, is_line=True)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise InputError(
                "is truncated or not UTF-8 text", file=file.label, remedy="Export the file again"
            ) from error


def parse_piece(piece: Piece, rejections: Rejections, is_reported: Callable[[Piece], bool]) -> list[Resource]:
    """Return the resources of a line or document.

    Args:
        piece: The line or document.
        rejections: Takes what is not JSON.
        is_reported: Tells whether such a piece is to be reported here.

    Returns:
        The resource, or those of a bundle; none where the piece is not JSON.

    Raises:
        InputError: It is not JSON and ``on_bad_row`` is "fail".
    """
    try:
        content = json.loads(piece.text)
    except json.JSONDecodeError:
        content = None
    if not isinstance(content, dict):
        if is_reported(piece):
            place = pd.DataFrame({"file": [piece.file], "row": [piece.row]})
            rejections.malformed(place, "(all)", _BROKEN, remedy="Export the file again")
        return []
    if content.get("resourceType") != "Bundle":
        return [Resource(content, "", piece.file, piece.row)]
    return [
        Resource(entry["resource"], entry.get("fullUrl", ""), piece.file, row)
        for row, entry in enumerate(content.get("entry", []), start=1)
        if isinstance(entry.get("resource"), dict)
    ]
