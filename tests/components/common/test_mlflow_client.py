"""Waiting for MLflow, and what is left open in it. Lost answers are tested against a real server, in integration."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.common import parent_run
from components.common.mlflow_client import (
    IMPATIENT,
    PATIENT,
    REQUEST_TAG,
    client_settings,
    create_experiment,
    create_run,
    may_repeat,
)
from components.common.parent_run import children, close_parent_run, open_parent_run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client of an SQLite store, and an experiment in it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client, client.create_experiment("vitalfuse")


def test_settings_of_the_client_last_for_the_block_and_leave_a_users_own_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with pytest.raises(KeyError), client_settings(IMPATIENT):
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
        raise KeyError
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_steps_wait_ten_minutes_for_the_server(monkeypatch):
    """The waits between the retries that MLflow's client is told to make, by its own library."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR, MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from mlflow.utils.rest_utils import _validate_max_retries
    from urllib3.util import Retry

    for name in PATIENT:
        monkeypatch.delenv(name, raising=False)
    with client_settings(PATIENT):
        retries = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()
        _validate_max_retries(retries)
        retry = Retry(total=retries, backoff_factor=MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get())
    waits = []
    for _ in range(retries):
        retry = retry.increment("POST", "/", error=ConnectionRefusedError())
        waits.append(retry.get_backoff_time())
    assert 600 <= sum(waits) < 700


def test_runs_are_created_with_a_tag_of_their_request(store):
    client, experiment = store
    first, second = (create_run(client, experiment, "step", {"a": "1"}) for _ in range(2))
    assert first.data.tags["a"] == "1"
    assert first.data.tags[REQUEST_TAG] != second.data.tags[REQUEST_TAG]
    assert not may_repeat(client)


@example({"a" * 239 + "/bbb": 1, "a" * 300: 2, "a" * 299 + "b": 3})
@given(st.dictionaries(st.text(min_size=1), st.integers(), max_size=5))
def test_parameters_get_names_that_mlflow_takes(params):
    from mlflow.utils.validation import _validate_param_name

    named = parent_run._param_names(params)
    assert list(named.values()) == list(params.values())
    for name in named:
        _validate_param_name(name)


def test_labels_of_the_user_may_be_names_of_settings(store):
    client, experiment = store
    names = {"COPD (severe)": "COPD", "COPD [severe]": "COPD", "a//b": "c", "plain name": "plain"}
    run_id = open_parent_run(client, experiment, "labels", {"ingest": {"label_names": names}}, {})
    assert client.get_run(run_id).data.params == {
        "ingest.label_names.COPD _severe_": "COPD",
        "ingest.label_names.COPD _severe__": "COPD",
        "ingest.label_names.a_/b": "c",
        "ingest.label_names.plain name": "plain",
    }


def test_a_parent_run_whose_settings_cant_be_logged_is_closed(store, monkeypatch):
    client, experiment = store

    def away(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(client, "log_batch", away)
    with pytest.raises(ConnectionError):
        open_parent_run(client, experiment, "half", {"name": "half"}, {})
    (run,) = client.search_runs([experiment], "attributes.run_name = 'half'")
    assert run.info.status == "FAILED"


def test_closing_ends_what_a_killed_attempt_left_and_deletes_copies(store):
    """A pod was evicted while it logged its second fold; its repetition finished. A copy has its sibling's tag."""
    client, experiment = store
    parent = open_parent_run(client, experiment, "pipeline", {"name": "x"}, {})

    def make(name, above, **tags):
        return client.create_run(experiment, run_name=name, tags={"mlflow.parentRunId": above, **tags}).info.run_id

    evicted = make("train", parent)
    fold = make("fold 2", evicted)
    done = make("train", parent, **{REQUEST_TAG: "r1"})
    client.set_terminated(done)
    copy = make("train", parent, **{REQUEST_TAG: "r1"})
    close_parent_run(client, parent, "FINISHED", {"accuracy": 0.5, "undefined": float("nan")}, {"a": "b"})
    status = {run: client.get_run(run).info.status for run in (parent, evicted, fold, done)}
    assert status == {parent: "FINISHED", evicted: "KILLED", fold: "KILLED", done: "FINISHED"}
    assert client.get_run(copy).info.lifecycle_stage == "deleted"
    assert {run.info.run_id for run in children(client, parent)} == {evicted, done}
    assert client.get_run(parent).data.metrics == {"accuracy": 0.5}


def test_an_experiment_that_another_run_makes_at_the_same_moment_is_taken(store):
    client, _ = store
    made = client.create_experiment("shared")
    assert create_experiment(client, "shared").experiment_id == made
    assert create_experiment(client, "new").name == "new"


def test_a_version_is_found_by_its_run_and_its_files(store):
    from components.register.register import find_version

    client, _ = store
    client.create_registered_model("diagnosis")
    for run, digest in (("r1", "d1"), ("r1", "d2"), ("r1", "d2"), ("r2", "d1")):
        tags = {"vitalfuse.run_id": run, "vitalfuse.model_digest": digest}
        client.create_model_version("diagnosis", "s3://nowhere/model", tags=tags)
    wanted = {"vitalfuse.run_id": "r1", "vitalfuse.model_digest": "d2"}
    assert int(find_version(client, "diagnosis", wanted).version) == 2
    assert find_version(client, "diagnosis", {**wanted, "vitalfuse.run_id": "r3"}) is None
