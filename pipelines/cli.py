"""The ``vitalfuse`` command.

Nothing heavy is imported here: ``vitalfuse --help`` answers at once, and each command imports what it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from components.common.mlflow_client import set_usual
from data_schemas.errors import InputError, StoreError
from pipelines import cluster_cli, registry_commands
from pipelines.cli_options import config_option as _config_option
from pipelines.cli_options import manifest_command, writing
from pipelines.cli_options import set_option as _set_option
from pipelines.errors import ServerError

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.local import RunOutcome
    from pipelines.settings import Settings

WORKSPACE = Path("workspace")
_workspace_option = click.option(
    "--workspace", type=click.Path(path_type=Path), help="Workspace whose MLflow store is used where no other is named."
)
_tracking_uri_option = click.option(
    "--tracking-uri", metavar="URI", help="MLflow server or database; else MLFLOW_TRACKING_URI, else the workspace's."
)
# After a backspace character, click leaves the lines of a paragraph as they are.
_HELP = """Train, compare and register a diagnosis model from vital-sign series, medical images and clinical notes.

\b
Try it:          vitalfuse cohort generate && vitalfuse run
Your own data:   vitalfuse run --config my-settings.yaml
Look at runs:    vitalfuse ui
Compare two:     vitalfuse compare @champion @challenger
On a cluster:    vitalfuse submit --host https://kubeflow.example.org/pipeline --wait

Not for clinical use."""


class _Commands(click.Group):
    """A group that tells of bad input, and of places that can't be read or written, in one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"vitalfuse: {error}", err=True)
            sys.exit(2)
        except (ServerError, StoreError) as error:
            click.echo(f"vitalfuse: {error}.", err=True)
            sys.exit(1)
        except OSError as error:
            # Without a file name it is no matter of the user's paths or disk.
            if error.filename is None:
                raise
            click.echo(f"vitalfuse: {error.filename}: {error.strerror}", err=True)
            sys.exit(1)
        except Exception as error:
            # Imported already where one of its errors arrives here; --help never imports it.
            mlflow = sys.modules.get("mlflow.exceptions")
            if mlflow is None or not isinstance(error, mlflow.MlflowException):
                raise
            click.echo(f"vitalfuse: {_mlflow_line(error)}", err=True)
            sys.exit(1)


def _mlflow_line(error: Exception) -> str:
    """Tell of a server that broke off, or of an account that may not do this, in one line."""
    from components.common.uris import without_passwords

    first = without_passwords((str(error).strip().splitlines() or [type(error).__name__])[0])
    return f"MLflow could not do it: {first[:300]}. Look at the server and at your rights there, and run it again."


@click.group(
    cls=_Commands, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="vitalfuse", prog_name="vitalfuse")
def main() -> None:
    """Hold the commands together."""
    set_usual()


for _command in (*cluster_cli.COMMANDS, *registry_commands.COMMANDS):
    main.add_command(_command)


@main.command()
@_config_option
@_set_option
@click.option("--workspace", type=click.Path(path_type=Path), help="Folder for runs, cache and the MLflow store.")
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="Where a step runs: in a process of this machine, or in a container of its image (see docs/images.md).",
)
def run(config: str, overrides: tuple[str, ...], workspace: Path | None, runner: str) -> None:
    """Run the whole pipeline on this machine.

    Steps that ran before with the same input, settings and code are taken from the cache, also after a run was
    killed. Every metric and artifact goes to MLflow.

    Exit code: 0 when all steps finished, 2 when the input or the settings are at fault, 1 for any other failure.
    """
    from rich.console import Console

    from pipelines.display import show_steps
    from pipelines.local import run_local
    from pipelines.settings import find_config, load_settings

    path = find_config(config)
    extra = [f"workspace={workspace}"] if workspace else []
    settings = load_settings(path, [*overrides, *extra])
    console = Console(soft_wrap=not sys.stdout.isatty(), emoji=False)
    console.print(f"vitalfuse: {settings.name}, settings {path}", highlight=False)
    with show_steps(console) as display:
        outcome = run_local(settings, path, display, in_containers=runner == "docker")
    if outcome.exit_code:
        _print_failure(outcome)
        sys.exit(outcome.exit_code)
    _print_result(console, settings, outcome)


