from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration import servers


@dataclass(frozen=True)
class Stack:
    """What a cluster has around the steps: a tracking server, its database, and S3."""

    mlflow: servers.MLflow
    s3: servers.S3


@pytest.fixture(scope="session")
def s3() -> Iterator[servers.S3]:
    """Ceph's S3, with a bucket for artifacts and one for sources."""
    if missing := servers.missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: postgresql ceph-mon ceph-osd radosgw)")
    with servers.ceph_s3("vitalfuse", "sources") as server:
        yield server


@pytest.fixture(scope="session")
def stack(s3) -> Iterator[Stack]:
    """MLflow on PostgreSQL and S3, with the settings of infra/kubernetes."""
    with servers.postgres() as database, servers.mlflow_server(database, s3) as mlflow:
        yield Stack(mlflow, s3)
