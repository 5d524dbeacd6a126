"""A small MLflow store with made-up versions: folders with the files that a registered version has."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from components.common.evidence_key import derive_key
from components.common.sealed import SEALED_FILE, SEALED_FOLDER, blind, patients_digest, seal
from components.compare.held_out import TEST_DIGEST_TAG, TEST_PATIENTS_TAG
from components.register.evidence import COMPARE_RUN_TAG
from components.register.gates import FAILED, PASSED, Gate, Verdict
from components.register.integrity import MODEL_DIGEST_TAG, PACKAGE_DIGEST_TAG, folder_digest, package_digest
from components.register.promotion import assign_on_registration
from components.register.register import evidence_of
from components.register.settings import GateSettings
from data_schemas.predictions import OUT_OF_FOLD, TEST, predictions_frame
from evaluation.intervals import bootstrap_intervals, bootstrap_weights
from evaluation.metrics import score
from evaluation.rows import PredictedRows

MODEL = "vitalfuse-diagnosis"
CLASSES = ["healthy", "copd", "diabetes"]
SECRET = "a secret of the tests only"
KEY = derive_key(SECRET)
logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow").setLevel(logging.ERROR)


def make_database(path: Path) -> Path:
    """Make an empty MLflow database; its migrations take seconds, so make one and copy it."""
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


def _copy_database(source: Path, target: Path) -> None:
    """Copy by SQLite itself, which connections that are open notice."""
    with sqlite3.connect(source) as content, sqlite3.connect(target) as connection:
        content.backup(connection)
    content.close()
    connection.close()


class Store:
    """A store in a folder, and what makes versions in it."""

    def __init__(self, folder: Path, uri: str, experiment: str | None = None) -> None:
        self.folder = folder
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if experiment is None:
            location = None if uri.startswith("http") else (folder / "mlartifacts").as_uri()
            experiment = self.client.create_experiment("vitalfuse", artifact_location=location)
            self.client.create_registered_model(MODEL)
        self.experiment = experiment

    @classmethod
    def made(cls, folder: Path, database: Path) -> Store:
        """A store on a copy of an empty database."""
        folder.mkdir(parents=True)
        shutil.copy(database, folder / "mlflow.db")
        return cls(folder, f"sqlite:///{folder / 'mlflow.db'}")

    def copied(self, folder: Path) -> Store:
        """A copy of this store in another folder, files and all."""
        shutil.copytree(self.folder, folder)
        places = {
            "experiments": ["artifact_location"],
            "runs": ["artifact_uri"],
            "model_versions": ["source", "storage_location"],
        }
        with sqlite3.connect(folder / "mlflow.db") as connection:
            for table, columns in places.items():
                for column in columns:
                    moved = (str(self.folder), str(folder))
                    connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", moved)
        connection.close()
        return Store(folder, f"sqlite:///{folder / 'mlflow.db'}", self.experiment)

    def save(self, target: Path) -> Path:
        """Keep a copy of files and database, to go back to."""
        shutil.copytree(self.folder, target, ignore=shutil.ignore_patterns("mlflow.db"))
        _copy_database(self.folder / "mlflow.db", target / "mlflow.db")
        return target

    def restore(self, saved: Path) -> Store:
        """Go back to a saved copy, in place: making MLflow open another database takes a tenth of a second each."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "mlflow.db":
                path.unlink()
        shutil.copytree(saved, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.db"))
        _copy_database(saved / "mlflow.db", self.folder / "mlflow.db")
        return self

    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model(MODEL).aliases
        return {alias: str(version) for alias, version in found.items()}

    def version(
        self,
        *,
        passed: bool = True,
        run: str | None = None,
        champion: str | None = None,
        record: bool = True,
        gates: GateSettings | None = None,
    ) -> str:
        """Register a made-up version; with a record, as the pipeline does."""
        made = self.client.create_run(self.experiment)
        folder = self.folder / "made" / made.info.run_id
        (folder / "artifacts" / "model").mkdir(parents=True)
        (folder / "MLmodel").write_text(f"run: {made.info.run_id}")
        (folder / "artifacts" / "model" / "model.onnx").write_text(made.info.run_id)
        value = 0.9 if passed else 0.5
        gate = Gate("macro_auc", PASSED if passed else FAILED, value, 0.7, "at least")
        verdict = Verdict([gate], 40, champion, [], gates or GateSettings())
        verdict.write(folder / "artifacts" / "gates")
        source = folder.as_uri()
        if self.uri.startswith("http"):
            self.client.log_artifacts(made.info.run_id, str(folder), "model")
            source = f"{made.info.artifact_uri}/model"
        tags = {
            "vitalfuse.run_id": run or made.info.run_id,
            "vitalfuse.cohort_digest": "c" * 64,
            MODEL_DIGEST_TAG: folder_digest(folder / "artifacts" / "model"),
            PACKAGE_DIGEST_TAG: package_digest(folder),
            **verdict.tags(),
        }
        if run:
            tags[COMPARE_RUN_TAG] = self.compare_run(run)
        version = self.client.create_model_version(MODEL, source, run_id=made.info.run_id, tags=tags)
        number = str(version.version)
        if record:
            evidence = evidence_of(tags, verdict.to_document())
            assign_on_registration(self.client, MODEL, number, passed=passed, evidence=evidence)
        return number

    def files(self, version: str) -> Path:
        """The folder of a version's files in a local store."""
        source = self.client.get_model_version(MODEL, version).source
        return Path(source.removeprefix("file://"))

    def compare_run(self, run: str) -> str:
        (step,) = self.client.search_runs([self.experiment], f"tags.`mlflow.parentRunId` = '{run}'")
        return step.info.run_id

    def run(
        self,
        frame: pd.DataFrame,
        *,
        name: str = "ward",
        params: dict[str, str] | None = None,
        key: bytes | None = KEY,
        cohort: str = "c" * 64,
        cached_from: str | None = None,
    ) -> str:
        """Make a pipeline's run with its compare step, from predictions."""
        tags = {"vitalfuse.step": "pipeline", "vitalfuse.cohort_digest": cohort}
        parent = self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id
        settings = {"name": name, "preprocess.step": "6h", **(params or {})}
        self.client.log_batch(parent, params=[Param(setting, value) for setting, value in settings.items()])
        step_tags = {"mlflow.parentRunId": parent, "vitalfuse.step": "compare"}
        if cached_from:
            step_tags |= {"vitalfuse.cached": "true", "vitalfuse.source_run_id": self.compare_run(cached_from)}
        step = self.client.create_run(self.experiment, run_name="compare", tags=step_tags).info.run_id
        if not cached_from:
            self._log_step(step, frame, key)
        self.client.set_terminated(step)
        return parent

    def _log_step(self, step: str, frame: pd.DataFrame, key: bytes | None) -> None:
        rows = predicted_rows(frame[frame["set"] == TEST])
        intervals = bootstrap_intervals(rows, bootstrap_weights(rows.labels, rows.groups, resamples=100))
        metrics: dict[str, float] = {}
        for metric, value in score(rows).overall.items():
            bounds = intervals.overall[metric]
            metrics |= {f"test/{metric}": value, f"test/{metric}_low": bounds.low, f"test/{metric}_high": bounds.high}
        self.client.log_batch(step, metrics=[Metric(metric, value, 0, 0) for metric, value in metrics.items()])
        if key is None:
            return
        blinded = blind(frame, key)
        test = blinded[blinded["set"] == TEST]
        tags = {TEST_PATIENTS_TAG: str(test["patient"].nunique()), TEST_DIGEST_TAG: patients_digest(test, key)}
        self.client.log_batch(step, tags=[RunTag(tag, value) for tag, value in tags.items()])
        path = self.folder / SEALED_FILE
        path.write_bytes(seal(blinded, key))
        self.client.log_artifact(step, str(path), SEALED_FOLDER)


def predicted_rows(frame: pd.DataFrame) -> PredictedRows:
    """A predictions table as rows, one patient a row."""
    return PredictedRows(
        labels=frame["label"].map({name: i for i, name in enumerate(CLASSES)}).to_numpy(np.int64),
        probabilities=frame[[f"probability:{name}" for name in CLASSES]].to_numpy(),
        groups=np.arange(len(frame)),
        rows=np.arange(len(frame)),
        folds=np.full(len(frame), -1),
    )


def predictions(
    signal: float, *, patients: range = range(60), seed: int = 0, labels: dict[int, str] | None = None
) -> pd.DataFrame:
    """Predictions of test patients, and as many out-of-fold ones; a patient's label and noise depend on it alone."""
    frames = []
    for kind, shift in ((TEST, 0), (OUT_OF_FOLD, 1000)):
        chosen = np.array([patient + shift for patient in patients])
        samples = pd.DataFrame(
            {
                "patient_id": [f"pseudonym-{patient}" for patient in chosen],
                "label": [(labels or {}).get(patient, CLASSES[patient % 3]) for patient in chosen.tolist()],
            }
        )
        truth = samples["label"].map({name: i for i, name in enumerate(CLASSES)}).to_numpy()
        noise = np.stack([np.random.default_rng([seed, patient]).normal(size=3) for patient in chosen.tolist()])
        odds = np.exp(noise + signal * np.eye(3)[truth])
        frames.append(
            predictions_frame(
                model="cnn_lstm_attention",
                rows=np.arange(len(chosen)),
                samples=samples,
                classes=CLASSES,
                probabilities=odds / odds.sum(axis=1, keepdims=True),
                prediction_set=kind,
                fold=-1 if kind == TEST else 0,
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame["sample"] = np.arange(len(frame))
    return frame


def tamper(database: Path, statement: str, *values: object) -> None:
    """Change a database behind MLflow's back."""
    with sqlite3.connect(database) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def entry_text(store: Store, number: int) -> dict[str, object]:
    """An entry of the record as the database has it."""
    from components.register.audit import Ledger

    ledger = Ledger.find(store.client, MODEL)
    assert ledger is not None
    return json.loads(store.client.get_run(ledger.run_id).data.params[f"{number:06d}"])
