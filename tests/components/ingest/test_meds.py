import numpy as np
import pandas as pd
import pytest

from components.ingest.rejections import ABSENT, DUPLICATE, IMPLAUSIBLE
from data_schemas.errors import InputError

EVENTS = [
    (1, "2128-01-01 00:00:00", "MEDS_BIRTH", None),
    (1, None, "GENDER//F", None),
    (1, "2180-07-22 10:00:00", "LAB//220045//bpm", 70.0),
    (1, "2180-07-22 10:00:00", "LAB//220050//mmHg", 110.0),
    (1, "2180-07-22 10:00:00", "LAB//220179//mmHg", 120.0),
    (1, "2180-07-22 10:00:00", "LAB//223761//°F", 98.6),
    (1, "2180-01-22 10:00:00", "LAB//50912//mg/dL", 1.1),
    (1, "2180-01-22 10:00:00", "LAB//220621//UNK", 120.0),
    (1, "2180-01-22 10:00:00", "LAB//50931//mg/dL", 120.0),
    (1, "2180-01-22 10:00:00", "LAB//51006//mg/dL", None),
    (1, "2180-01-22 10:00:00", "Weight (Lbs)", 100.0),
    (2, "2180-01-22 10:00:00", "LAB//220052//mmHg", -23.0),
    (2, "2180-01-22 10:00:00", "LAB//223762//°C", 98.6),
    (2, "2180-01-22 10:00:00", "LAB//227969//UNK", 1.0),
]


def _frame(value="numeric_value", dtype=np.float64):
    frame = pd.DataFrame(EVENTS, columns=["subject_id", "time", "code", value])
    return frame.assign(
        **{"time": pd.to_datetime(frame["time"]).astype("datetime64[us]"), value: frame[value].astype(dtype)}
    )


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "labels.csv").write_text("subject,label\n1,x\n2,y\n")
    return {"labels": {"file": str(tmp_path / "labels.csv"), "patient_column": "subject", "label_column": "label"}}


@pytest.fixture
def file(tmp_path):
    _frame().to_parquet(tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


def _source(path):
    return {"format": "meds", "path": str(path), "time_zone": "America/New_York"}


def _values(cohort):
    position = {name: i for i, name in enumerate(cohort.patients["patient_id"], start=1)}
    return {
        (position[row.patient_id], row.channel, row.time.isoformat(), round(row.value, 4))
        for row in cohort.observations.itertuples()
    }


def test_codes_units_and_summer_time_past_2037(file, ingest, settings):
    result, cohort = ingest(_source(file), **settings)
    summer, winter = "2180-07-22T14:00:00+00:00", "2180-01-22T15:00:00+00:00"
    assert _values(cohort) == {
        (1, "heart_rate", summer, 70.0),
        (1, "invasive_systolic_pressure", summer, 110.0),
        (1, "systolic_pressure", summer, 120.0),
        (1, "body_temperature", summer, 37.0),
        (1, "creatinine", winter, 1.1),
        (1, "blood_glucose", winter, 120.0),
        (1, "body_weight", winter, 45.3592),
        (2, "body_temperature", winter, 37.0),
    }
    assert cohort.patients["sex"].tolist() == ["female", "unknown"]
    assert cohort.patients["birth_year"][0] == 2128
    assert result.metrics["corrected_values"] == 1


def test_unmapped_events_are_counted_and_not_listed(file, ingest, settings):
    result, cohort = ingest(_source(file), **settings)
    assert result.metrics["not_used_rows"] == 1
    assert {tuple(row) for row in cohort.rejected.itertuples(index=False)} == {
        ("events.parquet", 9, "blood_glucose", DUPLICATE),
        ("events.parquet", 10, "urea_nitrogen", ABSENT),
        ("events.parquet", 12, "invasive_mean_pressure", IMPLAUSIBLE),
    }


def test_single_precision_and_shards_give_the_same_cohort(file, ingest, settings, tmp_path):
    shards = tmp_path / "shards" / "train"
    shards.mkdir(parents=True)
    frame = _frame("value", np.float32)
    frame[:5].to_parquet(shards / "0.parquet")
    frame[5:].to_parquet(shards / "1.parquet")
    _, one = ingest(_source(file), **settings)
    _, two = ingest(_source(tmp_path / "shards"), **settings, output="two")
    assert one.manifest.digest == two.manifest.digest


def test_event_of_a_channel_needs_a_time(file, ingest, settings):
    frame = _frame()
    frame.loc[2, "time"] = pd.NaT
    frame.to_parquet(file)
    with pytest.raises(InputError, match=r"events\.parquet, row 3, field time"):
        ingest(_source(file), **settings)


def test_file_that_is_no_parquet(file, ingest, settings):
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        ingest(_source(file), **settings)


def test_missing_column(file, ingest, settings):
    _frame().drop(columns="code").to_parquet(file)
    with pytest.raises(InputError, match="field code: has no such column"):
        ingest(_source(file), **settings)


def test_fhir_and_meds_meet_in_one_patient(file, ingest, settings, tmp_path):
    fhir = tmp_path / "fhir"
    fhir.mkdir()
    (fhir / "p.ndjson").write_text(
        '{"resourceType": "Patient", "id": "x", "gender": "male", "identifier": [{"system": "s", "value": "2"}]}\n'
        '{"resourceType": "Observation", "subject": {"reference": "Patient/x"}, "effectiveDateTime": "2180-01-22",'
        '"code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},'
        '"valueQuantity": {"value": 60, "unit": "/min"}}\n'
    )
    _, cohort = ingest({"format": "fhir", "path": str(fhir), "identifier_system": "s"}, _source(file), **settings)
    # The first source's patients come first, and what one source does not know the other tells.
    assert cohort.patients["label"].tolist() == ["y", "x"]
    assert cohort.patients["sex"].tolist() == ["male", "female"]
    channels = cohort.observations.groupby("patient_id")["channel"].agg(set)[cohort.patients["patient_id"][0]]
    assert channels == {"heart_rate", "body_temperature"}
