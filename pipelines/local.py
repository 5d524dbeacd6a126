"""Runs the pipeline on this machine through kfp.local, and tells MLflow and the user of it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from components.common import environment
from components.common.events import Event, read_events
from components.common.mlflow_client import PATIENT, client_settings
from components.common.parent_run import (
    CACHED_STEPS_TAG,
    COHORT_STEPS,
    COHORT_TAG,
    DIGEST_PARAM,
    MERGE_STEPS,
    headline_metrics,
    log_cached_step,
    log_dataset,
)
from components.common.shards import shard_names
from components.common.step import StepRecord
from components.common.tracking import MODEL_TAG
from components.common.uris import without_passwords
from data_schemas.errors import InputError
from pipelines import containers, tracking
from pipelines.code_version import SOURCES, code_version, git_commit, package_version
from pipelines.local_worker import Plan
from pipelines.settings import Settings
from training.names import CANDIDATE

_POLL_SECONDS = 0.2


@dataclass
class StepState:
    """Where a step stands.

    Attributes:
        name: Step name, with the model in brackets where there is one.
        state: ``waiting``, ``running``, ``cached``, ``done``, ``failed``, ``skipped`` or ``cancelled``.
        started: Seconds since the epoch, once it runs.
        text: Progress, or the cause of the failure.
        event: The newest event of a run on this machine.
        seconds: How long it took, where no event tells.
    """

    name: str
    state: str = "waiting"
    started: float | None = None
    text: str = ""
    event: Event | None = None
    seconds: float | None = None


@dataclass
class RunOutcome:
    """How a local run ended.

    Attributes:
        exit_code: 0; 1 for a failure; 2 where the user's input is at fault; 130 when interrupted.
        run_folder: Folder with settings, logs, compiled pipeline and report.
        mlflow_run_id: The parent run.
        steps: All steps as they ended.
        records: What the finished steps left, by step name.
        seconds: Wall time.
    """

    exit_code: int
    run_folder: Path
    mlflow_run_id: str
    steps: list[StepState]
    records: dict[str, StepRecord] = field(default_factory=dict)
    seconds: float = 0.0

    def output(self, step: str) -> Path | None:
        """Return a finished step's output folder, or None where it did not finish.

        Args:
            step: Step name.
        """
        for state in self.steps:
            if state.name == step and state.event is not None and state.event.record:
                return Path(state.event.record).parent
        return None


def step_names(settings: Settings) -> list[str]:
    """Return the names of all steps of a run, in the order of the pipeline.

    Args:
        settings: The settings.
    """
    names: list[str] = []
    for step in SOURCES:
        if step == "cross_validate":
            names += [f"{step}[{model}]" for model in settings.models]
        elif step in MERGE_STEPS and settings.shards > 1:
            names += [f"{step}_shard[{shard}]" for shard in shard_names(settings.shards)]
            names.append(MERGE_STEPS[step])
        else:
            names.append(step)
    return names


def pipeline_arguments(settings: Settings) -> dict[str, object]:
    """Return the arguments of the pipeline for these settings.

    Args:
        settings: The settings.

    Returns:
        Each step's section and code version, the models, and all settings for the record.
    """
    arguments: dict[str, object] = {f"{step}_settings": settings.section(step) for step in SOURCES}
    arguments |= {f"{step}_version": code_version(step) for step in SOURCES}
    return arguments | {
        "models": settings.models,
        "candidate": CANDIDATE,
        "settings": settings.model_dump(mode="json", by_alias=True, exclude_none=True),
        "mlflow_run_id": "",
    }


def run_local(
    settings: Settings,
    settings_file: Path,
    on_change: Callable[[list[StepState]], None],
    *,
    in_containers: bool = False,
) -> RunOutcome:
    """Run the pipeline on this machine.

    Finished steps are taken from the workspace's cache, also those of a run that was killed.

    Args:
        settings: The settings.
        settings_file: The file that they were loaded from, kept with the run.
        on_change: Called with all steps, some times a second, to show them.
        in_containers: Whether each step runs in a container of its image, and not in a process of this machine.

    Returns:
        How the run ended.

    Raises:
        InputError: A source, the MLflow store, Docker or an image can't be used; nothing has been run then.
    """
    from components.common.evidence_key import evidence_key
    from components.ingest.locations import source_digest
    from components.validate.baseline import baseline_digest

    started = time.time()
    digest = source_digest(settings.ingest, settings.workspace.absolute())
    baseline_digest(settings.validation)
    evidence_key()
    store = tracking.prepare_store(settings)
    tracking.close_abandoned_runs(store)
    if in_containers:
        containers.check_images(settings.cluster.images)
        containers.end_abandoned_containers(tracking.is_alive)
    run_folder = _new_run_folder(settings.workspace.absolute(), settings.name)
    commit = git_commit()
    tags = {
        "mlflow.source.name": "vitalfuse run",
        "mlflow.source.git.commit": commit,
        "vitalfuse.version": package_version(),
        "vitalfuse.source_digest": digest,
    }
    run_id = tracking.open_parent_run(store, settings, tags)
    steps = {name: StepState(name) for name in step_names(settings)}
    outcome = RunOutcome(1, run_folder, run_id, list(steps.values()))
    status = "FAILED"
    try:
        _log_inputs(store, run_id, run_folder, settings, settings_file)
        plan = Plan(
            arguments=pipeline_arguments(settings),
            run_folder=run_folder,
            pipeline_root=run_folder / "steps",
            # Cached results hold versions of registered models, so they belong to one store.
            cache_root=settings.workspace.absolute() / "cache" / store.identity,
            containers=containers.plan_containers(settings, run_folder.name, store.uri, store.artifacts)
            if in_containers
            else None,
            shards=settings.shards,
            source_digest=digest,
        )
        child_environment = _child_environment(settings, store, run_folder, run_id, commit)
        # KFP leaves a temporary folder a step behind. In the workspace, sockets' paths could become too long.
        with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as temporary:
            return_code = _supervise(plan, child_environment | {"TMPDIR": temporary}, steps, on_change)
        outcome.exit_code = _exit_code(return_code, outcome.steps)
        status = "FINISHED" if outcome.exit_code == 0 else "FAILED"
    except KeyboardInterrupt:
        outcome.exit_code = 130
        status = "KILLED"
    finally:
        outcome.seconds = time.time() - started
        outcome.records = _read_records(outcome.steps)
        _close(store, outcome, status, settings)
    return outcome


def _new_run_folder(workspace: Path, name: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = workspace / "runs" / f"{stamp}-{name}-{secrets.token_hex(2)}"
    folder.mkdir(parents=True)
    return folder


def _log_inputs(store: tracking.Store, run_id: str, run_folder: Path, settings: Settings, settings_file: Path) -> None:
    import yaml

    from pipelines.cluster import compile_pipeline

    compile_pipeline(run_folder / "pipeline.yaml", shards=settings.shards)
    (run_folder / "settings.yaml").write_text(without_passwords(settings_file.read_text()))
    resolved = yaml.safe_dump(settings.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
    (run_folder / "settings_resolved.yaml").write_text(resolved)
    names = ("pipeline.yaml", "settings.yaml", "settings_resolved.yaml")
    tracking.log_files(store, run_id, [(run_folder / name, "inputs") for name in names])


def _child_environment(
    settings: Settings, store: tracking.Store, run_folder: Path, run_id: str, commit: str
) -> dict[str, str]:
    # One in our own environment is another run's; the steps would take it for that of KFP's integration.
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    return {
        **inherited,
        environment.RUN_FOLDER: str(run_folder),
        environment.RUNNER_PROCESS: str(os.getpid()),
        environment.PARENT_RUN_ID: run_id,
        environment.GIT_COMMIT: commit,
        environment.PSEUDONYM_KEY: _pseudonym_key(settings.workspace),
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_REGISTRY_URI": store.uri,
        "MLFLOW_DISABLE_AGENT_SKILLS": "true",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "PYTHONUNBUFFERED": "1",
    }


def _pseudonym_key(workspace: Path) -> str:
    """Return the key from the environment, else this workspace's own, made once and readable by its owner alone."""
    if key := os.environ.get(environment.PSEUDONYM_KEY):
        return key
    path = workspace / "pseudonym.key"
    if not path.is_file():
        with tempfile.TemporaryDirectory(prefix=".key-", dir=workspace) as folder:
            made = Path(folder) / path.name
            made.touch(mode=0o600)
            made.write_text(secrets.token_hex(32))
            try:
                os.link(made, path)
            except FileExistsError:
                pass  # Another run was first.
            except OSError:
                os.replace(made, path)  # A file system without links.
    return path.read_text().strip()


