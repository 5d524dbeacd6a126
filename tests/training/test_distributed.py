"""Several workers fit what one process fits: parts of a batch, and real processes that sum their gradients."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from components.train.local_workers import run_workers
from data_schemas.errors import InputError
from tests.training.fit_by_workers import fit
from tests.training.synthetic import make_features
from training.data import augment
from training.distributed import Workers, join_workers
from training.settings import NetworkSettings, NeuralSettings

ROOT = Path(__file__).resolve().parents[2]


def settings(**more):
    network = {"units": 8, "image_filters": (4,), "text_length": 16, "modality_dropout": 0.3} | more
    # 3 batches of 15 an epoch: neither two nor three workers get equal parts of each.
    optimiser = {"epochs": 5, "batch_size": 15, "learning_rate": 0.02, "patience": 2, "label_smoothing": 0.05}
    return NeuralSettings(members=2, network=network, optimiser=optimiser)


@pytest.mark.parametrize(("size", "count"), [(8, 3), (15, 2), (4, 4), (32, 5), (7, 1)])
def test_parts_hold_every_sample_once_and_differ_by_one_at_most(size, count):
    parts = [Workers(None, index, count).part(size) for index in range(count)]
    assert np.concatenate([np.arange(size)[part] for part in parts]).tolist() == list(range(size))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


def test_a_part_is_made_harder_as_it_is_within_the_whole():
    random = np.random.default_rng(0)
    batch = {
        "present": random.random((9, 3)) > 0.2,
        "tokens": random.integers(0, 9, (9, 12)).astype(np.int32),
        "image": random.random((9, 8, 8, 1), dtype=np.float32),
    }
    network = NetworkSettings(modality_dropout=0.5, word_dropout=0.4, image_shift=2)
    modalities = ("series", "image", "text")
    whole = augment(batch, modalities, network, np.random.default_rng(5))
    for index in range(2):
        part = Workers(None, index, 2).part(9)
        inputs = {name: values[part] for name, values in batch.items()}
        harder = augment(inputs, modalities, network, np.random.default_rng(5), size=9, part=part)
        for name in batch:
            np.testing.assert_array_equal(harder[name], whole[name][part])


def test_without_tf_config_it_says_so(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        join_workers(settings(), one_machine=True)


def test_more_workers_than_samples_of_a_batch_are_refused_as_input(tmp_path):
    make_features(tmp_path / "f", patients=20, classes=2)
    with pytest.raises(InputError, match=r"99 workers can't share \d+ samples.*Take fewer workers"):
        fit(tmp_path / "f", settings(), Workers(None, 0, 99))


def by_workers(folder, output, count, chosen, monkeypatch):
    output.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "tests.training.fit_by_workers", str(folder), str(output)]
    run_workers([*command, chosen.model_dump_json()], count, print)
    return [dict(np.load(output / f"worker_{index}.npz")) for index in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_workers_learn_what_one_process_learns(tmp_path, monkeypatch, count):
    chosen = settings(dropout=0.0)
    make_features(tmp_path / "f", patients=70)
    report, weights, predictions = fit(tmp_path / "f", chosen)
    workers = by_workers(tmp_path / "f", tmp_path / "out", count, chosen, monkeypatch)
    for found in workers:
        np.testing.assert_allclose(found["loss"], report.history["loss"], rtol=2e-4)
        np.testing.assert_allclose(found["validation_loss"], report.history["validation_loss"], rtol=2e-4)
        np.testing.assert_allclose(found["predictions"], predictions, atol=2e-4)
        # Where a gradient is zero but for rounding, Adam makes full steps of the rounding; few weights, no influence.
        assert np.mean(np.abs(found["weights"] - weights) < 2e-4) > 0.999
        assert found["best_epoch"] == report.metrics["best_epoch"]
    # The tolerance is far below what a fit changes.
    assert np.ptp(report.history["loss"]) > 0.05


@pytest.mark.slow
def test_with_dropout_workers_are_equal_to_each_other(tmp_path, monkeypatch):
    chosen = settings(dropout=0.4).model_copy(update={"members": 1})
    make_features(tmp_path / "f", patients=70)
    first, second = by_workers(tmp_path / "f", tmp_path / "a", 2, chosen, monkeypatch)
    again, _ = by_workers(tmp_path / "f", tmp_path / "b", 2, chosen, monkeypatch)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_array_equal(first[name], again[name])
    _, weights, _ = fit(tmp_path / "f", settings(dropout=0.0).model_copy(update={"members": 1}))
    assert np.abs(first["weights"] - weights).max() > 1e-3, "dropout had no influence"
