"""Reader of FHIR R4: bulk ndjson files or bundles, plain or gzip.

Taken are Patient, Observation (with components; both blood pressure panels; ``dataAbsentReason``), and as notes the
chief complaint (LOINC 8661-1), DocumentReference attachments and DiagnosticReport texts.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from components.ingest.locations import FileGroup, SourceFiles
from components.ingest.patient_shard import PatientShard
from components.ingest.readers.fhir_files import (
    FhirFile,
    Piece,
    Resource,
    fhir_files,
    folder_name,
    parse_piece,
    read_pieces,
)
from components.ingest.rejections import ABSENT, Rejections
from components.ingest.settings import FhirSource
from components.ingest.source_tables import SourceTables, build_table, constant
from components.ingest.tabular import parse_times, split_pressures, take_numbers, take_times
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

LOINC = "http://loinc.org"
CHIEF_COMPLAINT = "8661-1"
_PATIENT_OR_BUNDLE = re.compile(r'"resourceType"\s*:\s*"(?:Patient|Bundle)"')
_REFERENCE = re.compile(r'"reference"\s*:\s*"((?:[^"\\]|\\.)*)"')
_RETRACTED = {"entered-in-error", "cancelled"}
_WITHDRAWN = "entered in error or cancelled"
_NO_IDENTIFIER = "patient has no identifier of the chosen system"


class _Item(NamedTuple):
    """One value of an observation, or one text."""

    subject: str
    time: str
    code: str
    value: str
    unit: str
    file: str
    row: int


def read_fhir(
    settings: FhirSource,
    files: SourceFiles,
    people: FhirPatients | None,
    shard: PatientShard,
    catalogue: Catalogue,
    rejections: Rejections,
) -> SourceTables:
    """Read a folder of FHIR files.

    Every shard goes through all files. Of ndjson files it parses the lines that name a patient of its own; bundles are
    parsed by every shard.

    Args:
        settings: The source's settings.
        files: The folder, or one file.
        people: All patients of the source; not needed for a single shard.
        shard: Whose rows to take.
        catalogue: Maps LOINC codes to channels.
        rejections: Takes resources that cannot be used.

    Returns:
        Patients in the order of the files' names.

    Raises:
        InputError: There is no FHIR file, one cannot be read, or a resource is malformed and ``on_bad_row`` is "fail".
    """
    listed = fhir_files(files)
    patients: list[Resource] = []
    items: list[_Item] = []
    texts: list[_Item] = []
    not_used: Counter[str] = Counter()
    withdrawn: list[Resource] = []
    owner = _Everything() if people is None or shard.whole else _Owner(people, shard, settings)
    for resource in _resources(files, listed, owner, rejections):
        kind = resource.content.get("resourceType")
        if kind == "Patient":
            patients.append(resource)
        elif resource.content.get("status") in _RETRACTED:
            withdrawn.append(resource)
        elif kind == "Observation":
            _sort_observation(resource, catalogue, items, texts, not_used)
        elif kind in ("DocumentReference", "DiagnosticReport"):
            texts.extend(_document_texts(resource, rejections, not_used))
    rejections.add(
        pd.DataFrame({"file": [r.file for r in withdrawn], "row": [r.row for r in withdrawn]}), "status", _WITHDRAWN
    )
    rows = _patient_rows(patients, settings, rejections)
    if shard.whole:
        _check_patients(rows)
    keys = _keys(rows) if people is None else people.keys
    return SourceTables(
        patients=_patients(rows),
        observations=_observations(items, keys, settings, catalogue, rejections),
        notes=_notes(texts, keys, settings, rejections),
        not_used=dict(not_used),
        listed=[
            *(FileGroup(file.label, files, [file.name]) for file in listed if file.named),
            *_groups(files, [file.name for file in listed if not file.named]),
        ],
    )


def _groups(files: SourceFiles, names: list[str]) -> list[FileGroup]:
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return [FileGroup(folder_name(files, own[0]), files, own, named=False) for own in folders.values()]


@dataclass(frozen=True)
class FhirPatients:
    """All patients of a source.

    Attributes:
        keys: Each one's key by resource id, and by id in references.
        listed: Keys in the order of the files.
    """

    keys: dict[str, str]
    listed: pd.Series


def list_fhir_patients(settings: FhirSource, files: SourceFiles, rejections: Rejections) -> FhirPatients:
    """List the patients of a source; of ndjson files, only lines with a patient or a bundle are parsed.

    Args:
        settings: The source's settings.
        files: The folder, or one file.
        rejections: Takes patients without a key.

    Returns:
        The patients.

    Raises:
        InputError: There is no FHIR file, one cannot be read, or none holds a patient with the chosen key.
    """
    ignored = Rejections("reject")
    found = [
        resource
        for piece in read_pieces(files, fhir_files(files))
        if not piece.is_line or _PATIENT_OR_BUNDLE.search(piece.text)
        for resource in parse_piece(piece, ignored, lambda piece: False)
        if resource.content.get("resourceType") == "Patient"
    ]
    rows = _patient_rows(found, settings, rejections)
    _check_patients(rows)
    return FhirPatients(_keys(rows), rows["key"].drop_duplicates())


class _Everything:
    """The owner of all resources."""

    def may_own_some(self, piece: Piece) -> bool:
        return True

    def is_home(self, piece: Piece) -> bool:
        return True

    def owns(self, resource: Resource, piece: Piece) -> bool:
        return True


class _Owner(_Everything):
    """Tells which resources belong to a shard: those of its patients, and some that belong to no known patient.

    Such a resource belongs to the shard of the first known patient whom its line or document refers to, or to the
    first shard. So lines that name known patients, but none of this shard, need not be parsed.
    """

    def __init__(self, people: FhirPatients, shard: PatientShard, settings: FhirSource) -> None:
        self._keys = people.keys
        self._system = settings.identifier_system
        self._first = shard.first
        self._mine = set(people.listed[shard.takes(people.listed)])
        # A document has many resources that are nobody's.
        self._known_home: tuple[Piece | None, bool] = (None, False)

    def _named(self, piece: Piece) -> list[str]:
        """Keys of the known patients whom a piece refers to, in its order."""
        found = (_unescape(text) for text in _REFERENCE.findall(piece.text))
        return [key for text in found if (key := self._keys.get(_reference_id(text))) is not None]

    def may_own_some(self, piece: Piece) -> bool:
        if not piece.is_line or _PATIENT_OR_BUNDLE.search(piece.text):
            return True
        named = self._named(piece)
        return any(key in self._mine for key in named) if named else self._first

    def is_home(self, piece: Piece) -> bool:
        if self._known_home[0] is not piece:
            named = self._named(piece)
            self._known_home = (piece, named[0] in self._mine if named else self._first)
        return self._known_home[1]

    def owns(self, resource: Resource, piece: Piece) -> bool:
        content = resource.content
        if content.get("resourceType") == "Patient":
            key = _patient_key(content, self._system)
        else:
            key = self._keys.get(_subject_of(content))
        return key in self._mine if key else self.is_home(piece)


def _resources(
    files: SourceFiles, listed: list[FhirFile], owner: _Everything, rejections: Rejections
) -> Iterator[Resource]:
    for piece in read_pieces(files, listed):
        if owner.may_own_some(piece):
            for resource in parse_piece(piece, rejections, owner.is_home):
                if owner.owns(resource, piece):
                    yield resource


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    try:
        return json.loads(f'"{text}"', strict=False)
    except json.JSONDecodeError:
        return text


def _reference_id(reference: str) -> str:
    """Return the id of ``Patient/123``, ``urn:uuid:123`` or an absolute address."""
    return reference.split("/_history/")[0].rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]


def _patient_rows(resources: list[Resource], settings: FhirSource, rejections: Rejections) -> pd.DataFrame:
    """Return one row a Patient resource that has a key."""
    rows = pd.DataFrame(
        {
            "id": [resource.content.get("id", "") for resource in resources],
            "alias": [_reference_id(resource.full_url) for resource in resources],
            "key": [_patient_key(resource.content, settings.identifier_system) for resource in resources],
            "sex": [resource.content.get("gender", "") for resource in resources],
            "birth_date": [str(resource.content.get("birthDate", "")) for resource in resources],
            "site": [_site(resource.content) for resource in resources],
            "file": [resource.file for resource in resources],
            "row": [resource.row for resource in resources],
        },
        dtype=object,
    )
    nameless = rows["key"].isna() | (rows["key"] == "")
    rejections.add(rows[nameless], "identifier", _NO_IDENTIFIER)
    return rows[~nameless]


def _check_patients(rows: pd.DataFrame) -> None:
    if not len(rows):
        raise InputError(
            "hold no Patient with the chosen key",
            file="FHIR source",
            field="identifier_system",
            remedy="Check the folder, and the system of Patient.identifier",
        )


def _keys(rows: pd.DataFrame) -> dict[str, str]:
    """Return the patients' keys by resource id, and by id in references."""
    keys = dict(zip(rows["alias"], rows["key"], strict=True)) | dict(zip(rows["id"], rows["key"], strict=True))
    # Outside of bundles there is no alias; an observation without a subject is nobody's.
    keys.pop("", None)
    return keys


