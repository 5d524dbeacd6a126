import numpy as np
import pandas as pd
import pytest

from data_schemas.cohort import Channel, Cohort, ImageShape, Manifest, write_cohort
from data_schemas.errors import InputError

TIME = pd.Timestamp("2022-06-01T08:00:00Z")


def _manifest(**changes):
    content = {
        "name": "two",
        "classes": ["a", "b"],
        "channels": [Channel(name="heart_rate", unit="/min", low=10, high=300)],
        "image": None,
        "counts": {"patients": 1},
        "digest": "0",
    }
    return Manifest(**(content | changes))


def _tables():
    patients = pd.DataFrame(
        {
            "patient_id": ["p1"],
            "label": ["a"],
            "labels": [["a", "b"]],
            "site": [None],
            "sex": ["female"],
            "birth_year": [None],
        }
    )
    observations = pd.DataFrame(
        {
            "patient_id": ["p1"],
            "device_id": [""],
            "channel": ["heart_rate"],
            "time": [TIME],
            "value": [71.5],
            "unit": ["/min"],
        }
    )
    return {"patients": patients, "observations": observations}


def test_a_written_cohort_reads_back(tmp_path):
    images = np.full((1, 2, 3, 1), 0.5, dtype=np.float32)
    write_cohort(tmp_path, _manifest(image=ImageShape(height=2, width=3, channels=1)), _tables(), images)
    cohort = Cohort.open(tmp_path)
    assert cohort.manifest.channel_names == ["heart_rate"]
    assert list(cohort.patients["labels"][0]) == ["a", "b"]
    assert cohort.observations["time"][0] == TIME
    assert cohort.images.shape == (1, 2, 3, 1)


def test_tables_that_the_cohort_lacks_are_empty_with_the_right_columns(tmp_path):
    write_cohort(tmp_path, _manifest(), _tables())
    cohort = Cohort.open(tmp_path)
    assert len(cohort.notes) == 0
    assert list(cohort.notes.columns) == ["patient_id", "time", "text"]
    assert cohort.images.shape[0] == 0


def test_a_table_outside_the_contract_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"received.*extra"):
        write_cohort(tmp_path, _manifest(), {**_tables(), "extra": pd.DataFrame()})


def test_a_folder_without_manifest_is_no_cohort(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Cohort.open(tmp_path)


def test_another_contract_version_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"contract_version": 99}')
    with pytest.raises(InputError, match="99"):
        Cohort.open(tmp_path)
