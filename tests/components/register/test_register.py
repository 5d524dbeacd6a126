"""The ``register`` step: files, gates and aliases of the versions that it makes."""

import json
import shutil

import mlflow
import pytest

from components.register.audit import Ledger
from components.register.integrity import PACKAGE_DIGEST_TAG, folder_digest, package_digest, verified_version
from components.register.register import copy_shipped_files, register_model
from components.register.settings import GateSettings, RegisterSettings
from data_schemas.errors import InputError
from tests.components.register.conftest import Outputs
from tests.registry_store import MODEL, SECRET, predictions
from tests.serving.conftest import _write as write_model


def test_a_registered_model_holds_no_row_of_a_patient(tmp_path):
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for name in ("model.onnx", "contract.json", "vocabulary.json", "predictions.parquet", "record.json"):
        (candidate / name).write_text(name)
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    for name in ("calibration.json", "report.html"):
        (comparison / name).write_text(name)
    shipped = copy_shipped_files(candidate, comparison, tmp_path / "shipped")
    expected = ["calibration.json", "contract.json", "model.onnx", "vocabulary.json"]
    assert sorted(path.name for path in shipped.iterdir()) == expected
    assert (candidate / "predictions.parquet").exists()


def test_a_model_without_a_calibration_is_shipped_too(tmp_path):
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "model.onnx").write_text("one")
    shipped = copy_shipped_files(tmp_path / "candidate", tmp_path, tmp_path / "shipped")
    assert [path.name for path in shipped.iterdir()] == ["model.onnx"]


def test_the_digest_changes_with_the_model(tmp_path):
    (tmp_path / "model.onnx").write_text("one")
    first = folder_digest(tmp_path)
    (tmp_path / "model.onnx").write_text("two")
    second = folder_digest(tmp_path)
    (tmp_path / "calibration.json").write_text("{}")
    assert len({first, second, folder_digest(tmp_path)}) == 3


def test_the_digest_of_a_package_covers_names_and_leaves_out_what_loading_makes(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "predictor.py").write_text("pass")
    first = package_digest(tmp_path)
    (tmp_path / "code" / "__pycache__").mkdir()
    (tmp_path / "code" / "__pycache__" / "predictor.pyc").write_text("compiled")
    (tmp_path / "registered_model_meta").write_text("name")
    assert package_digest(tmp_path) == first
    (tmp_path / "code" / "predictor.py").rename(tmp_path / "code" / "other.py")
    assert package_digest(tmp_path) != first


@pytest.fixture
def register(store, tmp_path, monkeypatch):
    """Run the step on made-up outputs of the steps before, in an MLflow run of a store without versions."""
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", SECRET)
    monkeypatch.delenv("VITALFUSE_PARENT_RUN_ID", raising=False)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)

    def call(name, signal, **gates):
        outputs = Outputs(tmp_path / name, signal)
        shutil.copytree(
            write_model(tmp_path / f"{name} model", ["series", "image", "text"]),
            outputs.root / "candidate",
            dirs_exist_ok=True,
        )
        parent = store.run(predictions(signal), name=name)
        record = {"mlflow_run_id": store.compare_run(parent)}
        (outputs.root / "comparison" / "record.json").write_text(json.dumps(record))
        with mlflow.start_run(experiment_id=store.experiment):
            return register_model(
                **outputs.paths(),
                output=outputs.root / "registration",
                settings=RegisterSettings(gates=GateSettings(resamples=100, **gates)),
            ), json.loads((outputs.root / "registration" / "registration.json").read_text())

    yield call
    mlflow.set_tracking_uri(before)


def test_versions_that_pass_fail_and_pass_again(store, register):
    result, registration = register("good", 3)
    assert (registration["version"], registration["aliases"]) == ("1", ["challenger", "champion"])
    assert registration["gates"] == result.tags["vitalfuse.gates"] == "passed"
    assert result.warnings == []

    result, registration = register("worse", 0.1, macro_auc=0, kappa=-1, worst_subgroup_auc=0, calibration_error=1)
    assert (registration["version"], registration["aliases"]) == ("2", [])
    assert registration["failed_gates"] == ["non_inferiority"]
    (warning,) = result.warnings
    assert warning.startswith("Version 2 failed its gates and gets no alias: macro AUC, less the champion's -0.")
    tags = store.client.get_model_version(MODEL, "2").tags
    assert tags["vitalfuse.gates"] == "failed"
    assert "version 1, 60 common patients" in tags["vitalfuse.gates.non_inferiority"]
    assert store.aliases() == {"challenger": "1", "champion": "1"}

    _, registration = register("as good", 3)
    assert (registration["version"], registration["aliases"]) == ("3", ["challenger"])
    assert store.client.get_model_version(MODEL, "3").tags["vitalfuse.gates.non_inferiority"].startswith("passed: 0")
    assert store.aliases() == {"challenger": "3", "champion": "1"}

    entries = Ledger.find(store.client, MODEL).read().entries
    assert [(entry.action, entry.version, entry.evidence["gates"]) for entry in entries] == [
        ("register", "1", "passed"),
        ("register", "2", "failed"),
        ("register", "3", "passed"),
    ]
    # The verdict travels with the version, and its digest covers it.
    recorded = {PACKAGE_DIGEST_TAG: tags[PACKAGE_DIGEST_TAG]}
    with verified_version(store.client, MODEL, "2", recorded) as folder:
        document = json.loads((folder / "artifacts" / "gates" / "gates.json").read_text())
        assert document["verdict"] == "failed" and document["champion"] == "1"
        assert "Gates: failed" in (folder / "artifacts" / "gates" / "gates.txt").read_text()
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if b"pseudonym-" in path.read_bytes()]
        assert not {"predictions.parquet", "predictions.sealed", "record.json"} & {path.name for path in files}


def test_a_champion_whose_predictions_cannot_be_opened_is_no_obstacle_unless_gates_are_strict(
    store, register, monkeypatch
):
    register("good", 3)
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", "another key of the tests")
    _, registration = register("other key", 0.5, macro_auc=0.1, kappa=-1, worst_subgroup_auc=0, calibration_error=1)
    assert registration["gates"] == "passed"
    told = registration["tags"]["vitalfuse.gates.non_inferiority"]
    assert told.startswith("not evaluated: of version 1, the champion: the sealed predictions")
    _, registration = register("strict", 3, strict=True)
    assert (registration["gates"], registration["failed_gates"]) == ("failed", ["non_inferiority"])


def test_a_record_that_was_tampered_with_leaves_the_version_without_alias(store, register):
    register("good", 3)
    ledger = Ledger.find(store.client, MODEL)
    store.client.log_param(ledger.run_id, "000009", "forged")
    result, registration = register("next", 3)
    assert (registration["version"], registration["aliases"]) == ("2", [])
    assert "isn't what was written" in result.warnings[0]
    assert store.aliases() == {"challenger": "1", "champion": "1"}


def test_registering_needs_a_run(outputs):
    with pytest.raises(InputError, match="no MLflow store"):
        register_model(**outputs.paths(), output=outputs.root / "registration", settings=RegisterSettings())
