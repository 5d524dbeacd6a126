"""The process that supervises a local run."""

import os
import signal
import subprocess
import time

import psutil

from pipelines import local
from pipelines.local_worker import Plan


def _alive(process):
    try:
        # What nobody has waited for yet counts as gone.
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_steps_of_a_worker_that_died_are_ended(tmp_path, monkeypatch):
    said = tmp_path / "step"
    script = f"sleep 300 & echo $! > {said}; kill -9 $$"
    start = subprocess.Popen
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, **how: start(["sh", "-c", script], **how))
    plan = Plan(arguments={}, run_folder=tmp_path, pipeline_root=tmp_path, cache_root=tmp_path)
    code = local._supervise(plan, dict(os.environ), {}, lambda steps: None)
    assert code == -signal.SIGKILL
    step = int(said.read_text())
    deadline = time.monotonic() + 120
    while _alive(step) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(step)
