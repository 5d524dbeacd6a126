"""Bad input, as a user meets it: one clear line, exit code 2, nothing half-written."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from components.ingest.ingest import ingest_sources
from components.preprocess.preprocess import preprocess_cohort
from data_schemas.errors import InputError
from pipelines.local import step_names
from pipelines.settings import load_settings


def _edit(file, row, field_name, value):
    """Write a value into one cell of a CSV file; rows count from 1, with the header."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table.loc[row - 2, field_name] = value
    table.to_csv(file, index=False)


def _bad_time(source):
    _edit(source / "observations" / "part-0000.csv", 7, "time", "2022-13-16 01:00:00")


def _bad_pressure(source):
    file = source / "observations" / "part-0000.csv"
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    # The first pressure to row 9, where the message must find it.
    rows = [table.index[table["measurement"] == "blood_pressure"][0]]
    table = pd.concat([table.drop(index=rows).iloc[:7], table.loc[rows], table.drop(index=rows).iloc[7:]])
    table.to_csv(file, index=False)
    _edit(file, 9, "value", "120/")


def _bad_label(source):
    _edit(source / "annotations.csv", 3, "label", "Z9")


def _truncated_image(source):
    index = pd.read_csv(source / "images" / "images.csv")
    image = source / "images" / index.loc[2, "file"]
    image.write_bytes(image.read_bytes()[:60])


def _no_patients(source):
    file = source / "patients.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")


def _single_class(source):
    file = source / "annotations.csv"
    table = pd.read_csv(file, dtype=str)
    table.assign(label="Z1").to_csv(file, index=False)


def _corrupt_observations(source):
    (source / "observations" / "part-0001.parquet").write_bytes(b"PAR1 is how Parquet begins, but not how it goes on")


def _corrupt_label_file(source):
    (source.parent / "labels.csv").write_bytes(b"patient,label\n\xff\xfe\x00\x01,diabetes\n")


def _label_file_without_column(source):
    (source.parent / "labels.csv").write_text("patient,diagnosis\nDEMO0000001,diabetes\n")


_LABELS = "ingest.labels={file: labels.csv, patient_column: patient, label_column: label}"


@dataclass(frozen=True)
class Fault:
    """What is wrong, which step finds it, and what its line must say."""

    step: str
    spoil: object = None
    overrides: list[str] = field(default_factory=list)
    file: str | None = None
    row: int | None = None
    field_name: str | None = None
    says: tuple[str, ...] = ()


FAULTS = {
    "time stamp": Fault(
        "ingest",
        _bad_time,
        [],
        "observations/part-0000.csv",
        7,
        "time",
        ("not a time stamp", "2022-13-16", "on_bad_row"),
    ),
    "pressure": Fault(
        "ingest", _bad_pressure, [], "observations/part-0000.csv", 9, "value", ("'120/'", "such as 120/80")
    ),
    "unknown label": Fault("ingest", _bad_label, [], "annotations.csv", 3, "label", ("not a known label", "diabetes")),
    "truncated image": Fault(
        "ingest", _truncated_image, [], "images/images.csv", 4, "file", ("truncated", "Export the image again")
    ),
    "empty cohort": Fault(
        "ingest", _no_patients, [], "source", None, None, ("the cohort is empty", "Check the source")
    ),
    "single class": Fault(
        "ingest", _single_class, [], "sources", None, "label", ("all patients", "healthy", "at least two classes")
    ),
    "channel never measured": Fault(
        "ingest",
        None,
        ["ingest.channels=[heart_rate, lactate]"],
        "settings",
        None,
        "ingest.channels",
        ("lactate is never measured", "blood_glucose"),
    ),
    "corrupt observations": Fault(
        "ingest", _corrupt_observations, [], "observations/part-0001.parquet", None, None, ("cannot be read",)
    ),
    "corrupt label file": Fault(
        "ingest", _corrupt_label_file, [_LABELS], "labels.csv", None, None, ("cannot be read", "UTF-8")
    ),
    "label file without its column": Fault(
        "ingest", _label_file_without_column, [_LABELS], "labels.csv", 1, "label", ("no such column", "Rename or add")
    ),
    "class smaller than folds": Fault(
        "preprocess",
        None,
        ["preprocess.folds=5"],
        None,
        None,
        "preprocess.folds",
        ("chronic_kidney_disease", "Set preprocess.folds to 2 at most"),
    ),
}


def _run_until(settings, step, folder):
    """Call the core functions up to the step, as the pipeline would."""
    ingest_sources(folder / "cohort", settings.ingest, pseudonym_key=b"key of tests")
    if step == "preprocess":
        preprocess_cohort(folder / "cohort", folder / "features", settings.preprocess)


