"""The tasks of ``benchmarks.scale``: ``python -m benchmarks.scale_tasks NAME ARGUMENTS RESULT``, arguments in JSON.

Each is a process of its own: it starts Python, imports what the step needs, runs the step's own function, and writes
its metrics as JSON. Tracking is left out, but for ``register``, which needs a registry.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 2022
KEY = b"the key of a benchmark"
# A patient: a week of readings, every fourth one has an image, one note and for a quarter a second one.
DAYS, READINGS_A_DAY, IMAGE_SIDE, WITHOUT_IMAGE = 7, 4, 32, 0.75
STEP, STEPS = "12h", 14
CONTENT = (DAYS, READINGS_A_DAY, IMAGE_SIDE, WITHOUT_IMAGE, SEED)

Metrics = dict[str, float]


def demo_settings(patients: int) -> Any:
    """Return what the generator writes.

    Args:
        patients: Number of patients.
    """
    from components.ingest.demo.settings import DemoSettings

    return DemoSettings(
        patients=patients,
        seed=SEED,
        days=DAYS,
        samples_a_day=READINGS_A_DAY,
        image_size=(IMAGE_SIDE, IMAGE_SIDE),
        missing_images=WITHOUT_IMAGE,
        file_format="parquet",
    )


def _ingest_settings(source: str) -> Any:
    from components.ingest.settings import IngestSettings

    return IngestSettings.model_validate({"name": "scale", "sources": [{"format": "export", "path": source}]})


def _preprocess_settings() -> Any:
    from components.preprocess.settings import PreprocessSettings

    return PreprocessSettings(step=STEP, steps=STEPS)


def generate(output: str, patients: int) -> Metrics:
    from components.ingest.demo.generate import generate_source

    generate_source(Path(output), demo_settings(patients))
    return {}


def ingest(source: str, output: str) -> Metrics:
    from components.ingest.ingest import ingest_sources

    return ingest_sources(Path(output), _ingest_settings(source), pseudonym_key=KEY).metrics


def ingest_shard(source: str, output: str, shard: str) -> Metrics:
    from components.common.shards import Shard
    from components.ingest.ingest import ingest_shard as read_shard

    settings = _ingest_settings(source)
    return read_shard(Path(output), settings, Shard.parse(shard), pseudonym_key=KEY).metrics


def merge_cohort(source: str, output: str, parts: list[str]) -> Metrics:
    from components.ingest.ingest import merge_shards

    return merge_shards([Path(part) for part in parts], Path(output), _ingest_settings(source)).metrics


def preprocess(cohort: str, output: str) -> Metrics:
    from components.preprocess.preprocess import preprocess_cohort

    return preprocess_cohort(Path(cohort), Path(output), _preprocess_settings()).metrics


def preprocess_shard(cohort: str, output: str, shard: str) -> Metrics:
    from components.common.shards import Shard
    from components.preprocess.shards import preprocess_shard as prepare_shard

    return prepare_shard(Path(cohort), Path(output), _preprocess_settings(), Shard.parse(shard)).metrics


def merge_features(cohort: str, output: str, parts: list[str]) -> Metrics:
    from components.preprocess.shards import merge_features as merge

    return merge(Path(cohort), [Path(part) for part in parts], Path(output), _preprocess_settings()).metrics


def validate(cohort: str, output: str, runner: str, workers: int) -> Metrics:
    from components.validate.settings import BeamSettings, ValidateSettings
    from components.validate.validate import validate_cohort

    settings = ValidateSettings(beam=BeamSettings(runner=runner, workers=workers))
    return validate_cohort(Path(cohort), Path(output), settings).metrics


def first_samples(features: str, output: str, patients: int) -> Metrics:
    """Copy the first samples of features, who are in random order of their classes, into features of their own."""
    import numpy as np
    import pyarrow.parquet as pq

    source, target = Path(features), Path(output)
    target.mkdir(parents=True)
    for path in source.glob("*.npy"):
        np.save(target / path.name, np.load(path, mmap_mode="r")[:patients])
    for path in source.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table if path.stem == "devices" else table.slice(0, patients), target / path.name)
    (target / "features.json").write_text((source / "features.json").read_text())
    return {}


def embed_text(features: str, output: str, epochs: int) -> Metrics:
    from components.embed_text.embed_text import embed_notes
    from components.embed_text.settings import EmbedTextSettings

    return embed_notes(Path(features), Path(output), EmbedTextSettings(epochs=epochs)).metrics


def train(features: str, embedding: str, output: str, epochs: int) -> Metrics:
    """Fit one member for some epochs, without early stopping."""
    from components.train.settings import TrainSettings
    from components.train.train import train_candidate
    from training.settings import OptimiserSettings

    settings = TrainSettings(members=1, optimiser=OptimiserSettings(epochs=epochs, patience=epochs))
    return train_candidate(Path(features), Path(embedding), Path(output), settings).metrics


def cross_validate(model: str, features: str, output: str) -> Metrics:
    from components.cross_validate.cross_validate import cross_validate_model
    from components.cross_validate.settings import CrossValidateSettings

    settings = CrossValidateSettings()
    return cross_validate_model(model, Path(features), Path(output), settings, predict_test=True).metrics


def invent_predictions(features: str, output: str) -> Metrics:
    """Write what ``cross_validate`` of every model would leave, with probabilities from a random generator."""
    import numpy as np
    import pandas as pd

    from data_schemas.features import Features
    from data_schemas.predictions import OUT_OF_FOLD, TEST, predictions_frame, write_predictions
    from training.names import CANDIDATE, MODEL_NAMES

    opened = Features.open(Path(features))
    classes = opened.manifest.classes
    for place, model in enumerate(MODEL_NAMES):
        random = np.random.default_rng(place)
        frames = []
        for name, rows in ((OUT_OF_FOLD, opened.train_rows), (TEST, opened.test_rows)):
            if model == CANDIDATE and name == TEST:
                continue
            noise = random.normal(size=(len(rows), len(classes)))
            scores = np.exp(noise + 2 * np.eye(len(classes))[opened.labels[rows]])
            frame = predictions_frame(
                model=model,
                rows=rows,
                samples=opened.samples,
                classes=classes,
                probabilities=scores / scores.sum(axis=1, keepdims=True),
                prediction_set=name,
                fold=opened.samples["fold"].to_numpy()[rows],
            )
            frames.append(frame)
        folder = Path(output) / model
        folder.mkdir(parents=True)
        write_predictions(folder / "predictions.parquet", pd.concat(frames, ignore_index=True))
        (folder / "summary.json").write_text(json.dumps({"model": model, "status": "done", "reason": None}))
        (folder / "timing.json").write_text(json.dumps({"fit_seconds": [1.0], "seconds_per_diagnosis": {}}))
    return {}


def compare(features: str, candidate: str, predictions: str, validation: str, output: str, resamples: int) -> Metrics:
    from components.compare.compare import compare_models
    from components.compare.settings import CompareSettings

    folders = sorted(path for path in Path(predictions).iterdir() if path.is_dir())
    settings = CompareSettings(resamples=resamples)
    compare_models(Path(features), Path(candidate), folders, Path(validation), Path(output), settings)
    return {}


def register(
    cohort: str, features: str, validation: str, candidate: str, comparison: str, output: str, resamples: int
) -> Metrics:
    import mlflow

    from components.register.register import register_model
    from components.register.settings import GateSettings, RegisterSettings

    mlflow.set_tracking_uri(f"sqlite:///{Path(output).parent / 'mlflow.db'}")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("scale", artifact_location=str(Path(output).parent / "artifacts"))
    )
    with mlflow.start_run():
        register_model(
            cohort=Path(cohort),
            features=Path(features),
            validation=Path(validation),
            candidate=Path(candidate),
            comparison=Path(comparison),
            output=Path(output),
            settings=RegisterSettings(gates=GateSettings(resamples=resamples)),
        )
    return {}


TASKS: dict[str, Callable[..., Metrics]] = {
    function.__name__: function
    for function in (
        generate,
        ingest,
        ingest_shard,
        merge_cohort,
        preprocess,
        preprocess_shard,
        merge_features,
        validate,
        first_samples,
        embed_text,
        train,
        cross_validate,
        invent_predictions,
        compare,
        register,
    )
}


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
