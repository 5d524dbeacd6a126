from contextlib import ExitStack

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from components.common.shards import Shard
from components.ingest import text_tables
from components.ingest.locations import SourceFiles
from components.ingest.patient_shard import WHOLE, PatientShard
from components.ingest.rejections import Rejections
from components.ingest.tabular import parse_times
from components.ingest.text_tables import TextColumns, read_text_table, shard_row_groups
from data_schemas.errors import InputError


def _read(folder, name, required, rejections, shard=WHOLE, key=None):
    with ExitStack() as stack:
        files = SourceFiles(str(folder), stack)
        return read_text_table(files, name, TextColumns(required, key), rejections, shard)


@pytest.mark.parametrize("block", [1 << 24, 16])
def test_csv_rows_keep_their_numbers_past_blank_and_broken_lines(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_tables, "_BLOCK", block)
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
    assert parse_times(table["t"]).tolist() == [pd.Timestamp("2022-01-01T10:00Z"), pd.NaT]
    assert table["row"].tolist() == [1, 2]
