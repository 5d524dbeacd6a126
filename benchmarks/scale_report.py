"""The tables of ``benchmarks.scale``: what was measured, and what follows for a larger cohort."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.projection import MOST_PATIENTS, Linear, Task, fit_linear, fit_power, largest, project

# Few large shards, for every shard reads the lists of all patients and Kubeflow Pipelines tires of many iterations.
PATIENTS_A_SHARD = 100_000
# CPU seconds stand for the hours of a pod with one core: unlike wall time, a busy machine hardly changes them.
SECONDS = "cpu_s"
AT_ONCE = 16
POD_MB = 64 * 1024
POD_SECONDS = 24 * 3600
# The default settings: members, most epochs, folds, epochs of the word vectors, resamples.
MEMBERS, EPOCHS, FOLDS, WORD_EPOCHS, RESAMPLES = 3, 60, 5, 60, 1000
# Share of the patients in the largest set of rows that a task resamples: training rows, test rows.
RESAMPLED = {"compare": 0.8, "register": 0.2}
TABULAR = ("gradient_boosting", "random_forest", "svm")
# What is fixed in a fit hides its growth at 10,000 rows: trees look at every row, and scikit-learn documents the fit of
# a support vector machine as quadratic at least.
LOWEST_EXPONENT = {"gradient_boosting": 1.0, "random_forest": 1.0, "svm": 2.0}
Entries = list[dict[str, Any]]


def print_report(found: Entries, patients: int) -> None:
    """Print all tables for which enough was measured.

    Args:
        found: What the stages returned.
        patients: Patients to project to.
    """
    for size in sorted({entry["patients"] for entry in found}):
        print(f"## {size:,} patients, measured\n")
        _print_source(found, size)
        _print_shards(found, size)
        _print_processes(found, size)
    try:
        _print_projection(build_tasks(found), found, patients)
    except KeyError as missing:
        print(f"No projection yet: {missing.args[0]} is not measured at two sizes.")


def _stage(found: Entries, name: str, size: int) -> dict[str, Any] | None:
    return next((entry for entry in found if entry["stage"] == name and entry["patients"] == size), None)


def _print_source(found: Entries, size: int) -> None:
    entry = _stage(found, "source", size)
    if entry:
        print(
            f"Source: {entry['source_rows']:,} rows of observations, {_gb(entry['source_bytes'])} GB, of which "
            f"{_gb(entry['read_by_all_bytes'])} GB are read by every shard.\n"
        )


def _print_shards(found: Entries, size: int) -> None:
    entries = [entry for entry in found if entry["patients"] == size and entry["stage"].startswith("shards-")]
    if not entries:
        return
    print(
        "| shards | step | wall s | longest shard + join s | CPU s | memory of a shard MB | of the join MB "
        "| parts GB | result GB | disk peak GB |\n| ---: | --- |" + " ---: |" * 8
    )
    for entry in sorted(entries, key=lambda entry: entry["shards"]):
        for step, result in (("ingest", "cohort"), ("preprocess", "features")):
            own = [one for one in entry["processes"] if one["task"] in (step, f"{step}_shard")]
            join = [one for one in entry["processes"] if one["task"] == f"merge_{result}"]
            longest = max(one["wall_s"] for one in own) + sum(one["wall_s"] for one in join)
            cells = [
                f"{entry[f'{step}_s']:.0f}",
                f"{longest:.0f}",
                f"{sum(one['cpu_s'] for one in own + join):.0f}",
                _memory(own),
                _memory(join) if join else "-",
                _gb(sum(one["bytes"] for one in own)) if join else "-",
                _gb(entry[f"{result}_bytes"]),
                _gb(entry[f"{step}_disk_peak"]),
            ]
            print(f"| {entry['shards']} | {step} | " + " | ".join(cells) + " |")
    equal = [len({entry[f"{name}_digest"] for entry in entries}) == 1 for name in ("cohort", "features")]
    print(
        f"\nCohort and features {'are' if all(equal) else 'ARE NOT'} byte for byte equal for all numbers of shards.\n"
    )


def _memory(processes: Entries) -> str:
    return f"{max(one['memory_mb'] for one in processes):.0f}"


def _print_processes(found: Entries, size: int) -> None:
    """Print the single processes of the other stages."""
    rows = []
    for entry in found:
        if entry["patients"] != size or entry["stage"].startswith(("shards-", "source")):
            continue
        for place, one in enumerate(entry["processes"]):
            detail = [one[key] for key in ("model",) if key in one]
            detail += [f"{entry[key][place]} {key}" for key in ("epochs", "resamples") if key in entry]
            detail += [f"{entry['runner']}, {entry['workers']} workers"] if "runner" in entry else []
            detail += [f"{one['own']:,} samples"] if one["own"] != size else []
            fit = one["metrics"].get("fit_seconds_mean", one["metrics"].get("fit_seconds"))
            rows.append(
                f"| {one['task']} | {', '.join(detail)} | {one['wall_s']:.0f} | {one['cpu_s']:.0f} | "
                f"{'-' if fit is None else f'{fit:.1f}'} | {one['memory_mb']:.0f} | {one['resident_mb']:.0f} |"
            )
    if rows:
        print("| task | | wall s | CPU s | one fit s | memory MB | resident MB |\n| --- | --- |" + " ---: |" * 5)
        print("\n".join(rows) + "\n")


def _processes(found: Entries, task: str) -> list[tuple[dict[str, Any], dict[str, Any], int]]:
    """Return each process of a task with its stage and its place there; KeyError without two sizes."""
    listed = [
        (one, entry, place)
        for entry in found
        for place, one in enumerate(one for one in entry["processes"] if one["task"] == task)
    ]
    if len({one["own"] for one, _, _ in listed}) < 2:
        raise KeyError(task)
    return listed


def _by_share(found: Entries, task: str, field: str) -> Linear:
    """Fit a figure of the shards to the cohort's size and the shard's own."""
    return fit_linear([((one["patients"], one["own"]), one[field]) for one, _, _ in _processes(found, task)])


def _by_size(found: Entries, task: str, field: str) -> Linear:
    return fit_linear([((one["own"],), one[field]) for one, _, _ in _processes(found, task)])


def _by_repeats(found: Entries, task: str, field: str, repeats: str) -> Linear:
    """Fit a figure to the patients, and to patients times epochs or resamples."""
    points = []
    for one, entry, place in _processes(found, task):
        points.append(((one["own"], one["own"] * entry[repeats][place]), one[field]))
    return fit_linear(points)


def _weights_mb(patients: float, resamples: float, share: float) -> float:
    """Return the MiB of the weights of all resamples: a byte a resample and row."""
    return share * patients * resamples / 2**20


def _beside_weights(found: Entries, task: str, share: float) -> Linear:
    """Fit what a task that resamples takes beside the weights, where they are large enough to fill its buffers."""
    points = {}
    for one, entry, place in _processes(found, task):
        resamples = entry["resamples"][place]
        rest = one["memory_mb"] - _weights_mb(one["own"], resamples, share)
        points[one["own"]] = max(points.get(one["own"], (0, 0.0)), (resamples, rest))
    return fit_linear([((own,), rest) for own, (_, rest) in points.items()])


def _of_stages(found: Entries, prefix: str, figure: Callable[[dict[str, Any]], float]) -> Linear:
    """Fit a figure of stages to the size of the cohort."""
    points = [((entry["patients"],), figure(entry)) for entry in found if entry["stage"].startswith(prefix)]
    if len({size for size, _ in points}) < 2:
        raise KeyError(prefix)
    return fit_linear(points)


def artifacts(found: Entries) -> dict[str, Linear]:
    """Return the bytes of each artifact as a function of the patients.

    Args:
        found: What the stages returned.

    Returns:
        By name.

    Raises:
        KeyError: A stage is not measured.
    """
    return {
        "source": _of_stages(found, "source", lambda entry: entry["source_bytes"]),
        "cohort parts": _by_size(found, "ingest_shard", "bytes"),
        "cohort": _of_stages(found, "shards-", lambda entry: entry["cohort_bytes"]),
        "features parts": _by_size(found, "preprocess_shard", "bytes"),
        "features": _of_stages(found, "shards-", lambda entry: entry["features_bytes"]),
        "predictions of 8 models": _of_stages(found, "compare", lambda entry: entry["predictions_bytes"]),
    }


def build_tasks(found: Entries) -> list[Task]:
    """Fit every task.

    Args:
        found: What the stages returned.

    Returns:
        The tasks in the order of the pipeline.

    Raises:
        KeyError: A task is not measured.
    """
    beam = [entry for entry in found if entry["stage"] == "validate-beam"]
    found = [entry for entry in found if entry["stage"] != "validate-beam"]
    sizes = artifacts(found)
    cohort, features, predictions = sizes["cohort"], sizes["features"], sizes["predictions of 8 models"]
    read_by_all = _of_stages(found, "source", lambda entry: entry["read_by_all_bytes"])
    divided = _of_stages(found, "source", lambda entry: entry["source_bytes"] - entry["read_by_all_bytes"])

    def sharded(name: str, shared: Callable[[float], float], own: Callable[[float], float], written: Linear) -> Task:
        return Task(
            name, _by_share(found, name, SECONDS), _by_share(found, name, "memory_mb"), shared, own, written, True
        )

    def single(
        name: str,
        seconds: Callable[[float], float],
        memory: Callable[[float], float],
        read: Callable[[float], float],
        written: Callable[[float], float] = _nothing,
        alternative: bool = False,
    ) -> Task:
        return Task(
            name, lambda n, _: seconds(n), lambda n, _: memory(n), read, _nothing, written, alternative=alternative
        )

    def whole(name: str, read: Callable[[float], float], written: Callable[[float], float] = _nothing) -> Task:
        return single(name, _by_size(found, name, SECONDS), _by_size(found, name, "memory_mb"), read, written)

    def repeated(name: str, repeats: str, number: float, read: Callable[[float], float]) -> Task:
        seconds = _by_repeats(found, name, SECONDS, repeats)
        if repeats == "epochs":
            # Epochs follow each other in the same memory.
            return single(name, lambda n: seconds(n, n * number), _by_size(found, name, "memory_mb"), read)
        share = RESAMPLED[name]
        memory = _beside_weights(found, name, share)
        return single(name, lambda n: seconds(n, n * number), lambda n: memory(n) + _weights_mb(n, number, share), read)

    text = repeated("embed_text", "epochs", WORD_EPOCHS, features)
    train = repeated("train", "epochs", MEMBERS * EPOCHS, features)
    # A fold fits on four fifths of the rows that train has, first the word vectors and then the network.
    rows = 1 - 1 / FOLDS
    candidate = single(
        "cross_validate[cnn_lstm_attention]",
        lambda n: FOLDS * rows * (text.seconds(n, n) + train.seconds(n, n)),
        lambda n: max(text.memory_mb(rows * n, rows * n), train.memory_mb(n, n)),
        features,
        lambda n: predictions(n) / 8,
    )
    return [
        sharded("ingest_shard", read_by_all, divided, sizes["cohort parts"]),
        whole("merge_cohort", sizes["cohort parts"], cohort),
        whole("validate", cohort),
        single(
            "validate, by Beam",
            _by_size(beam, "validate", SECONDS),
            _by_size(beam, "validate", "memory_mb"),
            cohort,
            alternative=True,
        ),
        sharded("preprocess_shard", cohort, _nothing, sizes["features parts"]),
        whole("merge_features", lambda n: cohort(n) + sizes["features parts"](n), features),
        text,
        train,
        candidate,
        *(_tabular(found, model, features, predictions) for model in TABULAR),
        repeated("compare", "resamples", RESAMPLES, lambda n: features(n) + predictions(n)),
        repeated("register", "resamples", RESAMPLES, lambda n: cohort(n) + features(n)),
    ]


def _tabular(found: Entries, model: str, features: Linear, predictions: Linear) -> Task:
    """Fit a tabular model: a fit's seconds by a power law, its memory by a line."""
    own = [one for one, _, _ in _processes(found, "cross_validate") if one["model"] == model]
    if len(own) < 2:
        raise KeyError(model)
    first, second = sorted(own, key=lambda one: one["own"])
    fit = fit_power(
        *((one["own"], one["metrics"]["fit_seconds_mean"]) for one in (first, second)), LOWEST_EXPONENT[model]
    )
    memory = fit_linear([((one["own"],), one["memory_mb"]) for one in own])
    return Task(
        name=f"cross_validate[{model}]",
        # Every fold, and once on all training rows.
        seconds=lambda n, _: (FOLDS + 1) * fit(n),
        memory_mb=lambda n, _: memory(n),
        shared_bytes=features,
        own_bytes=_nothing,
        written_bytes=lambda n: predictions(n) / 8,
    )


