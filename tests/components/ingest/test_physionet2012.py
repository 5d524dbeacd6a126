import tarfile

import pytest

from components.ingest.rejections import IMPLAUSIBLE
from data_schemas.errors import InputError

STAYS = {
    "7.txt": """Time,Parameter,Value
00:00,RecordID,7
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,80.5
00:07,HR,73
00:07,Temp,-17.8
01:37,FiO2,0.5
47:59,SysABP,110
47:59,NISysABP,120
""",
    "9.txt": """Time,Parameter,Value
00:00,RecordID,9
00:00,Age,61
00:00,Gender,-1
00:00,Height,170
00:00,ICUType,1
00:00,Weight,-1
""",
    "8.txt": """Time,Parameter,Value
00:00,RecordID,8
00:00,Age,90
00:00,Gender,1
00:00,Height,-1
00:00,ICUType,1
00:00,Weight,-1
12:00,Novel,1
""",
}
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n8,6,1,5,-1,1\n7,6,1,5,-1,0\n9,1,1,1,-1,0\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "set-x"
    path.mkdir()
    for name, text in STAYS.items():
        (path / name).write_text(text)
    (path / "Outcomes-x.txt").write_text(OUTCOMES)
    return path


def _source(path, **more):
    return {"format": "physionet2012", "path": str(path), **more}


def test_values_units_and_times(folder, ingest):
    _, cohort = ingest(_source(folder), demographics=["age", "sex"])
    assert cohort.patients["label"].tolist() == ["surgical", "coronary_care", "coronary_care"]
    assert cohort.patients["sex"].tolist() == ["female", "male", "unknown"]
    first = cohort.observations[cohort.observations["patient_id"] == cohort.patients["patient_id"][0]]
    found = {(row.channel, (row.time - first["time"].min()).total_seconds(), row.value) for row in first.itertuples()}
    assert found == {
        ("heart_rate", 420, 73),
        ("inspired_oxygen_fraction", 5820, 50),
        ("invasive_systolic_pressure", 172740, 110),
        ("systolic_pressure", 172740, 120),
        ("body_weight", 0, 80.5),
        ("age", 0, 54),
        ("sex", 0, 0),
    }


def test_missing_descriptors_and_implausible_values_are_listed(folder, ingest):
    result, cohort = ingest(_source(folder))
    listed = {(row.file, row.row, row.field, row.reason) for row in cohort.rejected.itertuples()}
    missing = "missing descriptor (-1)"
    assert listed == {
        ("set-x, file 1 in name order", 5, "Height", missing),
        ("set-x, file 1 in name order", 9, "body_temperature", IMPLAUSIBLE),
        ("set-x, file 2 in name order", 5, "Height", missing),
        ("set-x, file 2 in name order", 7, "Weight", missing),
        ("set-x, file 3 in name order", 4, "Gender", missing),
        ("set-x, file 3 in name order", 7, "Weight", missing),
        # Without age as a channel nothing is known of the second stay.
        ("set-x, file 2 in name order", 2, "patient", "patient has no observation, note or image"),
    }
    assert result.metrics["not_used_rows"] == 1


def test_stay_with_descriptors_only_is_kept_where_its_age_is_a_channel(folder, ingest):
    _, cohort = ingest(_source(folder), demographics=["age"])
    assert len(cohort.patients) == 3
    second = cohort.observations[cohort.observations["patient_id"] == cohort.patients["patient_id"][1]]
    assert second[["channel", "value"]].to_numpy().tolist() == [["age", 90.0]]


def test_icu_type_is_never_a_feature(folder, ingest):
    _, cohort = ingest(_source(folder), demographics=["age"])
    assert not any("icu" in name.lower() for name in cohort.manifest.channel_names)
    assert cohort.manifest.classes == ["coronary_care", "cardiac_surgery_recovery", "medical", "surgical"]


def test_death_comes_from_the_outcomes_file(folder, ingest):
    source = _source(folder, label="in_hospital_death", outcomes=str(folder / "Outcomes-x.txt"))
    _, cohort = ingest(source, demographics=["age"])
    assert cohort.manifest.classes == ["survived", "died"]
    assert cohort.patients["label"].tolist() == ["survived", "died", "survived"]


def test_archive_gives_the_same_cohort_as_its_folder(folder, ingest, tmp_path):
    with tarfile.open(tmp_path / "set-x.tar.gz", "w:gz") as archive:
        for name in ("9.txt", "7.txt", "8.txt"):
            archive.add(folder / name, arcname=f"set-x/{name}")
    _, one = ingest(_source(folder), demographics=["age"])
    _, two = ingest(_source(tmp_path / "set-x.tar.gz"), demographics=["age"], output="two")
    assert one.manifest.digest == two.manifest.digest
    assert [source.name for source in one.manifest.sources] == ["set-x (4 files)"]
    assert [source.name for source in two.manifest.sources] == ["set-x.tar.gz"]


@pytest.mark.parametrize(
    ("old", "new", "row", "field"),
    [
        ("00:07,HR,73", "0:7,HR,73", 8, "Time"),
        ("00:07,HR,73", "00:71,HR,73", 8, "Time"),
        ("00:07,HR,73", "00:07,HR,high", 8, "Value"),
        ("00:07,HR,73", "00:07,HR", 8, "(all)"),
        ("ICUType,4", "ICUType,5", 6, "label"),
        ("00:00,RecordID,7\n", "", 1, "RecordID"),
    ],
)
def test_malformed_lines(folder, ingest, old, new, row, field):
    assert old in STAYS["7.txt"]
    (folder / "7.txt").write_text(STAYS["7.txt"].replace(old, new))
    with pytest.raises(InputError) as raised:
        ingest(_source(folder), demographics=["age"])
    assert (raised.value.file, raised.value.row, raised.value.field) == ("set-x, file 1 in name order", row, field)


def test_malformed_line_costs_only_itself_when_listed(folder, ingest):
    (folder / "7.txt").write_text(STAYS["7.txt"].replace("00:07,HR,73", "00:07,HR"))
    _, cohort = ingest(_source(folder), on_bad_row="reject", demographics=["age"])
    assert len(cohort.patients) == 3
    assert "heart_rate" not in cohort.manifest.channel_names
    assert ("set-x, file 1 in name order", 8, "(all)") in {
        (row.file, row.row, row.field) for row in cohort.rejected.itertuples()
    }


def test_broken_archive(tmp_path, ingest):
    (tmp_path / "set-x.tar.gz").write_bytes(b"\x1f\x8b\x08 nothing")
    with pytest.raises(InputError, match="not a readable tar archive"):
        ingest(_source(tmp_path / "set-x.tar.gz"))


def test_death_needs_the_outcomes_file(folder, ingest):
    with pytest.raises(ValueError, match="outcomes must name"):
        ingest(_source(folder, label="in_hospital_death"))
