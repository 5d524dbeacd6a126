"""Age, sex, dates and outliers on their way into the model's arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from components.preprocess.settings import PreprocessSettings
from data_schemas.channels import load_catalogue
from data_schemas.cohort import SCHEMAS, Demographics, write_table
from data_schemas.features import MODALITIES, Preparation
from serving.patients import parse_patients
from serving.preparation import Preparer

NAMES = ["heart_rate", "age", "sex"]
RATE, AGE, SEX = range(3)


@pytest.fixture
def make_preparer(tmp_path):
    def make(at="first", **settings) -> Preparer:
        catalogue = load_catalogue()
        catalogue.write(tmp_path / "channels.json")
        write_table(tmp_path, "devices", SCHEMAS["devices"].empty_table().to_pandas())
        (tmp_path / "vocabulary.json").write_text(json.dumps(["", "<unknown>", "early", "late"]))
        chosen = PreprocessSettings(step="1h", steps=3, series_sigma=0, **settings)
        preparation = Preparation(
            settings=chosen.model_dump(mode="json"), demographics=Demographics(names=["age", "sex"], at=at)
        )
        contract = {
            "preparation": preparation.model_dump(mode="json"),
            "modalities": list(MODALITIES),
            "channels": [catalogue.contract(name).model_dump() for name in NAMES],
            "image": {"height": 1, "width": 1, "channels": 1},
            "text_length": 3,
        }
        return Preparer.load(tmp_path, contract)

    return make


def rates(*values, start=10):
    return [
        {"channel": "heart_rate", "time": f"2022-06-01T{start + place // 60:02d}:{place % 60:02d}:00Z", "value": value}
        for place, value in enumerate(values)
    ]


def prepare(preparer, *patients):
    return preparer.prepare(parse_patients(list(patients)))


@pytest.mark.parametrize(
    ("facts", "age", "sex"),
    [
        ({"birth_date": "2000-06-01", "sex": "male"}, 22.0, 1.0),
        ({"birth_date": "2000-06", "sex": "female"}, 22.0, 0.0),
        ({"birth_date": "2000", "sex": "other"}, 22.42, np.nan),
        ({"age": 22, "sex": "unknown"}, 22.0, np.nan),
        ({}, np.nan, np.nan),
    ],
)
def test_age_and_sex_are_channels(make_preparer, facts, age, sex):
    batch = prepare(make_preparer(), {"observations": rates(80), **facts})
    np.testing.assert_allclose(batch.inputs["series"][0, :, AGE], age, atol=0.01)
    np.testing.assert_array_equal(batch.inputs["series"][0, :, SEX], [sex] * 3)
    assert batch.warnings == [[]]


def test_facts_at_the_last_time_stamp_as_well(make_preparer):
    """The image is the last that is dated, so the window ends with it."""
    given = {"observations": rates(80), "age": 50, "image": [[0.5]], "image_time": "2022-06-01T13:00:00Z"}
    both = prepare(make_preparer("first_and_last"), given).inputs["series_observed"][0]
    np.testing.assert_array_equal(both[:, AGE], [False, False, True])
    first = prepare(make_preparer(), given).inputs["series_observed"][0]
    np.testing.assert_array_equal(first[:, AGE], [False, False, True])
    assert both[:, RATE].tolist() == [False, False, False]
    assert first[:, RATE].tolist() == [False, False, True]


def test_facts_are_dated_with_the_start(make_preparer):
    """Admitted an hour and a half before the first reading: window and age begin with the admission."""
    given = {"observations": rates(80), "age": 50, "start": "2022-06-01T08:30:00Z"}
    observed = prepare(make_preparer(anchor="first"), given).inputs["series_observed"][0]
    assert observed.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    later = prepare(make_preparer(anchor="first"), given | {"start": "2022-06-01T10:30:00Z"})
    assert later.inputs["series_observed"][0].tolist() == [[True, True, False]] + [[False] * 3] * 2


def test_facts_alone_are_a_series(make_preparer):
    batch = prepare(make_preparer(), {"age": 50}, {"birth_date": "1972", "as_of": "2022-06-01T00:00:00Z"})
    assert batch.present[:, 0].tolist() == [True, True]
    np.testing.assert_allclose(batch.inputs["series"][:, 0, AGE], [50, 50.4], atol=0.1)


def test_a_birth_date_tells_no_age_where_nothing_is_dated(make_preparer):
    batch = prepare(make_preparer(), {"birth_date": "1972", "note": "late"})
    assert np.isnan(batch.inputs["series"]).all()
    assert batch.warnings == [["birth_date: not used, as nothing that was sent is dated"]]


@pytest.mark.parametrize("facts", [{"age": 130}, {"birth_date": "2023"}, {"birth_date": "1800"}])
def test_an_implausible_age_is_left_out(make_preparer, facts):
    batch = prepare(make_preparer(), {"observations": rates(80), **facts})
    assert np.isnan(batch.inputs["series"][0, :, AGE]).all()
    assert batch.warnings == [["age: left out, as outside the plausible range 0 to 120 years"]]


def test_outliers_are_left_out_and_counted_for_their_patient_alone(make_preparer):
    wild = rates(80, 81, 80, 82, 220, 81, 80, 79)
    batch = prepare(make_preparer(), {"observations": rates(80, 81)}, {"observations": wild})
    assert batch.warnings == [[], ["observations: 1 reading left out, as far from the readings before and after"]]
    np.testing.assert_allclose(batch.inputs["series"][1, :, RATE], np.mean([80, 81, 80, 82, 81, 80, 79]))


@pytest.mark.parametrize(("later", "words", "pixel"), [("drop", [2, 0, 0], 0.0), ("keep", [2, 3, 0], 0.5)])
def test_documents_after_the_window(make_preparer, later, words, pixel):
    notes = [
        {"text": "late", "time": "2022-06-01T13:00:01Z"},
        {"text": "early", "time": "2022-06-01T13:00:00Z"},
    ]
    given = {"observations": rates(80), "note": notes, "image": [[0.5]], "image_time": "2022-06-02T00:00:00Z"}
    batch = prepare(make_preparer(anchor="first", later_documents=later), given)
    assert batch.inputs["tokens"].tolist() == [words]
    assert batch.inputs["image"].ravel().tolist() == [pixel]
    assert batch.present[0].tolist() == [True, later == "keep", True]
    expected = [f"{name}: left out, as dated after the window of the readings" for name in ("image", "note")]
    assert batch.warnings == [expected if later == "drop" else []]