def _supervise(
    plan: Plan,
    child_environment: dict[str, str],
    steps: dict[str, StepState],
    on_change: Callable[[list[StepState]], None],
) -> int:
    """Run the worker and follow its events until it ends; end it and its steps when interrupted."""
    plan_file = plan.run_folder / "plan.json"
    plan_file.write_text(plan.model_dump_json(indent=2))
    log = plan.run_folder / "logs" / "kfp.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local_worker", str(plan_file)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=child_environment,
            start_new_session=True,
        )
    try:
        while worker.poll() is None:
            _follow(plan.run_folder, steps)
            on_change(list(steps.values()))
            time.sleep(_POLL_SECONDS)
    finally:
        # Also where it ended by itself: steps may be left of a worker that was killed.
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        if plan.containers is not None:
            # A Docker that is gone leaves nothing to end.
            with suppress(InputError):
                containers.end_containers(plan.containers.run)
        _follow(plan.run_folder, steps)
        for state in steps.values():
            if state.state == "running":
                state.state, state.text = "failed", state.text or "ended without a word"
            elif state.state == "waiting":
                state.state = "skipped"
        on_change(list(steps.values()))
    return worker.returncode


def _follow(run_folder: Path, steps: dict[str, StepState]) -> None:
    for event in read_events(run_folder):
        state = steps[event.step]
        if event.state == "running" and state.started is None:
            state.started = event.time
        state.state, state.text, state.event = event.state, event.text or state.text, event
        if event.state in ("done", "cached"):
            state.text = ""


