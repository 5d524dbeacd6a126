import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.validate.examples import build_examples, write_examples
from components.validate.tables import category_codes, image_statistics, read_tables


def _whole(tables):
    """All patients' examples at once."""
    [(_, _, observations)] = tables.observations(len(tables.patients))
    return build_examples(tables, observations)


def test_one_example_a_patient_with_lists(make_cohort):
    cohort = make_cohort()
    examples = _whole(read_tables(cohort))
    assert examples.num_rows == 12
    assert all(pa.types.is_list(kind) for kind in examples.schema.types)
    third = {name: column[2].as_py() for name, column in zip(examples.column_names, examples.columns, strict=True)}
    observations = cohort.observations
    mine = observations[observations["patient_id"] == "p02"]
    heart_rate = mine[mine["channel"] == "heart_rate"]["value"].tolist()
    assert third == {
        "label": ["mixed"],
        "annotation": ["mixed", "mixed"],
        "site": ["north"],
        "sex": ["female"],
        "age": [2022 - 1952],
        "observations": [6],
        "notes": [1],
        "note_words": [3],
        "images": [1],
        "image_brightness": [pytest.approx(float(cohort.images[2].mean()))],
        "channel:heart_rate": heart_rate,
        "channel:body_temperature": mine[mine["channel"] == "body_temperature"]["value"].tolist(),
    }


def test_what_a_patient_lacks_is_null(make_cohort):
    def change(tables, images):
        tables["patients"]["site"] = None
        tables["patients"].loc[2, "birth_year"] = pd.NA
        observations = tables["observations"]
        other = (observations["patient_id"] != "p02") | (observations["channel"] != "heart_rate")
        tables["observations"] = observations[other]
        tables["notes"] = tables["notes"].drop(2)

    examples = _whole(read_tables(make_cohort(change)))
    assert examples["site"].null_count == 12
    for name in ("age", "channel:heart_rate", "note_words"):
        assert examples[name].null_count == 1 and not examples[name][2].is_valid
    assert examples["notes"][2].as_py() == [0]
    assert examples["channel:heart_rate"][3].as_py() is not None


def test_codes_look_up_categories():
    column = pd.Series(["b", None, "z", "a"], dtype="category")
    assert category_codes(column, pd.Index(["a", "b"])).tolist() == [1, -1, -1, 0]


def test_image_statistics_by_chunks(monkeypatch):
    images = np.random.default_rng(1).random((5, 3, 4, 2)).astype(np.float32)
    monkeypatch.setattr("components.validate.tables.PIXELS", 50)
    brightness, contrast, (low, high) = image_statistics(images)
    np.testing.assert_allclose(brightness, images.mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(contrast, images.std(axis=(1, 2, 3)), rtol=1e-6)
    assert (low, high) == (images.min(), images.max())
    images[1, 0, 0, 0] = np.nan
    assert np.isnan(image_statistics(images)[2]).all()
    assert np.isnan(image_statistics(np.zeros((0, 0, 0, 0)))[2]).all()


@pytest.mark.parametrize("patients", [1, 5, 12, 100])
def test_files_together_hold_the_same_examples(make_cohort, tmp_path, patients):
    def change(tables, images):
        # A patient without anything, an unknown one, and notes in no order.
        tables["observations"] = tables["observations"][tables["observations"]["patient_id"] != "p03"]
        tables["notes"] = tables["notes"].iloc[::-1]
        tables["notes"].iloc[0, 0] = "stranger"

    tables = read_tables(make_cohort(change))
    folder = tmp_path / "examples"
    folder.mkdir()
    assert write_examples(tables, folder, patients) == -(-12 // patients)
    files = sorted(folder.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files][:-1] == [patients] * (len(files) - 1)
    assert pa.concat_tables([pq.read_table(file) for file in files]).equals(_whole(tables))
