import pandas as pd
import pytest

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import CLASSES, DemoSettings

SMALL = {"patients": 30, "days": 2, "samples_a_day": 4, "image_size": (16, 16), "seed": 7}


@pytest.fixture(scope="module", params=["csv", "parquet"])
def source(request, tmp_path_factory):
    """The export of the demo generator."""
    folder = tmp_path_factory.mktemp("demo") / request.param
    generate_source(folder, DemoSettings(**SMALL, file_format=request.param))
    return folder


def test_demo_export_is_taken_as_it_is(source, ingest):
    result, cohort = ingest({"format": "export", "path": str(source)})
    assert cohort.manifest.classes == list(CLASSES)
    assert cohort.manifest.provenance["synthetic"] is True
    assert set(cohort.patients["label"]) <= set(CLASSES)
    listed = len(pd.read_csv(source / "patients.csv"))
    rejected = cohort.rejected[cohort.rejected["field"] == "label"]
    assert len(cohort.patients) + len(rejected) == listed == 30
    assert {"systolic_pressure", "diastolic_pressure", "blood_glucose"} <= set(cohort.manifest.channel_names)
    assert 0 < result.metrics["annotator_kappa"] <= 1
    # Both ways to write glucose (mg/dL, mmol/L) and temperature (°C, °F) end in one unit.
    medians = cohort.observations.groupby("channel")["value"].median()
    assert 70 < medians["blood_glucose"] < 200
    assert 36 < medians["body_temperature"] < 38
    assert cohort.images.shape[1:] == (16, 16, 1)
    assert 0 <= cohort.images.min() < cohort.images.max() <= 1


def test_no_name_or_record_number_is_left(source, ingest):
    _, cohort = ingest({"format": "export", "path": str(source)})
    patients = pd.read_csv(source / "patients.csv", dtype=str)
    content = b"".join(file.read_bytes() for file in cohort.folder.iterdir() if file.suffix != ".npy")
    assert not [mrn for mrn in patients["mrn"] if mrn.encode() in content]
    assert not [name for name in patients["name"] if name.encode() in content]


def test_demo_in_the_format_of_table_one(ingest, tmp_path):
    generate_source(tmp_path / "table.csv", DemoSettings(**SMALL, layout="table_one"))
    _, cohort = ingest({"format": "table_one", "path": str(tmp_path / "table.csv")})
    assert len(cohort.patients) == 30
    assert len(cohort.manifest.channel_names) == 5
    assert len(cohort.observations) == 30 * 2 * 5 - cohort.manifest.counts["rejected"]