def _nothing(_: float) -> float:
    return 0.0


def shards_of(patients: float) -> int:
    """Return how many shards a cohort gets."""
    return max(1, math.ceil(patients / PATIENTS_A_SHARD))


def _print_projection(tasks: list[Task], found: Entries, patients: int) -> None:
    shards = shards_of(patients)
    print(f"## {patients:,} patients, extrapolated\n")
    print(f"{shards} shards, {AT_ONCE} at a time.\n")
    print(
        "| task | pods | hours | pod hours | memory of a pod GiB | read by all pods TB | written TB "
        "| full pod at | a day at |\n| --- |" + " ---: |" * 8
    )
    total = [0.0, 0.0, 0.0]
    for task in tasks:
        found_task = project(task, patients, shards, AT_ONCE)
        read, written = found_task.read_bytes / 1e12, found_task.written_bytes / 1e12
        if not task.alternative:
            total = [a + b for a, b in zip(total, (found_task.pod_hours, read, written), strict=True)]
        print(
            f"| {task.name} | {found_task.pods} | {_number(found_task.hours)} | {_number(found_task.pod_hours)} | "
            f"{_number(found_task.memory_mb / 1024)} | {_number(read)} | {_number(written)} | "
            f"{_reach(task, memory=True)} | {_reach(task, memory=False)} |"
        )
    # Hours of tasks that run beside each other have no sum.
    print(f"| all | | | {_number(total[0])} | | {_number(total[1])} | {_number(total[2])} | | |\n")
    print("| artifact | bytes a patient | TB |\n| --- | ---: | ---: |")
    for name, size in artifacts(found).items():
        print(f"| {name} | {size(patients) / patients:,.0f} | {_number(size(patients) / 1e12)} |")
    print()


def _reach(task: Task, memory: bool) -> str:
    """Return the largest cohort that a task takes in a pod's memory, or in a day, in millions of patients.

    A dash says that the cost does not grow with the cohort as far as the measured sizes can tell.
    """

    def cost(patients: int) -> float:
        if memory:
            own = min(patients, PATIENTS_A_SHARD) if task.sharded else patients
            return task.memory_mb(patients, own)
        return 3600 * project(task, patients, shards_of(patients), AT_ONCE).hours

    if cost(MOST_PATIENTS) == cost(10 * PATIENTS_A_SHARD):
        return "-"
    reach = largest(cost, POD_MB if memory else POD_SECONDS) / 1e6
    return f"{_number(reach)} M" if reach < 1000 else "over 1000 M"


def _number(value: float) -> str:
    """Return a number with two significant digits, or as an integer from 10 on."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}"
