"""Wall time, share of pure compute and peak memory of each step of the demo; and a second, fully cached run.

Pure compute is what the step's own function takes when all of them are called one after the other in one process: no
process start, no imports, no tracking.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from components.common.events import Event, read_events
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from pipelines.settings import Settings, find_config, load_settings
from training.names import CANDIDATE


def main(patients: int = 300) -> None:
    """Run the demo twice, then its functions in this process, and print the figures.

    Args:
        patients: Patients of the demo cohort.
    """
    with TemporaryDirectory() as folder:
        root = Path(folder)
        generate_source(root / "demo", DemoSettings(patients=patients))
        arguments = ["--set", f"workspace={root / 'workspace'}", "--set", f"ingest.sources.0.path={root / 'demo'}"]
        first, events = _run(root, arguments)
        second, _ = _run(root, arguments)
        overrides = [arguments[1], arguments[3]]
        settings = load_settings(find_config("demo"), overrides)
        compute = _in_one_process(settings, root / "plain")
    _print(events, compute, first, second)


def _run(root: Path, arguments: list[str]) -> tuple[float, dict[str, Event]]:
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", "--config", "demo", *arguments], check=True, stdout=sys.stderr
    )
    seconds = time.monotonic() - started
    newest = sorted((root / "workspace" / "runs").glob("*"))[-1]
    return seconds, {event.step: event for event in read_events(newest) if event.state in ("done", "cached")}


def _in_one_process(settings: Settings, root: Path) -> dict[str, float]:
    from components.compare.compare import compare_models
    from components.cross_validate.cross_validate import cross_validate_model
    from components.embed_text.embed_text import embed_notes
    from components.ingest.ingest import ingest_sources
    from components.preprocess.preprocess import preprocess_cohort
    from components.train.train import train_candidate
    from components.validate.validate import validate_cohort

    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable, **arguments: object) -> None:
        print(f"in one process: {name}", file=sys.stderr, flush=True)
        started = time.monotonic()
        function(**arguments)
        seconds[name] = time.monotonic() - started

    cohort, validation, features = root / "cohort", root / "validation", root / "features"
    embedding, model, folds = root / "embedding", root / "model", root / "folds"
    timed("ingest", ingest_sources, output=cohort, settings=settings.ingest, pseudonym_key=b"benchmark")
    timed("validate", validate_cohort, cohort=cohort, output=validation, settings=settings.validation)
    timed("preprocess", preprocess_cohort, cohort=cohort, output=features, settings=settings.preprocess)
    timed("embed_text", embed_notes, features=features, output=embedding, settings=settings.embed_text)
    timed("train", train_candidate, features=features, embedding=embedding, output=model, settings=settings.train)
    for name in settings.models:
        timed(
            f"cross_validate[{name}]",
            cross_validate_model,
            model=name,
            features=features,
            output=folds / name,
            settings=settings.cross_validate,
            predict_test=name != CANDIDATE,
        )
    timed(
        "compare",
        compare_models,
        features=features,
        candidate=model,
        cross_validations=[folds / name for name in settings.models],
        validation=validation,
        output=root / "comparison",
        settings=settings.compare,
    )
    return seconds


def _print(events: dict[str, Event], compute: dict[str, float], first: float, second: float) -> None:
    print("| step | wall s | pure compute s | share | peak memory MB |\n| --- | ---: | ---: | ---: | ---: |")
    for name, event in sorted(events.items(), key=lambda item: item[1].time):
        wall, pure = event.seconds or 0.0, compute.get(name)
        share = f"{pure:.1f} | {100 * pure / wall:.0f} %" if pure is not None and wall else "- | -"
        print(f"| {name} | {wall:.1f} | {share} | {event.peak_memory_mb or 0:.0f} |")
    print(f"\nfirst run {first:.0f} s; second, fully cached run {second:.1f} s = {100 * second / first:.1f} % of it")
