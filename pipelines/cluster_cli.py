"""The commands for runs on a cluster. Nothing heavy is imported here; each command imports what it needs."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from data_schemas.errors import InputError
from pipelines.cli_options import config_option, connected, manifest_command, set_option, tracking_option

if TYPE_CHECKING:
    from pipelines.kfp_api import KfpApi

_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"])
_experiment_option = click.option(
    "--experiment", help="KFP experiment that is there. Without it, that of the settings' tracking.experiment."
)
_create_experiment_option = click.option(
    "--create-experiment", is_flag=True, help="Make the experiment of --experiment where it is not there."
)
_account_option = click.option(
    "--service-account", help="Kubernetes service account of the pods; without it, the server's default."
)
_WAIT_OPTIONS = [
    click.option("--wait", is_flag=True, help="Show the steps live, and end with the run's own exit code."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="With --wait: stop waiting after so long; the run goes on.  [default: wait until it ends]",
    ),
]
_run_argument = click.argument("run_id", metavar="RUN")


def _waiting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options to wait for a run's end, and refuse those that mean nothing without --wait.

    Args:
        command: The command's function.

    Returns:
        The function with the options.
    """

    @functools.wraps(command)
    def call(wait: bool, **arguments: Any) -> None:
        given = click.get_current_context().get_parameter_source
        for name in ("timeout", "tracking_uri"):
            # The environment may name a server for other commands.
            if not wait and given(name) is ParameterSource.COMMANDLINE:
                raise InputError("needs --wait", field=f"--{name.replace('_', '-')}")
        command(wait=wait, **arguments)

    for option in reversed(_WAIT_OPTIONS):
        call = option(call)
    return call


