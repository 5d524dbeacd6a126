"""A cohort that is ingested shard by shard is, byte for byte, that of a single shard."""

import base64
import gzip
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.shards import Shard, shard_names
from components.ingest import ingest
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.ingest import ingest_shard, ingest_sources, merge_shards, source_digest
from components.ingest.settings import IngestSettings
from data_schemas.cohort import Cohort
from data_schemas.errors import InputError
from pipelines.settings import find_config, load_settings

KEY = b"a secret key of tests"
COUNTS = (1, 2, 3, 5)


def _sharded(folder, section, count):
    parts = []
    for name in shard_names(count):
        parts.append(folder / f"part-{name}")
        ingest_shard(parts[-1], section, Shard.parse(name), pseudonym_key=KEY)
    output = folder / f"cohort-{count}"
    # The order in which the shards end is nobody's promise.
    return merge_shards(parts[::-1], output, section), output


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _said(result):
    return result.metrics, result.params, result.warnings


def _compare(folder, *sources, counts=COUNTS, **more):
    """Ingest at once and in shards, and return the cohort once they are found to be the same."""
    section = IngestSettings.model_validate({"name": "tests", "sources": list(sources), **more})
    whole = ingest_sources(folder / "whole", section, pseudonym_key=KEY)
    expected = _content(folder / "whole")
    for count in counts:
        result, output = _sharded(folder, section, count)
        found = _content(output)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        assert _said(result) == _said(whole)
    return Cohort.open(folder / "whole")


def _export(path, **more):
    return {"format": "export", "path": str(path), **more}


def test_export_with_every_kind_of_row(export, tmp_path):
    with (export / "observations" / "a.csv").open("a") as stream:
        stream.write("P1,D1,heart_rate\n\n,D1,heart_rate,2024-01-01T10:00:00,80,bpm\nP3,D1,heart_rate,never,80,bpm\n")
    with (export / "patients.csv").open("a") as stream:
        stream.write("P2,Bob Again,M,1971-01-01,south\n,Nobody,F,1970-01-01,south\nP5,Ed Example,M,soon,south\n")
    with (export / "annotations.csv").open("a") as stream:
        stream.write("P9,first,Z1,2024-08-01T00:00:00\nP3,third,Z9,2024-08-01T00:00:00\n")
    (export / "images" / "deep.png").write_bytes(b"broken")
    for chosen in ({}, {"channels": ["heart_rate", "body_temperature"]}, {"image_size": [2, 3]}):
        folder = tmp_path / "-".join(["out", *chosen])
        folder.mkdir()
        demographics = {"demographics": ["age", "sex"], "demographics_at": "first_and_last"}
        counts = (2,) if chosen else COUNTS
        cohort = _compare(folder, _export(export), on_bad_row="reject", counts=counts, **demographics, **chosen)
        assert len(cohort.patients) == 3
        assert {"is not a time stamp", "has not as many fields as the header"} < set(cohort.rejected["reason"])


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_demo_export(tmp_path, file_format):
    made = DemoSettings(patients=30, days=2, samples_a_day=4, image_size=(8, 8), file_format=file_format)
    generate_source(tmp_path / "source", made)
    _compare(tmp_path, _export(tmp_path / "source"), on_bad_row="reject")


def test_the_size_and_depth_of_the_images_are_those_of_all_shards(export, tmp_path):
    # In two shards each size is the most common one once.
    (export / "images" / "images.csv").write_text(
        "mrn,time,file\nP1,2024-01-01,a.png\nP1,2024-01-02,b.png\nP2,2024-01-01,c.png\nP3,2024-01-01,d.png\n"
    )
    for name, size, mode in (("a", (3, 5), "L"), ("b", (5, 3), "L"), ("c", (3, 5), "RGB"), ("d", (5, 3), "L")):
        Image.new(mode, size, 51).save(export / "images" / f"{name}.png")
    cohort = _compare(tmp_path, _export(export))
    assert cohort.images.shape == (4, 5, 3, 3)


