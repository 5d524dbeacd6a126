import pytest

from components.ingest.ingest import source_digest
from components.ingest.settings import IngestSettings
from data_schemas.errors import InputError


def _source(path):
    return {"format": "export", "path": str(path)}


def _replace(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


FAULTS = {
    "time": ("observations/a.csv", "2024-07-01T10:00:00,120/80", "2024-13-01T10:00:00,120/80", 2, "time"),
    "pressure": ("observations/a.csv", "120/80", "120-80", 2, "value"),
    "half a pressure": ("observations/a.csv", "120/80", "120/", 2, "value"),
    "number": ("observations/a.csv", "5.0,mmol/L", "5.0x,mmol/L", 5, "value"),
    "unit": ("observations/a.csv", "5.0,mmol/L", "5.0,furlong", 5, "unit"),
    "label": ("annotations.csv", "P3,second,Z3", "P3,second,Z9", 8, "label"),
    "birth date": ("patients.csv", "1970-01-01", "1970-99-01", 3, "birth_date"),
    "fields": ("observations/a.csv", "P1,D1,blood_glucose,", "P1,D1,,blood_glucose,", 5, "(all)"),
    "certificate": ("devices.csv", "1.02", "one", 2, "gain"),
    "note time": ("notes.csv", "P1,2024-07-01T10", "P1,yesterday", 2, "time"),
    "image outside": ("images/images.csv", "grey.png", "../../grey.png", 3, "file"),
    "image absent": ("images/images.csv", "grey.png", "gone.png", 3, "file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_row_ends_the_step_with_one_line_that_names_it(export, ingest, fault, tmp_path):
    file, old, new, row, field = FAULTS[fault]
    _replace(export / file, old, new)
    with pytest.raises(InputError) as raised:
        ingest(_source(export))
    error = raised.value
    assert error.file == file
    assert error.field == field
    assert error.row == row
    assert "ingest.on_bad_row to reject" in error.remedy
    assert "\n" not in str(error)
    assert "Example" not in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export"]


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_row_can_be_listed_instead(export, ingest, fault):
    file, old, new, row, field = FAULTS[fault]
    _, before = ingest(_source(export), on_bad_row="reject")
    _replace(export / file, old, new)
    _, cohort = ingest(_source(export), on_bad_row="reject", output="after")
    before_rows = {tuple(entry) for entry in before.rejected.itertuples(index=False)}
    new_rows = [entry for entry in cohort.rejected.itertuples(index=False) if tuple(entry) not in before_rows]
    assert (file, field) in {(entry.file, entry.field) for entry in new_rows}
    assert row in {entry.row for entry in new_rows if entry.file == file}


def test_truncated_image_is_named(export, ingest):
    image = export / "images" / "deep.png"
    image.write_bytes(image.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"images/images.csv, row 2, field file: image is truncated"):
        ingest(_source(export))
    _, cohort = ingest(_source(export), on_bad_row="reject")
    assert len(cohort.image_index) == 2


def test_malformed_text_is_not_repeated_in_the_message(export, ingest):
    _replace(export / "observations/a.csv", "120/80", "Ann Example")
    with pytest.raises(InputError, match="received text of 11 characters"):
        ingest(_source(export))


@pytest.mark.parametrize("path", ["nowhere", "s3-less/nowhere.csv"])
def test_source_that_is_not_there(ingest, path):
    with pytest.raises(InputError, match="not there"):
        ingest(_source(path))
    with pytest.raises(InputError, match="not there"):
        source_digest(IngestSettings.model_validate({"name": "x", "sources": [_source(path)]}))


def test_empty_folder_is_no_source(ingest, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not there, or is empty"):
        ingest(_source(tmp_path / "empty"))


def test_folder_of_another_kind_is_no_export(ingest, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match=r"source\.yaml"):
        ingest(_source(tmp_path / "other"))


def test_cohort_without_patients_is_empty(export, ingest):
    (export / "patients.csv").write_text("mrn,name,sex,birth_date,site\n")
    with pytest.raises(InputError, match="holds no patient: the cohort is empty"):
        ingest(_source(export))


def test_cohort_without_labelled_patients_is_empty(export, ingest):
    (export / "annotations.csv").write_text("mrn,annotator,label,time\nP9,first,Z1,2024-08-01\n")
    with pytest.raises(InputError, match="empty cohort"):
        ingest(_source(export))


def test_single_class_is_refused(export, ingest):
    text = (export / "annotations.csv").read_text()
    (export / "annotations.csv").write_text(text.replace("Z3", "Z1"))
    with pytest.raises(InputError, match="all patients have the label healthy"):
        ingest(_source(export))


@pytest.mark.parametrize("on_bad_row", ["fail", "reject"])
def test_channel_that_is_never_measured_is_refused(export, ingest, on_bad_row):
    with pytest.raises(InputError, match="channel lactate is never measured") as raised:
        ingest(_source(export), channels=["heart_rate", "lactate"], on_bad_row=on_bad_row)
    # The channels that there would be, also those that were not chosen.
    assert "blood_glucose" in raised.value.remedy and "lactate" not in raised.value.remedy


def test_channel_that_nobody_knows_is_refused(export, ingest):
    with pytest.raises(InputError, match="channel hart_rate is not in the catalogue"):
        ingest(_source(export), channels=["hart_rate"])


def test_missing_column_is_named(export, ingest):
    _replace(export / "observations/a.csv", "measurement", "what")
    with pytest.raises(InputError) as raised:
        ingest(_source(export))
    assert (raised.value.file, raised.value.row, raised.value.field) == ("observations/a.csv", 1, "measurement")


def test_file_that_is_not_utf8_is_refused(export, ingest):
    (export / "notes.csv").write_bytes("mrn,time,text\nP1,2024-07-01,Müdigkeit\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"notes\.csv: cannot be read.*UTF-8"):
        ingest(_source(export))


def test_earlier_cohort_survives_a_failed_run(export, ingest):
    _, before = ingest(_source(export))
    digest = before.manifest.digest
    _replace(export / "observations/a.csv", "120/80", "120")
    with pytest.raises(InputError):
        ingest(_source(export))
    assert type(before).open(before.folder).manifest.digest == digest
