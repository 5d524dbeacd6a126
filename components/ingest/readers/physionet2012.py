"""Reader of the PhysioNet/Computing in Cardiology Challenge 2012: one text file an ICU stay.

Each file has the lines ``Time,Parameter,Value`` with times ``HH:MM`` since admission. Descriptors (RecordID, Age,
Gender, Height, ICUType, Weight) stand at 00:00; -1 means missing there. All stays start at one made-up instant.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.ingest.locations import FileGroup, SourceFiles
from components.ingest.patient_shard import PatientShard
from components.ingest.rejections import Rejections
from components.ingest.settings import PhysioNet2012Source
from components.ingest.source_tables import SourceTables, build_table, constant, map_values
from components.ingest.text_tables import TextColumns, read_text_table
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

ADMISSION = pd.Timestamp("2000-01-01", tz="UTC")
ICU_TYPES = {"1": "coronary_care", "2": "cardiac_surgery_recovery", "3": "medical", "4": "surgical"}
DEATH = {"0": "survived", "1": "died"}

_MISSING = "missing descriptor (-1)"
_HEADER = "Time,Parameter,Value"
_RECORD_LINE = re.compile(rb"^.*,RecordID,.*$", re.MULTILINE)
_PATIENT = ["RecordID", "Age", "Gender", "ICUType"]


def read_physionet2012(
    settings: PhysioNet2012Source,
    files: SourceFiles,
    outcomes: tuple[SourceFiles, str] | None,
    shard: PatientShard,
    catalogue: Catalogue,
    rejections: Rejections,
) -> SourceTables:
    """Read an archive or a folder of ICU stays.

    Every shard opens every file for its record number; only the lines of its own stays are parsed.

    Args:
        settings: The source's settings.
        files: ``set-a.tar.gz``, or a folder with the text files.
        outcomes: Where ``Outcomes-a.txt`` is, and its name; needed where the label is the in-hospital death.
        shard: Whose rows to take.
        catalogue: Maps parameters to channels.
        rejections: Takes malformed lines and missing descriptors.

    Returns:
        Stays in the order of their file names.

    Raises:
        InputError: The archive is broken or holds no stay; a line is malformed and ``on_bad_row`` is "fail".
    """
    texts = _read_stays(files) if shard.whole else {}
    stays = _find_stays(texts or _read_stays(files, _record_lines), files.name)
    taken = shard.takes(stays["key"].where(stays["position_key"] >= 0, ""))
    chosen = stays.loc[taken, "name"].tolist()
    texts = texts or _read_stays(files, chosen=frozenset(chosen))
    lines = _split_lines([texts[name] for name in chosen], np.flatnonzero(taken), files.name, rejections)
    lines = _take_numbers(_take_minutes(lines, rejections), rejections)
    _reject_nameless(stays[taken], files.name, rejections)
    lines = lines.assign(
        key=pd.Categorical.from_codes(stays["position_key"].to_numpy()[lines["stay"]], pd.Index(stays["key"]))
    )
    lines = lines[lines["key"].notna()]
    missing = (
        (lines["value"] == -1)
        & (lines["minutes"] == 0)
        & lines["parameter"].isin(["Weight", "Height", "Gender", "Age"])
    )
    rejections.add(lines[missing], lines.loc[missing, "parameter"], _MISSING)
    lines = lines[~missing]
    tables = SourceTables(
        patients=_patients(lines, files.name),
        observations=_observations(lines, catalogue),
        not_used=_not_used(lines, catalogue),
        listed=[FileGroup(files.name, files, _all_names(files), named=files.single)],
    )
    if settings.label == "icu_type":
        tables.labels = _icu_types(lines)
        tables.label_names, tables.classes = ICU_TYPES, list(ICU_TYPES.values())
    elif outcomes is not None:
        tables.labels = _outcomes(*outcomes, shard, rejections)
        tables.label_names, tables.classes = DEATH, list(DEATH.values())
        tables.listed.append(FileGroup(outcomes[1], outcomes[0], [outcomes[1]]))
    return tables


def physionet2012_patients(files: SourceFiles, rejections: Rejections) -> pd.Series:
    """Return the record numbers of all stays; nothing else of their files is parsed.

    Args:
        files: ``set-a.tar.gz``, or a folder with the text files.
        rejections: Takes stays that have no record number of their own.

    Returns:
        Record numbers in the order of the file names.

    Raises:
        InputError: The archive is broken or holds no stay.
    """
    stays = _find_stays(_read_stays(files, _record_lines), files.name)
    named = stays["position_key"] >= 0
    _reject_nameless(stays[~named], files.name, rejections)
    return stays.loc[named, "key"]


def _all_names(files: SourceFiles) -> list[str]:
    return files.names if files.single else files.below("", ".txt")


def _whole_text(text: bytes) -> bytes:
    return text


def _record_lines(text: bytes) -> bytes:
    return b"\n".join(_RECORD_LINE.findall(text))


def _read_stays(
    files: SourceFiles, part: Callable[[bytes], bytes] = _whole_text, chosen: frozenset[str] | None = None
) -> dict[str, bytes]:
    """Return a part of the files of all stays, or of some, by name and in the order of the names."""
    if files.single:
        texts = _read_archive(files.path(files.names[0]), part, chosen)
    else:
        names = [name for name in _all_names(files) if chosen is None or name in chosen]
        texts = {name: part(path.read_bytes()) for name, path in zip(names, files.paths(names), strict=True)}
    base = {name: name.rpartition("/")[2] for name in texts}
    stays = sorted((name for name in texts if not base[name].startswith("Outcomes")), key=lambda name: base[name])
    if not stays and chosen is None:
        remedy = "Give set-a.tar.gz or its folder"
        raise InputError("holds no text file of an ICU stay", file=files.name, remedy=remedy)
    return {name: texts[name] for name in stays}


def _read_archive(path: Path, part: Callable[[bytes], bytes], chosen: frozenset[str] | None) -> dict[str, bytes]:
    try:
        with tarfile.open(path, "r|*") as archive:
            return {
                name: part(content.read())
                for member in archive
                if member.isfile() and member.name.endswith(".txt")
                if (name := Path(member.name).name) and (chosen is None or name in chosen)
                if (content := archive.extractfile(member)) is not None
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError("is not a readable tar archive", file=path.name, remedy="Download it again") from error


def _find_stays(texts: dict[str, bytes], source: str) -> pd.DataFrame:
    """Return name and record number of each file: ``key``, and ``position_key`` = its position or -1 without one.

    A number that another file has already is none; so is one whose line cannot be used.
    """
    ignored = Rejections("reject")
    records = _split_lines([_record_lines(text) for text in texts.values()], np.arange(len(texts)), source, ignored)
    records = _take_numbers(_take_minutes(records, ignored), ignored)
    numbered = records[records["parameter"] == "RecordID"].drop_duplicates("stay").set_index("stay")["text"]
    keys = numbered.astype(str).reindex(range(len(texts)))
    nameless = keys.isna() | (keys.duplicated() & keys.notna())
    return pd.DataFrame(
        {
            "name": list(texts),
            # Categories must differ, also those of files that are left out.
            "key": keys.where(~nameless, pd.Series([f"#{i}" for i in range(len(texts))])),
            "position_key": np.where(nameless, -1, np.arange(len(texts))),
        }
    )


def _split_lines(texts: list[bytes], stays: np.ndarray, source: str, rejections: Rejections) -> pd.DataFrame:
    """Return one row a line of some stays, given their positions: stay, row, time, parameter, value."""
    names = pd.Index([_label(source, stay) for stay in stays])
    array = pa.array([text.decode("utf-8", errors="replace") for text in texts], pa.large_string())
    split = pc.split_pattern(array, "\n")
    part = pc.list_parent_indices(split).to_numpy()
    line = pc.utf8_trim_whitespace(pc.list_flatten(split))
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(split).to_numpy())])[:-1]
    row = np.arange(len(line)) - starts[part] + 1
    used = pc.and_(pc.not_equal(line, _HEADER), pc.not_equal(line, "")).to_numpy(zero_copy_only=False)
    fields = pc.split_pattern(line.filter(pa.array(used)), ",")
    whole = pc.equal(pc.list_value_length(fields), 3).to_numpy(zero_copy_only=False)
    part = part[used]
    where = pd.DataFrame({"file": pd.Categorical.from_codes(part, names), "row": row[used], "stay": stays[part]})
    rejections.malformed(where[~whole], "(all)", "is not Time,Parameter,Value", remedy="Mend the line")
    flat = pc.list_flatten(fields.filter(pa.array(whole)))
    columns = {}
    for position, name in enumerate(("time", "parameter", "text")):
        # Few distinct texts repeat over many lines: each is parsed once.
        column = flat.take(pa.array(np.arange(position, len(flat), 3))).dictionary_encode()
        columns[name] = pd.Categorical.from_codes(column.indices.to_numpy(), column.dictionary.to_pylist())
    return where[whole].assign(**columns)


def _take_minutes(lines: pd.DataFrame, rejections: Rejections) -> pd.DataFrame:
    """Parse ``HH:MM`` into minutes since admission."""
    parts = lines["time"].cat.categories.to_series().str.extract(r"^(\d{1,3}):([0-5]\d)$").astype(float)
    minutes = (parts[0] * 60 + parts[1]).to_numpy()[lines["time"].cat.codes]
    bad = np.isnan(minutes)
    rejections.malformed(
        lines[bad],
        "Time",
        "is not a time stamp",
        received=lines.loc[bad, "time"],
        remedy="Write hours and minutes since admission as HH:MM",
    )
    return lines.assign(minutes=minutes)[~bad]


def _take_numbers(lines: pd.DataFrame, rejections: Rejections) -> pd.DataFrame:
    numbers = pd.to_numeric(lines["text"].cat.categories.to_series(), errors="coerce")
    values = numbers.to_numpy(np.float64)[lines["text"].cat.codes]
    bad = np.isnan(values)
    rejections.malformed(
        lines[bad], "Value", "is not a number", received=lines.loc[bad, "text"], remedy="Write a number"
    )
    return lines.assign(value=values)[~bad]


def _label(source: str, stay: int) -> str:
    """Return how messages call a file, whose own name is the patient's."""
    return f"{source}, file {stay + 1} in name order"


