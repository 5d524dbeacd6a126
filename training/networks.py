"""The neural networks by name, and the state of TensorFlow that they are fitted in."""

from __future__ import annotations

import contextlib

import keras
import tensorflow as tf

from training.baselines import build_cnn, build_recurrent, build_transformer
from training.data import InputSpec
from training.fusion import build_fusion
from training.settings import NetworkSettings, NeuralSettings

SEVERAL = "every modality"
NEURAL_MODALITIES = {
    "cnn_lstm_attention": SEVERAL,
    "cnn": "image",
    "lstm": "series",
    "gru": "series",
    "transformer": SEVERAL,
}


def prepare_tensorflow(settings: NeuralSettings) -> None:
    """Set seeds, threads and determinism of this process; threads only before TensorFlow has started.

    Args:
        settings: Seed, threads and whether operations are deterministic.
    """
    threads = settings.optimiser.threads
    # TensorFlow refuses once it has started; the count that it started with then stays.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    keras.utils.set_random_seed(settings.seed)
    if settings.optimiser.deterministic:
        tf.config.experimental.enable_op_determinism()


def build_network(name: str, spec: InputSpec, settings: NetworkSettings, words: int, dimensions: int) -> keras.Model:
    """Build one of the neural networks.

    Args:
        name: A key of ``NEURAL_MODALITIES``.
        spec: Shapes.
        settings: Sizes and regularisation.
        words: Rows of the word table.
        dimensions: Length of a word vector.

    Returns:
        A model from standardised inputs to a dictionary with ``probabilities`` and, for the candidate, attention.

    Raises:
        ValueError: There is no such network.
    """
    if name == "cnn_lstm_attention":
        return build_fusion(spec, spec.modalities, settings, words, dimensions)
    if name == "transformer":
        return build_transformer(spec, spec.modalities, settings, words, dimensions)
    if name == "cnn":
        return build_cnn(spec, settings)
    if name == "lstm":
        return build_recurrent(spec, settings, "lstm")
    if name == "gru":
        return build_recurrent(spec, settings, "gru")
    raise ValueError(f"There are the networks {sorted(NEURAL_MODALITIES)}; received {name!r}.")
