"""The train step: the candidate, fitted by this process, or by several that this one starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.common.result import StepResult, ignore_progress
from components.train.settings import TrainSettings


def train_candidate(
    features: Path,
    embedding: Path,
    output: Path,
    settings: TrainSettings,
    progress: Callable[[str], None] = ignore_progress,
) -> StepResult:
    """Fit the CNN-LSTM-attention model on the training rows, export it, and predict the test rows once.

    Args:
        features: The features folder.
        embedding: The output of ``embed_notes`` on the same features.
        output: The folder to write; ``fit_candidate`` tells what is in it.
        settings: The settings of the step.
        progress: Receives short texts on what is being done.

    Returns:
        As ``fit_candidate``.

    Raises:
        InputError: The cohort has no modality, or there are no test rows.
        RuntimeError: ONNX and Keras differ by more than 1e-5, or a worker process failed.
    """
    if settings.workers > 1:
        # A process that only watches needs no TensorFlow.
        from components.train.local_workers import train_by_workers

        return train_by_workers(features, embedding, output, settings, progress)
    from components.train.candidate import fit_candidate

    return fit_candidate(features, embedding, output, settings, progress)