def _print_failure(outcome: RunOutcome) -> None:
    from pipelines.local import failure_lines, failure_logs

    if outcome.exit_code == 130:
        click.echo("vitalfuse: interrupted; run again to go on from the finished steps", err=True)
        return
    for line in failure_lines(outcome):
        click.echo(f"vitalfuse: {line}", err=True)
    for log in failure_logs(outcome):
        click.echo(f"full log  {_relative(log)}")


def _print_result(console: Console, settings: Settings, outcome: RunOutcome) -> None:
    from pipelines.display import result_table

    comparison, registered = outcome.output("compare"), outcome.output("register")
    if comparison is not None:
        console.print()
        console.print(result_table(json.loads((comparison / "headline.json").read_text()), console.width))
    for record in outcome.records.values():
        for warning in record.warnings:
            console.print(f"warning: {record.step}: {warning}", highlight=False, markup=False, style="yellow")
    console.print()
    if registered is not None:
        registration = json.loads((registered / "registration.json").read_text())
        standing = ", ".join(registration["aliases"]) or f"no alias, gates {registration['gates']}"
        console.print(f"model   {registration['name']} version {registration['version']} ({standing})", highlight=False)
    console.print(f"report  {_relative(outcome.run_folder / 'report.html')}", highlight=False)
    console.print(f"MLflow  {_mlflow_hint(settings)}", highlight=False)
    console.print(f"time    {outcome.seconds:.0f} s", highlight=False)


def _mlflow_hint(settings: Settings) -> str:
    """Return the server's address, or the command that opens the workspace's own store as the user can type it."""
    from components.common.uris import without_passwords
    from pipelines.tracking import tracking_uri

    uri = tracking_uri(settings)
    if not uri.startswith("sqlite"):
        return without_passwords(uri)
    # `make run` calls the command by its path, and leaves it out of PATH.
    called = Path(sys.argv[0])
    by_path = called.name == "vitalfuse" and shutil.which("vitalfuse") is None
    return f"{_relative(called.absolute()) if by_path else 'vitalfuse'} ui --workspace {settings.workspace}"


def _relative(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


@main.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("vitalfuse-diagnosis.yaml"),
    show_default=True,
    help="YAML file to write.",
)
@_config_option
@_set_option
def compile(output: Path, config: str, overrides: tuple[str, ...]) -> None:
    """Compile the pipeline to the YAML that a KFP cluster takes.

    Of the settings, only `shards` and the section `cluster` go into the YAML: images, resources, retries, secrets by
    name. All others are arguments of a run; `vitalfuse submit` gives them.
    """
    from pipelines.cluster import compile_pipeline
    from pipelines.settings import find_config, load_settings

    if output.suffix not in (".yaml", ".yml"):
        raise InputError("is no YAML file name", file=str(output), field="--output", remedy="End it in .yaml")
    loaded = load_settings(find_config(config), list(overrides))
    with writing(output):
        compile_pipeline(output, loaded.cluster, shards=loaded.shards)
    click.echo(f"wrote {output}")


@main.command()
def configs() -> None:
    """List the ready settings files."""
    from pipelines.settings import config_names, find_config

    for name in config_names():
        first = find_config(name).read_text().partition("\n")[0].lstrip("# ")
        click.echo(f"{name:<20} {first}")


@main.command()
def settings() -> None:
    """Print the reference of all settings, as in docs/settings.md."""
    from pipelines.reference import settings_reference

    click.echo(settings_reference(), nl=False)


@main.group()
def cohort() -> None:
    """Make a synthetic cohort, or look at one."""


