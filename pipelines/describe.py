"""What ``vitalfuse cohort describe`` prints."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.listing import fits

_BAR_WIDTH = 24
_COUNTS = ["unit", "patients", "values", "a patient"]
_QUANTILES = {"5 %": "0.05", "median": "0.5", "95 %": "0.95"}


def print_description(console: Console, description: dict[str, Any]) -> None:
    """Print the description of a cohort: what it is, then classes, modalities, channels and rejected rows.

    Args:
        console: Where to print.
        description: What ``components.ingest.describe.describe_cohort`` returns.
    """
    patients, classes, channels = (description[name] for name in ("patients", "classes", "channels"))
    conditions, rejected = description["conditions"], description["rejected"]
    console.print(_heading(description))
    _print_table(console, "Classes", _shares(classes, patients))
    # Where no patient has several conditions, these only repeat the classes.
    if conditions != {name: count for name, count in classes.items() if count}:
        _print_table(console, "Conditions (a patient can have several)", _shares(conditions, patients))
    _print_table(console, "Modalities", _shares(description["modalities"], patients))
    _print_table(console, "Sex", _shares(description["sexes"], patients))
    if channels:
        whole = _channels(channels, [*_COUNTS, *_QUANTILES])
        for table in (
            [whole] if fits(console, whole) else [_channels(channels, _COUNTS), _channels(channels, _QUANTILES)]
        ):
            _print_table(console, "Channels", table)
    if rejected:
        total = sum(rejected.values())
        _print_table(console, f"Rejected rows: {total:,}, each listed in rejected.parquet", _rejected(rejected))


def _print_table(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)


def _heading(description: dict[str, Any]) -> Text:
    text = Text(str(description["name"]), style="bold")
    if description["synthetic"]:
        text.append("  synthetic: proves nothing clinical", style="yellow")
    facts = [f"{description['patients']:,} patients"]
    if description["sites"]:
        facts.append(f"{description['sites']} sites")
    facts.append(f"digest {description['digest'][:12]}")
    text.append("\n" + ", ".join(facts), style="not bold")
    if description["time"]:
        first, last = (description["time"][end][:16].replace("T", " ") for end in ("first", "last"))
        text.append(f"\nobserved from {first} to {last} UTC", style="not bold")
    return text


def _plain_table(**columns: bool) -> Table:
    """Return an empty table without frame, so that its lines can be cut and sorted; True: numbers, to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title, numeric in columns.items():
        # Where room is short a name is broken, a number never.
        table.add_column(title, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    return table


def _shares(counts: dict[str, int], patients: int) -> Table:
    """Return one row a name: patients, their share, and a bar."""
    table = _plain_table(name=False, patients=True, share=True)
    table.add_column("")
    for name, count in counts.items():
        share = count / patients if patients else 0.0
        table.add_row(Text(name), f"{count:,}", f"{share:.0%}", Text("█" * round(_BAR_WIDTH * share), style="cyan"))
    return table


def _channels(channels: dict[str, dict[str, Any]], titles: Collection[str]) -> Table:
    table = _plain_table(name=False, **{title: title != "unit" for title in titles})
    for name, channel in channels.items():
        facts = {
            "unit": channel["unit"],
            "patients": f"{channel['coverage']:.0%}",
            "values": f"{channel['values']:,}",
            "a patient": f"{channel['values_a_patient']:g}",
        }
        facts |= {title: f"{channel['quantiles'][share]:.4g}" for title, share in _QUANTILES.items()}
        # Plain text, as square brackets of UCUM units, such as mm[Hg], are no markup.
        table.add_row(Text(name), *(Text(facts[title]) for title in titles))
    return table


def _rejected(reasons: dict[str, int]) -> Table:
    table = _plain_table(rows=True, reason=False)
    for reason, count in reasons.items():
        table.add_row(f"{count:,}", Text(reason))
    return table
