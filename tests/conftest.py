from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.registry_store import Store

# A machine that is busy is no error.
settings.register_profile("vitalfuse", settings(), deadline=None, print_blob=True)
settings.load_profile("vitalfuse")
# What is printed must not depend on who runs the tests, and no proxy stands between them and their own servers.
for _variable in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_variable, None)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


@pytest.fixture(scope="module", autouse=True)
def _what_a_file_sets_ends_with_it() -> Iterator[None]:
    """Which files share a process depends on how fast they are."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)
    if "boto3" in sys.modules:
        # It remembers credentials.
        sys.modules["boto3"].DEFAULT_SESSION = None
    # A server freezes what it has loaded.
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, so that no process of several is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_whole_dag.py")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow database without runs, to copy."""
    from tests.registry_store import make_database

    return make_database(tmp_path_factory.mktemp("database") / "mlflow.db")


@pytest.fixture(scope="session")
def _shared_store(tmp_path_factory, empty_database) -> Store:
    from tests.registry_store import Store

    return Store.made(tmp_path_factory.mktemp("registry") / "workspace", empty_database)


@pytest.fixture(scope="session")
def _without_versions(_shared_store, tmp_path_factory) -> Path:
    return _shared_store.save(tmp_path_factory.mktemp("saved") / "empty")


@pytest.fixture(scope="session")
def _with_two(_shared_store, _without_versions, tmp_path_factory) -> Path:
    _shared_store.restore(_without_versions)
    _shared_store.version()
    _shared_store.version()
    return _shared_store.save(tmp_path_factory.mktemp("saved") / "two")


@pytest.fixture
def store(_shared_store, _without_versions) -> Store:
    """A store without versions."""
    return _shared_store.restore(_without_versions)


@pytest.fixture
def two_versions(_shared_store, _with_two) -> Store:
    """A store with version 1, the champion, and version 2, the challenger."""
    return _shared_store.restore(_with_two)