def _events(random, patients, rows):
    codes = ["LAB//220045//bpm", "LAB//223761//°F", "LAB//50931//mg/dL", "GENDER//F", "LAB//1//x", "MEDS_BIRTH"]
    return pd.DataFrame(
        {
            "subject_id": random.integers(1, patients + 1, rows),
            "time": pd.Timestamp("2180-01-01") + pd.to_timedelta(random.integers(0, 10**6, rows), unit="s"),
            "code": random.choice(codes, rows),
            "numeric_value": random.integers(0, 200, rows).astype(float),
        }
    )


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.booleans())
def test_meds_in_any_order_of_rows(tmp_path_factory, seed, patients, is_sorted):
    folder = tmp_path_factory.mktemp("meds")
    random = np.random.default_rng(seed)
    events = _events(random, patients, 120)
    if is_sorted:
        events = events.sort_values("subject_id")
    (folder / "events" / "train").mkdir(parents=True)
    events[:50].to_parquet(folder / "events" / "train" / "0.parquet", row_group_size=7)
    events[50:].to_parquet(folder / "events" / "1.parquet", row_group_size=30)
    labels = [f"{number},{'x' if number % 2 else 'y'}\n" for number in range(1, patients + 2)]
    (folder / "labels.csv").write_text("subject,label\n" + "".join(labels))
    label_file = {"file": str(folder / "labels.csv"), "patient_column": "subject", "label_column": "label"}
    source = {"format": "meds", "path": str(folder / "events"), "time_zone": "America/New_York"}
    _compare(folder, source, labels=label_file, counts=(2, 3, 5), demographics=["sex"])


def _stays(folder):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(11):
        lines = ["Time,Parameter,Value", f"00:00,RecordID,{100 + number % 10}", f"00:00,ICUType,{number % 4 + 1}"]
        lines += ["00:00,Weight,-1", "00:00,Age,50", f"0{number % 5}:10,HR,{random.integers(50, 99)}", "00:07,HR"]
        lines += [f"{random.integers(10, 48)}:00,Temp,{36 + random.random():.1f}", "07:00,Novel,1"]
        if number == 4:
            lines.remove("00:00,RecordID,104")
        (folder / f"{number:02d}.txt").write_text("\r\n".join(lines))
    (folder / "Outcomes-x.txt").write_text(
        "RecordID,In-hospital_death\n" + "".join(f"{100 + number},{number % 2}\n" for number in range(12))
    )
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("label", ["icu_type", "in_hospital_death"])
def test_physionet2012(tmp_path, packed, label):
    folder = _stays(tmp_path / "set-x")
    path = folder
    if packed:
        path = tmp_path / "set-x.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for file in sorted(folder.glob("*.txt"), reverse=True):
                archive.add(file, arcname=f"set-x/{file.name}")
    source = {"format": "physionet2012", "path": str(path), "label": label}
    if label == "in_hospital_death":
        source["outcomes"] = str(folder / "Outcomes-x.txt")
    cohort = _compare(tmp_path, source, on_bad_row="reject", demographics=["age"])
    # The eleventh stay has the number of the first; the fifth has none.
    assert len(cohort.patients) == 9


@pytest.mark.parametrize("single", [True, False])
def test_table_one(tmp_path, single):
    heading, row = "Date,Blood pressure (mmHg),Body temperature (°C)", "2022-6-1,12{0}/8{0},36.{0}"
    if single:
        path = tmp_path / "table.csv"
        rows = [f"p{number % 4},{'ab'[number % 2]},{row.format(number)},{number}" for number in range(8)]
        path.write_text(f"Patient,Diagnosis,{heading},Mood\n" + "\n".join(rows) + "\n,a,2022-6-1,120/80,36,1\nx,y\n")
    else:
        path = tmp_path / "patients"
        path.mkdir()
        for number in range(4):
            # The first patient's file has no column that is a channel.
            columns = heading if number else "Date,Mood,Joy"
            (path / f"{number}.csv").write_text(f"{columns}\n{row.format(number)}\n2022-6-2,{'1' * number},\n")
        labels = "".join(f"{number}.csv,{'ab'[number % 2]}\n" for number in range(5))
        (path / "labels.csv").write_text(f"file,label\n{labels}")
    cohort = _compare(tmp_path, {"format": "table_one", "path": str(path)}, on_bad_row="reject")
    assert len(cohort.patients) == (4 if single else 3)


