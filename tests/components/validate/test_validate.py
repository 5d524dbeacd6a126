import json
import stat
import sys
from pathlib import Path

import pandas as pd
import pytest

from components.validate import validate
from components.validate.settings import ValidateSettings
from components.validate.tables import read_tables
from components.validate.validate import run_tfdv, validate_cohort
from data_schemas.errors import InputError

RESULT = {"tfdv_version": "0", "examples": 12, "statistics": {"label": {"values": 12}}, "anomalies": [], "drift": {}}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let the job be done by a script that answers with given anomalies, so that TFDV is not needed."""

    def install(anomalies: list[dict], code: int = 0) -> Path:
        script = tmp_path / "python"
        result = json.dumps(RESULT | {"anomalies": anomalies})
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, os, sys\n"
            f"if {code}: sys.exit('first line\\nlast line')\n"
            "assert os.environ['TF_CPP_MIN_LOG_LEVEL'] == '3' and 'PYTHONPATH' not in os.environ\n"
            "job = json.load(open(sys.argv[2]))\n"
            f"open(job['result'], 'w').write({result!r})\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PYTHONPATH", "elsewhere")
        monkeypatch.setattr(validate, "find_interpreter", lambda: script)
        return script

    return install


def test_warnings_reach_the_summary_and_the_result(make_cohort, tmp_path, stand_in):
    stand_in([{"feature": "age", "kind": "FLOAT_TYPE_BIG_FLOAT", "reason": "Out of range: 140"}])
    cohort = make_cohort()
    result = validate_cohort(cohort.folder, tmp_path / "output", ValidateSettings())
    assert result.warnings == ["age: Out of range: 140 (FLOAT_TYPE_BIG_FLOAT)"]
    assert result.artifacts == {"validation": tmp_path / "output"}
    assert result.metrics["patients"] == 12 and result.metrics["warnings"] == 1
    summary = json.loads((tmp_path / "output" / "summary.json").read_text())
    assert summary["status"] == "warnings"
    assert summary["classes"] == {"well": 4, "ill": 4, "mixed": 4}
    assert summary["anomalies"] == [
        {"feature": "age", "kind": "FLOAT_TYPE_BIG_FLOAT", "severity": "warning", "reason": "Out of range: 140"}
    ]
    assert summary["rejected"] == {
        "total": 1,
        "by_reason": [{"field": "value", "reason": "is not a number", "rows": 1}],
    }
    assert summary["statistics"] == {"label": {"values": 12}}


def test_errors_of_both_kinds_stop_the_run_in_one_line_and_leave_nothing(make_cohort, tmp_path, stand_in):
    stand_in([{"feature": "label", "kind": "ENUM_TYPE_UNEXPECTED_STRING_VALUES", "reason": "Unexpected: Z9"}])

    def change(tables, images):
        images[0] = 2.0

    with pytest.raises(InputError) as caught:
        validate_cohort(make_cohort(change).folder, tmp_path / "output", ValidateSettings())
    text = str(caught.value)
    assert "2 errors" in text and "Unexpected: Z9" in text and "IMAGE_RANGE" in text and "\n" not in text
    assert not (tmp_path / "output").exists()
    allowed = validate_cohort(tmp_path / "cohort", tmp_path / "output", ValidateSettings(errors=[]))
    assert len(allowed.warnings) == 3


def test_a_clean_cohort_passes(make_cohort, tmp_path, stand_in):
    stand_in([])
    assert validate_cohort(make_cohort().folder, tmp_path / "output", ValidateSettings()).warnings == []
    assert json.loads((tmp_path / "output" / "summary.json").read_text())["status"] == "passed"


def test_a_job_that_fails_tells_its_last_line(make_cohort, tmp_path, stand_in):
    stand_in([], code=1)
    with pytest.raises(RuntimeError, match=r"ended with code 1: last line$"):
        validate_cohort(make_cohort().folder, tmp_path / "output", ValidateSettings())


def test_an_empty_cohort_and_a_missing_baseline_are_refused(make_cohort, tmp_path):
    def change(tables, images):
        for name, table in tables.items():
            tables[name] = table.head(0)

    with pytest.raises(InputError, match="0 patients"):
        validate_cohort(make_cohort(change).folder, tmp_path / "output", ValidateSettings())
    settings = ValidateSettings(baseline=str(tmp_path / "absent.pb"))
    with pytest.raises(InputError, match="There is no baseline"):
        validate_cohort(make_cohort(name="full").folder, tmp_path / "output", settings)


def test_tfdv_finds_nothing_in_a_clean_cohort_and_drift_and_faults_in_another(make_cohort, tmp_path, tfdv_interpreter):
    """The real job, twice: its statistics against pandas, then a faulty cohort against the first as a baseline."""
    cohort = make_cohort()
    validate_cohort(cohort.folder, tmp_path / "first", ValidateSettings())
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["anomalies"] == []
    expected = cohort.observations.query("channel == 'heart_rate'")["value"]
    found = summary["statistics"]["channel:heart_rate"]
    assert found["values"] == len(expected) and found["examples_without_values"] == 0
    assert found["mean"] == pytest.approx(expected.mean())
    assert found["std_dev"] == pytest.approx(expected.std(ddof=0))
    assert (found["min"], found["max"]) == (pytest.approx(expected.min()), pytest.approx(expected.max()))
    assert summary["statistics"]["label"]["top_values"] == {"well": 4, "ill": 4, "mixed": 4}
    assert {path.name for path in (tmp_path / "first").iterdir()} == {
        "statistics.pb",
        "schema.pbtxt",
        "anomalies.pbtxt",
        "summary.json",
    }

    def change(tables, images):
        tables["patients"].loc[0, "label"] = "Z9"
        tables["patients"].loc[1, "label"] = None
        tables["patients"].loc[2, "birth_year"] = 1800
        tables["observations"].loc[0, "value"] = 879.0
        heart_rate = tables["observations"]["channel"] == "heart_rate"
        tables["observations"].loc[heart_rate, "value"] += 60.0
        tables["observations"].loc[0, "time"] += pd.Timedelta("1h")

    folder = tmp_path / "second"
    folder.mkdir()
    settings = ValidateSettings(baseline=str(tmp_path / "first" / "statistics.pb"))
    result = run_tfdv(read_tables(make_cohort(change, name="faulty")), folder, settings, tfdv_interpreter)
    kinds = {(anomaly["feature"], anomaly["kind"]) for anomaly in result["anomalies"]}
    assert {
        ("label", "ENUM_TYPE_UNEXPECTED_STRING_VALUES"),
        ("label", "FEATURE_TYPE_LOW_FRACTION_PRESENT"),
        ("age", "FLOAT_TYPE_BIG_FLOAT"),
        ("channel:heart_rate", "FLOAT_TYPE_BIG_FLOAT"),
        ("channel:heart_rate", "COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH"),
    } <= kinds
    assert not any(feature == "channel:body_temperature" for feature, _ in kinds)
    assert result["drift"]["channel:heart_rate"] > 0.2 > result["drift"]["channel:body_temperature"]
    assert any("Z9" in anomaly["reason"] for anomaly in result["anomalies"] if anomaly["feature"] == "label")
