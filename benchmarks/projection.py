"""From measured costs to those of a larger cohort: every formula of the projection in docs/scale.md.

A shard costs ``a + b * patients + c * own``: what every task pays, what grows with the whole cohort (every shard reads
the lists), and what grows with the shard's own patients; fitted to several numbers of shards at two sizes. Other tasks
cost ``a + b * patients``, with epochs or resamples ``a + b * patients + c * patients * repeats``. A fit of a tabular
model costs ``a * patients ** b``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# No cohort is looked for beyond this.
MOST_PATIENTS = 10**10


@dataclass(frozen=True)
class Linear:
    """A cost that is linear in some sizes.

    Attributes:
        coefficients: The fixed part, then one a size; none is negative.
    """

    coefficients: tuple[float, ...]

    def __call__(self, *sizes: float) -> float:
        """Return the cost at some sizes, as many as it was fitted to."""
        fixed, *slopes = self.coefficients
        return fixed + sum(slope * size for slope, size in zip(slopes, sizes, strict=True))


def fit_linear(points: Sequence[tuple[tuple[float, ...], float]]) -> Linear:
    """Fit a cost by least squares of the relative errors, without negative coefficients.

    Args:
        points: Sizes, and the cost measured there, above 0.

    Returns:
        The cost as a function of the sizes.

    Raises:
        ValueError: There are no points, or a cost is not above 0.
    """
    costs = np.array([cost for _, cost in points])
    if not len(costs) or (costs <= 0).any():
        raise ValueError(f"A fit needs costs above 0; received {costs.tolist()}.")
    sizes = np.array([[1.0, *size] for size, _ in points])
    # Sizes are scaled, for patients times resamples and the fixed part lie ten orders of magnitude apart.
    scale = sizes.max(axis=0)
    found, _ = nnls(sizes / scale / costs[:, None], np.ones(len(costs)))
    return Linear(tuple((found / scale).tolist()))


@dataclass(frozen=True)
class Power:
    """A cost ``factor * size ** exponent``."""

    factor: float
    exponent: float

    def __call__(self, size: float) -> float:
        """Return the cost at a size."""
        return self.factor * size**self.exponent


def fit_power(first: tuple[float, float], second: tuple[float, float], lowest: float = 0.0) -> Power:
    """Lay a power law through two measurements.

    Args:
        first: Size and cost, above 0.
        second: A larger size and its cost.
        lowest: Smallest exponent, where it is known; the law then goes through the second measurement alone.

    Returns:
        The cost as a function of the size.
    """
    exponent = max(lowest, math.log(second[1] / first[1]) / math.log(second[0] / first[0]))
    return Power(second[1] / second[0] ** exponent, exponent)


def largest(cost: Callable[[int], float], limit: float) -> int:
    """Return the largest cohort whose cost is within a limit.

    Args:
        cost: Rises with the number of patients.
        limit: The limit.

    Returns:
        Patients, to three digits; 0 where none is within the limit, ``MOST_PATIENTS`` where all are.
    """
    low, high = 0, MOST_PATIENTS
    if cost(high) <= limit:
        return high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= limit else (low, middle)
    return low


@dataclass(frozen=True)
class Task:
    """What a task costs, as functions of the patients and of those that one pod takes.

    Attributes:
        name: Name of the task.
        seconds: Seconds of a pod.
        memory_mb: Memory of a pod, MiB.
        shared_bytes: Bytes that every pod reads of the cohort's size.
        own_bytes: Bytes that a pod reads of its own share.
        written_bytes: Bytes that a pod writes.
        sharded: Whether there is a pod for each shard; else one.
        alternative: Whether it stands for another task of the list, and so is not added to the sum.
    """

    name: str
    seconds: Callable[[float, float], float]
    memory_mb: Callable[[float, float], float]
    shared_bytes: Callable[[float], float]
    own_bytes: Callable[[float], float]
    written_bytes: Callable[[float], float]
    sharded: bool = False
    alternative: bool = False


@dataclass(frozen=True)
class Projected:
    """A task on a cohort of some size.

    Attributes:
        name: Name of the task.
        pods: Pods, those that run after each other too.
        hours: From the first pod's start to the last one's end.
        pod_hours: Hours of all pods together.
        memory_mb: Memory of a pod, MiB.
        read_bytes: Bytes that all pods read.
        written_bytes: Bytes that all pods write.
    """

    name: str
    pods: int
    hours: float
    pod_hours: float
    memory_mb: float
    read_bytes: float
    written_bytes: float


def project(task: Task, patients: int, shards: int, at_once: int) -> Projected:
    """Project a task to a cohort.

    Args:
        task: The task.
        patients: Patients of the cohort.
        shards: Shards.
        at_once: Shards that run at a time.

    Returns:
        The task on that cohort.
    """
    pods = shards if task.sharded else 1
    own = patients / shards if task.sharded else patients
    seconds = task.seconds(patients, own)
    rounds = math.ceil(pods / at_once) if task.sharded else 1
    return Projected(
        name=task.name,
        pods=pods,
        hours=rounds * seconds / 3600,
        pod_hours=pods * seconds / 3600,
        memory_mb=task.memory_mb(patients, own),
        read_bytes=pods * (task.shared_bytes(patients) + task.own_bytes(own)),
        written_bytes=pods * task.written_bytes(own),
    )
