from __future__ import annotations

import keras
import numpy as np
import pytest

from data_schemas.cohort import ImageShape
from training.data import InputSpec
from training.networks import build_network
from training.settings import NetworkSettings

SETTINGS = NetworkSettings(units=8, image_filters=(4, 4), image_size=8, text_length=10, transformer_layers=1)
SPEC = InputSpec(
    classes=("a", "b", "c"),
    channels=("x", "y"),
    steps=9,
    image=ImageShape(height=12, width=16, channels=1),
    modalities=("series", "image", "text"),
)
WORDS, DIMENSIONS = 20, 6


def _inputs(count=6, seed=0, length=10):
    random = np.random.default_rng(seed)
    tokens = random.integers(1, WORDS, size=(count, length)).astype(np.int32)
    tokens[:, length - 4 :] = 0
    return {
        "present": np.ones((count, 3), dtype=bool),
        "series": random.normal(size=(count, 9, 2)).astype(np.float32),
        "series_observed": random.random((count, 9, 2)) > 0.5,
        "image": random.random((count, 12, 16, 1)).astype(np.float32),
        "tokens": tokens,
    }


@pytest.fixture(scope="module")
def fusion():
    keras.utils.set_random_seed(0)
    return build_network("cnn_lstm_attention", SPEC, SETTINGS, WORDS, DIMENSIONS)


@pytest.fixture(scope="module")
def transformer():
    keras.utils.set_random_seed(0)
    return build_network("transformer", SPEC, SETTINGS, WORDS, DIMENSIONS)


def test_outputs(fusion):
    outputs = fusion.predict_on_batch(_inputs())
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, rtol=1e-5)
    assert outputs["probabilities"].shape == (6, 3)
    np.testing.assert_allclose(outputs["modality_attention"].sum(axis=1), 1, rtol=1e-5)
    for name, length in (("series", 5), ("text", 10)):
        assert outputs[f"{name}_attention"].shape == (6, length)
        np.testing.assert_allclose(outputs[f"{name}_attention"].sum(axis=1), 1, rtol=1e-5)
    assert (outputs["text_attention"][:, 6:] == 0).all()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_absent_modality_has_zero_attention_and_no_influence(fusion, transformer, place):
    inputs, other = _inputs(seed=1), _inputs(seed=2)
    inputs["present"][:, place] = False
    keys = [("series", "series_observed"), ("image",), ("tokens",)][place]
    changed = {**inputs, **{key: other[key] for key in keys}}
    first, second = fusion.predict_on_batch(inputs), fusion.predict_on_batch(changed)
    assert (first["modality_attention"][:, place] == 0).all()
    np.testing.assert_allclose(first["modality_attention"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(first["probabilities"], second["probabilities"])
    if place != 2:
        # The transformer's word mask is that of the tokens, so that only their values may change there.
        np.testing.assert_allclose(
            transformer.predict_on_batch(inputs)["probabilities"],
            transformer.predict_on_batch(changed)["probabilities"],
            atol=1e-6,
        )


def test_present_modalities_do_have_influence(fusion, transformer):
    inputs, other = _inputs(seed=1), _inputs(seed=2)
    for model in (fusion, transformer):
        base = model.predict_on_batch(inputs)["probabilities"]
        for key in ("series", "image", "tokens"):
            changed = model.predict_on_batch({**inputs, key: other[key]})["probabilities"]
            assert np.abs(changed - base).max() > 1e-4


def test_nothing_present_gives_finite_probabilities(fusion, transformer):
    inputs = _inputs()
    inputs["present"][:] = False
    outputs = fusion.predict_on_batch(inputs)
    assert (outputs["modality_attention"] == 0).all()
    for probabilities in (outputs["probabilities"], transformer.predict_on_batch(inputs)["probabilities"]):
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities, np.repeat(probabilities[:1], 6, axis=0), rtol=1e-6)


def test_a_note_without_words_counts_as_absent(fusion):
    inputs = _inputs()
    inputs["tokens"][:] = 0
    assert (fusion.predict_on_batch(inputs)["modality_attention"][:, 2] == 0).all()


@pytest.mark.parametrize("name", ["cnn_lstm_attention", "transformer"])
def test_padding_has_no_influence(name, request):
    short = request.getfixturevalue("fusion" if name == "cnn_lstm_attention" else "transformer")
    longer = build_network(name, SPEC, SETTINGS.model_copy(update={"text_length": 17}), WORDS, DIMENSIONS)
    longer.set_weights(short.get_weights())
    inputs = _inputs()
    padded = {**inputs, "tokens": np.pad(inputs["tokens"], ((0, 0), (0, 7)))}
    np.testing.assert_allclose(
        short.predict_on_batch(inputs)["probabilities"],
        longer.predict_on_batch(padded)["probabilities"],
        atol=1e-6,
    )


@pytest.mark.parametrize("modalities", [("series",), ("image",), ("text",), ("series", "text")])
def test_modalities_that_the_cohort_lacks_are_left_out(modalities):
    spec = InputSpec(SPEC.classes[:2], SPEC.channels, 1, SPEC.image, modalities)
    model = build_network("cnn_lstm_attention", spec, SETTINGS, WORDS, DIMENSIONS)
    inputs = _inputs()
    inputs["series"], inputs["series_observed"] = inputs["series"][:, :1], inputs["series_observed"][:, :1]
    outputs = model.predict_on_batch({key: inputs[key] for key in model.input})
    assert outputs["probabilities"].shape == (6, 2)
    lacking = [place for place, name in enumerate(("series", "image", "text")) if name not in modalities]
    assert (outputs["modality_attention"][:, lacking] == 0).all()
    assert not any(name in layer.name for layer in model.layers for name in {"series", "image"} - set(modalities))


@pytest.mark.parametrize(("name", "key"), [("series", "series"), ("image", "image"), ("text", "tokens")])
def test_each_modality_speaks_for_itself_beside_the_joint_view(name, key):
    """With the joint view silenced, the logits are the sum of each attended modality's own, times their number."""
    keras.utils.set_random_seed(0)
    network = build_network("cnn_lstm_attention", SPEC, SETTINGS, WORDS, DIMENSIONS)
    joint = network.get_layer("joint_logits")
    joint.set_weights([np.zeros_like(weight) for weight in joint.get_weights()])
    others = {"series", "image", "text"} - {name}
    for other in others:
        layer = network.get_layer(f"{other}_logits")
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    inputs = _inputs()
    before = network.predict_on_batch(inputs)["probabilities"]
    changed = network.predict_on_batch(inputs | {key: _inputs(seed=9)[key]})["probabilities"]
    assert np.abs(before - changed).max() > 1e-4
    layer = network.get_layer(f"{name}_logits")
    layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    np.testing.assert_allclose(network.predict_on_batch(inputs)["probabilities"], 1 / 3, rtol=1e-5)
