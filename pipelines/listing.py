"""Lists of things that fit any terminal: a table where it is wide enough, else some lines for each thing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_INDENT = 2


def fits(console: Console, table: Table) -> bool:
    """Return whether a table fits the terminal without a cell cut or broken.

    Args:
        console: The terminal.
        table: The table.
    """
    endless = console.options.update_width(10_000)
    return console.measure(table, options=endless).maximum <= console.width


def listing(console: Console, headers: Sequence[str], rows: Sequence[Sequence[Text]]) -> RenderableType:
    """Return a list of things.

    Args:
        console: Where it is to be shown.
        headers: Titles of the facts: an id, a name and a state come first.
        rows: One row of facts a thing.

    Returns:
        A table with a line for each thing. Where that is too wide: id and state on a line, the other facts below them.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table if fits(console, table) else Group(*(_block(headers, row) for row in rows))


def _block(headers: Sequence[str], row: Sequence[Text]) -> RenderableType:
    identifier, name, state, *others = row
    facts = [Text(f"{header} ").append(fact) for header, fact in zip(headers[3:], others, strict=True)]
    return Group(Text("  ").join([identifier, state]), below(Text(", ").join([name, *facts])))


def below(shown: RenderableType) -> RenderableType:
    """Return what stands below a heading, each of its lines indented.

    Args:
        shown: A text, which breaks between words, or a table.
    """
    return Padding(shown, (0, 0, 0, _INDENT), expand=False)
