"""Fitting a neural network on rows of the features: built and traced once, its weights set for every fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from data_schemas.errors import InputError
from data_schemas.features import Features
from training.data import PREDICTION_BATCH, InputSpec, augment, class_weights, gather, validation_split
from training.distributed import SharedSteps, Workers
from training.fusion import network_inputs
from training.networks import NEURAL_MODALITIES, SEVERAL, build_network, prepare_tensorflow
from training.settings import NeuralSettings
from training.standardise import averaged_shape, fit_standardiser
from training.text import TextEmbedding


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


class OwnSteps:
    """Steps of the optimiser that this process takes alone.

    Args:
        trainer: The compiled network from inputs to probabilities.
    """

    def __init__(self, trainer: keras.Model) -> None:
        self._trainer = trainer

    def reset(self) -> None:
        """Begin a new fit."""

    def __call__(self, inputs: dict[str, np.ndarray], labels: np.ndarray, weights: np.ndarray, size: int) -> float:
        """Take one step.

        Args:
            inputs: The batch.
            labels: float32 ``[size, classes]``, one-hot.
            weights: float32 ``[size]``, weights of the samples.
            size: Samples of the batch.

        Returns:
            The mean loss of the batch.
        """
        loss = self._trainer.train_on_batch(inputs, labels, sample_weight=weights)
        return float(np.asarray(loss).reshape(-1)[0])


class NeuralModel:
    """A neural network with everything that it learns around it: z-score, class weights, word vectors.

    It is a small ensemble: ``settings.members`` networks of one shape, each fitted from weights of its own and with
    another part of the training rows kept for early stopping; their outputs are averaged. The network is built and
    traced once, and every fit of every member starts with setting all of its variables, so that no result depends on
    an earlier fit.

    Args:
        name: A key of ``NEURAL_MODALITIES``.
        spec: Shapes.
        settings: Sizes, optimiser and seed.
        words: Rows of the word table, at least the size of any vocabulary.
        dimensions: Length of a word vector.
        embed: Fits word vectors on the notes of training rows; not needed where ``fit`` is given vectors.
        workers: The processes that fit together, this one among them; each builds the same model and calls ``fit``
            with the same arguments. None: this process fits alone.
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
        workers: Workers | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.settings = settings
        only = NEURAL_MODALITIES[name]
        self.modalities = spec.modalities if only == SEVERAL else (only,)
        self._embed = embed
        self._words = words
        self._dimensions = dimensions
        self._workers = workers
        self._network: keras.Model | None = None
        self._state: list[np.ndarray] = []
        self._initial: list[list[np.ndarray]] = []
        self._members: list[list[np.ndarray]] = []
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
        """The network of one member, from standardised inputs; built on first use.

        Raises:
            ValueError: The cohort lacks what the model reads.
        """
        if self._network is None:
            reason = self.unavailable()
            if reason:
                raise ValueError(f"{self.name} cannot be built. {reason}")
            prepare_tensorflow(self.settings)
            for member in range(self.settings.members):
                keras.utils.set_random_seed(self.settings.seed + member)
                network = self._build()
                self._initial.append(network.get_weights())
            self._compile(network)
            self._network = network
        return self._network

    def _build(self) -> keras.Model:
        image = self.spec.image and averaged_shape(self.spec.image, self.settings.network)
        spec = dataclasses.replace(self.spec, image=image)
        return build_network(self.name, spec, self.settings.network, self._words, self._dimensions)

    def _compile(self, network: keras.Model) -> None:
        optimiser = self.settings.optimiser
        self._optimiser = keras.optimizers.Adam(
            optimiser.learning_rate, weight_decay=optimiser.weight_decay, clipnorm=1.0
        )
        self._optimiser.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "words"])
        self._trainer = keras.Model(network.inputs, network.output["probabilities"])
        self._optimiser.build(self._trainer.trainable_variables)
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=optimiser.label_smoothing)
        self._trainer.compile(self._optimiser, loss, jit_compile=False)
        self._steps = (
            OwnSteps(self._trainer)
            if self._workers is None
            else SharedSteps(self._workers, self._trainer, self._optimiser, optimiser.label_smoothing)
        )
        self._state = [np.array(variable) for variable in self._variables()]

    def _variables(self) -> list:
        """Every variable that training changes: weights, dropout seeds, the optimiser's moments."""
        return [*self._trainer.variables, *self._optimiser.variables]

    def _reset(self, member: int) -> None:
        network = self.network
        for variable, value in zip(self._variables(), self._state, strict=True):
            variable.assign(value)
        self._steps.reset()
        network.set_weights(self._initial[member])
        if "text" in self.modalities:
            table = np.zeros((self._words, self._dimensions), dtype=np.float32)
            table[: len(self.embedding.vectors)] = self.embedding.vectors
            network.get_layer("words").embeddings.assign(table)

    def fit(self, features: Features, rows: np.ndarray, *, embedding: TextEmbedding | None = None) -> FitReport:
        """Fit on some rows; nothing is learnt from any other row.

        Each member keeps another part of these rows, by patient and stratified, for early stopping; its weights with
        the lowest validation loss are restored.

        Args:
            features: The features.
            rows: int ``[m]``, training rows.
            embedding: Word vectors fitted on the same rows; fitted here where None.

        Returns:
            Seconds; ``loss`` (mean over the epoch's batches) and ``validation_loss`` by epoch, means over the members
            still training; the members' mean best epoch and the most epochs.
        """
        started = time.perf_counter()
        settings = self.settings
        if "text" in self.modalities:
            self.embedding = embedding or self._fit_words(features, rows)
        self.standardiser = fit_standardiser(features, rows, self.spec, self.modalities, settings.network)
        weights = class_weights(features.labels[rows], len(self.spec.classes), settings.class_weight)
        histories, best, members = [], [], []
        for member in range(settings.members):
            self._reset(member)
            fraction = settings.optimiser.validation_fraction
            parts = validation_split(features, rows, fraction, settings.seed, member)
            history, epoch = self._epochs(features, *parts, weights, settings.seed + member)
            histories.append(history)
            best.append(epoch + 1)
            members.append(self.network.get_weights())
        self._members = members
        joined = {name: _mean_by_epoch([history[name] for history in histories]) for name in histories[0]}
        return FitReport(
            seconds=time.perf_counter() - started,
            history=joined,
            metrics={"best_epoch": float(np.mean(best)), "epochs": float(len(joined["loss"]))},
        )

    def _fit_words(self, features: Features, rows: np.ndarray) -> TextEmbedding:
        if self._embed is None:
            raise ValueError(f"{self.name} reads text: fit needs an embedding, or the model a function that fits one.")
        return self._embed([features.texts[row] for row in rows])

    def _epochs(
        self,
        features: Features,
        fit_rows: np.ndarray,
        validation_rows: np.ndarray,
        weights: np.ndarray,
        seed: int,
    ) -> tuple[dict[str, list[float]], int]:
        settings = self.settings.optimiser
        random = np.random.default_rng(seed)
        one_hot = np.eye(len(self.spec.classes), dtype=np.float32)
        # All batches have one size, so that TensorFlow traces once; the rows left over change with the order.
        size = min(settings.batch_size, len(fit_rows))
        part = self._part(size)
        history: dict[str, list[float]] = {"loss": [], "validation_loss": []}
        best, best_weights = 0, self.network.get_weights()
        for epoch in range(settings.epochs):
            rate = 0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs))
            self._optimiser.learning_rate.assign(settings.learning_rate * rate)
            order = random.permutation(fit_rows)
            losses = []
            for start in range(0, len(order) - size + 1, size):
                batch = np.sort(order[start : start + size])[part]
                inputs = self._inputs(features, batch)
                harder = augment(inputs, self.modalities, self.settings.network, random, size=size, part=part)
                labels = features.labels[batch]
                losses.append(self._steps(harder, one_hot[labels], weights[labels], size))
            history["loss"].append(float(np.mean(losses)))
            history["validation_loss"].append(self._loss(features, validation_rows, weights))
            if history["validation_loss"][-1] <= min(history["validation_loss"]):
                best, best_weights = epoch, self.network.get_weights()
            elif epoch - best >= settings.patience:
                break
        self.network.set_weights(best_weights)
        return history, best

    def _part(self, size: int) -> slice:
        """This process's part of some rows."""
        if self._workers is None:
            return slice(0, size)
        if size < self._workers.count:
            raise InputError(
                f"{self._workers.count} workers can't share {size} samples; each needs one at least",
                field="train.workers",
                remedy="Take fewer workers, or a larger optimiser.batch_size or validation part",
            )
        return self._workers.part(size)

    def _loss(self, features: Features, rows: np.ndarray, weights: np.ndarray) -> float:
        """Weighted mean loss; workers share the rows and get the same value, so that they stop together."""
        rows = rows[self._part(len(rows))]
        labels = features.labels[rows]
        probabilities = self._outputs(features, rows)["probabilities"].astype(np.float64)
        chosen = probabilities[np.arange(len(rows)), labels]
        loss = float(np.average(-np.log(np.maximum(chosen, 1e-7)), weights=weights[labels]))
        return loss if self._workers is None else self._workers.mean(loss, float(weights[labels].sum(dtype=np.float64)))

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
            raw = {name: inputs[name] for name in self.standardiser.input}
            inputs |= {name: np.asarray(values) for name, values in self.standardiser(raw).items()}
        return inputs

    def _outputs(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the network with the weights that it has now."""
        parts = []
        for start in range(0, len(rows), PREDICTION_BATCH):
            part = rows[start : start + PREDICTION_BATCH]
            parts.append(self.network.predict_on_batch(self._inputs(features, part)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def explain(self, features: Features, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Predict with attention.

        Args:
            features: The features.
            rows: int ``[m]``, one at least.

        Returns:
            The network's outputs by name, float32 ``[m, ...]``, means over the members.

        Raises:
            ValueError: The model has not been fitted.
        """
        if not self._members:
            raise ValueError(f"{self.name} must be fitted before it predicts.")
        outputs = []
        for weights in self._members:
            self.network.set_weights(weights)
            outputs.append(self._outputs(features, rows))
        return {name: np.mean([one[name] for one in outputs], axis=0) for name in outputs[0]}

    def predict(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """Predict class probabilities.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            float64 ``[m, classes]``, rows summing to 1.

        Raises:
            ValueError: The model has not been fitted.
        """
        if not len(rows):
            return np.zeros((0, len(self.spec.classes)))
        probabilities = self.explain(features, rows)["probabilities"].astype(np.float64)
        return probabilities / probabilities.sum(axis=1, keepdims=True)

    def assemble(self) -> keras.Model:
        """Join z-scores and members into the one model that is saved: raw inputs to probabilities and attention.

        Returns:
            A model of Keras's own layers from ``network_inputs`` (series in the channels' units, NaN where a
            channel was never measured) to the network's outputs, means over the members.
        """
        inputs = network_inputs(self.spec, self.modalities, self.settings.network.text_length)
        standardised = dict(inputs)
        if self.standardiser is not None:
            standardised |= self.standardiser({name: inputs[name] for name in self.standardiser.input})
        outputs = []
        for place, weights in enumerate(self._members):
            built = self._build()
            member = keras.Model(built.input, built.output, name=f"member_{place + 1}")
            member.set_weights(weights)
            outputs.append(member(standardised))
        if len(outputs) == 1:
            return keras.Model(inputs, outputs[0], name=self.name)
        mean = {name: keras.layers.average([one[name] for one in outputs]) for name in outputs[0]}
        return keras.Model(inputs, mean, name=self.name)


def _mean_by_epoch(series: list[list[float]]) -> list[float]:
    """Mean over lists of different lengths, of those that have a value at each place."""
    table = np.full((len(series), max(map(len, series))), np.nan)
    for row, values in enumerate(series):
        table[row, : len(values)] = values
    return np.nanmean(table, axis=0).tolist()
