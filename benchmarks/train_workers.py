"""Seconds to fit the candidate by one process and by two workers of this machine, on the stays of PhysioNet 2012.

Each fit is a process of its own, since TensorFlow takes its threads once. A short and a long fit differ by epochs
alone: their difference tells of an epoch, the rest of what comes before the first one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from pipelines.settings import CONFIGS, Settings, load_settings

SHORT, LONG = 2, 10
ROUNDS = 3
# (what it is called, workers, TensorFlow threads of each)
WAYS = (("one process, 1 thread", 1, 1), ("one process, 2 threads", 1, 2), ("two workers, 1 thread each", 2, 1))
# (what it is called, units of the network, samples of a batch)
MODELS = (("as configured", 32, 128), ("four times as wide", 128, 512))


def prepare(root: Path, settings: Settings) -> None:
    """Make features and word vectors of the configured cohort.

    Args:
        root: Folder to write.
        settings: The settings.
    """
    from components.embed_text.embed_text import embed_notes
    from components.ingest.ingest import ingest_sources
    from components.preprocess.preprocess import preprocess_cohort

    ingest_sources(output=root / "cohort", settings=settings.ingest, pseudonym_key=b"benchmark")
    preprocess_cohort(cohort=root / "cohort", output=root / "features", settings=settings.preprocess)
    embed_notes(features=root / "features", output=root / "embedding", settings=settings.embed_text)


def fit_seconds(root: Path, train: dict) -> float:
    """Fit once, in a process of its own.

    Args:
        root: Folder that ``prepare`` wrote.
        train: Section ``train`` of the settings.

    Returns:
        Seconds of the fit: without imports, start of the workers, and export.
    """
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "benchmarks.train_workers", str(root), output, json.dumps(train)]
        subprocess.run(command, check=True, capture_output=True)
        return json.loads((Path(output) / "model" / "timing.json").read_text())["fit_seconds"][0]


def measure(root: Path, train: dict) -> Iterator[tuple[str, str, float, float]]:
    """Fit each model in each way, some rounds, turn and turn about.

    Args:
        root: Folder that ``prepare`` wrote.
        train: Section ``train`` of the settings.

    Yields:
        Model, way, median seconds an epoch, and median seconds before the first epoch.
    """
    for model, units, batch in MODELS:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way, _, _ in WAYS}
        for number in range(ROUNDS):
            for way, workers, threads in WAYS:
                optimiser = train["optimiser"] | {"threads": threads, "batch_size": batch, "patience": LONG}
                section = train | {"workers": workers, "network": train["network"] | {"units": units}}
                short, long = (
                    fit_seconds(root, section | {"optimiser": optimiser | {"epochs": epochs}})
                    for epochs in (SHORT, LONG)
                )
                epoch = (long - short) / (LONG - SHORT)
                found[way].append((epoch, short - SHORT * epoch))
                print(f"{model}, round {number + 1}, {way}: {epoch:.2f} s an epoch", file=sys.stderr, flush=True)
        for way, values in found.items():
            yield model, way, median(epoch for epoch, _ in values), median(start for _, start in values)


def main() -> None:
    """Print the figures; without the data set beside the checkout, say so."""
    settings = load_settings(CONFIGS / "physionet2012_icu.yaml")
    source = settings.ingest.sources[0].path
    if not Path(source).exists():
        print(f"Not measured: {source} is not there.")
        return
    print("| model | way | s an epoch | ratio | s before the first epoch |\n| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, settings)
        first = 0.0
        for model, way, epoch, start in measure(root, settings.section("train")):
            first = epoch if way == WAYS[0][0] else first
            print(f"| {model} | {way} | {epoch:.2f} | {epoch / first:.2f} | {start:.1f} |", flush=True)


if __name__ == "__main__":
    from components.train.settings import TrainSettings
    from components.train.train import train_candidate

    root, output = Path(sys.argv[1]), Path(sys.argv[2])
    wanted = TrainSettings.model_validate_json(sys.argv[3])
    train_candidate(root / "features", root / "embedding", output / "model", wanted)
