"""One self-contained HTML page: sections of text, tables and inline SVG figures; it loads nothing from anywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

_TEMPLATES = Path(__file__).with_name("templates")
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        interval: Interval, in smaller type below; empty for none.
        paper: The paper's number, in smaller type below; empty for none.
        strong: Whether it is set in bold.
    """

    text: str
    interval: str = ""
    paper: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is the row's header.

    Attributes:
        caption: Title, which also says what the rows are computed on.
        headers: Column titles.
        rows: Cells by row.
        notes: Sentences below the table.
        file: Name of the CSV file with the same numbers; empty for none.
        folded: Whether the reader opens it.
    """

    caption: str
    headers: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    file: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        caption: Title, which also says what rows it is computed on.
        svg: An ``<svg>`` element from ``plots.to_svg``.
        alternative: What a reader who cannot see it should know.
        file: Name of the PNG file with the same figure.
    """

    caption: str
    svg: str
    alternative: str
    file: str = ""

    @property
    def markup(self) -> Markup:
        """The SVG element, which this package has made, to stand in the page as it is."""
        return Markup(self.svg)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        anchor: Id of the part, for links within the page.
        title: Heading.
        paragraphs: Text before the tables and plots.
        items: Bulleted lines after it.
        blocks: Tables and plots in order.
    """

    anchor: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    blocks: list[Table | Plot] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The whole page.

    Attributes:
        title: Heading of the page.
        notices: Lines that must be read first, such as that the data are synthetic.
        verdict: Sentences, the first of which says which model is best.
        facts: Names and values on the run.
        sections: Parts, in order.
    """

    title: str
    notices: list[str]
    verdict: list[str]
    facts: list[tuple[str, str]]
    sections: list[Section]


def render_html(report: Report) -> str:
    """Return the report as one HTML page.

    All text is escaped; only the figures' SVG is taken as it is.

    Args:
        report: The report.

    Returns:
        The page.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("jinja",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(report=report, is_table=_is_table)


def number(value: float, digits: int = 3) -> str:
    """Write a number for a table.

    Args:
        value: The number; NaN becomes a dash.
        digits: Decimals.

    Returns:
        The text.
    """
    return MISSING if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 3) -> str:
    """Write an interval for a table.

    Args:
        low: Lower bound.
        high: Upper bound.
        digits: Decimals.

    Returns:
        The text, empty where a bound is NaN.
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{number(low, digits)} to {number(high, digits)}"


def p_value(value: float) -> str:
    """Write a p-value.

    Args:
        value: In (0, 1], or NaN.

    Returns:
        The text, such as "p = 0.031" or "p < 0.001".
    """
    if math.isnan(value):
        return MISSING
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def readable(name: str) -> str:
    """Turn an identifier into words.

    Args:
        name: Such as "chronic_kidney_disease".

    Returns:
        Such as "chronic kidney disease".
    """
    return name.replace("_", " ").strip()


def _is_table(block: Table | Plot) -> bool:
    return isinstance(block, Table)
