import json

import pytest

from components.ingest.describe import describe_cohort
from data_schemas.errors import InputError


def test_description_of_the_tiny_export(export, ingest):
    result, cohort = ingest({"format": "export", "path": str(export)})
    described = describe_cohort(cohort.folder)
    assert described["patients"] == 3
    assert described["classes"] == {"healthy": 1, "diabetes": 2}
    assert described["sexes"] == {"female": 1, "male": 1, "unknown": 1}
    assert described["sites"] == 2
    assert described["modalities"] == {"series": 3, "image": 3, "text": 1}
    assert described["synthetic"] is True
    rate = described["channels"]["heart_rate"]
    assert rate["unit"] == "/min"
    assert rate["values"] == 4
    assert rate["coverage"] == 1
    assert rate["values_a_patient"] == 1
    assert rate["quantiles"]["0.5"] == pytest.approx((70 + 80) / 2)
    assert (rate["quantiles"]["0"], rate["quantiles"]["1"]) == (65.5, 81)
    assert described["channels"]["systolic_pressure"]["coverage"] == pytest.approx(1 / 3)
    assert sum(described["rejected"].values()) == result.metrics["rejected_rows"]
    assert described["time"]["first"] == "2024-01-01T05:00:00+00:00"
    assert json.loads(json.dumps(described)) == described


def test_folder_that_is_no_cohort(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        describe_cohort(tmp_path)
