from contextlib import ExitStack
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.shards import Shard
from components.ingest import tabular
from components.ingest.locations import SourceFiles
from components.ingest.patient_shard import WHOLE, PatientShard
from components.ingest.rejections import ABSENT, Rejections, shown
from components.ingest.tabular import (
    TextColumns,
    localise,
    parse_times,
    read_text_table,
    shard_row_groups,
    split_pressures,
    take_numbers,
)
from data_schemas.errors import InputError

TIMES = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2250, 1, 1)).map(
    lambda time: time.replace(microsecond=time.microsecond)
)


def _isoformat(series):
    return [None if pd.isna(time) else time.isoformat() for time in series]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TIMES, st.integers(-14, 14), st.booleans()), min_size=1, max_size=8))
def test_times_with_and_without_offsets_mix(entries):
    texts = [
        time.isoformat() + (f"{'+' if hours >= 0 else '-'}{abs(hours):02d}:00" if aware else "")
        for time, hours, aware in entries
    ]
    expected = [
        datetime.fromisoformat(text) if aware else datetime.fromisoformat(text).replace(tzinfo=UTC)
        for text, (_, _, aware) in zip(texts, entries, strict=True)
    ]
    assert parse_times(pd.Series(texts)).tolist() == [pd.Timestamp(time.astimezone(UTC)) for time in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=8))
def test_wall_clock_times_agree_with_the_standard_library(times):
    zone = ZoneInfo("America/New_York")
    found = localise(pd.Series(pd.DatetimeIndex(times).as_unit("us")), "America/New_York")
    back = found.dt.tz_convert("UTC").dt.tz_localize(None)
    for naive, utc in zip(times, back, strict=True):
        wall = utc.to_pydatetime().replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
        # An hour that spring skips does not come back as itself.
        assert wall == naive or naive.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).hour != naive.hour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-6-1", "2022-05-31T22:00:00+00:00"),
        ("2022-06", "2022-05-31T22:00:00+00:00"),
        ("2022-06-01T00:00Z", "2022-06-01T00:00:00+00:00"),
        ("2022-06-01 00:00:00.25", "2022-05-31T22:00:00.250000+00:00"),
        ("2180-07-22T19:47:00-04:00", "2180-07-22T23:47:00+00:00"),
        # Summer time also holds past 2037.
        ("2180-07-22T00:00:00", "2180-07-21T22:00:00+00:00"),
        # The hour that occurs twice is the first one; the one that is skipped is the next that exists.
        ("2024-10-27T02:30:00", "2024-10-27T00:30:00+00:00"),
        ("2024-03-31T02:30:00", "2024-03-31T01:00:00+00:00"),
        ("2022-02-30", None),
        ("31.12.2022", None),
        ("soon", None),
        ("", None),
    ],
)
def test_time_stamps_of_berlin(text, expected):
    assert _isoformat(parse_times(pd.Series([text]), "Europe/Berlin")) == [expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=8))
def test_pressures_come_apart(pairs):
    frame = pd.DataFrame({"value": [f"{a}/{b}" for a, b in pairs], "file": "f", "row": range(len(pairs))})
    split = split_pressures(frame, Rejections("fail"))
    assert list(zip(split["first"], split["second"], strict=True)) == pairs


@pytest.mark.parametrize("text", ["120", "120/", "/80", "120/80/60", "120\\80", "a/b", "12000/80", "120 80"])
def test_malformed_pressures(text):
    frame = pd.DataFrame({"value": ["120/80", text], "file": "f", "row": [2, 3]})
    with pytest.raises(InputError, match=r"f, row 3, field value: is not a blood pressure"):
        split_pressures(frame, Rejections("fail"))
    rejections = Rejections("reject")
    assert len(split_pressures(frame, rejections)) == 1
    assert rejections.table()["row"].tolist() == [3]


