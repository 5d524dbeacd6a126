"""Fitting by several workers at once: each takes its part of every batch, and all take the same step.

Keras 3 can't fit under ``MultiWorkerMirroredStrategy`` by itself, so the step is written out here: gradients of the own
part, their sum over all workers, then the optimiser. The network's variables are ordinary ones, which every worker
starts from the same seed and changes in the same way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data_schemas.errors import InputError
from training.addresses import TF_CONFIG
from training.networks import prepare_tensorflow
from training.settings import NeuralSettings


class Workers:
    """This process as one of the workers that fit together.

    Attributes:
        index: Place of this worker; 0 is the chief, the only one that writes.
        count: Number of workers.

    Args:
        strategy: TensorFlow's connection of the workers.
        index: Place of this worker.
        count: Number of workers.

    Example:
        >>> Workers(strategy, index=1, count=3).part(8)
        slice(3, 6, None)
    """

    def __init__(self, strategy: tf.distribute.Strategy, index: int, count: int) -> None:
        self._strategy = strategy
        self.index = index
        self.count = count

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what all have fitted."""
        return self.index == 0

    def part(self, size: int) -> slice:
        """Return this worker's part of a batch.

        Parts differ by one sample at most: where the number of workers does not divide the size, the first workers
        take one more. No sample is left out, and each one counts the same.

        Args:
            size: Samples of the whole batch.

        Returns:
            The part, without a step.
        """
        each, rest = divmod(size, self.count)
        start = self.index * each + min(self.index, rest)
        return slice(start, start + each + (self.index < rest))

    def sum_inside(self, values: tf.Tensor) -> tf.Tensor:
        """Sum a tensor over the workers, inside of ``run``.

        Args:
            values: The tensor of this worker; of one shape and type in all.

        Returns:
            The sum, equal in all workers.
        """
        context = tf.distribute.get_replica_context()
        # The copy lies on this worker's device; an argument of a traced function lies on none.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

    def run(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function where ``sum_inside`` may be called.

        Args:
            function: The function.
            *arguments: Its arguments.

        Returns:
            What it returns in this worker.
        """
        return self._strategy.run(function, args=arguments)

    def mean(self, value: float, weight: float) -> float:
        """Average a value over the workers.

        Args:
            value: This worker's value; of no account where its weight is 0.
            weight: How much it counts.

        Returns:
            The weighted mean, equal in all workers.
        """
        own = tf.constant([value * weight, weight], dtype=tf.float64)
        total, weights = np.asarray(self._sum(own))
        return float(total / weights)

    @tf.function
    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        return self.run(self.sum_inside, values)

    def wait_for_all(self) -> None:
        """Wait until all workers are here: TensorFlow ends those that outlive the first one to leave."""
        self.mean(1.0, 1.0)


def join_workers(settings: NeuralSettings, *, one_machine: bool) -> Workers:
    """Connect this process with the others that TF_CONFIG names; before anything else is done with TensorFlow.

    Args:
        settings: Threads and determinism, which TensorFlow takes at its start.
        one_machine: Whether all workers run on one machine, where each takes another of its GPUs; else each has the
            first GPU of its own machine. Without GPUs they take processors.

    Returns:
        The workers, all of them connected.

    Raises:
        InputError: The machine has some GPUs, but none for this worker.
        ValueError: TF_CONFIG is missing.
    """
    content = os.environ.get(TF_CONFIG)
    if not content:
        raise ValueError(f"A worker needs the environment variable {TF_CONFIG}; it is not set.")
    config = json.loads(content)
    index = config["task"]["index"]
    prepare_tensorflow(settings)
    gpus = tf.config.list_physical_devices("GPU")
    own = index if one_machine else 0
    if gpus and own >= len(gpus):
        raise InputError(
            f"each worker needs a GPU of its own; this is number {own + 1}, and there are {len(gpus)}",
            field="train.workers",
            remedy="Take as many workers as there are GPUs",
        )
    if gpus:
        tf.config.set_visible_devices(gpus[own], "GPU")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Workers(strategy, index, len(config["cluster"]["worker"]))


class SharedSteps:
    """Steps of the optimiser that all workers take together: the counterpart of ``train_on_batch``.

    Args:
        workers: The workers.
        trainer: The network from inputs to probabilities, built alike in all workers.
        optimiser: Built for the network; it clips and decays after the gradients are summed, as in one process.
        label_smoothing: Of the cross-entropy.
    """

    def __init__(
        self,
        workers: Workers,
        trainer: keras.Model,
        optimiser: keras.optimizers.Optimizer,
        label_smoothing: float,
    ) -> None:
        self._workers = workers
        self._trainer = trainer
        self._optimiser = optimiser
        self._loss = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing, reduction="sum")
        self._variables = trainer.trainable_variables
        self._function = tf.function(self._step)

    def reset(self) -> None:
        """Give each worker its own dropout; after the variables have been set to those of a new fit."""
        for variable in self._trainer.variables:
            if variable.name == "seed_generator_state":
                variable.assign_add(np.array([self._workers.index, 0], dtype=variable.dtype))

    def __call__(self, inputs: dict[str, np.ndarray], labels: np.ndarray, weights: np.ndarray, size: int) -> float:
        """Take one step.

        Args:
            inputs: This worker's part of the batch.
            labels: float32 ``[m, classes]``, one-hot.
            weights: float32 ``[m]``, weights of the samples.
            size: Samples of the whole batch.

        Returns:
            The mean loss of the whole batch.
        """
        return float(self._function(inputs, labels, weights, size))

    def _step(self, inputs: dict[str, tf.Tensor], labels: tf.Tensor, weights: tf.Tensor, size: int) -> tf.Tensor:
        gradients, loss = self._workers.run(self._summed, inputs, labels, weights, size)
        # The optimiser works outside of `run`, where it would sum once more.
        self._optimiser.apply(gradients, self._variables)
        return loss

    def _summed(
        self, inputs: dict[str, tf.Tensor], labels: tf.Tensor, weights: tf.Tensor, size: int
    ) -> tuple[list[tf.Tensor | tf.IndexedSlices], tf.Tensor]:
        with tf.GradientTape() as tape:
            probabilities = self._trainer(inputs, training=True)
            loss = self._loss(labels, probabilities, sample_weight=weights) / size
        gradients = tape.gradient(
            loss, [variable.value for variable in self._variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        parts = [part for gradient in gradients for part in self._parts(gradient, size)] + [loss]
        # One message for all: it takes less time than many small ones.
        summed = self._workers.sum_inside(tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0))
        pieces = iter(tf.split(summed, [part.shape.num_elements() for part in parts]))
        wholes = iter([tf.reshape(piece, part.shape) for piece, part in zip(pieces, parts, strict=True)])
        return [self._joined(gradient, wholes) for gradient in gradients], next(wholes)

    def _parts(self, gradient: tf.Tensor | tf.IndexedSlices, size: int) -> list[tf.Tensor]:
        """Return a gradient as tensors that may be summed over the workers.

        That of the word vectors has one row a word of the batch, and Keras's optimiser squares each of them, so they
        may not be added up: each worker puts its own where they stand within the whole batch, with zeros elsewhere.
        """
        if not isinstance(gradient, tf.IndexedSlices):
            return [gradient]
        part = self._workers.part(size)
        words = gradient.values.shape[0] // (part.stop - part.start)
        around = [part.start * words, (size - part.stop) * words]
        # Exact: float32 holds integers up to 16 million.
        indices = tf.cast(gradient.indices, tf.float32)
        return [tf.pad(gradient.values, [around, [0, 0]]), tf.pad(indices, [around])]

    def _joined(self, gradient: tf.Tensor | tf.IndexedSlices, wholes: Iterator[tf.Tensor]) -> Any:
        """Return the sum of a gradient, in the form that ``_parts`` was given."""
        whole = next(wholes)
        if not isinstance(gradient, tf.IndexedSlices):
            return whole
        indices = tf.cast(tf.round(next(wholes)), gradient.indices.dtype)
        return tf.IndexedSlices(whole, indices, gradient.dense_shape)
