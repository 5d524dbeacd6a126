"""Cost of shards on a large cohort, and a projection to a larger one: ``python -m benchmarks.scale``.

Every task is a process of its own, as in a pod; shards run two at a time, as in a local run. The cohort is measured at
its full size and at a tenth of it: two sizes tell what every task pays anyway, what grows with the cohort, and what
grows with a task's own share (``benchmarks.projection``).

The folder keeps the generated sources and what was measured, by stage. A stage that was measured with the same code is
not measured again, so that ``--only`` may cut a long measurement into pieces.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.processes import DiskPeak, folder_bytes, run_measured
from benchmarks.scale_report import print_report
from benchmarks.scale_tasks import CONTENT
from components.common.shards import Shard, shard_names
from pipelines.code_version import code_version, git_commit

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
PART = 10
SMALLEST = 10_000


@dataclass(frozen=True)
class Call:
    """A task to run.

    Attributes:
        task: A key of ``benchmarks.scale_tasks.TASKS``.
        arguments: What it is called with.
        own: Patients that it takes.
    """

    task: str
    arguments: dict[str, Any]
    own: int


class Size:
    """A cohort of one size in the benchmark's folder.

    Args:
        root: The benchmark's folder.
        patients: Patients of the cohort.
    """

    def __init__(self, root: Path, patients: int) -> None:
        self.root = root
        self.patients = patients
        self.folder = root / str(patients)
        self.results = self.folder / "results"
        self.results.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Return a folder of this size."""
        return self.folder / name

    def run(self, calls: Iterable[Call]) -> list[dict[str, Any]]:
        """Run tasks, some at once, and return what each cost."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._run, calls))

    def _run(self, call: Call) -> dict[str, Any]:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        name = f"{call.task}-{hashlib.sha256(repr(call).encode()).hexdigest()[:8]}"
        result = logs / f"{name}.json"
        arguments = json.dumps({key: _plain(value) for key, value in call.arguments.items()})
        command = [sys.executable, "-m", "benchmarks.scale_tasks", call.task, arguments, str(result)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        cost = run_measured(command, environment, logs / f"{name}.log")
        output = Path(call.arguments["output"])
        return {
            "task": call.task,
            "patients": self.patients,
            "own": call.own,
            "bytes": folder_bytes(output) if output.is_dir() else 0,
            "metrics": json.loads(result.read_text()),
            **asdict(cost),
        }

    def replace(self, old: Path, name: str) -> None:
        """Move a folder to where later stages find it."""
        shutil.rmtree(self.path(name), ignore_errors=True)
        old.rename(self.path(name))

    def fresh(self, name: str) -> Path:
        """Return an empty folder for one stage's output."""
        shutil.rmtree(self.path(name), ignore_errors=True)
        self.path(name).mkdir()
        return self.path(name)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def source_stage(size: Size) -> dict[str, Any]:
    """Generate the export."""
    source = size.path("source")
    processes = size.run([Call("generate", {"output": source, "patients": size.patients}, size.patients)])
    return {"processes": processes, **_source_bytes(source)}


def _source_bytes(source: Path) -> dict[str, int]:
    """Return what every shard reads of an export, and what the shards divide among them."""
    import pyarrow.parquet as pq

    keys = rows = 0
    for path in sorted((source / "observations").iterdir()):
        metadata = pq.read_metadata(path)
        rows += metadata.num_rows
        for group in range(metadata.num_row_groups):
            columns = [metadata.row_group(group).column(place) for place in range(metadata.num_columns)]
            keys += sum(column.total_compressed_size for column in columns if column.path_in_schema == "mrn")
    tables = sum(path.stat().st_size for path in source.rglob("*.csv"))
    total = folder_bytes(source)
    return {"source_bytes": total, "read_by_all_bytes": tables + keys, "source_rows": rows}