def _exit_code(return_code: int, steps: list[StepState]) -> int:
    # A step's own word counts more than its runner's.
    if return_code == 0 and all(state.state in ("done", "cached") for state in steps):
        return 0
    failed = [state.event for state in steps if state.state == "failed" and state.event is not None]
    return 2 if failed and all(event.input_error for event in failed) else 1


def _read_records(steps: list[StepState]) -> dict[str, StepRecord]:
    return {
        state.name: StepRecord.model_validate_json(Path(state.event.record).read_text())
        for state in steps
        if state.event is not None and state.event.record
    }


@client_settings(PATIENT)
def _close(store: tracking.Store, outcome: RunOutcome, status: str, settings: Settings) -> None:
    """Log what the run found into the parent run, and close it."""
    client = tracking.open_client(store.uri)
    for state in outcome.steps:
        if state.state == "cached":
            log_cached_step(client, store.experiment_id, outcome.mlflow_run_id, outcome.records[state.name])
    metrics = {"system/seconds": outcome.seconds}
    for record in outcome.records.values():
        metrics |= headline_metrics(record.step, record.metrics)
    tags = {CACHED_STEPS_TAG: str(sum(state.state == "cached" for state in outcome.steps))}
    for step in COHORT_STEPS:
        if cohort := outcome.records.get(step):
            tags[COHORT_TAG] = str(cohort.params[DIGEST_PARAM])
            log_dataset(client, outcome.mlflow_run_id, cohort)
    if comparison := outcome.output("compare"):
        report = outcome.run_folder / "report.html"
        report.write_bytes((comparison / "report.html").read_bytes())
        tracking.log_files(store, outcome.mlflow_run_id, [(report, None)])
    if registered := outcome.output("register"):
        registration = json.loads((registered / "registration.json").read_text())
        tags[MODEL_TAG] = f"{registration['name']}/{registration['version']}"
    tracking.close_parent_run(store, outcome.mlflow_run_id, status, metrics, tags)


def failure_lines(outcome: RunOutcome) -> list[str]:
    """Return the cause of each failed step, for the user.

    Args:
        outcome: A run that failed.

    Returns:
        One line a failed step; where no step tells of a failure, the last line of KFP's own log.
    """
    failed = [f"{state.name}: {state.text}" for state in outcome.steps if state.state == "failed"]
    if failed:
        return failed
    tail = [line for line in _kfp_log(outcome).read_text().splitlines() if line.strip()][-1:]
    return [f"the run stopped: {' '.join(tail)}"]


def failure_logs(outcome: RunOutcome) -> list[Path]:
    """Return the log files that tell more of a failure.

    Args:
        outcome: A run that failed.

    Returns:
        The logs of the failed steps, else KFP's own.
    """
    events = [state.event for state in outcome.steps if state.state == "failed"]
    return [Path(event.log) for event in events if event and event.log] or [_kfp_log(outcome)]


def _kfp_log(outcome: RunOutcome) -> Path:
    return outcome.run_folder / "logs" / "kfp.log"
