"""The real data sets beside the checkout; expected numbers are counted from the files in another way."""

import gzip
import json
import re
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from components.ingest.rejections import ABSENT

DATA = Path("../shared/data")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout"),
]
MIMIC = DATA / "mimic4_demo_fhir"
SYNTHEA = DATA / "synthea_fhir_r4"
FLAGS = ["cvd", "dm", "copd", "ckd", "htn"]
CONDITIONS = ["none", "cvd", "dm", "copd", "htn", "ckd"]


@pytest.fixture(scope="module")
def stays():
    """The text of all stays of PhysioNet 2012."""
    with tarfile.open(DATA / "physionet2012/set-a.tar.gz") as archive:
        members = [member for member in archive if member.name.endswith(".txt")]
        return b"".join(archive.extractfile(member).read() for member in members).decode()


@pytest.mark.parametrize(
    ("label", "counts"),
    [
        ("icu_type", {"medical": 1481, "surgical": 1068, "cardiac_surgery_recovery": 874, "coronary_care": 577}),
        ("in_hospital_death", {"survived": 3446, "died": 554}),
    ],
)
def test_physionet2012(ingest, stays, label, counts):
    folder = DATA / "physionet2012"
    source = {"format": "physionet2012", "path": str(folder / "set-a.tar.gz"), "label": label}
    if label == "in_hospital_death":
        source["outcomes"] = str(folder / "Outcomes-a.txt")
    result, cohort = ingest(source, demographics=["age", "sex"])
    assert cohort.patients["label"].value_counts().to_dict() == counts
    observations = cohort.observations
    channels = observations["channel"].value_counts()
    rejected = cohort.rejected["field"].value_counts()
    for parameter, channel in (
        ("HR", "heart_rate"),
        ("SysABP", "invasive_systolic_pressure"),
        ("Temp", "body_temperature"),
    ):
        assert channels[channel] + rejected[channel] == len(re.findall(rf",{parameter},", stays))
    assert rejected["Height"] == len(re.findall(",Height,-1\r?\n", stays))
    assert channels["age"] == 4000
    assert result.metrics["not_used_rows"] == 0
    assert not any("icu" in name for name in cohort.manifest.channel_names)
    ranges = observations.groupby("channel")["value"].agg(["min", "max"])
    for channel in cohort.manifest.channels:
        assert channel.low <= ranges.loc[channel.name, "min"]
        assert ranges.loc[channel.name, "max"] <= channel.high
    assert observations["time"].max() - observations["time"].min() <= pd.Timedelta(hours=48)
    assert re.fullmatch(r"set-a\.tar\.gz, file \d+ in name order", cohort.rejected["file"][0])


@pytest.fixture
def mimic(ingest):
    labels = {"patient_column": "subject_id", "label_column": "single", "flag_columns": FLAGS}
    return ingest(
        {
            "format": "fhir",
            "path": str(MIMIC / "fhir"),
            "identifier_system": "http://mimic.mit.edu/fhir/mimic/identifier/patient",
        },
        {"format": "meds", "path": str(MIMIC / "meds"), "time_zone": "America/New_York"},
        labels={"file": str(MIMIC / "six_class_labels.csv"), **labels},
        classes=CONDITIONS,
        demographics=["age", "sex"],
    )


def test_mimic(mimic):
    result, cohort = mimic
    labels = pd.read_csv(MIMIC / "six_class_labels.csv")
    assert cohort.patients["label"].value_counts().to_dict() == labels["single"].value_counts().to_dict()
    flags = cohort.patients["labels"].explode().value_counts()
    assert {name: flags[name] for name in FLAGS} == labels[FLAGS].sum().to_dict()
    observations = cohort.observations
    events = pq.read_table(MIMIC / "meds/mimic_iv_demo_meds_events.parquet", columns=["code", "value"]).to_pandas()
    listed = cohort.rejected[cohort.rejected["file"] == "mimic_iv_demo_meds_events.parquet"]["field"].value_counts()
    for codes, channel in (
        (["LAB//50912//mg/dL", "LAB//52024//mg/dL"], "creatinine"),
        (["LAB//51006//mg/dL"], "urea_nitrogen"),
        (["LAB//220181//mmHg"], "mean_pressure"),
    ):
        taken = (observations["channel"] == channel).sum()
        assert taken + listed.get(channel, 0) == events["code"].isin(codes).sum()
    # 99.x typed as °C: corrected, so that nobody has a fever of 99.
    assert result.metrics["corrected_values"] > 0
    temperature = observations[observations["channel"] == "body_temperature"]["value"]
    assert temperature.between(30, 43).all()
    assert observations["time"].min().year > 2100
    assert result.metrics["not_used_rows"] > 700_000
    assert result.metrics["rejected_rows"] < 10_000


def test_mimic_chief_complaints_are_notes(mimic):
    with gzip.open(MIMIC / "fhir/MimicObservationED.ndjson.gz", "rt") as stream:
        resources = [json.loads(line) for line in stream]
    complaints = [
        r["valueString"] for r in resources if r["code"]["coding"][0]["code"] == "8661-1" and "valueString" in r
    ]
    assert sorted(mimic[1].notes["text"]) == sorted(complaints)


def test_mimic_clocks_of_both_sources_agree(mimic):
    # The same urine volumes stand in FHIR with an offset and in MEDS without one.
    with gzip.open(MIMIC / "fhir/MimicObservationOutputevents.ndjson.gz", "rt") as stream:
        resources = [json.loads(line) for line in stream]
    urine = [r for r in resources if r["code"]["coding"][0]["code"] in ("226559", "226560")]
    expected = set(pd.to_datetime([r["effectiveDateTime"] for r in urine], utc=True))
    observations = mimic[1].observations
    found = set(observations.loc[observations["channel"] == "urine_output", "time"])
    assert len(found & expected) / len(found | expected) > 0.99


def test_mimic_absent_values_are_listed(mimic):
    rejected = mimic[1].rejected
    vital_signs = rejected[rejected["file"] == "MimicObservationVitalSignsED.ndjson.gz"]
    # 701 resources, and 63 pressure panels with two components each.
    assert (vital_signs["reason"] == ABSENT).sum() == 701 + 2 * 63


def test_synthea(ingest):
    labels = {"patient_column": "patient_id", "label_column": "single", "flag_columns": FLAGS}
    _, cohort = ingest(
        {"format": "fhir", "path": str(SYNTHEA / "bundles")},
        labels={"file": str(SYNTHEA / "labels.csv"), **labels},
        classes=CONDITIONS,
        demographics=["age", "sex"],
        demographics_at="first_and_last",
        synthetic=True,
    )
    table = pd.read_csv(SYNTHEA / "labels.csv")
    assert cohort.patients["label"].value_counts().to_dict() == table["single"].value_counts().to_dict()
    counts = cohort.observations["channel"].value_counts()
    assert counts["systolic_pressure"] == counts["diastolic_pressure"] == 1904
    assert counts["body_weight"] == counts["body_height"] == 1807
    assert counts["blood_glucose"] + 19 == 868
    assert "heart_rate" not in counts
    assert cohort.notes.empty
    assert cohort.manifest.image is None
    names = {name for file in (SYNTHEA / "bundles").iterdir() for name in file.name.split("_")[:2]}
    listed = " ".join(cohort.rejected["file"]) + cohort.manifest.model_dump_json()
    assert not [name for name in names if len(name) > 4 and name in listed]
