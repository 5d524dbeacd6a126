from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.registry_store import Store


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