@pytest.mark.parametrize("name", FAULTS)
def test_step_names_file_row_field_and_remedy(project, name):
    fault = FAULTS[name]
    if fault.spoil:
        fault.spoil(project / "source")
    settings = load_settings(project / "settings.yaml", fault.overrides)
    with pytest.raises(InputError) as raised:
        _run_until(settings, fault.step, project / "out")
    error = raised.value
    assert (error.file, error.row, error.field) == (fault.file, fault.row, fault.field_name)
    assert error.remedy
    line = str(error)
    assert not [word for word in fault.says if word not in line], line
    assert "\n" not in line
    _names_no_patient(line, project / "source")
    # What an earlier step wrote stays; the failed one leaves nothing, not even under a temporary name.
    left = [path.name for path in (project / "out").glob("*")] if (project / "out").exists() else []
    assert left == (["cohort"] if fault.step == "preprocess" else [])


def _names_no_patient(text, source):
    patients = pd.read_csv(source / "patients.csv", dtype=str)
    assert not [value for column in ("mrn", "name") for value in patients[column] if value in text]


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory):
    """One workspace for all whole runs: MLflow's database takes some seconds to make."""
    return tmp_path_factory.mktemp("shared") / "workspace"


def _client(workspace):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{workspace / 'mlflow.db'}")


# A whole run takes ten seconds or more; these two tell whether the wiring holds, in the first step and in a later one.
_QUICK = ("time stamp", "class smaller than folds")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_run_ends_with_one_line_and_nothing_half_written(project, vitalfuse_process, shared_workspace, name):
    fault = FAULTS[name]
    if fault.spoil:
        fault.spoil(project / "source")
    overrides = [part for override in fault.overrides for part in ("--set", override)]
    before = set((shared_workspace / "runs").glob("*"))
    completed = vitalfuse_process(
        project, "run", "--config", "settings.yaml", "--workspace", str(shared_workspace), *overrides
    )

    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert len(completed.stderr.splitlines()) == 1, completed.stderr
    assert completed.stderr.startswith(f"vitalfuse: {fault.step}: ")
    for word in fault.says:
        assert word in completed.stderr
    assert "Traceback" not in completed.stdout
    _names_no_patient(completed.stdout + completed.stderr, project / "source")

    steps = step_names(load_settings(project / "settings.yaml"))
    assert f"\n{fault.step}: failed" in completed.stdout
    for later in steps[steps.index(fault.step) + 1 :]:
        assert f"\n{later}: skipped" in completed.stdout
    log = Path(completed.stdout.rpartition("full log  ")[2].strip())
    assert "InputError" in log.read_text()

    (run_folder,) = set((shared_workspace / "runs").glob("*")) - before
    assert not list(shared_workspace.rglob("*.partial*"))
    (output,) = (run_folder / "steps").glob(f"*/{fault.step}")
    assert not [path for path in output.rglob("*") if path.is_file() and path.name != "executor_output.json"]
    assert not (run_folder / "report.html").exists()

    client = _client(shared_workspace)
    experiment = client.get_experiment_by_name("vitalfuse")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    assert {run.info.status for run in runs} <= {"FAILED", "FINISHED"}
    parent = next(run for run in runs if run.data.tags["vitalfuse.step"] == "pipeline")
    assert parent.info.status == "FAILED"
    children = {
        run.data.tags["vitalfuse.step"]: run.info.status
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert children.pop(fault.step) == "FAILED"
    assert set(children.values()) <= {"FINISHED"}
    assert not client.search_registered_models()


def _is_told_before_any_step(project, result, *words):
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("vitalfuse: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr, result.stderr
    assert not list(project.rglob("*.partial*"))
    assert not (project / "workspace" / "runs").exists()


def test_source_that_is_not_there(project, vitalfuse):
    result = vitalfuse("run", "--config", "settings.yaml", "--set", "ingest.sources.0.path=nowhere/export")
    _is_told_before_any_step(project, result, "nowhere/export: is not there, or is empty", "Check the path")
    assert not (project / "workspace").exists()


def test_label_file_that_is_not_there(project, vitalfuse):
    result = vitalfuse("run", "--config", "settings.yaml", "--set", _LABELS)
    _is_told_before_any_step(project, result, "labels.csv: is not there", "Check the path")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("preprocess.fold=3", ["field preprocess.fold:", "Did you mean 'folds'? Valid are: "]),
        ("proprocess.folds=3", ["field proprocess:", "Did you mean 'preprocess'?"]),
        ("train.optimiser.learning_rte=1", ["field train.optimiser.learning_rte:", "Did you mean 'learning_rate'?"]),
        ("ingest.sources.0.pth=x", ["field ingest.sources.0.pth:", "Did you mean 'path'?"]),
        ("ingest.sources.0.format=exprot", ["field ingest.sources.0.format:", "did you mean 'export'?"]),
        ("models=[cnn_lstm_attention, random_forrest]", ["field models:", "did you mean 'random_forest'?"]),
        ("preprocess.folds=many", ["field preprocess.folds:", "received 'many'"]),
        ("preprocess.folds=[", ["field --set:", "is not valid YAML"]),
        ("folds", ["field --set:", "section.key=value"]),
    ],
)
def test_settings_that_are_not_valid(project, vitalfuse, override, words):
    result = vitalfuse("run", "--config", "settings.yaml", "--set", override)
    _is_told_before_any_step(project, result, *words)
    assert not (project / "workspace").exists()


