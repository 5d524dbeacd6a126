"""A small MLflow registry whose versions are model folders, registered as `register` does it but without a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow import MlflowClient

from components.register.integrity import folder_digest
from serving.server.versions import DIGEST_TAG
from tests.serving.server.conftest import NAME


class Registry:
    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri, self.uri)
        self.client.create_registered_model(NAME)
        self.count = 0

    def add(self, model: Path, *, digest: str | None = "") -> str:
        """Register a copy of a model folder; its own digest unless another, or None for none, is given."""
        self.count += 1
        stored = self.folder / "store" / str(self.count)
        shutil.copytree(model, stored / "artifacts" / "model")
        tags = {} if digest is None else {DIGEST_TAG: digest or folder_digest(model)}
        return str(self.client.create_model_version(NAME, source=str(stored), tags=tags).version)

    def files(self, version: str) -> Path:
        return self.folder / "store" / version / "artifacts" / "model"

    def promote(self, version: str) -> None:
        self.client.set_registered_model_alias(NAME, "champion", version)