def test_numbers_and_absent_values():
    frame = pd.DataFrame({"value": ["1", "-2.5e1", "", "NA"], "file": "f", "row": [2, 3, 4, 5]})
    rejections = Rejections("fail")
    assert take_numbers(frame, rejections)["value"].tolist() == [1.0, -25.0]
    assert rejections.table()[["row", "reason"]].to_numpy().tolist() == [[4, ABSENT], [5, ABSENT]]


def _read(folder, name, required, rejections, shard=WHOLE, key=None):
    with ExitStack() as stack:
        files = SourceFiles(str(folder), stack)
        return read_text_table(files, name, TextColumns(required, key), rejections, shard)


@pytest.mark.parametrize("block", [1 << 24, 16])
def test_csv_rows_keep_their_numbers_past_blank_and_broken_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(tabular, "_BLOCK", block)
    (tmp_path / "a.csv").write_text('a,b\n1,"x, y"\n\n2\n3,z\n4,5,6\n7,w\n')
    rejections = Rejections("reject")
    table = _read(tmp_path, "a.csv", ["a", "b"], rejections)
    assert table[["a", "b", "row"]].to_numpy().tolist() == [["1", "x, y", 2], ["3", "z", 5], ["7", "w", 7]]
    assert rejections.table()["row"].tolist() == [4, 6]
    with pytest.raises(InputError, match=r"a\.csv, row 4"):
        _read(tmp_path, "a.csv", ["a"], Rejections("fail"))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_each_row_belongs_to_the_shard_of_its_patient_or_to_the_first(tmp_path, name):
    keys = [" p1", "p2", "p3", "p4", "stranger", "", "p2"]
    frame = pd.DataFrame({"key": keys, "value": range(7)})
    if name == "a.csv":
        (tmp_path / name).write_text(frame.to_csv(index=False) + "p1,1,2\n")
    else:
        frame.to_parquet(tmp_path / name, row_group_size=2)
    listed = pd.Index(["p1", "p2", "p3", "p4"], dtype=object)
    found, rejected = [], []
    for number in (1, 2, 3):
        rejections = Rejections("reject")
        table = _read(tmp_path, name, ["key"], rejections, PatientShard(Shard(number, 3), listed), key="key")
        found.append(sorted(table["value"]))
        first_row = 2 if name == "a.csv" else 1
        assert (table["row"] == table["value"].astype(int) + first_row).all()
        rejected.append(rejections.table()["row"].tolist())
    assert found == [["0", "4", "5"], ["1", "6"], ["2", "3"]]
    assert rejected == ([[9], [], []] if name == "a.csv" else [[], [], []])


def test_row_groups_of_other_shards_are_not_read(tmp_path, monkeypatch):
    keys = [f"p{number}" for number in range(8)]
    pd.DataFrame({"key": keys, "value": range(8)}).to_parquet(tmp_path / "a.parquet", row_group_size=2)
    with pq.ParquetFile(tmp_path / "a.parquet") as parquet:
        shard = PatientShard(Shard(2, 3), pd.Index(keys, dtype=object))
        groups = [(group, rows.tolist(), first) for group, rows, first in shard_row_groups(parquet, "key", shard)]
    # Patients 2 to 4 of 8.
    assert groups == [(1, [0, 1], 2), (2, [0], 4)]


def test_parquet_columns_become_text(tmp_path):
    frame = pd.DataFrame({"a": [1.5, np.nan], "t": pd.to_datetime(["2022-01-01T10:00Z", None])})
    frame.to_parquet(tmp_path / "a.parquet")
    table = _read(tmp_path, "a.parquet", ["a"], Rejections("fail"))
    assert table["a"].tolist() == ["1.5", ""]
    assert _isoformat(parse_times(table["t"])) == ["2022-01-01T10:00:00+00:00", None]
    assert table["row"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120-80", "'120-80'"),
        ("", "nothing"),
        ("Ann Example", "text of 11 characters"),
        ("1" * 50, "text of 50 characters"),
    ],
)
def test_only_digits_and_punctuation_are_shown(text, expected):
    assert shown(text) == expected
