"""The commands on runs and registered versions: compare, promote, rollback, history."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.promotions import Promotion

MODEL = "vitalfuse-diagnosis"
_Command = TypeVar("_Command", bound=Callable[..., object])


def _store_options(command: _Command) -> _Command:
    """Add the options that name the store and the registered model."""
    options = (
        click.option(
            "--workspace",
            type=click.Path(path_type=Path),
            default=Path("workspace"),
            show_default=True,
            help="Workspace whose MLflow store is used where no other is named.",
        ),
        click.option(
            "--tracking-uri",
            metavar="URI",
            help="MLflow server or database; else MLFLOW_TRACKING_URI, else the workspace's.",
        ),
        click.option("--model", default=MODEL, show_default=True, help="Registered model."),
    )
    for option in reversed(options):
        command = option(command)
    return command


_by = click.option("--by", required=True, metavar="NAME", help="Who decides; written down.")
_reason = click.option("--reason", required=True, metavar="TEXT", help="Why; written down. Name no patient.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _connect(workspace: Path, tracking_uri: str | None) -> MlflowClient:
    from pipelines.registry import open_store

    return open_store(workspace, tracking_uri)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "--rows",
    type=click.Choice(["test", "out_of_fold"]),
    default="test",
    show_default=True,
    help="Held-out patients, or out-of-fold predictions of training patients: choose settings by these.",
)
@_store_options
@_json
def compare(
    runs: tuple[str, ...], rows: str, workspace: Path, tracking_uri: str | None, model: str, as_json: bool
) -> None:
    """Compare runs, or registered versions, with the first one named.

    RUN is the beginning of a run's id in MLflow, four digits at least, or a version such as 3, vitalfuse-diagnosis/3,
    @champion or @challenger. A number of four digits or more is a run; write NAME/1234 for such a version.

    Shows scores with intervals, settings that differ, and differences on the patients that both have. These need the
    key of the sealed predictions: VITALFUSE_EVIDENCE_KEY, else the workspace's.
    """
    from rich.console import Console

    from pipelines.comparison import compare_runs
    from pipelines.comparison_tables import print_comparison
    from pipelines.registry import predictions_key

    client = _connect(workspace, tracking_uri)
    key = predictions_key(workspace)
    document = compare_runs(client, list(runs), model=model, rows=rows, key=key)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    served = client.tracking_uri.startswith("http")
    print_comparison(Console(emoji=False), document, None if served else f"vitalfuse ui --workspace {workspace}")


@click.command()
@click.argument("version")
@click.option(
    "--to", "alias", type=click.Choice(["champion", "challenger"]), required=True, help="The alias that it gets."
)
@_by
@_reason
@click.option("--expect-champion", metavar="VERSION", help="Refuse unless this version is the champion.")
@click.option("--override-gates", is_flag=True, help="Promote in spite of failed gates; the record shows it.")
@_store_options
@_json
def promote(
    version: str,
    alias: str,
    by: str,
    reason: str,
    expect_champion: str | None,
    override_gates: bool,
    workspace: Path,
    tracking_uri: str | None,
    model: str,
    as_json: bool,
) -> None:
    """Give a registered version an alias, and write down who, when, why and on what evidence.

    VERSION is a number, NAME/3 or @challenger. Its files have to be those that were registered, and its gates passed.
    The champion that makes room becomes `previous`.

    Exit code: 0 when it has the alias, 2 when it was refused.
    """
    from pipelines.promotions import promote_version
    from pipelines.registry import predictions_key

    done = promote_version(
        _connect(workspace, tracking_uri),
        version,
        model=model,
        alias=alias,
        by=by,
        reason=reason,
        key=predictions_key(workspace),
        override_gates=override_gates,
        expected_champion=expect_champion,
    )
    _tell(done, as_json, f"{done.model} version {done.version} is {alias} already; nothing to do")


@click.command()
@_by
@_reason
@_store_options
@_json
def rollback(by: str, reason: str, workspace: Path, tracking_uri: str | None, model: str, as_json: bool) -> None:
    """Make the previous champion the champion again; the champion becomes `previous`."""
    from pipelines.promotions import roll_back_champion

    done = roll_back_champion(_connect(workspace, tracking_uri), model=model, by=by, reason=reason)
    _tell(done, as_json, "nothing to do")


@click.command()
@click.option("--head", metavar="DIGEST", help="A digest that was printed before: the record has to hold it.")
@_store_options
@_json
def history(head: str | None, workspace: Path, tracking_uri: str | None, model: str, as_json: bool) -> None:
    """Show who promoted what, when and why, and check that nobody changed the record.

    Exit code: 0 when the record is sound and the aliases are what it says, 1 otherwise.
    """
    from rich.console import Console

    from pipelines.history_table import print_history
    from pipelines.promotions import tell_history

    told = tell_history(_connect(workspace, tracking_uri), model, head)
    if as_json:
        click.echo(json.dumps(told.to_document(), indent=2))
    else:
        print_history(Console(emoji=False), told)
    if told.problems:
        sys.exit(1)


def _tell(done: Promotion, as_json: bool, nothing: str) -> None:
    from components.register.promotion import moves

    entry = done.outcome.entry
    for line in (*done.outcome.notes, *done.warnings):
        click.echo(f"warning: {line}", err=True)
    if as_json:
        found = entry.model_dump(mode="json") | {"hash": entry.hash} if entry else None
        click.echo(json.dumps({"model": done.model, "version": done.version, "entry": found}, indent=2))
    elif entry is None:
        click.echo(nothing)
    else:
        click.echo(f"{done.model}: {moves(entry.before, entry.after)}")
        click.echo(f"entry {entry.number}, digest {entry.hash}")


COMMANDS = (compare, promote, rollback, history)
