"""Runs the pipeline through kfp.local in a process of its own.

kfp.local prints much, and swaps the printing and logging of its process while tasks run; here its output goes to one
log file, and the process that the user watches stays clean.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components.common import environment
from components.common.events import EventWriter
from components.common.step import RECORD_FILE, StepRecord
from pipelines.containers import Containers, end_containers_later, use_own_containers

_CACHE_HIT = re.compile(r"^Task \S+ cache hit \(key=([0-9a-f]+)\)")


class Plan(BaseModel):
    """What a local run does.

    Attributes:
        arguments: Arguments of the pipeline.
        run_folder: Folder of the run: events and logs.
        pipeline_root: Folder for the outputs of the steps.
        cache_root: Folder of KFP's local cache.
        containers: What the steps' containers get; None where steps are processes.
        shards: Parts into which ingest and preprocess divide the patients.
        source_digest: Digest of the sources' listing.
    """

    arguments: dict[str, Any]
    run_folder: Path
    pipeline_root: Path
    cache_root: Path
    containers: Containers | None = None
    shards: int = 1
    source_digest: str | None = None


class _CacheHits(logging.Filter):
    """Turns kfp.local's word of a cache hit into an event of the step.

    A filter, since kfp.local replaces the root logger's handlers while tasks run, and leaves its filters alone.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def filter(self, record: logging.LogRecord) -> bool:
        """Write an event where the record tells of a cache hit; let every record pass."""
        match = _CACHE_HIT.match(record.getMessage())
        if match:
            for path in cached_records(self._plan.cache_root, match.group(1)):
                step = StepRecord.model_validate_json(path.read_text()).step
                EventWriter(self._plan.run_folder, step).write("cached", record=str(path))
        return True


def cached_records(cache_root: Path, key: str) -> list[Path]:
    """Find the records of the steps behind a cache entry.

    Args:
        cache_root: Folder of KFP's local cache.
        key: First digits of the entry's key.

    Returns:
        The record files in the folders of the cached outputs.
    """
    outputs = [
        output
        for entry in cache_root.glob(f"{key}*.json")
        for output in json.loads(entry.read_text()).values()
        if isinstance(output, dict) and output.get("uri")
    ]
    records = [Path(output["uri"]) / RECORD_FILE for output in outputs]
    return [path for path in records if path.is_file()]


def run_plan(plan: Plan) -> None:
    """Run the pipeline as planned.

    Args:
        plan: What to run and where.

    Raises:
        RuntimeError: A task failed; its events and log tell why.
    """
    from kfp import local

    from pipelines.diagnosis import build_pipeline

    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addFilter(_CacheHits(plan))
    if plan.containers is None:
        runner, configure = local.SubprocessRunner(use_venv=False), None
    else:
        use_own_containers()
        # Docker would make it as root.
        plan.pipeline_root.mkdir(parents=True, exist_ok=True)
        runner = plan.containers.runner()
        configure = plan.containers.configure
    local.init(
        runner=runner,
        pipeline_root=str(plan.pipeline_root),
        enable_caching=True,
        cache_root=str(plan.cache_root),
    )
    pipeline = build_pipeline(configure, shards=plan.shards, source_digest=plan.source_digest)
    pipeline(**plan.arguments)


def _end_with_runner(plan: Plan) -> None:
    """End this process and its steps when the runner is gone, so that a killed run leaves nothing that still writes."""
    runner = int(os.environ[environment.RUNNER_PROCESS])

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(0.5)
        if plan.containers is not None:
            end_containers_later(plan.containers.run)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the plan whose file is the only argument; exit with 1 when a task failed."""
    plan = Plan.model_validate_json(Path(sys.argv[1]).read_text())
    _end_with_runner(plan)
    try:
        run_plan(plan)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
