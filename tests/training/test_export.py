from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

from data_schemas.features import Features
from training.data import InputSpec
from training.export import export_network, onnx_difference, onnx_seconds
from training.names import CANDIDATE
from training.onnx_session import open_onnx
from training.registry import create_model


@pytest.fixture(scope="module")
def exported(features, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    brief = settings.model_copy(update={"members": 2, "optimiser": settings.optimiser.model_copy(update={"epochs": 4})})
    model = create_model(CANDIDATE, brief, InputSpec.of(features))
    model.fit(features, features.train_rows)
    export_network(model, features, folder)
    return model, folder


def test_onnx_and_keras_agree(exported, features):
    model, folder = exported
    assert onnx_difference(model, folder, features, features.test_rows) <= 1e-5
    received = open_onnx(folder / "model.onnx").run(["probabilities"], model.raw_inputs(features, features.test_rows))
    np.testing.assert_allclose(received[0], model.predict(features, features.test_rows), atol=1e-5)


def test_a_different_onnx_file_is_refused(exported, features, tmp_path):
    model, folder = exported
    (tmp_path / "model.keras").write_bytes((folder / "model.keras").read_bytes())
    content = onnx.load(folder / "model.onnx")
    for tensor in content.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 1.01, tensor.name))
    onnx.save(content, tmp_path / "model.onnx")
    with pytest.raises(RuntimeError, match="differs from the Keras model"):
        onnx_difference(model, tmp_path, features, features.test_rows)


def test_contract_matches_the_file(exported, features):
    model, folder = exported
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["classes"] == features.manifest.classes
    assert contract["image"] == {"height": 16, "width": 16, "channels": 1}
    inputs = {item["name"]: item for item in contract["inputs"]}
    assert inputs["series"] == {"name": "series", "shape": [-1, 12, 3], "dtype": "float32"}
    assert inputs["series_observed"]["dtype"] == inputs["present"]["dtype"] == "bool"
    assert inputs["tokens"] == {"name": "tokens", "shape": [-1, 24], "dtype": "int32"}
    session = open_onnx(folder / "model.onnx")
    given = model.raw_inputs(features, features.test_rows[:2])
    for item in contract["outputs"]:
        values = session.run([item["onnx_name"]], given)[0]
        np.testing.assert_allclose(values, model.explain(features, features.test_rows[:2])[item["name"]], atol=1e-5)


def test_seconds_name_every_class_with_a_row(exported, features):
    model, folder = exported
    seconds = onnx_seconds(model, folder, features, features.test_rows)
    assert list(seconds) == features.manifest.classes and min(seconds.values()) > 0


def test_the_saved_model_loads_in_a_process_without_this_package(exported, features, tmp_path):
    model, folder = exported
    rows = features.test_rows[:4]
    np.savez(tmp_path / "inputs.npz", **model.raw_inputs(features, rows))
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(folder / 'model.keras')!r}, compile=False, safe_mode=True)\n"
        f"inputs = dict(np.load({str(tmp_path / 'inputs.npz')!r}))\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, model.predict_on_batch(inputs)['probabilities'])\n"
        "assert not any(name.startswith('training') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), model.predict(features, rows), atol=1e-6)


def test_features_are_memory_mapped(features):
    opened = Features.open(features.folder)
    assert isinstance(opened.series, np.memmap) and isinstance(opened.images, np.memmap)