@cohort.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=WORKSPACE / "demo",
    show_default=True,
    help="Folder to write. With --layout table_one, a name that ends in .csv gives a single file.",
)
@click.option("--patients", type=click.IntRange(min=1), default=300, show_default=True, help="Number of patients.")
@click.option("--seed", type=click.IntRange(min=0), default=2022, show_default=True, help="Seed of everything random.")
@click.option("--days", type=click.IntRange(min=1), default=14, show_default=True, help="Days of observation.")
@click.option(
    "--layout",
    type=click.Choice(["export", "table_one"]),
    default="export",
    show_default=True,
    help="A hospital's export with series, images and notes; or the paper's Table I, one CSV file a patient.",
)
@click.option(
    "--file-format", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True, help="Of observations."
)
@click.option("--force", is_flag=True, help="Replace the output where it exists.")
def generate(output: Path, patients: int, seed: int, days: int, layout: str, file_format: str, force: bool) -> None:
    """Generate a synthetic cohort in the files that a hospital would export.

    The cohort is invented: it shows that the pipeline works, and proves nothing clinical.
    """
    from pydantic import ValidationError

    from components.ingest.demo.generate import generate_source
    from components.ingest.demo.settings import DemoSettings

    if output.exists() and not force:
        raise InputError("already exists", file=str(output), field="--output", remedy="Choose another, or give --force")
    try:
        settings = DemoSettings.model_validate(
            {"patients": patients, "seed": seed, "days": days, "layout": layout, "file_format": file_format}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{first['msg'].removeprefix('Value error, ')}; received {first['input']!r}",
            field=f"--{first['loc'][0]}" if first["loc"] else None,
        ) from error
    with writing(output):
        generate_source(output, settings, progress=lambda text: click.echo(text, err=True))
    click.echo(f"wrote {output}: {patients} synthetic patients")


@cohort.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    default=WORKSPACE,
    show_default=True,
    help="Without FOLDER, the cohort of the newest run in this workspace.",
)
def describe(folder: Path | None, workspace: Path) -> None:
    """Describe an ingested cohort: classes, channels, modalities, rejected rows.

    FOLDER is what `ingest` wrote. No patient is named.
    """
    from rich.console import Console

    from components.ingest.describe import describe_cohort
    from pipelines.describe import print_description
    from pipelines.workspace import newest_cohort

    print_description(Console(emoji=False), describe_cohort(folder or newest_cohort(workspace)))


@main.command()
@click.argument("log", type=click.Path(path_type=Path, file_okay=False))
@click.option("--version", help="Version whose predictions are looked at; without it, the one that answered last.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV or Parquet with a label for each pseudonym, or for each reference as the callers sent it.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="reference.json of the version; without it, the one that MLflow keeps.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write; in the workspace by default.")
@_config_option
@_set_option
@_workspace_option
@_tracking_uri_option
def monitor(
    log: Path,
    version: str | None,
    labels: Path | None,
    reference: Path | None,
    output: Path | None,
    config: str,
    overrides: tuple[str, ...],
    workspace: Path | None,
    tracking_uri: str | None,
) -> None:
    """Compare logged predictions with the training rows, and say whether to train anew.

    LOG is the folder that `vitalfuse serve` writes its prediction log to. The result goes to a report, a JSON file and
    an MLflow experiment of its own.

    Exit code: 0 when all is fine, 3 when retraining is advised, 2 when the input or the settings are at fault.
    """
    from rich.console import Console

    from pipelines.monitoring import monitor_predictions, print_findings
    from pipelines.settings import find_config, load_settings

    settings = load_settings(find_config(config), [*overrides, *_store_settings(workspace, tracking_uri)])
    findings, folder = monitor_predictions(
        settings, log, version=version, labels=labels, reference=reference, output=output
    )
    console = Console(soft_wrap=not sys.stdout.isatty(), emoji=False)
    print_findings(console, findings)
    console.print(f"report  {_relative(folder / 'report.html')}", highlight=False)
    sys.exit(3 if findings.retrain else 0)


@main.command()
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    default=WORKSPACE,
    show_default=True,
    help="Workspace whose MLflow store is shown.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
def ui(workspace: Path, host: str, port: int) -> None:
    """Open the MLflow UI on a workspace's runs and models."""
    database = workspace.absolute() / "mlflow.db"
    if not database.is_file():
        raise InputError(
            "holds no MLflow store",
            file=str(workspace),
            field="--workspace",
            remedy="Run `vitalfuse run`; runs that went to a tracking server are in that server's own UI",
        )
    click.echo(f"MLflow UI on http://{host}:{port} (stop with Ctrl-C)")
    arguments = ["--backend-store-uri", f"sqlite:///{database}", "--host", host, "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", *arguments])


