"""Real patients, sent as their source files have them, give the arrays of the pipeline."""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.ingest.ingest import ingest_sources
from components.ingest.pseudonyms import pseudonyms
from components.ingest.settings import IngestSettings
from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from data_schemas.channels import load_catalogue
from data_schemas.features import Features
from serving.patients import parse_patients
from tests.serving.test_same_as_training import KEY, prepare_like

DATA = Path("../shared/data")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout"),
]


def _features(folder: Path, ingest: dict, preprocess: dict) -> Features:
    section = {"name": "real", "on_bad_row": "reject", **ingest}
    ingest_sources(folder / "cohort", IngestSettings.model_validate(section), pseudonym_key=KEY)
    preprocess_cohort(folder / "cohort", folder / "features", PreprocessSettings.model_validate(preprocess))
    return Features.open(folder / "features")


def _assert_same(features: Features, requests: dict[str, dict], folder: Path) -> None:
    by_id = dict(zip(pseudonyms(pd.Series(list(requests)), KEY), requests.values(), strict=True))
    patients = parse_patients([by_id[patient] for patient in features.samples["patient_id"]])
    batch = prepare_like(features, folder / "model").prepare(patients)
    assert not any(batch.faults)
    np.testing.assert_array_equal(batch.present, features.present)
    np.testing.assert_array_equal(batch.inputs["series"], features.series)
    np.testing.assert_array_equal(batch.inputs["series_observed"], features.series_observed)


# Parameters of the challenge by LOINC code and unit, from the challenge's page and loinc.org.
_CODES = {
    "HR": ("8867-4", "bpm"),
    "NISysABP": ("8480-6", "mmHg"),
    "NIDiasABP": ("8462-4", "mmHg"),
    "NIMAP": ("8478-0", "mmHg"),
    "SysABP": ("76215-3", "mmHg"),
    "DiasABP": ("76213-8", "mmHg"),
    "MAP": ("76214-6", "mmHg"),
    "RespRate": ("9279-1", "bpm"),
    "Temp": ("8310-5", "°C"),
    "SaO2": ("2708-6", "%"),
    "Glucose": ("2345-7", "mg/dL"),
    "Creatinine": ("2160-0", "mg/dL"),
    "BUN": ("3094-0", "mg/dL"),
    "Na": ("2951-2", "mEq/L"),
    "K": ("2823-3", "mEq/L"),
    "GCS": ("9269-2", None),
    "Lactate": ("2524-7", "mmol/L"),
    "FiO2": ("3150-6", "1"),
    "pH": ("2744-1", None),
    "Weight": ("29463-7", "kg"),
    "Urine": ("9187-6", "mL"),
}


def _stay(text: str) -> tuple[str, dict]:
    request: dict = {"observations": [], "start": "2000-01-01T01:00:00+01:00"}
    key = ""
    for line in text.splitlines()[1:]:
        time, name, value = line.split(",")
        hours, minutes = map(int, time.split(":"))
        if name == "RecordID":
            key = value
        elif name == "Age":
            request["age"] = float(value)
        elif name == "Gender":
            request["sex"] = {"0": "female", "1": "male"}.get(value, "unknown")
        elif name in _CODES and not (value == "-1" and name == "Weight"):
            code, unit = _CODES[name]
            request["observations"].append(
                {
                    "code": code,
                    "time": (
                        pd.Timestamp("2000-01-01T00:00Z") + pd.Timedelta(hours=hours, minutes=minutes)
                    ).isoformat(),
                    "value": float(value),
                    "unit": unit,
                }
            )
    return key, request


def test_icu_stays_of_physionet_2012(tmp_path):
    """Admission times, age and sex, LOINC codes, units as people write them; windows from the admission on."""
    stays = tmp_path / "set-a"
    stays.mkdir()
    requests = {}
    with tarfile.open(DATA / "physionet2012/set-a.tar.gz") as archive:
        members = [member for member in archive if member.name.endswith(".txt")]
        for member in members[::25]:
            text = archive.extractfile(member).read().decode()
            (stays / Path(member.name).name).write_text(text)
            key, request = _stay(text)
            requests[key] = request
    source = {"format": "physionet2012", "path": str(stays), "label": "icu_type"}
    channels = [load_catalogue().by_physionet2012[name][0] for name in _CODES]
    features = _features(
        tmp_path,
        {"sources": [source], "demographics": ["age", "sex"], "channels": channels},
        {"step": "1h", "steps": 48, "anchor": "first", "outlier_deviations": 0, "folds": 2},
    )
    assert len(features.samples) > 150
    _assert_same(features, requests, tmp_path)


def _fhir_patient(bundle: dict) -> tuple[str, dict]:
    resources = [entry["resource"] for entry in bundle["entry"]]
    person = next(resource for resource in resources if resource["resourceType"] == "Patient")
    request: dict = {"sex": person["gender"], "birth_date": person["birthDate"], "observations": [], "note": []}
    for resource in resources:
        if resource["resourceType"] != "Observation":
            continue
        for element in [resource, *resource.get("component", [])]:
            quantity = element.get("valueQuantity")
            if quantity is not None:
                code = element["code"]["coding"][0]
                reading = {"code": code["code"], "system": code["system"], "time": resource["effectiveDateTime"]}
                request["observations"].append(reading | {"value": float(quantity["value"]), "unit": quantity["code"]})
    return person["id"], request


def test_fhir_bundles_of_synthea(tmp_path):
    """Records of decades, birth dates, units in UCUM; what no channel stands for is left out by the caller."""
    known = set(load_catalogue().by_loinc)
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    requests = {}
    for path in sorted((DATA / "synthea_fhir_r4/bundles").glob("*.json.gz"))[::4]:
        shutil.copy(path, bundles)
        key, request = _fhir_patient(json.loads(gzip.decompress(path.read_bytes())))
        request["observations"] = [one for one in request["observations"] if one["code"] in known]
        requests[key] = request
    labels = {
        "file": str(DATA / "synthea_fhir_r4/labels.csv"),
        "patient_column": "patient_id",
        "label_column": "single",
        "flag_columns": ["cvd", "dm", "copd", "ckd", "htn"],
    }
    features = _features(
        tmp_path,
        {
            "sources": [{"format": "fhir", "path": str(bundles)}],
            "labels": labels,
            "label_names": dict.fromkeys(["cvd", "dm", "copd", "ckd", "htn"], "ill"),
            "demographics": ["age", "sex"],
            "demographics_at": "first_and_last",
        },
        {"step": "180d", "steps": 20, "folds": 2, "test_fraction": 0.3},
    )
    assert len(features.samples) > 40
    _assert_same(features, requests, tmp_path)
