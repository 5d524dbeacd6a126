"""The model as MLflow keeps and loads it."""

import json
import subprocess
import sys

import mlflow
import pandas as pd
import pytest

from serving import package

ALL = ("series", "image", "text")


def test_signature_has_optional_inputs_and_every_output(model_folder):
    signature = package.signature(model_folder(*ALL))
    inputs = {column.name: column for column in signature.inputs}
    assert set(inputs) == {"series", "series_observed", "image", "note"}
    assert not any(column.required for column in signature.inputs)
    assert [column.name for column in signature.outputs] == [
        "diagnosis",
        "probability:healthy",
        "probability:copd",
        "probability:diabetes",
        "attention:series",
        "attention:image",
        "attention:text",
    ]


def test_model_without_images_and_notes_asks_for_none(model_folder):
    folder = model_folder("series")
    assert [column.name for column in package.signature(folder).inputs] == ["series", "series_observed"]
    assert list(package.input_example(folder)) == ["series", "series_observed"]


def test_input_example_is_plausible_and_of_nobody(model_folder):
    (row,) = package.input_example(model_folder(*ALL)).to_dict("records")
    # The middle of 20 to 300 beats a minute, and of 25 to 45 degrees.
    assert row["series"] == [[160, 35]] * 2
    assert row["series_observed"] == [[True, True]] * 2
    assert row["image"] == [[[0.5]] * 2] * 2
    assert isinstance(row["note"], str)


def test_metadata_tells_what_the_model_takes(model_folder):
    metadata = package.metadata(model_folder(*ALL))
    assert metadata["channels"] == ["heart_rate (/min)", "body_temperature (Cel)"]
    assert metadata["classes"] == ["healthy", "copd", "diabetes"]
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
        code_paths=package.code_paths(),
        signature=package.signature(folder),
        input_example=package.input_example(folder),
        pip_requirements=package.requirements(),
        metadata=package.metadata(folder),
    )
    return target


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
    assert sum(value for name, value in row.items() if name.startswith("probability:")) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def loaded(saved):
    return mlflow.pyfunc.load_model(str(saved))


def test_signature_lets_none_and_absent_columns_through(loaded):
    rows = pd.DataFrame(
        [
            {"series": [[0.5, None], [1.0, None]], "note": None},
            {"series": None, "note": "cough"},
        ]
    )
    predicted = loaded.predict(rows)
    assert predicted["attention:series"].tolist() == [1.0, 0.0]
    assert predicted["attention:text"].tolist() == [0.0, 1.0]
    assert predicted["attention:image"].tolist() == [0.0, 0.0]


def test_signature_refuses_what_is_no_number(loaded):
    with pytest.raises(Exception, match="series"):
        loaded.predict(pd.DataFrame([{"series": [["high", "low"], ["high", "low"]]}]))
