"""The model as MLflow keeps and loads it."""

import base64
import io
import json
import subprocess
import sys

import mlflow
import pandas as pd
import pytest

from components.ingest.images import decode_image
from serving import package
from serving.patients import Diagnosis, InvalidRequest, Patient, parse_patients

ALL = ("series", "image", "text")


def test_signature_has_optional_inputs_and_every_output(model_folder):
    signature = package.signature(model_folder(*ALL))
    inputs = {column.name: column for column in signature.inputs}
    assert list(inputs) == list(Patient.model_fields)
    assert not any(column.required for column in signature.inputs)
    assert [column.name for column in signature.outputs] == list(Diagnosis.model_fields)


def test_model_without_images_and_notes_shows_none(model_folder):
    assert list(package.input_example(model_folder("series"))) == ["observations"]


def test_input_example_is_plausible_and_of_nobody(model_folder):
    (row,) = package.input_example(model_folder(*ALL)).to_dict("records")
    # The middle of 10 to 300 beats a minute, and of 25 to 45 degrees.
    assert [(reading["channel"], reading["value"]) for reading in row["observations"]] == [
        ("heart_rate", 155),
        ("body_temperature", 35),
    ] * 2
    assert (
        decode_image(io.BytesIO(base64.b64decode(row["image"]))).tolist() == [[[pytest.approx(0.5, abs=0.01)]] * 2] * 2
    )
    (patient,) = parse_patients([row])
    assert isinstance(patient.note, str)


def test_metadata_tells_what_the_model_takes(model_folder):
    metadata = package.metadata(model_folder(*ALL))
    assert metadata["channels"] == ["heart_rate (/min)", "body_temperature (Cel)"]
    assert metadata["classes"] == ["healthy", "copd", "diabetes"]
    assert metadata["request_schema"]["properties"].keys() == Patient.model_fields.keys()
    assert json.loads(json.dumps(metadata)) == metadata


def test_requirements_are_pinned_and_hold_no_tensorflow():
    requirements = package.requirements()
    assert all("==" in requirement for requirement in requirements)
    assert not [name for name in requirements if name.startswith(("tensorflow", "keras", "kfp"))]
    assert any(name.startswith("onnxruntime==") for name in requirements)


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory):
    """The model, saved as the register step logs it."""
    folder = model_folder(*ALL)
    target = tmp_path_factory.mktemp("saved") / "model"
    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=str(package.MODEL_SCRIPT),
        artifacts={package.ARTIFACT: str(folder)},
        code_paths=package.stage_code(tmp_path_factory.mktemp("staged") / "code"),
        signature=package.signature(folder),
        input_example=package.input_example(folder),
        pip_requirements=package.requirements(),
        metadata=package.metadata(folder),
    )
    return target


def test_nothing_of_it_is_a_pickle(saved):
    kept = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert not [path for path in kept if path.suffix in (".pkl", ".pickle", ".joblib", ".cloudpickle", ".pyc")]
    assert {path.suffix for path in kept if path.parts[0] == "code"} <= {".py", ".yaml", ".pbtxt"}


def test_loaded_model_predicts_without_tensorflow_and_without_this_checkout(saved, tmp_path):
    code = (
        "import json, sys, mlflow\n"
        # An editable installation of vitalfuse is taken away, so that the code must come with the model.
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in str(finder).lower()]\n"
        f"model = mlflow.pyfunc.load_model({str(saved)!r})\n"
        "predicted = model.predict(model.input_example)\n"
        "import serving\n"
        "heavy = {'tensorflow', 'keras', 'kfp', 'sklearn'} & {name.partition('.')[0] for name in sys.modules}\n"
        "print(json.dumps([serving.__file__, sorted(heavy), predicted.to_dict('records')]))\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    origin, heavy, (row,) = json.loads(completed.stdout.splitlines()[-1])
    assert origin.startswith(str(saved))
    assert heavy == []
    assert row["diagnosis"] in ("healthy", "copd", "diabetes")
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["warnings"] == []


@pytest.fixture(scope="module")
def loaded(saved):
    return mlflow.pyfunc.load_model(str(saved))


READINGS = [{"channel": "heart_rate", "time": "2022-06-01T10:00:00+02:00", "value": 80, "unit": None}]


def test_signature_lets_none_and_absent_columns_through(loaded):
    rows = pd.DataFrame([{"observations": READINGS, "note": None}, {"note": "cough"}], index=["b", "a"])
    predicted = loaded.predict(rows)
    assert predicted.index.tolist() == ["b", "a"]
    assert predicted["attention"].tolist() == [
        {"series": 1.0, "image": 0.0, "text": 0.0},
        {"series": 0.0, "image": 0.0, "text": 1.0},
    ]


def test_a_table_read_from_parquet_is_taken(loaded, tmp_path):
    """Parquet gives arrays of dictionaries and arrays of arrays back."""
    rows = pd.DataFrame([{"observations": READINGS, "image": [[0.5, 0.5], [0.5, 0.5]], "as_of": None}])
    rows.to_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(loaded.predict(pd.read_parquet(tmp_path / "rows.parquet")), loaded.predict(rows))


@pytest.mark.parametrize("kind", [list, lambda rows: rows[0]])
def test_dictionaries_are_taken_too(loaded, kind):
    assert loaded.predict(kind([{"note": "cough"}]))["modalities"].tolist() == [["text"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"observations": [READINGS[0] | {"value": "high"}]}, r"observations\[0\].value: is a text"),
        ({"observations": [READINGS[0] | {"value": float("nan")}]}, r"observations\[0\].value: is not a finite"),
        ({"observations": [READINGS[0] | {"unit": "kPa"}]}, r"observations\[0\].unit: does not fit heart_rate"),
        ({"note": 3}, r"patients\[0\].note: is not a text"),
        ({"note": None}, r"patients\[0\]: holds nothing"),
        ({"nots": "cough"}, r"patients: have no column that is known. Known are reference, observations"),
    ],
)
def test_what_is_wrong_is_told_without_what_was_sent(loaded, row, message):
    with pytest.raises(InvalidRequest, match=message):
        loaded.predict(pd.DataFrame([row]))
