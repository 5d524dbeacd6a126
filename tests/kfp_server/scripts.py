"""Scripts of runs of this project's pipeline, for tests of the API."""

from __future__ import annotations

from typing import Any

STEPS = ("open-run", "ingest", "validate", "preprocess", "embed-text", "train", "cross-validate", "compare")
STEPS += ("register", "record-run")
LOOP = "for-loop-2"
MODELS = 2


def happy(*, cached: tuple[str, ...] = (), until: str = "record-run", pause: float = 0.0) -> list[Any]:
    """Return the events of a run in which every step up to one succeeds, and then the exit task."""
    script: list[Any] = []
    for step in STEPS[: STEPS.index(until) + 1]:
        scopes = [[[LOOP, index]] for index in range(MODELS)] if step == "cross-validate" else [[]]
        for scope in scopes:
            if step in cached:
                script.append({"kind": "cached", "task": step, "scope": scope})
            else:
                script += [{"kind": "started", "task": step, "scope": scope}, pause]
                script.append({"kind": "finished", "task": step, "scope": scope, "succeeded": True})
    return [*script, *exit_task()]


def failing(step: str) -> list[Any]:
    """Return the events of a run in which one step fails."""
    before = STEPS[STEPS.index(step) - 1]
    return [
        *happy(until=before)[:-2],
        {"kind": "started", "task": step},
        {"kind": "finished", "task": step, "succeeded": False},
        *exit_task(),
    ]


def exit_task() -> list[Any]:
    """Return the events of the exit task."""
    return [{"kind": "started", "task": "close-run"}, {"kind": "finished", "task": "close-run", "succeeded": True}]