def test_table_one_without_any_channel_is_refused_by_all_shards_together(tmp_path):
    (tmp_path / "table.csv").write_text("Patient,Diagnosis,Date,Mood\n1,a,2022-6-1,3\n2,b,2022-6-1,3\n")
    section = {"name": "x", "sources": [{"format": "table_one", "path": str(tmp_path / "table.csv")}]}
    with pytest.raises(InputError, match="no column is a measurement"):
        _sharded(tmp_path, IngestSettings.model_validate(section), 2)


SYSTEM = "http://hospital.example/mrn"


def _resource(kind, subject=None, time="2180-07-22T19:47:00-04:00", **more):
    reference = {} if subject is None else {"subject": {"reference": subject}}
    return {"resourceType": kind, "effectiveDateTime": time, **reference, **more}


def _heart_rate(subject, value=70.0, **more):
    code = {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]}
    quantity = {"value": value, "unit": "/min", "code": "/min"}
    return _resource("Observation", subject, code=code, valueQuantity=quantity, **more)


def _patient(number, keyed=True):
    identifiers = [{"system": SYSTEM, "value": f"k{number}"}] if keyed else []
    return {"resourceType": "Patient", "id": f"id{number}", "identifier": identifiers, "gender": "female"}


def _fhir_lines():
    """Resources of six patients, of strangers, of nobody; with references to several patients in one line."""
    other = {"performer": [{"reference": "Patient/id2"}]}
    report = {"presentedForm": [{"contentType": "text/plain", "data": base64.b64encode(b"Short of breath").decode()}]}
    lines = [json.dumps(_heart_rate(f"Patient/id{number % 6}", 60.0 + number)) for number in range(18)]
    lines += [
        json.dumps(other | _heart_rate("Patient/id5", 91.0)),
        json.dumps(other | _heart_rate("Patient/stranger", 92.0)),
        json.dumps(other | _heart_rate(None, 93.0)),
        json.dumps(_heart_rate("Patient/nobody", 94.0)),
        json.dumps(_heart_rate("urn:uuid:id3", 95.0, status="entered-in-error")),
        json.dumps(_heart_rate("Patient/id4", 96.0)).replace("Patient/id4", "Patient\\/id4"),
        json.dumps(_resource("DiagnosticReport", "Patient/id1/_history/2", conclusion="No effusion.", **report)),
        json.dumps({"resourceType": "Bundle", "entry": [{"resource": _heart_rate("Patient/id0", 97.0)}]}),
        '{"resourceType": "Observation", "subject": {"reference": "Patient/id3"}, ',
        '{"resourceType": "Observation", "note": "\\q", "subject": {"reference": "Patient\\q"}',
        "",
    ]
    return lines


