"""Finds things in a workspace."""

from __future__ import annotations

from pathlib import Path

from components.common.events import read_events
from components.common.parent_run import COHORT_STEPS
from data_schemas.errors import InputError


def newest_cohort(workspace: Path) -> Path:
    """Return the cohort folder of the newest run that has one.

    Args:
        workspace: Folder of the runs.

    Returns:
        The output folder of ``ingest``.

    Raises:
        InputError: No run in this workspace ingested a cohort.
    """
    for run in sorted((workspace / "runs").glob("*"), reverse=True):
        for event in reversed(read_events(run)):
            if event.step in COHORT_STEPS and event.record:
                return Path(event.record).parent
    raise InputError(
        "holds no ingested cohort", file=str(workspace), remedy="Run `vitalfuse run`, or name a cohort folder"
    )