def test_settings_file_that_is_not_there(project, vitalfuse):
    result = vitalfuse("run", "--config", "demmo")
    _is_told_before_any_step(project, result, "demmo: there is no such settings file", "demo, ")


def test_settings_file_that_is_not_yaml(project, vitalfuse):
    (project / "settings.yaml").write_text("name: tiny\ningest: [\n")
    result = vitalfuse("run", "--config", "settings.yaml")
    _is_told_before_any_step(project, result, "settings.yaml, row 3: is not valid YAML")


def test_mlflow_server_that_cannot_be_reached(project, vitalfuse):
    with socket.socket() as taken:
        # Nobody listens, and nobody else can.
        taken.bind(("127.0.0.1", 0))
        uri = f"http://somebody:secret@127.0.0.1:{taken.getsockname()[1]}"
        result = vitalfuse("run", "--config", "settings.yaml", "--set", f"tracking.uri={uri}")
    _is_told_before_any_step(
        project, result, "field tracking.uri:", "http://127.0.0.1:", "Connection refused", "Start the server"
    )
    assert "secret" not in result.output
    assert not list((project / "workspace").iterdir())


@pytest.mark.slow
def test_mlflow_server_that_never_answers(project, vitalfuse):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = vitalfuse("run", "--config", "settings.yaml", "--set", f"tracking.uri={uri}")
    _is_told_before_any_step(project, result, "field tracking.uri:", "timed out")


@pytest.mark.parametrize("uri", ["nonsense://x", "127.0.0.1:5000", "./mlruns", "sqlite:///settings.yaml"])
def test_mlflow_store_that_is_none(project, vitalfuse, uri):
    result = vitalfuse("run", "--config", "settings.yaml", "--set", f"tracking.uri={uri}")
    _is_told_before_any_step(project, result, "field tracking.uri:", uri)


def test_workspace_that_is_a_file(project, vitalfuse):
    result = vitalfuse("run", "--config", "settings.yaml", "--workspace", "settings.yaml")
    _is_told_before_any_step(project, result, "settings.yaml, field workspace:")


@pytest.fixture
def no_credentials(project, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(project / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(project / "none"))
    # It remembers credentials.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


def test_a_short_key_of_the_evidence(project, vitalfuse, monkeypatch):
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", "short")
    result = vitalfuse("run", "--config", "settings.yaml")
    _is_told_before_any_step(project, result, "VITALFUSE_EVIDENCE_KEY", "too short", "openssl rand")


def test_credentials_in_the_address_of_a_source_are_refused_and_not_repeated(project, vitalfuse):
    result = vitalfuse(
        "run", "--config", "settings.yaml", "--set", "ingest.sources.0.path=s3://AKIA:hush/2@ward/export"
    )
    _is_told_before_any_step(project, result, "ingest.sources.0.path", "holds credentials", "AWS_ACCESS_KEY_ID")
    assert "hush" not in result.output


def test_s3_without_credentials(project, vitalfuse, no_credentials):
    result = vitalfuse("run", "--config", "settings.yaml", "--set", "ingest.sources.0.path=s3://ward/export")
    _is_told_before_any_step(project, result, "s3://ward/export: cannot be listed (NoCredentialsError)", "credentials")


def test_s3_that_is_out_of_reach_is_no_bad_input(project, vitalfuse, no_credentials, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with socket.socket() as taken:
        # Nobody listens, and nobody else can.
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = vitalfuse("run", "--config", "settings.yaml", "--set", "ingest.sources.0.path=s3://ward/export")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("vitalfuse: s3://ward/export: cannot be listed (EndpointConnectionError). ")
    assert "try again" in line and "hush" not in result.output
    assert not (project / "workspace").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("s3://ward/nowhere", "s3://ward/nowhere: is not there, or is empty"),
        ("s3://other/export", "s3://other/export: cannot be listed (NoSuchBucket)"),
    ],
)
def test_s3_prefix_that_is_not_there(project, vitalfuse, no_credentials, monkeypatch, path, words):
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="ward")
        boto3.client("s3").put_object(Bucket="ward", Key="export/source.yaml", Body=b"name: x")
        result = vitalfuse("run", "--config", "settings.yaml", "--set", f"ingest.sources.0.path={path}")
    _is_told_before_any_step(project, result, words, "Check")
