import base64
import gzip
import json

import pytest

from components.ingest.rejections import ABSENT, UNKNOWN_PATIENT
from data_schemas.errors import InputError

SYSTEM = "http://hospital.example/mrn"


def _code(code, system="http://loinc.org"):
    return {"coding": [{"system": system, "code": code}]}


def _quantity(value, unit, **more):
    return {"value": value, "unit": unit, "code": unit, "system": "http://unitsofmeasure.org", **more}


def _patient(identifier, key, **more):
    return {"resourceType": "Patient", "id": identifier, "identifier": [{"system": SYSTEM, "value": key}], **more}


def _observation(code, subject="Patient/a", time="2180-07-22T19:47:00-04:00", **more):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": _code(code),
        "subject": {"reference": subject},
        "effectiveDateTime": time,
        **more,
    }


def _pressure(code, systolic, diastolic):
    return _observation(
        code,
        component=[
            {"code": _code("8480-6"), "valueQuantity": _quantity(systolic, "mm[Hg]")},
            {"code": _code("8462-4"), "valueQuantity": _quantity(diastolic, "mm[Hg]")},
        ],
    )


ABSENT_REASON = {"dataAbsentReason": {"coding": [{"code": "unknown"}]}}
PATIENTS = [
    _patient("a", "11", gender="female", birthDate="2083-04-10"),
    _patient("b", "22", gender="male", birthDate="2100"),
    {"resourceType": "Patient", "id": "c"},
]
OBSERVATIONS = [
    _pressure("85354-9", 81, 38),
    _pressure("55284-4", 82, 39),
    _observation("8310-5", valueQuantity=_quantity(98.6, "[degF]")),
    _observation("8867-4", **ABSENT_REASON),
    _observation("98137-3", valueString="0"),
    _observation("8661-1", valueString="Abd pain, nausea"),
    _observation("8867-4", subject="urn:uuid:b", time="2201-01-01T00:00:00Z", valueQuantity=_quantity(70, "/min")),
    _observation("8867-4", subject="Patient/zzz", valueQuantity=_quantity(70, "/min")),
    _observation("8867-4", status="entered-in-error", valueQuantity=_quantity(71, "/min")),
    _observation("85354-9", component=[{"code": _code("8480-6"), **ABSENT_REASON}]),
    _observation("55284-4", valueString="130/85"),
    {
        "resourceType": "DocumentReference",
        "subject": {"reference": "Patient/b"},
        "date": "2201-01-01T00:00:00Z",
        "content": [
            {"attachment": {"contentType": "text/plain", "data": base64.b64encode(b"Short of breath.").decode()}},
            {"attachment": {"contentType": "application/pdf", "data": "AAAA"}},
        ],
    },
    {
        "resourceType": "DiagnosticReport",
        "subject": {"reference": "Patient/b"},
        "effectiveDateTime": "2201-01-02T00:00:00Z",
        "conclusion": "No effusion.",
    },
]
LABELS = "patient,cvd,dm,one\n11,1,1,dm\n22,0,0,none\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "fhir"
    path.mkdir()
    (path / "Observation.ndjson").write_text("".join(json.dumps(entry) + "\n" for entry in OBSERVATIONS))
    (path / "Patient.ndjson.gz").write_bytes(gzip.compress("\n".join(json.dumps(p) for p in PATIENTS).encode()))
    (tmp_path / "labels.csv").write_text(LABELS)
    return path


@pytest.fixture
def labels(tmp_path):
    columns = {"patient_column": "patient", "label_column": "one", "flag_columns": ["cvd", "dm"]}
    return {"labels": {"file": str(tmp_path / "labels.csv"), **columns}}


def _source(path, **more):
    return {"format": "fhir", "path": str(path), "identifier_system": SYSTEM, **more}


def _values(cohort, position):
    rows = cohort.observations[cohort.observations["patient_id"] == cohort.patients["patient_id"][position]]
    return sorted((row.channel, row.time.isoformat(), round(row.value, 6)) for row in rows.itertuples())


def test_observations_of_both_pressure_panels(folder, ingest, labels):
    _, cohort = ingest(_source(folder), **labels)
    time = "2180-07-22T23:47:00+00:00"
    assert _values(cohort, 0) == [
        ("body_temperature", time, 37.0),
        ("diastolic_pressure", time, 38.0),
        ("diastolic_pressure", time, 39.0),
        ("diastolic_pressure", time, 85.0),
        ("systolic_pressure", time, 81.0),
        ("systolic_pressure", time, 82.0),
        ("systolic_pressure", time, 130.0),
    ]
    assert _values(cohort, 1) == [("heart_rate", "2201-01-01T00:00:00+00:00", 70.0)]


