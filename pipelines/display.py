"""What a person sees of a run: one line a step, then the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def _seconds(state: StepState) -> str:
    seconds = state.event.seconds if state.event is not None else state.seconds
    if seconds is not None:
        # A cluster reports whole seconds.
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    if state.state == "running" and state.started is not None:
        return f"{time.time() - state.started:.0f} s"
    return ""


def steps_table(steps: list[StepState]) -> Table:
    """Return one line a step: its state, how long it took, what it is doing or why it failed.

    Args:
        steps: All steps.
    """
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for state in steps:
        sign, style = _STYLES[state.state]
        text = state.text.splitlines()[0] if state.text else ""
        table.add_row(
            Text(sign, style=style),
            # As text: the model in brackets would be taken for markup, and vanish.
            Text(state.name),
            Text(state.state, style=style),
            _seconds(state),
            Text(text, style="dim"),
        )
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
            live.update(steps_table(_fitting(steps, console.height - 1)))

        yield update
        # Once nothing moves any more, all of them: a terminal scrolls.
        live.update(steps_table(shown))


def _fitting(steps: list[StepState], lines: int) -> list[StepState]:
    """Return the steps that fit on a terminal: the first ones that have ended make way, and are counted."""
    too_many = len(steps) - lines
    if too_many <= 0:
        return steps
    ended = [i for i, state in enumerate(steps) if state.state in ("done", "cached", "skipped")]
    # One line more, which tells of them.
    left_out = set(ended[: too_many + 1])
    if not left_out:
        return steps
    rest = [state for i, state in enumerate(steps) if i not in left_out]
    return [StepState(f"{len(left_out)} steps more", "done"), *rest]


def result_table(rows: list[dict]) -> Table:
    """Return the short table of all models on held-out rows.

    Args:
        rows: One mapping a model: ``model``, and each of macro_auc, accuracy, macro_precision, kappa and mcc, or
            ``reason`` where the model could not run.

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
