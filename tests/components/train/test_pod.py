"""The pods of a TrainJob: where they read and write, and that two of them write what one process writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer

from components.common.step import StepRecord
from components.embed_text.embed_text import embed_notes
from components.embed_text.settings import EmbedTextSettings
from components.train.pod import MODULE, check_target, deliver, fetch_folder
from components.train.settings import TrainSettings
from components.train.train import train_candidate
from data_schemas.errors import InputError, StoreError
from data_schemas.features import Features
from data_schemas.predictions import class_probabilities, read_predictions
from tests.training.synthetic import make_features
from training.addresses import loopback_addresses, tf_config

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = TrainSettings.model_validate(
    {
        "members": 1,
        "network": {"units": 8, "image_filters": (4,), "text_length": 16, "dropout": 0.0},
        "optimiser": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
    }
)


@pytest.fixture
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bucket(credentials):
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="ward")
        yield client


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    for name in ("record.json", "a.json", "part/b.npy", "z.keras"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_is_delivered_to_s3_is_fetched_again(bucket, folder):
    bucket.put_object(Bucket="ward", Key="models/77/other", Body=b"")
    deliver(folder, "s3://ward/models/7/")
    with ExitStack() as stack:
        fetched = fetch_folder("s3://ward/models/7", stack)
        assert contents(fetched) == contents(folder)
    assert not fetched.exists()


def test_the_record_comes_last(bucket, folder, monkeypatch):
    sent = []
    client = boto3.client("s3")
    monkeypatch.setattr(client, "upload_file", lambda path, bucket, key: sent.append(key))
    monkeypatch.setattr(boto3, "client", lambda service: client)
    deliver(folder, "s3://ward/m")
    assert len(sent) == 4 and sent[-1] == "m/record.json"


def test_a_folder_of_a_claim_is_used_where_it_is_and_replaced_as_a_whole(folder, tmp_path):
    with ExitStack() as stack:
        assert fetch_folder(str(folder), stack) == folder
    (tmp_path / "claim" / "7").mkdir(parents=True)
    (tmp_path / "claim" / "7" / "old").touch()
    deliver(folder, str(tmp_path / "claim" / "7"))
    assert contents(tmp_path / "claim" / "7") == contents(folder)
    assert [path.name for path in (tmp_path / "claim").iterdir()] == ["7"]


def test_a_target_that_can_not_be_written_is_told_before_the_fit(bucket, tmp_path):
    check_target("s3://ward/m", [])
    check_target(str(tmp_path / "new" / "m"), [])
    with pytest.raises(InputError, match="the bucket can't be reached"):
        check_target("s3://nowhere/m", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be written"):
        check_target(str(tmp_path / "file" / "m"), [])


@pytest.mark.parametrize("prefix", ["s3://ward", "/claim"])
@pytest.mark.parametrize("name", ["run", "run/f", "run//f/", "run/./f", "run/f/model"])
def test_the_model_is_not_written_over_its_inputs(prefix, name):
    with pytest.raises(InputError, match=f"is, contains or lies in {prefix}/run/f"):
        check_target(f"{prefix}/{name}", [f"{prefix}/other/e", f"{prefix}/run/f"])


def test_the_model_stands_beside_its_inputs(bucket, tmp_path):
    (tmp_path / "run" / "f").mkdir(parents=True)
    check_target(str(tmp_path / "run" / "f2"), [str(tmp_path / "run" / "f"), "s3://ward/run"])
    check_target("s3://ward/run/f2", ["s3://ward/run/f", "s3://ward-2/run/f2", "/ward"])


def test_links_do_not_hide_that_the_model_is_written_over_its_inputs(tmp_path):
    features = tmp_path / "run" / "f"
    features.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for target in ("link", "link/f", "link/f/new"):
        with pytest.raises(InputError, match="written over its input"):
            check_target(str(tmp_path / target), [str(features)])
        with pytest.raises(InputError, match="written over its input"):
            check_target(str(tmp_path / target.replace("link", "run")), [str(tmp_path / "link" / "f")])
    check_target(str(tmp_path / "link" / "new"), [str(features)])


@pytest.mark.parametrize(
    ("record", "taken"),
    [
        ({"step": "train"}, True),
        ({"step": "preprocess"}, False),
        ({}, False),
        ([], False),
        (None, False),
    ],
)
def test_only_an_earlier_model_is_replaced(tmp_path, record, taken):
    target = tmp_path / "m"
    target.mkdir()
    check_target(str(target), [])
    (target / "model.keras").touch()
    if record is not None:
        (target / "record.json").write_text(json.dumps(record))
    if taken:
        check_target(str(target), [])
    else:
        with pytest.raises(InputError, match="holds something else than an earlier model"):
            check_target(str(target), [])
    assert (target / "model.keras").exists()


def test_a_file_is_not_replaced_by_a_model(tmp_path):
    (tmp_path / "m").touch()
    with pytest.raises(InputError, match="holds something else than an earlier model"):
        check_target(str(tmp_path / "m"), [])


def test_an_object_whose_name_leads_elsewhere_is_not_fetched(bucket, tmp_path):
    evil = tmp_path / "evil.npy"
    bucket.put_object(Bucket="ward", Key=f"run/f/{evil}", Body=b"evil")
    bucket.put_object(Bucket="ward", Key="run/f/series.npy", Body=b"1")
    with ExitStack() as stack, pytest.raises(InputError, match="leads out of the prefix"):
        fetch_folder("s3://ward/run/f", stack)
    assert not evil.exists()


def test_a_store_that_fails_is_no_fault_of_the_target(bucket, folder, s3_answers):
    s3_answers(503, "SlowDown")
    with pytest.raises(StoreError, match=r"^s3://ward/m: the bucket can't be reached \(503\)"):
        check_target("s3://ward/m", [])
    with pytest.raises(StoreError, match=r"^s3://ward/m: can't be written \(SlowDown\)"):
        deliver(folder, "s3://ward/m")
    s3_answers(403, "AccessDenied")
    with pytest.raises(InputError, match=r"the bucket can't be reached \(403\)"):
        check_target("s3://ward/m", [])
    with pytest.raises(InputError, match=r"can't be written \(AccessDenied\)"):
        deliver(folder, "s3://ward/m")


@pytest.mark.parametrize(("endpoint", "code"), [("http://127.0.0.1:{port}", 1), ("no address", 2)])
def test_the_exit_code_tells_whether_a_pod_is_to_be_started_anew(credentials, endpoint, code, tmp_path):
    with socket.socket() as unused:
        # Bound, but nobody listens: the connection is refused.
        unused.bind(("127.0.0.1", 0))
        ended = subprocess.run(
            [sys.executable, "-m", MODULE, "s3://ward/f", "s3://ward/e", "s3://ward/m", SETTINGS.model_dump_json()],
            env={
                **os.environ,
                "AWS_ENDPOINT_URL_S3": endpoint.format(port=unused.getsockname()[1]),
                "AWS_MAX_ATTEMPTS": "1",
                "NO_PROXY": "127.0.0.1",
                "TF_CONFIG": tf_config(loopback_addresses(2), 0),
                "PYTHONPATH": str(ROOT),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == code
    assert line.startswith("vitalfuse: s3://ward/f: cannot be listed (") and "testing" not in line


@contextmanager
def pods(arguments, environment, folder):
    """Two pods, as processes of this machine that run in a folder."""
    addresses = loopback_addresses(2)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", MODULE, *arguments],
            env={**os.environ, **environment, "TF_CONFIG": tf_config(addresses, index), "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_two_pods_write_to_s3_what_one_process_writes(tmp_path, credentials):
    make_features(tmp_path / "f", patients=40, classes=2)
    embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6, epochs=2))
    train_candidate(tmp_path / "f", tmp_path / "e", tmp_path / "m", SETTINGS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="ward")
        for name in ("f", "e"):
            for path in (tmp_path / name).iterdir():
                client.upload_file(str(path), "ward", f"run/{name}/{path.name}")
        store = f"sqlite:///{tmp_path}/mlflow.db"
        environment = {
            "AWS_ENDPOINT_URL_S3": address,
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_EXPERIMENT_NAME": "ward",
            "NO_PROXY": "127.0.0.1",
        }
        arguments = [f"s3://ward/run/{name}" for name in "fe"] + ["s3://ward/models/7", SETTINGS.model_dump_json()]
        with pods(arguments, environment, tmp_path) as running:
            said = [process.communicate(timeout=300)[0] for process in running]
            assert [process.returncode for process in running] == [0, 0], said
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="ward", Prefix="models/")["Contents"]]
        wanted = {path.name for path in (tmp_path / "m").iterdir()} | {"record.json"}
        assert set(keys) == {f"models/7/{name}" for name in wanted}
        for key in keys:
            client.download_file("ward", key, str(tmp_path / Path(key).name))
    finally:
        server.stop()
    classes = Features.open(tmp_path / "f").manifest.classes
    one, two = (
        class_probabilities(read_predictions(path / "predictions.parquet"), classes)
        for path in (tmp_path / "m", tmp_path)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)
    record = StepRecord.model_validate_json((tmp_path / "record.json").read_text())
    assert record.step == "train" and record.params["seed"] == SETTINGS.seed

    from mlflow import MlflowClient

    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("ward").experiment_id])
    (step,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert step.info.run_id == record.mlflow_run_id and step.info.status == "FINISHED"
    assert step.data.metrics["test_accuracy"] == pytest.approx(record.metrics["test_accuracy"])


@pytest.mark.slow
def test_bad_input_ends_every_pod_with_2_and_a_killed_one_ends_the_other(tmp_path):
    make_features(tmp_path / "f", patients=40, classes=2, image=None, text=False, series=False)
    embed_notes(tmp_path / "f", tmp_path / "e", EmbedTextSettings(dimensions=6, epochs=2))
    arguments = [str(tmp_path / name) for name in "fem"]
    with pods([*arguments, SETTINGS.model_dump_json()], {}, tmp_path) as running:
        said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [2, 2], said
    assert all("no modality" in text for text in said)
    make_features(tmp_path / "f", patients=40, classes=2)
    endless = json.loads(SETTINGS.model_dump_json())
    endless["optimiser"] |= {"epochs": 10_000, "patience": 10_000}
    with pods([*arguments, json.dumps(endless)], {}, tmp_path) as running:
        chief, other = running
        for line in chief.stdout:
            if "fitting" in line:
                break
        other.kill()
        chief.communicate(timeout=120)
        assert chief.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {"f", "e"}
