"""Fitting a neural network on rows of the features: built and traced once, set back for every fold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from data_schemas.features import Features
from training.baselines import build_cnn, build_recurrent, build_transformer
from training.data import (
    PREDICTION_BATCH,
    InputSpec,
    augment,
    build_standardiser,
    class_weights,
    gather,
    series_statistics,
    validation_split,
)
from training.fusion import build_fusion, network_inputs
from training.settings import NetworkSettings, NeuralSettings
from training.text import TextEmbedding

SEVERAL = "every modality"
NEURAL_MODALITIES = {
    "cnn_lstm_attention": SEVERAL,
    "cnn": "image",
    "lstm": "series",
    "gru": "series",
    "transformer": SEVERAL,
}


@dataclass
class FitReport:
    """What fitting a model says of itself.

    Attributes:
        seconds: Wall time.
        history: Values by epoch; empty for models without epochs.
        metrics: Scalars, such as the best epoch.
    """

    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


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


def build_network(
    name: str, spec: InputSpec, settings: NetworkSettings, words: int, dimensions: int
) -> keras.Model:
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


class NeuralModel:
    """A neural network with everything that it learns around it: z-score, class weights, word vectors.

    The network is built and traced once. Each ``fit`` sets all its weights back to the same initial values, so that
    the result does not depend on earlier fits.

    Args:
        name: A key of ``NEURAL_MODALITIES``.
        spec: Shapes.
        settings: Sizes, optimiser and seed.
        words: Rows of the word table, at least the size of any vocabulary.
        dimensions: Length of a word vector.
        embed: Fits word vectors on the notes of training rows; not needed where ``fit`` is given vectors.
    """

    def __init__(
        self,
        name: str,
        spec: InputSpec,
        settings: NeuralSettings,
        *,
        words: int,
        dimensions: int,
        embed: Callable[[list[str]], TextEmbedding] | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.settings = settings
        only = NEURAL_MODALITIES[name]
        self.modalities = spec.modalities if only == SEVERAL else (only,)
        self._embed = embed
        self._words = words
        self._dimensions = dimensions
        self._network: keras.Model | None = None
        self._initial: list[np.ndarray] = []
        self.standardiser: keras.Model | None = None
        self.embedding = TextEmbedding.empty(dimensions)
        self._encoded: tuple[Features, TextEmbedding, np.ndarray] | None = None

    def unavailable(self) -> str | None:
        """Return why the model cannot be fitted on these features, or None where it can."""
        missing = [name for name in self.modalities if name not in self.spec.modalities]
        if missing or not self.modalities:
            return f"The cohort has no {missing[0] if missing else 'modality'}."
        return None

    @property
    def network(self) -> keras.Model:
        """The network, from standardised inputs; built on first use.

        Raises:
            ValueError: The cohort lacks what the model reads.
        """
        if self._network is None:
            reason = self.unavailable()
            if reason:
                raise ValueError(f"{self.name} cannot be built. {reason}")
            prepare_tensorflow(self.settings)
            network = build_network(
                self.name, self.spec, self.settings.network, self._words, self._dimensions
            )
            self._trainer = keras.Model(network.inputs, network.output["probabilities"])
            optimiser = self.settings.optimiser
            self._optimiser = keras.optimizers.Adam(
                optimiser.learning_rate, weight_decay=optimiser.weight_decay, clipnorm=1.0
            )
            self._optimiser.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "words"])
            self._optimiser.build(self._trainer.trainable_variables)
            loss = keras.losses.CategoricalCrossentropy(label_smoothing=optimiser.label_smoothing)
            self._trainer.compile(self._optimiser, loss, jit_compile=False)
            self._network = network
            self._initial = [np.array(variable) for variable in self._state()]
        return self._network

    def _state(self) -> list:
        """Every variable that training changes: weights, dropout seeds, the optimiser's moments."""
        return [*self._trainer.variables, *self._optimiser.variables]

    def _reset(self, embedding: TextEmbedding) -> None:
        network = self.network
        for variable, value in zip(self._state(), self._initial, strict=True):
            variable.assign(value)
        if "text" in self.modalities:
            table = np.zeros((self._words, self._dimensions), dtype=np.float32)
            table[: len(embedding.vectors)] = embedding.vectors
            network.get_layer("words").embeddings.assign(table)

    def fit(
        self, features: Features, rows: np.ndarray, *, embedding: TextEmbedding | None = None
    ) -> FitReport:
        """Fit on some rows; nothing is learnt from any other row.

        A part of these rows, by patient and stratified, is kept for early stopping; the weights with the lowest
        validation loss are restored.

        Args:
            features: The features.
            rows: int ``[m]``, training rows.
            embedding: Word vectors fitted on the same rows; fitted here where None.

        Returns:
            Seconds, ``loss`` and ``validation_loss`` by epoch, and the best epoch.
        """
        started = time.perf_counter()
        settings = self.settings
        if "text" in self.modalities:
            self.embedding = embedding or self._fit_words(features, rows)
        self._reset(self.embedding)
        fit_rows, validation_rows = validation_split(
            features, rows, settings.optimiser.validation_fraction, settings.seed
        )
        if "series" in self.modalities:
            mean, variance = series_statistics(features, rows)
            self.standardiser = build_standardiser(mean, variance, self.spec.steps, settings.network.clip)
        weights = class_weights(features.labels[rows], len(self.spec.classes), settings.class_weight)
        history, best = self._epochs(features, fit_rows, validation_rows, weights)
        return FitReport(
            seconds=time.perf_counter() - started,
            history=history,
            metrics={"best_epoch": float(best + 1), "epochs": float(len(history["loss"]))},
        )

    def _fit_words(self, features: Features, rows: np.ndarray) -> TextEmbedding:
        if self._embed is None:
            raise ValueError(
                f"{self.name} reads text: fit needs an embedding, or the model a function that fits one."
            )
        return self._embed([features.texts[row] for row in rows])

    def _epochs(
        self, features: Features, fit_rows: np.ndarray, validation_rows: np.ndarray, weights: np.ndarray
    ) -> tuple[dict[str, list[float]], int]:
        settings = self.settings.optimiser
        random = np.random.default_rng(self.settings.seed)
        one_hot = np.eye(len(self.spec.classes), dtype=np.float32)
        # All batches have one size, so that TensorFlow traces once; the rows left over change with the order.
        size = min(settings.batch_size, len(fit_rows))
        steps = len(fit_rows) // size
        history: dict[str, list[float]] = {"loss": [], "validation_loss": []}
        best, best_weights = 0, self._trainer.get_weights()
        for epoch in range(settings.epochs):
            rate = 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs))
            self._optimiser.learning_rate.assign(settings.learning_rate * rate)
            order = random.permutation(fit_rows)
            self._trainer.reset_metrics()
            loss = 0.0
            for step in range(steps):
                batch = np.sort(order[step * size : (step + 1) * size])
                inputs = augment(
                    self._inputs(features, batch), self.modalities, self.settings.network, random
                )
                labels = features.labels[batch]
                loss = self._trainer.train_on_batch(inputs, one_hot[labels], sample_weight=weights[labels])
            history["loss"].append(float(np.asarray(loss).reshape(-1)[0]))
            history["validation_loss"].append(self._loss(features, validation_rows, weights))
            if history["validation_loss"][-1] <= min(history["validation_loss"]):
                best, best_weights = epoch, self._trainer.get_weights()
            elif epoch - best >= settings.patience:
                break
        self._trainer.set_weights(best_weights)
        return history, best

    def _loss(self, features: Features, rows: np.ndarray, weights: np.ndarray) -> float:
        labels = features.labels[rows]
        chosen = self.predict(features, rows)[np.arange(len(rows)), labels]
        return float(np.average(-np.log(np.maximum(chosen, 1e-7)), weights=weights[labels]))

    def raw_inputs(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Make the inputs of the whole model, as saved.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            Arrays by input name; series in the channels' units.
        """
        inputs = gather(features, rows, self.modalities)
        if "text" in self.modalities:
            known = self._encoded
            if known is None or known[0] is not features or known[1] is not self.embedding:
                # All notes are encoded once a fit; a note's numbers depend on that note alone.
                encoded = self.embedding.encode(features.texts, self.settings.network.text_length)
                self._encoded = known = (features, self.embedding, encoded)
            inputs["tokens"] = known[2][rows]
        return inputs

    def _inputs(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        inputs = self.raw_inputs(features, rows)
        if self.standardiser is not None:
            inputs["series"] = np.asarray(self.standardiser(inputs["series"]))
        return inputs

    def explain(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Predict with attention.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            The network's outputs by name, float32 ``[m, ...]``.
        """
        parts = []
        for start in range(0, len(rows), PREDICTION_BATCH):
            part = rows[start : start + PREDICTION_BATCH]
            parts.append(self.network.predict_on_batch(self._inputs(features, part)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def predict(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """Predict class probabilities.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            float64 ``[m, classes]``, rows summing to 1.
        """
        if not len(rows):
            return np.zeros((0, len(self.spec.classes)))
        probabilities = self.explain(features, rows)["probabilities"].astype(np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def assemble(self) -> keras.Model:
        """Join z-score and network into the one model that is saved: raw inputs to probabilities and attention.

        Returns:
            A model of Keras's own layers from ``network_inputs`` (series in the channels' units, NaN where a
            channel was never measured) to the network's outputs.
        """
        inputs = network_inputs(self.spec, self.modalities, self.settings.network.text_length)
        standardised = dict(inputs)
        if self.standardiser is not None:
            standardised["series"] = self.standardiser(inputs["series"])
        return keras.Model(inputs, self.network(standardised), name=self.name)
