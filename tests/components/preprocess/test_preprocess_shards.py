"""Features that are made shard by shard are, byte for byte, those of a single shard."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import data_schemas.cohort
from components.common.shards import Shard, shard_names
from components.preprocess import preprocess
from components.preprocess.patient_rows import PatientRows
from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from components.preprocess.shards import merge_features, preprocess_shard
from data_schemas.cohort import Cohort
from data_schemas.errors import InputError

SETTINGS = PreprocessSettings(step="6h", steps=6, anchor="first", folds=3)
START = pd.Timestamp("2022-06-01T08:00:00Z")


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch):
    """Row groups of a few rows, so that patients begin and end inside of them."""
    monkeypatch.setattr(data_schemas.cohort, "ROW_GROUP", 5)


def _sharded(cohort, folder, count, settings=SETTINGS):
    parts = []
    for name in shard_names(count):
        parts.append(folder / f"part-{name}")
        preprocess_shard(cohort, parts[-1], settings, Shard.parse(name))
    output = folder / f"features-{count}"
    return merge_features(cohort, parts[::-1], output, settings), output


def _content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _compare(cohort, folder, settings=SETTINGS, counts=(1, 2, 3, 5)):
    whole = preprocess_cohort(cohort, folder / "whole", settings)
    expected = _content(folder / "whole")
    for count in counts:
        result, output = _sharded(cohort, folder, count, settings)
        found = _content(output)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        assert (result.metrics, result.params, result.warnings) == (whole.metrics, whole.params, whole.warnings)
    return whole


def _rows(random, patients):
    """Observations in the order of the patients: none, few or many, also outside of the window and implausible."""
    rows = []
    for patient in patients:
        for channel, centre in (("heart_rate", 80), ("body_temperature", 37)):
            hours = np.sort(random.integers(0, 240, random.integers(0, 12))) / 4
            values = centre + random.normal(size=len(hours)) * np.where(random.random(len(hours)) < 0.1, 90, 1)
            device = f"d{random.integers(3)}"
            rows += [(patient, device, channel, hour, value) for hour, value in zip(hours, values, strict=True)]
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_shards_gives_the_same_features(make_cohort, observations_frame, tmp_path, seed):
    random = np.random.default_rng(seed)
    patients = [f"p{number:03d}" for number in range(20)]
    devices = pd.DataFrame(
        {"device_id": ["d0", "d1"], "channel": ["heart_rate"] * 2, "gain": [1.1, 0.9], "bias": 1.0}
    ).assign(clock_offset_seconds=60.0)
    noted = random.integers(0, 3, 20)
    notes = pd.DataFrame({"patient_id": np.repeat(patients, noted), "text": "some words"})
    notes["time"] = START + pd.to_timedelta(random.integers(0, 60, len(notes)), unit="h")
    observations = observations_frame(_rows(random, patients))
    cohort = make_cohort(observations=observations, devices=devices, notes=notes)
    more = {"later_documents": "drop", "anchor": "last"} if seed else {}
    result = _compare(cohort, tmp_path, SETTINGS.model_copy(update=more))
    assert result.metrics["readings_calibrated"] > 0 and 0 < result.metrics["samples_with_text"] < 20


def test_more_shards_than_patients_and_missing_modalities(make_cohort, observations_frame, tmp_path):
    rows = [("p001", "", "heart_rate", 0, 80), ("p001", "", "body_temperature", 1, 37)]
    cohort = make_cohort(observations=observations_frame(rows), documents=False)
    _compare(cohort, tmp_path, counts=(2, 25))


def test_a_cohort_without_series(make_cohort, observations_frame, tmp_path):
    _compare(make_cohort(observations=observations_frame([]), channels=[]), tmp_path, counts=(3,))


def test_chunks_change_nothing(make_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "ROWS", 7)
    monkeypatch.setattr(preprocess, "CELLS", 30)
    monkeypatch.setattr(preprocess, "PIXELS", 70)
    _compare(make_cohort(), tmp_path, counts=(3,))


def test_only_row_groups_of_the_shard_are_read(make_cohort, monkeypatch):
    source = Cohort.open(make_cohort())
    read = []
    plain = pq.ParquetFile.iter_batches

    def noted(self, *arguments, row_groups, **more):
        read.append(row_groups)
        return plain(self, *arguments, row_groups=row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    rows = PatientRows(source, 5, 10)
    tables = list(rows.batches("observations", ["patient_id", "channel", "value"], 100))
    # 8 readings a patient, 5 rows a group: rows 40 to 79 are in the groups 8 to 15; the one before may hold some too.
    assert read == [list(range(7, 16))]
    assert rows.read == {"observations": 40} == {"observations": sum(len(table) for table in tables)}
    found = [patient for table in tables for patient in table["patient_id"].to_pylist()]
    assert found == [f"p{number:03d}" for number in range(5, 10) for _ in range(8)]


def test_decisions_on_the_whole_cohort_are_left_to_the_merge(make_cohort, observations_frame, tmp_path):
    rows = [("p000", "", "heart_rate", 0, 80), ("p019", "", "body_temperature", 0, 98.6)]
    cohort = make_cohort(observations=observations_frame(rows))
    with pytest.raises(InputError, match=r"all its 1 observations are outside the plausible range \[25, 45\] Cel"):
        _sharded(cohort, tmp_path, 2)
    with pytest.raises(InputError, match="Every class needs 9 training patients"):
        _sharded(cohort, tmp_path, 2, SETTINGS.model_copy(update={"folds": 9}))
    assert not (tmp_path / "features-2").exists()


@pytest.mark.parametrize("patients", [["p001", "p000"], ["p000", "p012", "p003"], ["p000", "stranger"]])
def test_rows_that_do_not_fit_the_patients_are_refused(make_cohort, observations_frame, tmp_path, patients):
    rows = [
        (patient, "", channel, hour, 40)
        for patient in patients
        for channel in ("heart_rate", "body_temperature")
        for hour in range(9)
    ]
    cohort = make_cohort(observations=observations_frame(rows))
    with pytest.raises(InputError, match=r"not sorted|belong to no patient") as caught:
        _sharded(cohort, tmp_path, 4)
    assert caught.value.file == "observations.parquet" and "stranger" not in str(caught.value)


def test_parts_of_other_shards_or_cohorts_are_refused(make_cohort, tmp_path):
    cohort = make_cohort()
    for name in ("1-of-2", "2-of-2", "2-of-3"):
        preprocess_shard(cohort, tmp_path / name, SETTINGS, Shard.parse(name))
    for names in (["1-of-2"], ["1-of-2", "2-of-3"], ["2-of-2", "2-of-2"]):
        with pytest.raises(ValueError, match="Every shard needs exactly one part"):
            merge_features(cohort, [tmp_path / name for name in names], tmp_path / "features", SETTINGS)
    manifest = (cohort / "manifest.json").read_text()
    (cohort / "manifest.json").write_text(manifest.replace("0" * 64, "1" * 64))
    with pytest.raises(ValueError, match="another cohort"):
        merge_features(cohort, [tmp_path / "1-of-2", tmp_path / "2-of-2"], tmp_path / "features", SETTINGS)
