"""Reader of the PhysioNet/Computing in Cardiology Challenge 2012: one text file an ICU stay.

Each file has the lines ``Time,Parameter,Value`` with times ``HH:MM`` since admission. Descriptors (RecordID, Age,
Gender, Height, ICUType, Weight) stand at 00:00; -1 means missing there. All stays start at one made-up instant.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.ingest.rejections import Rejections
from components.ingest.settings import PhysioNet2012Source
from components.ingest.source_tables import SourceTables, build_table, constant, map_values
from components.ingest.tabular import read_text_table
from data_schemas.channels import Catalogue
from data_schemas.errors import InputError

ADMISSION = pd.Timestamp("2000-01-01", tz="UTC")
ICU_TYPES = {"1": "coronary_care", "2": "cardiac_surgery_recovery", "3": "medical", "4": "surgical"}
DEATH = {"0": "survived", "1": "died"}

_MISSING = "missing descriptor (-1)"
_HEADER = "Time,Parameter,Value"
_PATIENT = ["RecordID", "Age", "Gender", "ICUType"]


def read_physionet2012(
    settings: PhysioNet2012Source, path: Path, outcomes: Path | None, catalogue: Catalogue, rejections: Rejections
) -> SourceTables:
    """Read an archive or a folder of ICU stays.

    Args:
        settings: The source's settings.
        path: ``set-a.tar.gz``, or a folder with the text files.
        outcomes: ``Outcomes-a.txt``; needed where the label is the in-hospital death.
        catalogue: Maps parameters to channels.
        rejections: Takes malformed lines and missing descriptors.

    Returns:
        Stays in the order of their file names.

    Raises:
        InputError: The archive is broken or holds no stay; a line is malformed and ``on_bad_row`` is "fail".
    """
    texts = _file_texts(path)
    if not texts:
        raise InputError("holds no text file of an ICU stay", file=path.name, remedy="Give set-a.tar.gz or its folder")
    lines = _split_lines(texts, path.name, rejections)
    lines = _take_numbers(_take_minutes(lines, rejections), rejections)
    stays = _stays(lines, len(texts), path.name, rejections)
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
        patients=_patients(lines, path.name),
        observations=_observations(lines, catalogue),
        not_used=_not_used(lines, catalogue),
    )
    if path.is_file():
        tables.files.append(path)
    else:
        tables.groups[path.name] = sorted(path.rglob("*.txt"))
    if settings.label == "icu_type":
        tables.labels = _icu_types(lines)
        tables.label_names, tables.classes = ICU_TYPES, list(ICU_TYPES.values())
    elif outcomes is not None:
        tables.labels = _outcomes(outcomes, rejections)
        tables.label_names, tables.classes = DEATH, list(DEATH.values())
        tables.files.append(outcomes)
    return tables


def _file_texts(path: Path) -> list[bytes]:
    """Return the content of each stay's file, in name order."""
    if path.is_dir():
        files = [file for file in path.rglob("*.txt") if not file.name.startswith("Outcomes")]
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.name)]
    try:
        with tarfile.open(path, "r|*") as archive:
            members = {
                Path(member.name).name: content.read()
                for member in archive
                if member.isfile() and member.name.endswith(".txt")
                if (content := archive.extractfile(member)) is not None
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError("is not a readable tar archive", file=path.name, remedy="Download it again") from error
    return [members[name] for name in sorted(members) if not name.startswith("Outcomes")]


def _split_lines(texts: list[bytes], source: str, rejections: Rejections) -> pd.DataFrame:
    """Return one row a line: stay (position of the file), row, time, parameter, value."""
    names = pd.Index([f"{source}, file {position} in name order" for position in range(1, len(texts) + 1)])
    array = pa.array([text.decode("utf-8", errors="replace") for text in texts], pa.large_string())
    split = pc.split_pattern(array, "\n")
    stay = pc.list_parent_indices(split).to_numpy()
    line = pc.utf8_trim_whitespace(pc.list_flatten(split))
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(split).to_numpy())])[:-1]
    row = np.arange(len(line)) - starts[stay] + 1
    used = pc.and_(pc.not_equal(line, _HEADER), pc.not_equal(line, "")).to_numpy(zero_copy_only=False)
    fields = pc.split_pattern(line.filter(pa.array(used)), ",")
    whole = pc.equal(pc.list_value_length(fields), 3).to_numpy(zero_copy_only=False)
    where = pd.DataFrame({"file": pd.Categorical.from_codes(stay[used], names), "row": row[used], "stay": stay[used]})
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


def _stays(lines: pd.DataFrame, count: int, source: str, rejections: Rejections) -> pd.DataFrame:
    """Return the record number of each file: ``key``, and ``position_key`` = its position or -1 where it has none."""
    records = lines[lines["parameter"] == "RecordID"].drop_duplicates("stay").set_index("stay")["text"].astype(str)
    keys = records.reindex(range(count))
    repeated = keys.duplicated() & keys.notna()
    nameless = keys.isna() | repeated
    where = pd.DataFrame(
        {"file": [f"{source}, file {position + 1} in name order" for position in keys.index[nameless]], "row": 1}
    )
    rejections.malformed(where, "RecordID", "is missing, or that of another file", remedy="Give each stay its own")
    return pd.DataFrame(
        {
            # Categories must differ, also those of files that are left out.
            "key": keys.where(~nameless, pd.Series([f"#{i}" for i in range(count)])),
            "position_key": np.where(nameless, -1, np.arange(count)),
        }
    )


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


def _outcomes(path: Path, rejections: Rejections) -> pd.DataFrame:
    table = read_text_table(path, path.name, ["RecordID", "In-hospital_death"], rejections)
    return build_table(
        "labels", key=table["RecordID"], label=table["In-hospital_death"], file=table["file"], row=table["row"]
    )