@click.command()
@config_option
@set_option
@_experiment_option
@_create_experiment_option
@_account_option
@_waiting
@connected
def submit(
    api: KfpApi,
    config: str,
    overrides: tuple[str, ...],
    experiment: str | None,
    create_experiment: bool,
    service_account: str | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Run the pipeline on a Kubeflow Pipelines server.

    Compiles the pipeline, uploads it unless this very version is there already, starts a run with the settings as
    its arguments, and prints the addresses of the run in KFP and in MLflow. Steps that ran before with the same
    input, settings and code are taken from KFP's cache.

    Exit code with --wait: 0 when the run succeeded, 1 when it failed, 130 when it was cancelled, 124 when --timeout
    is over first or the server has not answered for five minutes. 2 when the host, the token, the settings or the
    experiment are at fault.
    """
    from pipelines.cluster_tracking import tracking_uri
    from pipelines.cluster_view import Console, follow, open_mlflow_run, start
    from pipelines.run_plan import plan_tasks
    from pipelines.settings import find_config, load_settings
    from pipelines.submission import ensure_experiment, find_experiment, upload_once

    path = find_config(config)
    settings = load_settings(path, list(overrides))
    console = Console()
    console.line(f"vitalfuse: {settings.name}, settings {path}")
    name = experiment or settings.tracking.experiment
    find = find_experiment if experiment and not create_experiment else ensure_experiment
    experiment_id = find(api, name)
    pipeline = upload_once(api, settings)
    console.line(f"pipeline  {pipeline.version_name} ({'uploaded' if pipeline.is_new else 'unchanged'})")
    parent = open_mlflow_run(console, settings)
    run = start(console, api, settings, pipeline, experiment_id, parent, service_account)
    if wait:
        tasks = plan_tasks(pipeline.spec, (run.runtime_config and run.runtime_config.parameters) or {})
        uri = tracking_uri(settings) if settings.cluster.mlflow == "vitalfuse" else None
        sys.exit(follow(console, api, run.run_id, tasks, parent, timeout, uri))


@click.command()
@click.option("--experiment", help="Only runs of this KFP experiment.")
@click.option(
    "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="Number of runs, the newest first."
)
@connected
def runs(api: KfpApi, experiment: str | None, limit: int) -> None:
    """List runs on the server, the newest first."""
    from pipelines.cluster_runs import list_runs
    from pipelines.cluster_view import Console, print_runs
    from pipelines.submission import find_experiment

    experiment_id = find_experiment(api, experiment, remedy="Correct it") if experiment else None
    listed = list_runs(api, limit, experiment_id)
    console = Console()
    if listed:
        print_runs(console, listed)
    else:
        console.line("no runs")


@click.command()
@_run_argument
@click.argument("step", required=False)
@connected
def logs(api: KfpApi, run_id: str, step: str | None) -> None:
    """Show the steps of a run, and what they printed.

    RUN is an id from `vitalfuse runs`. With STEP, such as train or cross_validate[gru], the whole log of that step;
    without, the state of every step and the end of the log of each that failed.
    """
    from pipelines.cluster_runs import get_run, tasks_of
    from pipelines.cluster_view import Console, print_log, print_steps

    run = get_run(api, run_id)
    tasks = tasks_of(api, run)
    console = Console()
    if step is None:
        print_steps(console, api, run, tasks)
    else:
        print_log(console, api, run, tasks, step)


@click.command()
@_run_argument
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the run has ended.")
@tracking_option
@connected
def cancel(api: KfpApi, run_id: str, wait: bool, tracking_uri: str | None) -> None:
    """End a run that is on.

    Its pods are ended. Its MLflow run is closed as killed where --tracking-uri or MLFLOW_TRACKING_URI names the server;
    without, it stays open. Finished steps stay in KFP's cache, and `vitalfuse retry` goes on from them.

    Exit code: 0; 130 when interrupted, 124 when the server has not answered for five minutes.
    """
    from pipelines.cluster_view import Console, end_run

    sys.exit(end_run(Console(), api, run_id, wait, tracking_uri))


@click.command()
@_run_argument
@_waiting
@tracking_option
@connected
def retry(api: KfpApi, run_id: str, wait: bool, timeout: float | None, tracking_uri: str | None) -> None:
    """Repeat what failed in a run, with the same arguments.

    Steps that succeeded are not repeated. Where the settings or the code were at fault, submit anew. With --wait, and
    where --tracking-uri or MLFLOW_TRACKING_URI names the server, the MLflow run follows the new end; else it stays as
    it was closed.

    Exit code: as for `vitalfuse submit`.
    """
    from pipelines.cluster_view import Console, repeat_run

    code = repeat_run(Console(), api, run_id, wait, timeout, tracking_uri)
    if wait:
        sys.exit(code)


@click.group()
def schedule() -> None:
    """Let the server start runs at set times."""


@schedule.command("create")
@config_option
@set_option
@click.option(
    "--cron",
    metavar="EXPRESSION",
    help="Minute, hour, day, month, day of week, in UTC: '0 3 * * 1' is every Monday at 3:00.",
)
@click.option("--every", metavar="TIME", help="Digits and one of m, h, d, w, such as 12h.")
@click.option("--start", type=_MOMENT, help="No run before; UTC unless it has an offset, such as +0100.")
@click.option("--end", type=_MOMENT, help="No run after; likewise.")
@click.option("--no-catchup", is_flag=True, help="Leave out runs that were missed, as while the schedule was paused.")
@click.option("--name", help="Name of the schedule; without it, that of the settings.")
@_experiment_option
@_create_experiment_option
@_account_option
@connected
def schedule_create(
    api: KfpApi,
    config: str,
    overrides: tuple[str, ...],
    cron: str | None,
    every: str | None,
    start: datetime | None,
    end: datetime | None,
    no_catchup: bool,
    name: str | None,
    experiment: str | None,
    create_experiment: bool,
    service_account: str | None,
) -> None:
    """Schedule runs of the pipeline with these settings; one runs at a time.

    Each run lists the sources anew: what has not changed comes from the cache. Settings and code stay as they are
    now; to change them, delete the schedule and create it again.
    """
    from pipelines.cluster_view import Console
    from pipelines.schedules import describe_trigger, make_trigger
    from pipelines.settings import find_config, load_settings
    from pipelines.submission import ensure_experiment, find_experiment, schedule_runs, upload_once

    trigger = make_trigger(cron, every, start, end)
    settings = load_settings(find_config(config), list(overrides))
    find = find_experiment if experiment and not create_experiment else ensure_experiment
    experiment_id = find(api, experiment or settings.tracking.experiment)
    pipeline = upload_once(api, settings)
    made = schedule_runs(
        api,
        settings,
        pipeline,
        experiment_id,
        trigger,
        name=name,
        catch_up=not no_catchup,
        service_account=service_account,
    )
    console = Console()
    console.line(f"pipeline  {pipeline.version_name} ({'uploaded' if pipeline.is_new else 'unchanged'})")
    console.line(f"schedule  {made.recurring_run_id}: {describe_trigger(made.trigger or trigger)}")


@schedule.command("list")
@connected
def schedule_list(api: KfpApi) -> None:
    """List the schedules on the server."""
    from pipelines.cluster_runs import list_schedules
    from pipelines.cluster_view import Console, print_schedules

    listed = list_schedules(api)
    console = Console()
    if listed:
        print_schedules(console, listed)
    else:
        console.line("no schedules")


_schedule_argument = click.argument("schedule_id", metavar="SCHEDULE")


@schedule.command("pause")
@_schedule_argument
@connected
def schedule_pause(api: KfpApi, schedule_id: str) -> None:
    """Start no more runs until it is resumed. SCHEDULE is an id from `vitalfuse schedule list`."""
    from pipelines.cluster_runs import change_schedule

    change_schedule(api, schedule_id, "disable")
    click.echo(f"paused {schedule_id}")


@schedule.command("resume")
@_schedule_argument
@connected
def schedule_resume(api: KfpApi, schedule_id: str) -> None:
    """Start runs again. SCHEDULE is an id from `vitalfuse schedule list`."""
    from pipelines.cluster_runs import change_schedule

    change_schedule(api, schedule_id, "enable")
    click.echo(f"resumed {schedule_id}")


@schedule.command("delete")
@_schedule_argument
@connected
def schedule_delete(api: KfpApi, schedule_id: str) -> None:
    """Delete a schedule; its runs stay. SCHEDULE is an id from `vitalfuse schedule list`."""
    from pipelines.cluster_runs import change_schedule

    change_schedule(api, schedule_id, "delete")
    click.echo(f"deleted {schedule_id}")


@click.command("train-job")
@click.argument("features")
@click.argument("embedding")
@click.argument("model")
@click.option("--nodes", type=click.IntRange(1, 64), help="Pods that fit together.")
@click.option("--namespace", help="Namespace of the TrainJob.")
@click.option("--name", help="Name of the TrainJob; a new one for each fit.")
@click.option("--image", help="Training image.")
@manifest_command
@config_option
@set_option
def train_job(
    features: str,
    embedding: str,
    model: str,
    config: str,
    overrides: tuple[str, ...],
    **options: str | int | None,
) -> tuple[str, str]:
    """Render a TrainJob of Kubeflow Trainer v2 that fits the candidate by several pods, and apply it when asked.

    FEATURES and EMBEDDING are the outputs of the steps preprocess and embed_text, MODEL is the folder to write: what
    the step train writes. Each is s3://bucket/prefix, or a path in a claim of cluster.volumes. Pods get what the
    settings give the step train on a cluster. Secrets are named in the YAML, never written there.
    """
    from pipelines.deploy import to_yaml
    from pipelines.settings import find_config, load_settings
    from pipelines.train_job import render

    extra = [f"train_job.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    settings = load_settings(find_config(config), [*overrides, *extra])
    objects = render(settings, features=features, embedding=embedding, model=model)
    return to_yaml(objects), f"TrainJob {settings.train_job.name}, {settings.train_job.nodes} nodes"


COMMANDS = (submit, runs, logs, cancel, retry, schedule, train_job)
