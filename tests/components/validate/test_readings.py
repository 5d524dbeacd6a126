"""Observations that are read some patients at a time tell the same as all at once."""

import numpy as np
import pandas as pd
import pytest

from components.validate import readings
from components.validate.readings import tally_readings
from components.validate.tables import read_tables

NOW = pd.Timestamp("2022-06-01T12:00:00Z")


def _stranger_first(tables, images):
    """Patients without readings at both ends and in the middle, an unknown one first, and every kind of odd row."""
    observations = tables["observations"]
    observations = observations[~observations["patient_id"].isin(["p00", "p05", "p11"])].reset_index(drop=True)
    observations.loc[[0, 1], "patient_id"] = "stranger"
    observations.loc[5, "channel"] = "weight"
    observations.loc[[7, 30], "value"] = [np.nan, np.inf]
    observations.loc[12, "time"] = observations.loc[11, "time"]
    observations.loc[20, "unit"] = "K"
    tables["observations"] = observations


def _shuffled(tables, images):
    _stranger_first(tables, images)
    tables["observations"] = tables["observations"].sample(frac=1, random_state=0)


@pytest.mark.parametrize("batch", [1, 4, 1000])
@pytest.mark.parametrize("patients", [1, 5, 12, 100])
@pytest.mark.parametrize("change", [_stranger_first, _shuffled])
def test_every_row_is_read_once_with_its_patient(make_cohort, monkeypatch, change, patients, batch):
    monkeypatch.setattr("components.validate.tables.ROW_GROUP", batch)
    cohort = make_cohort(change)
    tables = read_tables(cohort)
    assert tables.in_order == (change is _stranger_first)
    chunks = list(tables.observations(patients))
    assert [(start, stop) for start, stop, _ in chunks] == [
        (start, min(start + patients, 12)) for start in range(0, 12, patients)
    ]
    for start, stop, rows in chunks:
        owners = rows["patient"][rows["patient"] >= 0]
        assert owners.between(start, stop - 1).all()
    read = pd.concat([rows for _, _, rows in chunks])
    expected = cohort.observations
    expected["patient"] = tables.identifiers.get_indexer(expected["patient_id"])
    expected = expected.sort_values("patient", kind="stable")
    for column in ("patient", "unit", "time", "value"):
        pd.testing.assert_series_equal(read[column], expected[column], check_index=False)
    names = cohort.manifest.channel_names
    assert read["channel"].tolist() == [names.index(name) if name in names else -1 for name in expected["channel"]]


@pytest.mark.parametrize("patients", [1, 5, 100])
@pytest.mark.parametrize("change", [_stranger_first, _shuffled])
def test_the_tally_is_that_of_the_whole_table(make_cohort, monkeypatch, change, patients):
    monkeypatch.setattr(readings, "PATIENTS", patients)
    cohort = make_cohort(change)
    tally = tally_readings(read_tables(cohort), NOW)
    observations = cohort.observations
    known = observations[observations["patient_id"] != "stranger"]
    ids = cohort.patients["patient_id"]
    assert tally.seen.tolist() == ids.isin(known["patient_id"]).tolist()
    for place, name in enumerate(cohort.manifest.channel_names):
        own = observations[observations["channel"] == name]
        assert tally.patients[place] == known[known["channel"] == name]["patient_id"].nunique()
        assert (tally.low[place], tally.high[place]) == (own["value"].min(), own["value"].max())
        units = {unit: count for (channel, unit), count in tally.units.items() if channel == place}
        assert units == own["unit"].value_counts().to_dict()
    assert dict(tally.counts) == {
        "UNKNOWN_PATIENT": 2,
        "OTHER_CHANNEL": 1,
        "NOT_FINITE": 2,
        "FUTURE_TIME": int((observations["time"] > NOW).sum()),
        "REPEATED_TIME": 1,
    }
    assert tally.counts["FUTURE_TIME"] > 0