def _reject_nameless(stays: pd.DataFrame, source: str, rejections: Rejections) -> None:
    nameless = stays.index[stays["position_key"] < 0]
    where = pd.DataFrame({"file": [_label(source, stay) for stay in nameless], "row": 1})
    rejections.malformed(where, "RecordID", "is missing, or that of another file", remedy="Give each stay its own")


def _patients(lines: pd.DataFrame, source: str) -> pd.DataFrame:
    wanted = lines[lines["parameter"].isin(["RecordID", "Age", "Gender"])]
    wide = wanted.assign(parameter=wanted["parameter"].astype(str)).drop_duplicates(["stay", "parameter"])
    wide = wide.pivot(index="stay", columns="parameter", values="value").reindex(columns=["Age", "Gender"])
    records = lines[lines["parameter"] == "RecordID"].drop_duplicates("stay").set_index("stay").sort_index()
    wide = wide.reindex(records.index)
    return build_table(
        "patients",
        key=records["key"].astype(str).to_numpy(),
        sex=wide["Gender"].map({0.0: "female", 1.0: "male"}).fillna("unknown").to_numpy(),
        age=wide["Age"].to_numpy(),
        start=np.full(len(records), np.datetime64(ADMISSION.tz_localize(None), "us")),
        file=records["file"].astype(str).to_numpy(),
        row=records["row"].to_numpy(),
    )