def test_patients_labels_and_conditions(folder, ingest, labels):
    _, cohort = ingest(_source(folder), **labels)
    assert cohort.patients["label"].tolist() == ["dm", "none"]
    assert [list(names) for names in cohort.patients["labels"]] == [["cvd", "dm"], []]
    assert cohort.patients["sex"].tolist() == ["female", "male"]
    assert cohort.patients["birth_year"].tolist() == [2083, 2100]
    assert cohort.manifest.classes == ["dm", "none"]


def test_texts_become_notes(folder, ingest, labels):
    result, cohort = ingest(_source(folder), **labels)
    assert cohort.notes["text"].tolist() == ["Abd pain, nausea", "Short of breath.", "No effusion."]
    # The pain score and the attachment that is no text.
    assert result.metrics["not_used_rows"] == 2


def test_rejected_resources_are_listed_by_line(folder, ingest, labels):
    _, cohort = ingest(_source(folder), **labels)
    assert {tuple(row) for row in cohort.rejected.itertuples(index=False)} == {
        ("Observation.ndjson", 4, "heart_rate", ABSENT),
        ("Observation.ndjson", 8, "patient", UNKNOWN_PATIENT),
        ("Observation.ndjson", 9, "status", "entered in error or cancelled"),
        ("Observation.ndjson", 10, "systolic_pressure", ABSENT),
        ("Patient.ndjson.gz", 3, "identifier", "patient has no identifier of the chosen system"),
    }


def test_bundles_are_named_by_position_because_their_names_name_patients(tmp_path, ingest):
    folder = tmp_path / "bundles"
    folder.mkdir()
    for name, patient, value in (("Zoe_Smith", "a", 70), ("Adam_Jones", "b", "high")):
        entries = [{"fullUrl": f"urn:uuid:{patient}", "resource": _patient(patient, patient)}]
        observation = _observation("8867-4", f"urn:uuid:{patient}", valueQuantity=_quantity(value, "/min"))
        entries.append({"resource": observation})
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(bundle).encode()))
    (tmp_path / "labels.csv").write_text("id,label\na,x\nb,y\n")
    settings = {"labels": {"file": str(tmp_path / "labels.csv"), "patient_column": "id", "label_column": "label"}}
    source = {"format": "fhir", "path": str(folder)}
    with pytest.raises(InputError) as raised:
        ingest(source, **settings)
    assert (raised.value.file, raised.value.row) == ("bundles, file 1 in name order", 2)
    assert "Adam" not in str(raised.value)
    _, cohort = ingest(source, **settings, on_bad_row="reject")
    assert cohort.patients["label"].tolist() == ["x"]
    assert [entry.name for entry in cohort.manifest.sources] == ["labels.csv", "bundles (2 files)"]
    assert not any("Adam" in str(row) for row in cohort.rejected.itertuples())


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (_observation("8867-4", time="last week", valueQuantity=_quantity(70, "/min")), "time"),
        (_observation("8867-4", valueQuantity=_quantity(70, "furlong")), "unit"),
        (_observation("85354-9", valueString="120 over 80"), "value"),
        ({"resourceType": "DocumentReference", "content": [{"attachment": {"data": "%%%"}}]}, "attachment.data"),
    ],
)
def test_malformed_resources(folder, ingest, labels, entry, field):
    with (folder / "Observation.ndjson").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")
    with pytest.raises(InputError) as raised:
        ingest(_source(folder), **labels)
    place = (raised.value.file, raised.value.row, raised.value.field)
    assert place == ("Observation.ndjson", len(OBSERVATIONS) + 1, field)


def test_line_that_is_not_json(folder, ingest, labels):
    with (folder / "Observation.ndjson").open("a") as stream:
        stream.write('{"resourceType": "Observ')
    with pytest.raises(InputError, match=r"Observation\.ndjson, row 14.*is not JSON"):
        ingest(_source(folder), **labels)


def test_truncated_gzip(folder, ingest, labels):
    file = folder / "Patient.ndjson.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"Patient\.ndjson\.gz: is truncated"):
        ingest(_source(folder), **labels)


def test_identifier_system_that_no_patient_has(folder, ingest, labels):
    with pytest.raises(InputError, match="hold no Patient with the chosen key"):
        ingest(_source(folder, identifier_system="http://elsewhere"), **labels)
