"""What ``vitalfuse history`` prints."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from components.register.audit import Entry
from components.register.promotion import moves
from pipelines.listing import below
from pipelines.promotions import Told

# Columns that leave room for a reason beside the other facts.
_WIDE = 100


def print_history(console: Console, told: Told) -> None:
    """Print the record of promotions, the oldest entry first, and whether it is sound.

    Args:
        console: Where to print.
        told: From ``pipelines.promotions.tell_history``.
    """
    entries = told.history.entries if told.history else []
    if entries:
        table = _table(entries)
        console.print(table if console.width >= _WIDE else Group(*map(_block, entries)))
        console.print()
    else:
        console.print(f"{told.model}: no promotion was recorded yet")
    now = ", ".join(f"{alias} {version}" for alias, version in told.aliases.items()) or "none"
    console.print(Text(f"aliases  {now}"))
    if told.history and entries:
        console.print(Text(f"digest   {told.history.head_hash}"), soft_wrap=True)
    if told.unfinished:
        line = (
            f"warning: entry {entries[-1].number} was cut off before its aliases were set; the next command sets them"
        )
        console.print(Text(line, style="yellow"))
    for problem in told.problems:
        console.print(Text(f"warning: {problem}", style="red"))


def _table(entries: list[Entry]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("time, UTC", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("aliases", no_wrap=True)
    table.add_column("by", overflow="fold")
    table.add_column("why", overflow="fold", ratio=1)
    for entry in entries:
        table.add_row(
            str(entry.number),
            _time(entry),
            Text(_action(entry)),
            Text(moves(entry.before, entry.after).replace(", ", "\n")),
            Text(entry.by),
            _why(entry),
        )
    return table


def _block(entry: Entry) -> RenderableType:
    head = Text(f"{entry.number}  {_time(entry)}  {_action(entry)}")
    return Group(
        head, below(Text(moves(entry.before, entry.after))), below(Text(f"by {entry.by}: ", end="").append(_why(entry)))
    )


def _time(entry: Entry) -> str:
    return entry.time[:16].replace("T", " ")


def _action(entry: Entry) -> str:
    return f"{entry.action} {entry.version}" if entry.version else entry.action


def _why(entry: Entry) -> Text:
    text = Text(entry.reason)
    overridden = entry.evidence.get("overridden")
    if overridden:
        text.append(f"\nin spite of: {'; '.join(overridden)}", style="red")
    return text
