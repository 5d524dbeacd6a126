import numpy as np
import pandas as pd
import pytest

from components.validate.anomalies import Anomaly
from components.validate.checks import check_tables
from components.validate.settings import ValidateSettings
from components.validate.tables import read_tables
from data_schemas.anomaly_kinds import ERROR_KINDS

NOW = pd.Timestamp("2024-01-01T00:00:00Z")


def test_a_clean_cohort_has_no_anomaly(make_cohort):
    assert check_tables(read_tables(make_cohort()), ValidateSettings(), NOW) == []


def repeat_patient(tables, images):
    tables["patients"].loc[1, "patient_id"] = "p00"


def one_class(tables, images):
    tables["patients"]["label"] = "ill"


def empty_class(tables, images):
    tables["patients"]["label"] = tables["patients"]["label"].replace("mixed", "ill")


def silent_patient(tables, images):
    for name in ("observations", "notes", "images"):
        tables[name] = tables[name][tables[name]["patient_id"] != "p04"]


def stranger(tables, images):
    tables["notes"].loc[0, "patient_id"] = "stranger"


def shuffled(tables, images):
    tables["observations"] = tables["observations"][::-1]


def never_measured(tables, images):
    tables["observations"] = tables["observations"][tables["observations"]["channel"] == "heart_rate"]


def rare(tables, images):
    observations = tables["observations"]
    tables["observations"] = observations[(observations["channel"] == "heart_rate") | (observations.index < 12)]


def constant(tables, images):
    observations = tables["observations"]
    observations.loc[observations["channel"] == "heart_rate", "value"] = 80.0


def fahrenheit(tables, images):
    observations = tables["observations"]
    observations.loc[observations.index[3:5], "unit"] = "[degF]"


def other_channel(tables, images):
    tables["observations"].loc[0, "channel"] = "weight"


def infinite(tables, images):
    tables["observations"].loc[[0, 1], "value"] = [np.inf, np.nan]


def shifted(tables, images):
    tables["observations"].loc[0, "time"] = pd.Timestamp("2140-01-01T00:00:00Z")


def repeated_time(tables, images):
    tables["observations"].loc[1, "time"] = tables["observations"].loc[0, "time"]


def lost_image(tables, images):
    tables["images"].loc[0, "row"] = 12


def bright_image(tables, images):
    images[0, 0, 0, 0] = 255.0


def missing_pixel(tables, images):
    images[0, 0, 0, 0] = np.nan


def blank_image(tables, images):
    images[3] = 0.5


def many_rejected(tables, images):
    tables["rejected"] = tables["rejected"].loc[[0] * 30]


@pytest.mark.parametrize(
    ("change", "feature", "kind", "reason"),
    [
        (repeat_patient, "patients", "DUPLICATE_PATIENTS", "1 rows repeat"),
        (one_class, "label", "SINGLE_CLASS", "all 12 patients are ill"),
        (empty_class, "label", "EMPTY_CLASS", "no patient is mixed"),
        (silent_patient, "patients", "PATIENTS_WITHOUT_DATA", "1 patients have no observation"),
        (stranger, "notes", "UNKNOWN_PATIENT", "1 rows belong to no patient"),
        (shuffled, "observations", "UNSORTED", "not in the order"),
        (never_measured, "body_temperature", "CHANNEL_NEVER_MEASURED", "no patient"),
        (rare, "body_temperature", "RARE_CHANNEL", "2 of 12 patients"),
        (constant, "heart_rate", "CONSTANT_CHANNEL", "equal"),
        (fahrenheit, "body_temperature", "WRONG_UNIT", "2 observations are in '[degF]', not in 'Cel'"),
        (other_channel, "observations", "OTHER_CHANNEL", "1 rows"),
        (infinite, "observations", "NOT_FINITE", "2 values"),
        (shifted, "observations", "FUTURE_TIME", "1 time stamps"),
        (repeated_time, "observations", "REPEATED_TIME", "1 rows"),
        (lost_image, "images", "IMAGE_MISSING", "1 rows point outside the 12 stored images"),
        (bright_image, "images", "IMAGE_RANGE", "to 255, not 0 to 1"),
        (missing_pixel, "images", "IMAGE_RANGE", "nan"),
        (blank_image, "images", "BLANK_IMAGE", "1 images"),
        (many_rejected, "rejected", "REJECTED_ROWS", "30 rows of the source were rejected, 108 were taken"),
    ],
)
def test_each_fault_is_found(make_cohort, change, feature, kind, reason):
    settings = ValidateSettings(rare_channel_fraction=0.2, rejected_fraction=0.05)
    anomalies = check_tables(read_tables(make_cohort(change)), settings, NOW)
    found = [anomaly for anomaly in anomalies if anomaly.kind == kind]
    assert [anomaly.feature for anomaly in found] == [feature]
    assert reason in found[0].reason
    assert "stranger" not in found[0].reason
    # A repeated id also leaves the second patient's rows without an owner.
    assert {anomaly.kind for anomaly in anomalies} - {kind} <= {"UNKNOWN_PATIENT", "UNSORTED"}


def test_a_class_is_not_empty_when_it_is_the_single_one(make_cohort):
    anomalies = check_tables(read_tables(make_cohort(one_class)), ValidateSettings(), NOW)
    assert anomalies == [Anomaly("label", "SINGLE_CLASS", "all 12 patients are ill")]
    assert "SINGLE_CLASS" in ERROR_KINDS