def shards_stage(size: Size, count: int) -> dict[str, Any]:
    """Ingest and preprocess in some shards; compare what comes out with that of other numbers of shards."""
    work = size.fresh(f"work-{count}")
    source, cohort, features = size.path("source"), work / "cohort", work / "features"
    figures: dict[str, Any] = {"shards": count}
    processes: list[dict[str, Any]] = []
    names = shard_names(count)
    own = {name: _share(size.patients, name) for name in names}

    def step(name: str, calls: list[list[Call]]) -> None:
        started = time.perf_counter()
        with DiskPeak(work) as disk:
            for together in calls:
                processes.extend(size.run(together))
        figures[f"{name}_s"] = time.perf_counter() - started
        figures[f"{name}_disk_peak"] = disk.peak

    if count == 1:
        step("ingest", [[Call("ingest", {"source": source, "output": cohort}, size.patients)]])
        step("preprocess", [[Call("preprocess", {"cohort": cohort, "output": features}, size.patients)]])
    else:
        parts = {name: work / f"cohort-{name}" for name in names}
        shards = [
            Call("ingest_shard", {"source": source, "output": parts[name], "shard": name}, own[name]) for name in names
        ]
        merge = Call("merge_cohort", {"source": source, "output": cohort, "parts": list(parts.values())}, size.patients)
        step("ingest", [shards, [merge]])
        _remove(parts.values())
        parts = {name: work / f"features-{name}" for name in names}
        shards = [
            Call("preprocess_shard", {"cohort": cohort, "output": parts[name], "shard": name}, own[name])
            for name in names
        ]
        merge = Call(
            "merge_features", {"cohort": cohort, "output": features, "parts": list(parts.values())}, size.patients
        )
        step("preprocess", [shards, [merge]])
        _remove(parts.values())
    figures |= {"cohort_digest": _digest(cohort), "features_digest": _digest(features)}
    figures |= {"cohort_bytes": folder_bytes(cohort), "features_bytes": folder_bytes(features)}
    figures["observations"] = json.loads((cohort / "manifest.json").read_text())["counts"]["observations"]
    size.replace(cohort, "cohort")
    size.replace(features, "features")
    shutil.rmtree(work)
    return {"processes": processes, **figures}


def _share(patients: int, name: str) -> int:
    start, stop = Shard.parse(name).bounds(patients)
    return stop - start


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def validate_stage(size: Size, runner: str, workers: int) -> dict[str, Any]:
    """Validate the cohort, with TFDV's statistics in memory or by Beam."""
    arguments = {"cohort": size.path("cohort"), "runner": runner, "workers": workers, "output": size.path("validation")}
    return {"processes": size.run([Call("validate", arguments, size.patients)]), "runner": runner, "workers": workers}


def text_stage(size: Size, epochs: list[int]) -> dict[str, Any]:
    """Fit word vectors with some numbers of epochs; the difference is what an epoch costs."""
    calls = [
        Call(
            "embed_text",
            {"features": size.path("features"), "output": size.path("embedding"), "epochs": number},
            size.patients,
        )
        for number in epochs
    ]
    return {"processes": _in_turn(size, calls), "epochs": epochs}


def train_stage(size: Size, epochs: list[int]) -> dict[str, Any]:
    """Fit one member of the candidate with some numbers of epochs."""
    features, embedding = size.path("features"), size.path("embedding")
    calls = [
        Call(
            "train",
            {"features": features, "embedding": embedding, "output": size.path("model"), "epochs": number},
            size.patients,
        )
        for number in epochs
    ]
    return {"processes": _in_turn(size, calls), "epochs": epochs}


def tabular_stage(size: Size, parts: list[int]) -> dict[str, Any]:
    """Cross-validate the tabular models on some of the samples."""
    processes = []
    for patients in parts:
        features = size.fresh("samples") / "features"
        arguments = {"features": size.path("features"), "output": features, "patients": patients}
        size.run([Call("first_samples", arguments, patients)])
        for model in ("gradient_boosting", "random_forest", "svm"):
            call = Call(
                "cross_validate", {"model": model, "features": features, "output": size.path("folds")}, patients
            )
            processes += [entry | {"model": model} for entry in size.run([call])]
    return {"processes": processes}


def compare_stage(size: Size, resamples: list[int]) -> dict[str, Any]:
    """Compare eight models; all but the candidate's test predictions are invented."""
    predictions = size.fresh("predictions")
    size.run([Call("invent_predictions", {"features": size.path("features"), "output": predictions}, size.patients)])
    names = {"features": "features", "candidate": "model", "predictions": "predictions"}
    names |= {"validation": "validation", "output": "comparison"}
    arguments = {key: size.path(name) for key, name in names.items()}
    calls = [Call("compare", arguments | {"resamples": number}, size.patients) for number in resamples]
    processes = _in_turn(size, calls)
    return {"processes": processes, "resamples": resamples, "predictions_bytes": folder_bytes(predictions)}


def register_stage(size: Size, resamples: list[int]) -> dict[str, Any]:
    """Register the model in an MLflow store of its own."""
    names = {"cohort": "cohort", "features": "features", "validation": "validation"}
    names |= {"candidate": "model", "comparison": "comparison"}
    arguments = {key: size.path(name) for key, name in names.items()}
    processes = []
    for number in resamples:
        more = {"output": size.fresh("registry") / "registration", "resamples": number}
        processes += size.run([Call("register", arguments | more, size.patients)])
    return {"processes": processes, "resamples": resamples}


