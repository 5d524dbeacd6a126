from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.preprocess.settings import PreprocessSettings
from data_schemas.channels import load_catalogue
from data_schemas.cohort import write_table

VOCABULARY = ["", "<unknown>", "cough", "fever", "not_cough"]
CLASSES = ["healthy", "copd", "diabetes"]
STEPS, CHANNELS, SIDE, WORDS = 2, 2, 2, 4
# Steps of an hour from the first reading on, and nothing that changes values.
PREPROCESS = PreprocessSettings(
    step="1h", steps=STEPS, anchor="first", series_sigma=0, image_sigma=0, outlier_deviations=0
)
# This thermometer shows a degree too much, and its clock is an hour fast.
DEVICES = pd.DataFrame(
    [("thermometer", "body_temperature", 1.0, 1.0, 3600.0)],
    columns=["device_id", "channel", "gain", "bias", "clock_offset_seconds"],
)
_INPUTS = {
    "series": (TensorProto.FLOAT, [STEPS, CHANNELS]),
    "series_observed": (TensorProto.BOOL, [STEPS, CHANNELS]),
    "image": (TensorProto.FLOAT, [SIDE, SIDE, 1]),
    "tokens": (TensorProto.INT32, [WORDS]),
    "present": (TensorProto.BOOL, [3]),
}
_DTYPES = {TensorProto.FLOAT: "float32", TensorProto.BOOL: "bool", TensorProto.INT32: "int32"}


def _nodes(with_image_and_text: bool) -> list[onnx.NodeProto]:
    """A model whose answer is easily found by hand.

    The score of a modality is a hundredth of the sum of its observed values, or the sum of its pixels or word numbers,
    and 0 where it is absent. Probabilities are the softmax of the three scores, attention is what is present divided
    by the number present.
    """
    zero = helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(_array(0.0)))
    last = helper.make_node("Constant", [], ["last"], value=numpy_helper.from_array(_array([1], "int64")))
    nodes = [zero, last, helper.make_node("Where", ["series_observed", "series", "zero"], ["seen"])]
    nodes.append(helper.make_node("Flatten", ["seen"], ["seen_flat"]))
    nodes.append(helper.make_node("ReduceSum", ["seen_flat", "last"], ["sum_series"], keepdims=1))
    hundredth = numpy_helper.from_array(_array(0.01))
    nodes.append(helper.make_node("Constant", [], ["hundredth"], value=hundredth))
    nodes.append(helper.make_node("Mul", ["sum_series", "hundredth"], ["score_series"]))
    scores = ["score_series"]
    if with_image_and_text:
        nodes.append(helper.make_node("Flatten", ["image"], ["image_flat"]))
        nodes.append(helper.make_node("ReduceSum", ["image_flat", "last"], ["score_image"], keepdims=1))
        nodes.append(helper.make_node("Cast", ["tokens"], ["words"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", ["words", "last"], ["score_text"], keepdims=1))
        scores += ["score_image", "score_text"]
    else:
        nodes.append(helper.make_node("Mul", ["score_series", "zero"], ["nothing"]))
        scores += ["nothing", "nothing"]
    nodes.append(helper.make_node("Concat", scores, ["scores"], axis=1))
    nodes.append(helper.make_node("Cast", ["present"], ["there"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Mul", ["scores", "there"], ["masked"]))
    nodes.append(helper.make_node("Softmax", ["masked"], ["output_1"], axis=1))
    nodes.append(helper.make_node("ReduceSum", ["there", "last"], ["number"], keepdims=1))
    nodes.append(helper.make_node("Div", ["there", "number"], ["output_0"]))
    return nodes


def _array(value: object, dtype: str = "float32"):
    import numpy as np

    return np.array(value, dtype=dtype)


def _write(folder: Path, modalities: list[str]) -> Path:
    folder.mkdir()
    names = ["series", "series_observed", "present"]
    if "image" in modalities:
        names = list(_INPUTS)
    inputs = [helper.make_tensor_value_info(name, _INPUTS[name][0], ["n", *_INPUTS[name][1]]) for name in names]
    outputs = [helper.make_tensor_value_info(f"output_{place}", TensorProto.FLOAT, ["n", 3]) for place in range(2)]
    graph = helper.make_graph(_nodes("image" in modalities), "hand made", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    contract = {
        "contract_version": 1,
        "model": "hand_made",
        "classes": CLASSES,
        "channels": [
            {"name": "heart_rate", "unit": "/min", "low": 10, "high": 300},
            {"name": "body_temperature", "unit": "Cel", "low": 25, "high": 45},
        ],
        "steps": STEPS,
        "image": {"height": SIDE, "width": SIDE, "channels": 1} if "image" in modalities else None,
        "image_range": [0.0, 1.0],
        "modalities": modalities,
        "inputs": [
            {"name": name, "shape": [-1, *_INPUTS[name][1]], "dtype": _DTYPES[_INPUTS[name][0]]} for name in names
        ],
        "outputs": [
            {"name": name, "onnx_name": f"output_{place}", "shape": [-1, 3], "dtype": "float32"}
            for place, name in enumerate(("modality_attention", "probabilities"))
        ],
        "text_length": WORDS,
        "cohort_digest": "0" * 64,
        "intended_use": "tests",
        "preparation": {"settings": PREPROCESS.model_dump(mode="json"), "demographics": {"names": [], "at": "first"}},
    }
    load_catalogue().write(folder / "channels.json")
    write_table(folder, "devices", DEVICES)
    (folder / "contract.json").write_text(json.dumps(contract))
    (folder / "vocabulary.json").write_text(json.dumps(VOCABULARY))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Callable[..., Path]:
    """Folder of a small model that was written by hand, by the modalities that it reads."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(*modalities: str) -> Path:
        if modalities not in made:
            made[modalities] = _write(tmp_path_factory.mktemp("models") / "model", list(modalities))
        return made[modalities]

    return folder
