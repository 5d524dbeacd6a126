import pytest

from data_schemas.errors import InputError

HEADING = "Date,Blood pressure (mmHg),Body temperature (°C),Blood glucose (mg/dL),Blood oxygen saturation (%)"
# The paper's Table I begins so.
ROWS = ["2022-6-1,120/80,36.6,90,98", "2022-6-2,118/79,36.7,88,99", "2022-6-10,119/79,,88,99"]


@pytest.fixture
def file(tmp_path):
    lines = [f"Patient,Diagnosis,{HEADING}", *(f"7,healthy,{row}" for row in ROWS), f"3,copd,{ROWS[0]}"]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "table.csv"


def _source(path, **more):
    return {"format": "table_one", "path": str(path), **more}


def _replace(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_table_one(file, ingest):
    _, cohort = ingest(_source(file, time_zone="Asia/Shanghai"))
    assert cohort.patients["label"].tolist() == ["healthy", "copd"]
    first = cohort.observations[cohort.observations["patient_id"] == cohort.patients["patient_id"][0]]
    series = {name: rows["value"].tolist() for name, rows in first.groupby("channel")}
    assert series == {
        "systolic_pressure": [120, 118, 119],
        "diastolic_pressure": [80, 79, 79],
        "body_temperature": [36.6, 36.7],
        "blood_glucose": [90, 88, 88],
        "oxygen_saturation": [98, 99, 99],
    }
    # Midnight in Shanghai is 16:00 UTC of the day before.
    times = first.loc[first["channel"] == "blood_glucose", "time"]
    assert [time.isoformat() for time in times] == [f"2022-{day}T16:00:00+00:00" for day in ("05-31", "06-01", "06-09")]
    assert cohort.rejected.empty


def test_folder_of_one_file_a_patient(ingest, tmp_path):
    folder = tmp_path / "patients"
    folder.mkdir()
    for name in ("ann", "bob"):
        (folder / f"{name}.csv").write_text("\n".join([HEADING, *ROWS]), encoding="utf-8")
    (folder / "labels.csv").write_text("file,label\nbob.csv,copd\nann.csv,healthy\n")
    _, cohort = ingest(_source(folder))
    assert cohort.patients["label"].tolist() == ["healthy", "copd"]
    assert len(cohort.observations) == 2 * 14
    assert [source.name for source in cohort.manifest.sources] == ["labels.csv", "patients (2 files)"]
    _replace(folder / "bob.csv", "118/79", "118:79")
    with pytest.raises(InputError) as raised:
        ingest(_source(folder))
    assert (raised.value.file, raised.value.row) == ("patients, file 2 in name order", 3)
    assert "bob" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "row", "field"),
    [
        ("118/79", "118", 3, "Blood pressure (mmHg)"),
        ("2022-6-2", "2022-6-31", 3, "Date"),
        ("36.7", "36,7", None, None),
        (",88,99", ",eighty,99", 3, "Blood glucose (mg/dL)"),
    ],
)
def test_malformed_cells(file, ingest, old, new, row, field):
    _replace(file, old, new)
    with pytest.raises(InputError) as raised:
        ingest(_source(file))
    assert raised.value.file == "table.csv"
    if row:
        assert (raised.value.row, raised.value.field) == (row, field)


def test_patient_with_two_diagnoses_is_rejected(file, ingest):
    _replace(file, "7,healthy", "7,copd")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"9,healthy,{ROWS[0]}\n")
    _, cohort = ingest(_source(file))
    assert cohort.patients["label"].tolist() == ["copd", "healthy"]
    assert "patient has several different labels" in cohort.rejected["reason"].tolist()


def test_labels_can_be_mapped_and_checked(file, ingest):
    _, cohort = ingest(_source(file), label_names={"copd": "lung"}, classes=["lung", "healthy"])
    assert cohort.patients["label"].tolist() == ["healthy", "lung"]
    with pytest.raises(InputError, match=r"table\.csv, row 5, field label: is not a known label"):
        ingest(_source(file), classes=["healthy", "diabetes"])


def test_table_without_a_known_column(file, ingest):
    file.write_text("Patient,Diagnosis,Date,Mood\n1,a,2022-6-1,3\n2,b,2022-6-1,3\n")
    with pytest.raises(InputError, match="no column is a measurement"):
        ingest(_source(file))
