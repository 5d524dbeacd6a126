import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.clean import clean_observations, demographic_observations
from components.ingest.rejections import DUPLICATE, Rejections
from components.ingest.source_tables import build_table, constant, map_values, stack_tables
from data_schemas.channels import load_catalogue

CATALOGUE = load_catalogue()
VALUES = st.floats(-1e4, 1e4)


def _rows(values, channel="body_temperature", unit="°C", device="d"):
    count = len(values)
    return build_table(
        "observations",
        key=["p"] * count,
        device_id=[device] * count,
        channel=[channel] * count,
        time=pd.date_range("2024-01-01", periods=count, freq="h", tz="UTC"),
        value=values,
        unit=[unit] * count,
        file=["f"] * count,
        row=list(range(2, count + 2)),
    )


def _clean(raw, rejections, channels=None):
    return clean_observations(
        raw, patients=pd.Index(["p"]), channels=channels, catalogue=CATALOGUE, rejections=rejections
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=20), st.sampled_from(["°C", "°F", ""]))
def test_each_row_is_taken_or_rejected_and_what_is_taken_is_plausible(values, unit):
    rejections = Rejections("fail")
    cleaned = _clean(_rows(values, unit=unit), rejections)
    rows = cleaned.table["row"].tolist() + rejections.table()["row"].tolist()
    assert sorted(rows) == list(range(2, len(values) + 2))
    entry = CATALOGUE.channels["body_temperature"]
    assert cleaned.table["value"].between(entry.low, entry.high).all()
    assert (cleaned.table["unit"] == "Cel").all()


def test_same_row_of_another_device_is_no_duplicate():
    raw = pd.concat([_rows([70.0], "heart_rate", "bpm", device) for device in ("a", "b", "a")], ignore_index=True)
    rejections = Rejections("fail")
    assert len(_clean(raw, rejections).table) == 2
    assert rejections.table()["reason"].tolist() == [DUPLICATE]


def test_different_values_at_one_time_stamp_are_both_kept():
    raw = _rows([70.0, 71.0], "heart_rate", "bpm").assign(time=pd.Timestamp("2024-01-01", tz="UTC"))
    assert _clean(raw, Rejections("fail")).table["value"].tolist() == [70.0, 71.0]


def test_rows_of_other_channels_are_not_looked_at():
    raw = pd.concat([_rows([70.0], "heart_rate", "furlong"), _rows([37.0])], ignore_index=True)
    cleaned = _clean(raw, Rejections("fail"), channels=["body_temperature"])
    assert cleaned.table["channel"].tolist() == ["body_temperature"]
    assert cleaned.not_selected == 1


def test_age_is_that_of_the_day():
    times = pd.to_datetime(["2020-01-01", "2020-01-01"], utc=True)
    patients = pd.DataFrame(
        {
            "key": ["born", "aged"],
            "sex": ["male", "unknown"],
            "birth_date": pd.to_datetime(["1950-01-01", None]),
            "age": [None, 40.0],
            "first": times,
            "last": times + pd.Timedelta(days=3652.5),
            "file": "f",
            "row": [2, 3],
        }
    ).astype({"age": float})
    table = demographic_observations(patients, ["age", "sex"], last_too=True)
    ages = table[table["channel"] == "age"].groupby("key")["value"].agg(list)
    assert ages["born"] == pytest.approx([70, 80], abs=0.01)
    assert ages["aged"] == pytest.approx([40, 50])
    assert table[table["channel"] == "sex"][["key", "value"]].to_numpy().tolist() == [["born", 1.0], ["born", 1.0]]


def test_stacking_keeps_categories_and_values():
    left, right = _rows([1.0, 2.0]), _rows([3.0])
    stacked = stack_tables("observations", [left.assign(channel=constant("body_temperature", 2)), right])
    assert isinstance(stacked["channel"].dtype, pd.CategoricalDtype)
    pd.testing.assert_frame_equal(
        stacked.astype({"channel": object}), pd.concat([left, right], ignore_index=True), check_categorical=False
    )
    mapped = map_values(pd.Series(["a", "b", "c", "a"]), {"a": "x", "b": "x", "c": "y"})
    assert mapped.tolist() == ["x", "x", "y", "x"]