def _patients(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.drop_duplicates("key")
    # Birth dates may be a year or a month alone; one that does not parse is as good as none.
    born = parse_times(rows["birth_date"]).dt.tz_localize(None)
    return build_table(
        "patients",
        key=rows["key"],
        sex=rows["sex"].where(rows["sex"].isin(["female", "male"]), "unknown"),
        birth_date=born,
        site=rows["site"],
        file=rows["file"],
        row=rows["row"],
    )


def _patient_key(patient: dict[str, Any], system: str | None) -> str | None:
    if system is None:
        return patient.get("id")
    values = [entry.get("value") for entry in patient.get("identifier", []) if entry.get("system") == system]
    return values[0] if values else None


def _site(patient: dict[str, Any]) -> str | None:
    reference = patient.get("managingOrganization", {}).get("reference")
    return _reference_id(reference) if reference else None


def _loinc_codes(concept: dict[str, Any]) -> list[str]:
    return [entry.get("code", "") for entry in concept.get("coding", []) if entry.get("system") == LOINC]


def _time_of(resource: dict[str, Any]) -> str:
    period = resource.get("effectivePeriod") or {}
    return str(
        resource.get("effectiveDateTime")
        or resource.get("effectiveInstant")
        or period.get("start")
        or resource.get("date")
        or resource.get("issued")
        or ""
    )


def _subject_of(resource: dict[str, Any]) -> str:
    return _reference_id((resource.get("subject") or {}).get("reference", ""))


def _value_and_unit(element: dict[str, Any]) -> tuple[str, str]:
    """Return value and unit as text; an empty value where there is none (``dataAbsentReason``)."""
    quantity = element.get("valueQuantity")
    if quantity is not None:
        value = quantity.get("value")
        return "" if value is None else str(value), quantity.get("code") or quantity.get("unit") or ""
    value = element.get("valueInteger", element.get("valueString", ""))
    return str(value), ""


def _sort_observation(
    resource: Resource, catalogue: Catalogue, items: list[_Item], texts: list[_Item], not_used: Counter[str]
) -> None:
    """Append an observation's values to ``items``, a chief complaint to ``texts``, or count it as not used."""
    content = resource.content
    codes = _loinc_codes(content.get("code", {}))
    place = (_subject_of(content), _time_of(content))
    if CHIEF_COMPLAINT in codes:
        text = content.get("valueString") or content.get("valueCodeableConcept", {}).get("text") or ""
        texts.append(_Item(*place, CHIEF_COMPLAINT, text, "", resource.file, resource.row))
        return
    elements = [(codes, content), *((_loinc_codes(c.get("code", {})), c) for c in content.get("component", []))]
    found = [
        _Item(*place, code, *_value_and_unit(element), resource.file, resource.row)
        for element_codes, element in elements
        for code in [next((code for code in element_codes if _is_used(code, element, catalogue)), None)]
        if code is not None
    ]
    items.extend(found)
    if not found:
        not_used[codes[0] if codes else "no LOINC code"] += 1


def _is_used(code: str, element: dict[str, Any], catalogue: Catalogue) -> bool:
    """Whether a code stands for a channel; a panel's own code only where it has a text such as 120/80."""
    return code in catalogue.by_loinc or (code in catalogue.panel_by_loinc and "valueString" in element)


def _document_texts(resource: Resource, rejections: Rejections, not_used: Counter[str]) -> Iterator[_Item]:
    """Yield the plain texts of a DocumentReference or DiagnosticReport."""
    content = resource.content
    attachments = [entry.get("attachment", {}) for entry in content.get("content", [])] + content.get(
        "presentedForm", []
    )
    place = (_subject_of(content), _time_of(content))
    if content.get("conclusion"):
        yield _Item(*place, "conclusion", content["conclusion"], "", resource.file, resource.row)
    for attachment in attachments:
        if not str(attachment.get("contentType", "text/plain")).startswith("text/plain") or "data" not in attachment:
            not_used["attachment that is not plain text"] += 1
            continue
        try:
            text = base64.b64decode(attachment["data"], validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            where = pd.DataFrame({"file": [resource.file], "row": [resource.row]})
            rejections.malformed(where, "attachment.data", "is not base64 of UTF-8 text", remedy="Mend the resource")
            continue
        yield _Item(*place, "attachment", text, "", resource.file, resource.row)


def _frame(items: list[_Item], keys: dict[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(items, columns=_Item._fields, dtype=object)
    return frame.assign(key=frame["subject"].map(keys))


def _observations(
    items: list[_Item], keys: dict[str, str], settings: FhirSource, catalogue: Catalogue, rejections: Rejections
) -> pd.DataFrame:
    if not items:
        return build_table("observations")
    frame = take_times(_frame(items, keys), rejections, settings.time_zone)
    panel = frame["code"].map(catalogue.panel_by_loinc)
    single = frame[panel.isna()]
    absent = single["value"] == ""
    rejections.add(single[absent], single.loc[absent, "code"].map(catalogue.by_loinc), ABSENT)
    single = take_numbers(single[~absent], rejections)
    single = single.assign(channel=single["code"].map(catalogue.by_loinc))
    pressures = split_pressures(frame[panel.notna()], rejections)
    names = pressures["code"].map(catalogue.panel_by_loinc).map(lambda name: catalogue.panels[name].channels)
    halves = [
        pressures.assign(value=pressures[column], channel=names.str[position])
        for position, column in enumerate(("first", "second"))
    ]
    rows = pd.concat([single, *halves]).sort_index(kind="stable")
    columns = {name: rows[name] for name in ("key", "channel", "time", "value", "unit", "file", "row")}
    return build_table("observations", device_id=constant("", len(rows)), **columns)


def _notes(texts: list[_Item], keys: dict[str, str], settings: FhirSource, rejections: Rejections) -> pd.DataFrame:
    if not texts:
        return build_table("notes")
    frame = _frame(texts, keys)
    blank = frame["value"].str.strip() == ""
    rejections.add(frame[blank], "text", ABSENT)
    frame = take_times(frame[~blank], rejections, settings.time_zone)
    return build_table(
        "notes", key=frame["key"], time=frame["time"], text=frame["value"], file=frame["file"], row=frame["row"]
    )
