"""What a person sees of a run: one line a step, then the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.local import StepState

_STYLES = {
    "waiting": ("·", "dim"),
    "running": ("▶", "cyan"),
    "cached": ("↺", "blue"),
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "skipped": ("-", "dim"),
    "cancelled": ("■", "yellow"),
}
_PADDING = 2
_LEAST_NAME, _LEAST_TEXT = 8, 12
# A table of results with frames needs as many columns.
_FRAMED = 80


def _seconds(state: StepState) -> str:
    seconds = state.event.seconds if state.event is not None else state.seconds
    if seconds is not None:
        # A cluster reports whole seconds.
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    if state.state == "running" and state.started is not None:
        return f"{time.time() - state.started:.0f} s"
    return ""


def steps_table(steps: list[StepState], width: int) -> Table:
    """Return one line a step: its state, how long it took, what it is doing or why it failed.

    Args:
        steps: All steps.
        width: Columns of the terminal. Where they are few, the last of these makes way, then the ends of long names.
    """
    names = max((cell_len(state.name) for state in steps), default=0)
    others = 1 + max((len(state.state) for state in steps), default=0) + max(map(len, map(_seconds, steps)), default=0)
    room = width - names - others - 4 * _PADDING
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=max(_LEAST_NAME, names + min(room, 0)))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    with_text = room >= _LEAST_TEXT + _PADDING
    if with_text:
        # Without a bound, a long text would take the room of all columns alike.
        table.add_column(no_wrap=True, max_width=room - _PADDING)
    for state in steps:
        sign, style = _STYLES[state.state]
        text = state.text.splitlines()[0] if state.text else ""
        # As text: the model in brackets would be taken for markup, and vanish.
        cells = [Text(sign, style=style), Text(state.name), Text(state.state, style=style), Text(_seconds(state))]
        table.add_row(*cells, *([Text(text, style="dim")] if with_text else []))
    return table


class _PlainDisplay:
    """One line a change of a step's state: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def __call__(self, steps: list[StepState]) -> None:
        for state in steps:
            if self._shown.get(state.name, "waiting") != state.state:
                self._shown[state.name] = state.state
                seconds = f" ({_seconds(state)})" if _seconds(state) and state.state != "running" else ""
                self._console.print(f"{state.name}: {state.state}{seconds}", highlight=False, markup=False)


@contextmanager
def show_steps(console: Console) -> Iterator[Callable[[list[StepState]], None]]:
    """Show steps live on a terminal, or as plain lines elsewhere.

    Args:
        console: Where to show them.

    Yields:
        What to call with all steps, as often as wanted.
    """
    if not console.is_terminal:
        yield _PlainDisplay(console)
        return
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        shown: list[StepState] = []

        def update(steps: list[StepState]) -> None:
            shown[:] = steps
            live.update(steps_table(_fitting(steps, console.height - 1), console.width))

        yield update
        # Once nothing moves any more, all of them: a terminal scrolls.
        live.update(steps_table(shown, console.width))


def _fitting(steps: list[StepState], lines: int) -> list[StepState]:
    """Return the steps that fit on a terminal.

    The first ones that have ended make way, then the last ones that wait. A line tells how many they are.
    """
    ended = [i for i, state in enumerate(steps) if state.state in ("done", "cached", "skipped")]
    waiting = [i for i, state in enumerate(steps) if state.state == "waiting"]
    # One line more, which tells of them.
    gone = _more_than_one(ended[: max(len(steps) - lines, -1) + 1])
    left = len(steps) - len(gone) + bool(gone)
    later = _more_than_one(waiting[len(waiting) - 1 - (left - lines) :] if left > lines else [])
    shown = [state for i, state in enumerate(steps) if i not in {*gone, *later}]
    if gone:
        shown.insert(0, StepState(f"{len(gone)} steps more", "done"))
    if later:
        shown.append(StepState(f"{len(later)} steps more"))
    return shown


def _more_than_one(steps: list[int]) -> list[int]:
    # A line that tells of one step takes as much room as the step.
    return steps if len(steps) > 1 else []


def result_table(rows: list[dict], width: int) -> Table:
    """Return the short table of all models on held-out rows.

    Args:
        rows: One mapping a model: ``model``, and each of macro_auc, accuracy, macro_precision, kappa and mcc, or
            ``reason`` where the model could not run.
        width: Columns of the terminal.

    Returns:
        The table.
    """
    columns = {
        "macro_auc": "macro AUC",
        "accuracy": "accuracy",
        "macro_precision": "macro precision",
        "kappa": "kappa",
        "mcc": "MCC",
    }
    table = Table(title="Held-out rows", title_justify="left", title_style="bold", header_style="bold")
    if width < _FRAMED:
        table.box, table.padding, table.pad_edge = None, (0, 1, 0, 0), False
    table.add_column("model", no_wrap=True)
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in rows:
        if row.get("reason"):
            table.add_row(row["model"], *["-"] * len(columns), style="dim")
        else:
            table.add_row(row["model"], *[_number(row.get(name)) for name in columns])
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
