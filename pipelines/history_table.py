"""What ``vitalfuse history`` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.register.audit import Entry
from components.register.promotion import moves
from pipelines.promotions import Told


def print_history(console: Console, told: Told) -> None:
    """Print the record of promotions, the oldest entry first, and whether it is sound.

    Args:
        console: Where to print.
        told: From ``pipelines.promotions.tell_history``.
    """
    entries = told.history.entries if told.history else []
    if entries:
        console.print(_table(entries))
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
            entry.time[:16].replace("T", " "),
            Text(f"{entry.action} {entry.version}" if entry.version else entry.action),
            Text(moves(entry.before, entry.after).replace(", ", "\n")),
            Text(entry.by),
            _why(entry),
        )
    return table


def _why(entry: Entry) -> Text:
    text = Text(entry.reason)
    overridden = entry.evidence.get("overridden")
    if overridden:
        text.append(f"\nin spite of: {'; '.join(overridden)}", style="red")
    return text