def _observations(lines: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    codes = catalogue.by_physionet2012
    used = lines[lines["parameter"].isin(list(codes))]
    elapsed = (used["minutes"].to_numpy() * 60_000_000).astype("timedelta64[us]")
    return build_table(
        "observations",
        key=used["key"],
        device_id=constant("", len(used)),
        channel=map_values(used["parameter"], {name: channel for name, (channel, _) in codes.items()}),
        time=pd.DatetimeIndex(ADMISSION.to_datetime64().astype("datetime64[us]") + elapsed, tz="UTC"),
        value=used["value"],
        unit=map_values(used["parameter"], {name: unit for name, (_, unit) in codes.items()}),
        file=used["file"],
        row=used["row"],
    )


def _not_used(lines: pd.DataFrame, catalogue: Catalogue) -> dict[str, int]:
    counts = lines["parameter"].value_counts()
    known = {*catalogue.by_physionet2012, *_PATIENT}
    return {str(name): int(count) for name, count in counts.items() if count and name not in known}


def _icu_types(lines: pd.DataFrame) -> pd.DataFrame:
    rows = lines[lines["parameter"] == "ICUType"].drop_duplicates("stay")
    return build_table(
        "labels",
        key=rows["key"].astype(str).to_numpy(),
        label=rows["text"].astype(str).to_numpy(),
        file=rows["file"].astype(str).to_numpy(),
        row=rows["row"].to_numpy(),
    )


def _outcomes(files: SourceFiles, name: str, shard: PatientShard, rejections: Rejections) -> pd.DataFrame:
    columns = TextColumns(["RecordID", "In-hospital_death"], key="RecordID")
    table = read_text_table(files, name, columns, rejections, shard)
    return build_table(
        "labels", key=table["RecordID"], label=table["In-hospital_death"], file=table["file"], row=table["row"]
    )