@main.command()
@_config_option
@_set_option
@click.option("--workspace", type=click.Path(path_type=Path), help="Folder with the MLflow store of `vitalfuse run`.")
@click.option("--model", help="Name of the registered model; `register.model_name` of the settings by default.")
@click.option("--alias", help="Alias that is followed.  [default: champion]")
@click.option("--version", help="One version for good, in place of the alias.")
@click.option("--folder", type=click.Path(path_type=Path), help="A model folder, in place of the registry.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8080]")
def serve(
    config: str,
    overrides: tuple[str, ...],
    workspace: Path | None,
    model: str | None,
    **options: str | int | Path | None,
) -> None:
    """Serve a registered model, and follow its alias.

    Speaks the Open Inference Protocol v2 (/v2), MLflow's /invocations and plain JSON (/v1/diagnose); /docs describes
    them, /metrics is for Prometheus. A promotion is picked up without a restart. The bearer token comes from the
    environment variable VITALFUSE_SERVE_TOKEN.
    """
    from pipelines.settings import find_config, load_settings
    from pipelines.tracking import tracking_uri
    from serving.server.run import serve as serve_model

    extra = [f"workspace={workspace}"] if workspace else []
    # As JSON, so that version 3 stays a text.
    extra += [f"serve.{key}={json.dumps(_plain(value))}" for key, value in options.items() if value is not None]
    settings = load_settings(find_config(config), [*overrides, *extra])
    serve_model(
        settings.serve,
        model_name=model or settings.register_model.model_name,
        tracking_uri=tracking_uri(settings),
        cache=settings.workspace / "serve",
    )


@main.command()
@click.argument("version", default="@champion", metavar="[VERSION|@ALIAS]")
@click.option("--canary", type=click.IntRange(0, 100), help="Percent of the requests that this version gets.")
@click.option("--namespace", help="Namespace of the InferenceService.")
@click.option("--name", help="Name of the InferenceService.")
@click.option("--image", help="Serving image.")
@manifest_command
@click.option("--allow-failed-gates", is_flag=True, help="Deploy a version that failed its gates, or has none.")
@_config_option
@_set_option
@_workspace_option
@_tracking_uri_option
def deploy(
    version: str,
    allow_failed_gates: bool,
    config: str,
    overrides: tuple[str, ...],
    workspace: Path | None,
    tracking_uri: str | None,
    **options: str | int | None,
) -> tuple[str, str]:
    """Render the KServe InferenceService of a registered version, and apply it when asked.

    VERSION is a number, or an alias such as @champion (the default), which is looked up once: what is deployed does not
    change when the alias moves. With a canary share of less than 100, the other requests stay with the version that
    runs. Secrets are named in the YAML, never written there.
    """
    from pipelines.deploy import find_release, render, to_yaml
    from pipelines.registry import open_store
    from pipelines.settings import find_config, load_settings

    extra = _store_settings(workspace, tracking_uri)
    extra += [f"deploy.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    settings = load_settings(find_config(config), [*overrides, *extra])
    release = find_release(
        open_store(settings.workspace, settings.tracking.uri),
        settings.register_model.model_name,
        version,
        allow_failed_gates=allow_failed_gates,
    )
    return to_yaml(render(settings, release)), f"{release.model} version {release.version}"


def _store_settings(workspace: Path | None, tracking_uri: str | None) -> list[str]:
    """Return the settings that the two options stand for."""
    named = {"workspace": workspace, "tracking.uri": tracking_uri}
    return [f"{key}={json.dumps(str(value))}" for key, value in named.items() if value]


def _plain(value: str | int | Path | None) -> str | int | None:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
