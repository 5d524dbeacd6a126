"""A worker of test_distributed.py: fits a network together with the others, and leaves what it has learnt.

Arguments: folder of the features, folder for the results, settings as JSON.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from data_schemas.features import Features
from training.data import InputSpec
from training.distributed import join_workers
from training.neural import NeuralModel
from training.settings import NeuralSettings, WordEmbeddingSettings
from training.word2vec import fit_embedding


def fit(folder, settings, workers=None):
    """Return history, metrics, weights of all members and predictions."""
    features = Features.open(Path(folder))
    rows = features.train_rows
    words = WordEmbeddingSettings(dimensions=8, max_words=64, epochs=2)
    embedding = fit_embedding([features.texts[row] for row in rows], words)
    model = NeuralModel(
        "cnn_lstm_attention",
        InputSpec.of(features),
        settings,
        words=len(embedding.vocabulary),
        dimensions=embedding.dimensions,
        workers=workers,
    )
    report = model.fit(features, rows, embedding=embedding)
    weights = np.concatenate([array.ravel() for member in model._members for array in member])
    return report, weights, model.predict(features, features.test_rows)


def main(folder, output, settings):
    settings = NeuralSettings.model_validate_json(settings)
    workers = join_workers(settings, one_machine=True)
    report, weights, predictions = fit(folder, settings, workers)
    np.savez(
        Path(output) / f"worker_{workers.index}.npz",
        weights=weights,
        predictions=predictions,
        best_epoch=report.metrics["best_epoch"],
        **report.history,
    )
    workers.wait_for_all()


if __name__ == "__main__":
    main(*sys.argv[1:])