def _in_turn(size: Size, calls: list[Call]) -> list[dict[str, Any]]:
    return [entry for call in calls for entry in size.run([call])]


# What a stage runs, and the steps whose code its figures depend on: those that it measures and those before them.
Stage = tuple[Callable[[Size], dict[str, Any]], list[str]]


def stages(shards: list[int], small: bool) -> dict[str, Stage]:
    """Return the stages of a size, in their order.

    Args:
        shards: Numbers of shards.
        small: Whether it is the tenth of the cohort: epochs and tabular models are measured there.
    """
    epochs = [2, 6] if small else [1], [1, 5] if small else [1]
    resamples = [100, 1000] if small else [100]
    prepared = ["ingest", "preprocess"]
    trained = [*prepared, "embed_text", "train"]
    found: dict[str, Stage] = {"source": (source_stage, [])}
    for count in shards:
        found[f"shards-{count}"] = (partial(shards_stage, count=count), prepared)
    found["validate"] = (lambda size: validate_stage(size, "in_memory", 1), ["ingest", "validate"])
    found["validate-beam"] = (lambda size: validate_stage(size, "DirectRunner", 2), ["ingest", "validate"])
    found["text"] = (lambda size: text_stage(size, epochs[0]), [*prepared, "embed_text"])
    found["train"] = (lambda size: train_stage(size, epochs[1]), trained)
    if small:
        found["tabular"] = (
            lambda size: tabular_stage(size, [size.patients // 4, size.patients]),
            [*prepared, "cross_validate"],
        )
    found["compare"] = (lambda size: compare_stage(size, resamples), [*trained, "validate", "compare"])
    found["register"] = (lambda size: register_stage(size, resamples), [*trained, "validate", "compare", "register"])
    return found


def _versions(steps: list[str]) -> list[str]:
    """Return what a stage's figures depend on: the code of the steps, and of the measurement itself.

    The source is kept when the code changes, but not when it is to hold something else.
    """
    if not steps:
        return [repr(CONTENT)]
    own = hashlib.sha256()
    for name in ("processes.py", "scale.py", "scale_tasks.py"):
        own.update(Path(__file__).with_name(name).read_bytes())
    return [repr(CONTENT), own.hexdigest(), *(code_version(step) for step in steps)]


def measure(size: Size, shards: list[int], small: bool, only: list[str] | None) -> list[dict[str, Any]]:
    """Measure the stages of a size that are wanted and not measured yet.

    Args:
        size: The size.
        shards: Numbers of shards.
        small: Whether it is the tenth of the cohort.
        only: Names of the stages; None: all.

    Returns:
        All that is measured of this size.
    """
    known = []
    for name, (run, steps) in stages(shards, small).items():
        path = size.results / f"{name}.json"
        code = _versions(steps)
        entry = json.loads(path.read_text()) if path.is_file() else None
        if entry is None or entry["code"] != code:
            if only is not None and name not in only:
                continue
            print(f"{size.patients:,} patients: {name}", file=sys.stderr, flush=True)
            entry = {"stage": name, "patients": size.patients, "code": code, "commit": git_commit()} | run(size)
            path.write_text(json.dumps(entry, indent=2))
        known.append(entry)
    return known


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=100_000, help="of the cohort; a tenth is measured as well")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--folder", type=Path, default=Path("workspace/bench-scale"), help="some GB; kept")
    parser.add_argument("--only", nargs="+", help="stages to measure, such as shards-4 or 10000:train")
    parser.add_argument("--project", type=int, default=10_000_000, help="patients to project to")
    options = parser.parse_args()
    if options.patients < SMALLEST:
        parser.error(
            f"--patients needs {SMALLEST} at least, for a fortieth is cross-validated; received {options.patients}"
        )
    found = []
    for patients, small in ((options.patients // PART, True), (options.patients, False)):
        # 10000:train is a stage of that size, train one of both.
        wanted = options.only and [name.removeprefix(f"{patients}:") for name in options.only]
        found += measure(Size(options.folder.absolute(), patients), options.shards, small, wanted)
    print(f"Machine: {machine()}")
    print(f"Commits: {', '.join(sorted({entry['commit'] for entry in found}))}\n")
    print_report(found, options.project)
    shards = [entry for entry in found if entry["stage"].startswith("shards-")]
    for patients in {entry["patients"] for entry in shards}:
        for artifact in ("cohort_digest", "features_digest"):
            if len({entry[artifact] for entry in shards if entry["patients"] == patients}) > 1:
                sys.exit(f"bench-scale: {artifact} of {patients} patients differs between numbers of shards")


if __name__ == "__main__":
    main()
