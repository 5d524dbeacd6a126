"""What is left of the generator's classes and dirt once ``ingest`` has read its export."""

import pandas as pd
import pytest

from components.ingest.demo.classes import PAPER_COUNTS, scale_counts
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.ingest import ingest_sources
from components.ingest.settings import IngestSettings
from data_schemas.cohort import Cohort


@pytest.fixture(scope="module")
def cohort(export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "cohort"
    section = {"name": "demo", "sources": [{"format": "export", "path": str(export)}]}
    ingest_sources(folder, IngestSettings.model_validate(section), pseudonym_key=b"key of tests")
    return Cohort.open(folder)


def test_adjudicated_classes_have_exactly_the_counts(cohort):
    assert cohort.patients["label"].value_counts().to_dict() == scale_counts(PAPER_COUNTS, 60)
    assert cohort.manifest.provenance["synthetic"] is True


def test_dirt_is_rejected_for_its_own_reason(cohort, observations):
    counts = cohort.rejected["reason"].value_counts()
    assert counts["no value"] == (observations["value"] == "").sum()
    assert counts["outside the plausible range"] > 0
    assert counts["duplicate row"] > 0


def test_units_and_certificates_are_taken(cohort):
    medians = cohort.observations.groupby("channel")["value"].median()
    assert 36 < medians["body_temperature"] < 38
    assert 80 < medians["blood_glucose"] < 160
    measuring = set(cohort.observations["device_id"])
    certified = set(cohort.devices["device_id"])
    assert certified & measuring and measuring - certified


def test_modalities_are_missing_for_some(cohort):
    for table in (cohort.observations, cohort.notes, cohort.image_index):
        assert 0.7 * 60 < table["patient_id"].nunique() < 60


def test_table_one_has_exactly_the_counts_too(tmp_path):
    generate_source(tmp_path / "table.csv", DemoSettings(patients=30, days=2, layout="table_one"))
    section = {"name": "demo", "sources": [{"format": "table_one", "path": str(tmp_path / "table.csv")}]}
    ingest_sources(tmp_path / "cohort", IngestSettings.model_validate(section), pseudonym_key=b"key of tests")
    labels = pd.read_parquet(tmp_path / "cohort" / "patients.parquet")["label"]
    assert labels.value_counts().to_dict() == scale_counts(PAPER_COUNTS, 30)