@pytest.mark.parametrize("packed", [False, True])
def test_fhir_lines(tmp_path, packed):
    folder = tmp_path / "fhir"
    folder.mkdir()
    text = "\n".join(_fhir_lines())
    if packed:
        (folder / "Observation.ndjson.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "Observation.ndjson").write_text(text)
    patients = [json.dumps(_patient(number, keyed=number < 6)) for number in range(7)]
    (folder / "Patient.ndjson").write_text("\n".join(patients))
    cohort = _compare(tmp_path, *_fhir(tmp_path, folder), on_bad_row="reject", labels=_fhir_labels(tmp_path))
    assert len(cohort.patients) == 6
    values = cohort.observations.merge(cohort.patients.assign(place=range(6)), on="patient_id").set_index("value")
    assert values.loc[[91.0, 96.0, 97.0], "place"].tolist() == [5, 4, 0]
    # Strangers' and nobody's rows are listed: 92, 93, 94; and the label of the patient without a key.
    strangers = cohort.rejected[cohort.rejected["reason"] == "patient is not in the source's list of patients"]
    assert strangers["row"].tolist() == [20, 21, 22, 8]


def _fhir(folder, path):
    return ({"format": "fhir", "path": str(path), "identifier_system": SYSTEM},)


def _fhir_labels(folder):
    (folder / "labels.csv").write_text("key,label\n" + "".join(f"k{number},{number % 2}\n" for number in range(7)))
    return {"file": str(folder / "labels.csv"), "patient_column": "key", "label_column": "label"}


def test_fhir_bundles(tmp_path):
    folder = tmp_path / "bundles"
    folder.mkdir()
    for number in range(5):
        entries = [
            {"fullUrl": f"urn:uuid:url{number}", "resource": _patient(number)},
            {"resource": _heart_rate(f"urn:uuid:url{number}", 60.0 + number)},
            # Of the patient in the next file.
            {"resource": _heart_rate(f"urn:uuid:url{(number + 1) % 5}", 80.0 + number)},
            {"resource": _heart_rate("urn:uuid:stranger")},
        ]
        content = json.dumps({"resourceType": "Bundle", "entry": entries})
        (folder / f"{4 - number}.json").write_text(content if number != 3 else content + "}")
    cohort = _compare(tmp_path, *_fhir(tmp_path, folder), on_bad_row="reject", labels=_fhir_labels(tmp_path))
    assert len(cohort.patients) == 4


def test_two_sources_of_the_same_patients(tmp_path):
    fhir = tmp_path / "fhir"
    fhir.mkdir()
    people = [json.dumps(_patient(number)) for number in (3, 1)]
    (fhir / "p.ndjson").write_text("\n".join([*people, json.dumps(_heart_rate("Patient/id1"))]))
    events = _events(np.random.default_rng(1), 5, 60)
    events["subject_id"] = "k" + events["subject_id"].astype(str)
    events.to_parquet(tmp_path / "events.parquet")
    sources = [*_fhir(tmp_path, fhir), {"format": "meds", "path": str(tmp_path / "events.parquet")}]
    cohort = _compare(tmp_path, *sources, labels=_fhir_labels(tmp_path))
    assert len(cohort.patients) == 5


def test_decisions_on_the_whole_cohort_are_left_to_the_merge(export, tmp_path):
    section = {"name": "x", "sources": [_export(export)]}
    with pytest.raises(InputError, match="channel lactate is never measured"):
        _sharded(tmp_path, IngestSettings.model_validate({**section, "channels": ["heart_rate", "lactate"]}), 2)
    # A shard of its own may well have one class, or nobody of whom anything is known.
    text = (export / "annotations.csv").read_text()
    (export / "annotations.csv").write_text(text.replace("Z3", "Z1"))
    with pytest.raises(InputError, match="all patients have the label healthy"):
        _sharded(tmp_path, IngestSettings.model_validate(section), 3)
    (export / "annotations.csv").write_text("mrn,annotator,label,time\n")
    with pytest.raises(InputError, match="the sources hold no label"):
        _sharded(tmp_path, IngestSettings.model_validate(section), 3)
    (export / "patients.csv").write_text("mrn,name,sex,birth_date,site\n")
    with pytest.raises(InputError, match="holds no patient: the cohort is empty"):
        _sharded(tmp_path, IngestSettings.model_validate(section), 2)


def test_a_malformed_row_ends_its_own_shard_alone(export, tmp_path):
    path = export / "observations" / "a.csv"
    path.write_text(path.read_text().replace("120/80", "120-80"))
    section = IngestSettings.model_validate({"name": "x", "sources": [_export(export)]})
    with pytest.raises(InputError, match=r"observations/a\.csv, row 2, field value"):
        ingest_shard(tmp_path / "one", section, Shard(1, 4), pseudonym_key=KEY)
    assert not (tmp_path / "one").exists()
    ingest_shard(tmp_path / "two", section, Shard(2, 4), pseudonym_key=KEY)


def test_parts_of_other_shards_are_refused(export, tmp_path):
    section = IngestSettings.model_validate({"name": "x", "sources": [_export(export)]})
    for name in ("1-of-2", "2-of-2", "2-of-3"):
        ingest_shard(tmp_path / name, section, Shard.parse(name), pseudonym_key=KEY)
    for names in (["1-of-2"], ["1-of-2", "1-of-2"], ["1-of-2", "2-of-3"]):
        with pytest.raises(ValueError, match="Every shard needs exactly one part"):
            merge_shards([tmp_path / name for name in names], tmp_path / "cohort", section)
    shutil.rmtree(tmp_path / "2-of-2")
    with pytest.raises(InputError, match="is not a part of a cohort"):
        merge_shards([tmp_path / "1-of-2", tmp_path / "2-of-2"], tmp_path / "cohort", section)


@pytest.mark.parametrize("shard", [Shard(), Shard(1, 2)])
def test_a_source_that_is_written_while_it_is_read_is_refused(export, tmp_path, monkeypatch, shard):
    """Else a part of the patients could be those of before, and the cache would hold them under the wrong name."""
    section = IngestSettings.model_validate({"name": "x", "sources": [_export(export)]})
    listing = source_digest(section)
    find = ingest._find_patients

    def read(output, **more):
        if shard.count == 1:
            return ingest_sources(output, section, pseudonym_key=KEY, **more)
        return ingest_shard(output, section, shard, pseudonym_key=KEY, **more)

    def find_while_somebody_writes(*arguments):
        (export / "unread.csv").write_text("a\n1\n")
        found = find(*arguments)
        os.utime(export / "patients.csv", ns=(1, 1))
        return found

    monkeypatch.setattr(ingest, "_find_patients", find_while_somebody_writes)
    with pytest.raises(InputError, match=r"1 of .* files were written or removed while they were read.*new run"):
        read(tmp_path / "out", listing=listing)
    monkeypatch.setattr(ingest, "_find_patients", find)
    with pytest.raises(InputError, match="changed since the run began"):
        read(tmp_path / "out", listing=listing)
    assert not (tmp_path / "out").exists()
    read(tmp_path / "out", listing=source_digest(section))


def test_parts_of_a_source_that_changed_meanwhile_are_refused(export, tmp_path):
    section = IngestSettings.model_validate({"name": "x", "sources": [_export(export)]})
    first, second = tmp_path / "1-of-2", tmp_path / "2-of-2"
    ingest_shard(first, section, Shard(1, 2), pseudonym_key=KEY)
    # Two patients more: without a check, the last one of the first half would be in no part.
    path = export / "patients.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows) + "".join(row.replace("m", "n", 1) for row in rows[1:3]))
    ingest_shard(second, section, Shard(2, 2), pseudonym_key=KEY)
    with pytest.raises(InputError, match=r"changed after the first shards were read.*Start a new run"):
        merge_shards([first, second], tmp_path / "cohort", section)
    assert not (tmp_path / "cohort").exists()


def test_parts_under_different_secret_keys_are_refused(export, tmp_path):
    section = IngestSettings.model_validate({"name": "x", "sources": [_export(export)]})
    parts = [tmp_path / "1-of-2", tmp_path / "2-of-2"]
    for number, (part, key) in enumerate(zip(parts, (KEY, KEY[::-1]), strict=True), start=1):
        ingest_shard(part, section, Shard(number, 2), pseudonym_key=key)
    with pytest.raises(InputError, match="the shards had different secret keys"):
        merge_shards(parts, tmp_path / "cohort", section)


DATA = Path("../shared/data")


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")
@pytest.mark.parametrize("name", ["physionet2012_icu", "synthea_fhir_r4", "mimic4_demo_fhir"])
def test_real_data(tmp_path, name):
    section = load_settings(find_config(name)).ingest
    ingest_sources(tmp_path / "whole", section, pseudonym_key=KEY)
    _, output = _sharded(tmp_path, section, 3)
    expected, found = _content(tmp_path / "whole"), _content(output)
    assert found.keys() == expected.keys()
    assert [file for file in expected if found[file] != expected[file]] == []
