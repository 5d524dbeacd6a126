"""What a running step tells its runner: one JSON line an event, in a file of its own.

The runner reads these files while the steps run; steps are separate processes, so a file each needs no lock.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

State = Literal["running", "cached", "done", "failed"]


class Event(BaseModel):
    """One thing that happened in a step.

    Attributes:
        step: Step name, with the model in brackets where the step runs once a model, as in ``cross_validate[gru]``.
        state: The step's state from now on.
        time: Seconds since the epoch.
        text: Progress within the step, or the cause of the failure.
        input_error: The cause is the user's input: exit code 2.
        log: File with the step's full log.
        seconds: Wall time of the step, once it ended.
        peak_memory_mb: Peak resident memory of the step's process and its children in MB, once it ended.
        compute_seconds: Wall time of the step's own function, without start, imports and tracking.
        record: File with the step's parameters, metrics and warnings, once it ended well.
    """

    step: str
    state: State
    time: float
    text: str = ""
    input_error: bool = False
    log: str | None = None
    seconds: float | None = None
    compute_seconds: float | None = None
    peak_memory_mb: float | None = None
    record: str | None = None


class EventWriter:
    """Appends the events of one step to its file.

    Args:
        run_folder: The run's folder, or None where nobody listens: then nothing is written.
        step: Step name.
    """

    def __init__(self, run_folder: Path | None, step: str) -> None:
        self.step = step
        self._path = None
        if run_folder is not None:
            folder = run_folder / "events"
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / f"{step}.jsonl"

    def write(self, state: State, **fields: object) -> None:
        """Append one event.

        Args:
            state: The step's state from now on.
            **fields: Other fields of ``Event``.
        """
        if self._path is None:
            return
        event = Event.model_validate({"step": self.step, "state": state, "time": time.time(), **fields})
        with self._path.open("a") as stream:
            stream.write(event.model_dump_json() + "\n")


def read_events(run_folder: Path) -> list[Event]:
    """Read all events of a run so far, in order of time.

    Args:
        run_folder: The run's folder.

    Returns:
        The events; a line that is still being written is left out.
    """
    events = []
    for path in sorted((run_folder / "events").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                content = json.loads(line)
            except json.JSONDecodeError:
                continue
            events.append(Event.model_validate(content))
    return sorted(events, key=lambda event: event.time)
