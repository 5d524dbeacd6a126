import pandas as pd
import pytest

from components.ingest.demo.classes import CLASSES
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.demo.table_one import GLUCOSE, PRESSURE, SATURATION, TEMPERATURE

SETTINGS = DemoSettings(patients=30, days=4, layout="table_one")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("table") / "one.csv"
    generate_source(file, SETTINGS)
    return pd.read_csv(file, dtype=str)


def test_columns_and_rows_are_those_of_the_paper(table):
    assert list(table.columns) == ["Patient", "Diagnosis", "Date", PRESSURE, TEMPERATURE, GLUCOSE, SATURATION]
    assert len(table) == 30 * 4
    assert table["Date"].str.fullmatch(r"2022-[1-9]\d?-[1-9]\d?").all()
    assert table[PRESSURE].str.fullmatch(r"\d{2,3}/\d{2,3}").all()
    assert table[TEMPERATURE].str.fullmatch(r"\d{2}\.\d").all()
    counts = table.drop_duplicates("Patient")["Diagnosis"].value_counts()
    assert {name: int(counts[name]) for name in CLASSES} == SETTINGS.counts


def test_days_follow_each_other(table):
    days = pd.to_datetime(table["Date"], format="%Y-%m-%d").groupby(table["Patient"], sort=False)
    assert days.apply(lambda day: day.diff().dropna().eq(pd.Timedelta(1, "D")).all()).all()


def test_a_folder_holds_one_file_a_patient(table, tmp_path):
    generate_source(tmp_path / "folder", SETTINGS)
    labels = pd.read_csv(tmp_path / "folder" / "labels.csv")
    assert len(labels) == 30
    assert labels["label"].tolist() == table.drop_duplicates("Patient")["Diagnosis"].tolist()
    parts = [pd.read_csv(tmp_path / "folder" / file, dtype=str) for file in labels["file"]]
    joined = pd.concat(parts, ignore_index=True)
    pd.testing.assert_frame_equal(joined, table.drop(columns=["Patient", "Diagnosis"]))
