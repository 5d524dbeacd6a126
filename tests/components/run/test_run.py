"""The two ends of a run on a cluster: which MLflow run is opened, and how it is closed."""

import time

import mlflow
import pytest
import yaml
from pydantic import TypeAdapter

from components.common import environment
from components.common.step import StepRecord
from components.common.tracking import KFP_RUN_TAG, STEP_TAG, step_run
from components.ingest.locations import source_digest
from components.ingest.settings import IngestSettings
from components.run.run import close_pipeline_run, open_pipeline_run, record_pipeline_run
from data_schemas.errors import InputError
from tests.mlflow_server import MlflowServer

KFP_RUN = "1f0c-kfp-run"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store that has its tables: making them takes seconds."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database.read_bytes()


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store):
    """The pods' environment on a cluster, with a store of the test's own."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", environment.PARENT_RUN_ID, environment.GIT_COMMIT):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv(environment.KFP_RUN_ID, KFP_RUN)
    # New experiments keep their files in the working folder.
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(uri)
    mlflow.set_tracking_uri(None)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "patients.csv").write_text("id\n1\n")
    return {
        "name": "tiny",
        "tracking": {"experiment": "ward"},
        "preprocess": {"folds": 3},
        "ingest": {"name": "tiny", "sources": [{"format": "export", "path": str(tmp_path / "source")}]},
    }


def _runs(client):
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, order_by=["attributes.start_time ASC"])


def _opened(client, **tags):
    experiment = client.get_experiment_by_name("ward")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("ward")
    return client.create_run(experiment_id, tags=tags).info.run_id


# -- open


def test_the_first_task_opens_the_parent_run_and_lists_the_sources(store, settings, monkeypatch):
    monkeypatch.setenv(environment.GIT_COMMIT, "abc123")
    opened = open_pipeline_run(settings)
    assert opened.sources == source_digest(IngestSettings.model_validate(settings["ingest"]))
    (run,) = _runs(store)
    assert run.data.tags["vitalfuse.source_digest"] == opened.sources
    assert run.data.tags["vitalfuse.version"]
    written = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/inputs/settings_resolved.yaml")
    assert yaml.safe_load(written) == settings
    assert run.info.run_name == "tiny" and run.info.status == "RUNNING"
    assert store.get_experiment(run.info.experiment_id).name == "ward"
    assert run.data.params["preprocess.folds"] == "3"
    assert run.data.tags[KFP_RUN_TAG] == KFP_RUN
    assert run.data.tags[STEP_TAG] == "pipeline"
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"


def test_a_run_that_was_opened_before_is_taken(store, settings):
    given = _opened(store)
    open_pipeline_run(settings, given)
    (run,) = _runs(store)
    assert run.info.run_id == given
    assert run.data.tags[KFP_RUN_TAG] == KFP_RUN
    assert [file.path for file in store.list_artifacts(given, "inputs")] == ["inputs/settings_resolved.yaml"]


def test_the_store_has_another_identity_in_another_experiment_and_the_same_in_the_next_run(
    store, settings, monkeypatch
):
    first = open_pipeline_run(settings)
    monkeypatch.setenv(environment.KFP_RUN_ID, "next")
    assert open_pipeline_run(settings).store == first.store
    monkeypatch.setenv(environment.KFP_RUN_ID, "elsewhere")
    other = open_pipeline_run(settings | {"tracking": {"experiment": "clinic"}})
    assert other.store != first.store and other.sources == first.sources


def test_a_run_that_a_runner_on_this_machine_opened_is_left_to_it(store, settings, monkeypatch):
    given = _opened(store)
    monkeypatch.setenv(environment.PARENT_RUN_ID, given)
    assert open_pipeline_run(settings).store
    assert not store.list_artifacts(given)
    close_pipeline_run("SUCCEEDED")
    assert store.get_run(given).info.status == "RUNNING"


@pytest.mark.parametrize("given", [True, False])
def test_a_retry_of_the_task_opens_no_second_run(store, settings, given):
    run_id = _opened(store) if given else ""
    open_pipeline_run(settings, run_id)
    open_pipeline_run(settings, run_id)
    assert len(_runs(store)) == 1


def test_a_cloned_run_gets_an_mlflow_run_of_its_own(store, settings, monkeypatch):
    given = _opened(store)
    open_pipeline_run(settings, given)
    monkeypatch.setenv(environment.KFP_RUN_ID, "its-clone")
    open_pipeline_run(settings, given)
    first, second = _runs(store)
    assert (first.info.run_id, first.data.tags[KFP_RUN_TAG]) == (given, KFP_RUN)
    assert second.data.tags[KFP_RUN_TAG] == "its-clone"


def test_a_run_of_another_server_is_told(store, settings):
    _opened(store)
    with pytest.raises(InputError, match="has no run 0123456789abcdef") as caught:
        open_pipeline_run(settings, "0123456789abcdef0123456789abcdef")
    assert caught.value.field == "cluster.mlflow_uri"


def test_a_run_that_somebody_deleted_is_replaced(store, settings):
    given = _opened(store)
    store.delete_run(given)
    open_pipeline_run(settings, given)
    (run,) = _runs(store)
    assert run.info.run_id != given


def test_an_experiment_that_the_pods_account_may_not_write_into_is_told(store, settings, monkeypatch, tmp_path):
    with MlflowServer(tmp_path / "mlflow.db") as server:
        mlflow.set_tracking_uri(server.url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "x")
        given = _opened(mlflow.MlflowClient(server.url))
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "pipeline")
        for run_id in (given, ""):
            with pytest.raises(InputError, match="may not write into the experiment 'ward'") as caught:
                open_pipeline_run(settings, run_id)
            assert caught.value.field == "tracking.experiment" and "EDIT" in caught.value.remedy
        settings["tracking"]["experiment"] = "the pods' own"
        open_pipeline_run(settings)
        made = store.get_experiment_by_name("the pods' own")
        assert server.owners[made.experiment_id] == "pipeline"
        assert len(store.search_runs([made.experiment_id])) == 1


def test_where_kfp_tracks_the_run_ours_is_deleted(store, settings, monkeypatch):
    kfps, given = _opened(store), _opened(store)
    monkeypatch.setenv("MLFLOW_RUN_ID", kfps)
    open_pipeline_run(settings, given)
    assert [run.info.run_id for run in _runs(store)] == [kfps]
    # Again, as a retry would; and with one that is not there.
    open_pipeline_run(settings, given)
    open_pipeline_run(settings, "0123456789abcdef0123456789abcdef")
    assert not [name for name in store.get_run(kfps).data.tags if name.startswith("vitalfuse.")]
    assert not store.list_artifacts(kfps)


def test_where_kfp_tracks_the_run_that_of_another_is_left_alone(store, settings, monkeypatch):
    other = _opened(store, **{KFP_RUN_TAG: "another"})
    monkeypatch.setenv("MLFLOW_RUN_ID", _opened(store))
    open_pipeline_run(settings, other)
    assert len(_runs(store)) == 2


def test_without_a_server_the_run_ends_before_its_long_work(settings, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="know of no MLflow server") as refused:
        open_pipeline_run(settings)
    assert refused.value.field == "cluster.mlflow"


def test_another_baseline_and_another_key_give_other_cache_keys(store, settings, tmp_path, monkeypatch):
    for name in (environment.EVIDENCE_KEY, environment.PSEUDONYM_KEY):
        monkeypatch.delenv(name, raising=False)
    plain = open_pipeline_run(settings)
    assert plain.baseline == "" and len(plain.store) == 12
    baseline = tmp_path / "statistics.pb"
    settings["validate"] = {"baseline": str(baseline)}
    with pytest.raises(InputError, match="There is no baseline"):
        open_pipeline_run(settings)
    found = []
    for content, key in ((b"July", "k" * 16), (b"August", "l" * 16)):
        baseline.write_bytes(content)
        monkeypatch.setenv(environment.EVIDENCE_KEY, key)
        found.append(open_pipeline_run(settings))
    assert len({opened.baseline for opened in found}) == len({opened.store for opened in [plain, *found]}) - 1 == 2
    assert {opened.sources for opened in found} == {plain.sources}


def test_a_source_that_is_not_there_is_told(store, settings):
    settings["ingest"]["sources"][0]["path"] = "/nowhere/export"
    with pytest.raises(InputError, match="is not there"):
        open_pipeline_run(settings)


# -- close


@pytest.fixture
def parent(store, settings):
    open_pipeline_run(settings)
    (run,) = _runs(store)
    return run.info.run_id


def _step(name, metrics=None, tags=None):
    with step_run(name, tags):
        mlflow.log_metrics(metrics or {})


@pytest.mark.parametrize(
    ("state", "status"),
    [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED"), ("CANCELLED", "KILLED"), ("CANCELED", "KILLED"), ("?", "FAILED")],
)
def test_the_parent_run_ends_as_the_pipeline_did(store, parent, state, status):
    close_pipeline_run(state)
    assert store.get_run(parent).info.status == status


def test_headline_metrics_and_the_model_come_up_to_the_parent_run(store, parent):
    _step("ingest", {"patients": 40, "system/seconds": 3})
    _step("train", {"loss": 0.5})
    _step("compare", {"test/macro_auc": 0.8})
    _step("register", tags={"vitalfuse.model": "diagnosis/3"})
    close_pipeline_run("SUCCEEDED")
    run = store.get_run(parent)
    assert run.data.metrics.pop("system/seconds") > 0
    assert run.data.metrics == {"patients": 40, "test/macro_auc": 0.8}
    assert run.data.tags["vitalfuse.model"] == "diagnosis/3"
    assert "vitalfuse.error" not in run.data.tags


def test_of_several_attempts_the_last_one_that_ended_well_counts(store, parent):
    for figure in (0.5, 0.8):
        _step("compare", {"test/macro_auc": figure})
        time.sleep(0.01)
    with pytest.raises(OSError, match="evicted"), step_run("compare"):
        mlflow.log_metrics({"test/macro_auc": 0.1})
        raise OSError("evicted")
    close_pipeline_run("SUCCEEDED")
    assert store.get_run(parent).data.metrics["test/macro_auc"] == 0.8


def test_a_failed_pipeline_closes_what_is_left_open_and_keeps_the_message(store, parent):
    _step("ingest")
    open_child = _opened(store, **{"mlflow.parentRunId": parent, STEP_TAG: "train"})
    close_pipeline_run("FAILED", "x" * 2000)
    statuses = {run.data.tags[STEP_TAG]: run.info.status for run in _runs(store)}
    assert statuses == {"pipeline": "FAILED", "ingest": "FINISHED", "train": "FAILED"}
    assert store.get_run(open_child).info.end_time is not None
    assert store.get_run(parent).data.tags["vitalfuse.error"] == "x" * 500


def test_where_kfp_tracks_the_run_it_is_left_to_kfp(store, parent, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    close_pipeline_run("FAILED", "broken")
    run = store.get_run(parent)
    assert run.info.status == "RUNNING" and "vitalfuse.error" not in run.data.tags


def test_without_an_open_run_there_is_nothing_to_close(store, parent, monkeypatch, capsys):
    monkeypatch.setenv(environment.KFP_RUN_ID, "another")
    close_pipeline_run("SUCCEEDED")
    assert "none to close" in capsys.readouterr().out
    assert store.get_run(parent).info.status == "RUNNING"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    close_pipeline_run("SUCCEEDED")


# -- record

COHORT = {"cohort": "tiny", "cohort_digest": "c" * 64, "sources": '["patients.csv"]'}


def _record(step, run_id, metrics=None, params=None, tags=None):
    return StepRecord(
        step=step, mlflow_run_id=run_id, params=params or {}, metrics=metrics or {}, warnings=[], tags=tags or {}
    )


def _ran(client, step, metrics=None, tags=None):
    """A step that runs in this run: what it leaves in MLflow, and its record."""
    _step(step, metrics, tags)
    return _record(step, client.search_runs(_experiments(client), max_results=1)[0].info.run_id, metrics, tags=tags)


def _experiments(client):
    return [experiment.experiment_id for experiment in client.search_experiments()]


@pytest.fixture
def record(tmp_path):
    """Call the task with files as the steps leave them: one a step, with the records of its shards."""

    def call(*records):
        (tmp_path / "report").write_text("<html>report</html>")
        paths = []
        for number, group in enumerate(records):
            group = group if isinstance(group, list) else [group]
            paths.append(tmp_path / f"record-{number}")
            paths[-1].write_bytes(TypeAdapter(list[StepRecord]).dump_json(group))
        record_pipeline_run(paths, tmp_path / "report")

    return call


def _below(client, parent):
    below = client.search_runs(_experiments(client), f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.data.tags[STEP_TAG]: run for run in below}


def test_steps_from_the_cache_get_a_run_and_their_figures_come_up_to_the_parent(store, parent, record):
    source = _opened(store)
    cached = [
        [
            _record("merge_cohort", source, {"patients": 40, "system/seconds": 3}, COHORT),
            _record("ingest_shard[1-of-1]", source, tags={"vitalfuse.shard": "1-of-1"}),
        ],
        _record("train", "0123456789abcdef0123456789abcdef", {"loss": 0.5}),
        _record("register", source, tags={"vitalfuse.model": "diagnosis/3"}),
    ]
    record(*cached, _ran(store, "compare", {"test/macro_auc": 0.8}))
    run, below = store.get_run(parent), _below(store, parent)
    assert run.info.status == "FINISHED"
    assert run.data.metrics.pop("system/seconds") > 0
    assert run.data.metrics == {"patients": 40, "test/macro_auc": 0.8}
    assert run.data.tags["vitalfuse.model"] == "diagnosis/3"
    assert run.data.tags["vitalfuse.cohort_digest"] == "c" * 64
    assert run.data.tags["vitalfuse.cached_steps"] == "4"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("tiny", "c" * 36)
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html") == "<html>report</html>"
    assert below.keys() == {"merge_cohort", "ingest_shard[1-of-1]", "train", "register", "compare"}
    assert {run.info.status for run in below.values()} == {"FINISHED"}
    assert "vitalfuse.cached" not in below["compare"].data.tags
    assert below["ingest_shard[1-of-1]"].data.tags["vitalfuse.shard"] == "1-of-1"
    assert below["merge_cohort"].data.tags["vitalfuse.source_run_id"] == source
    # It did the work in another store: there is nothing here to point to.
    assert "vitalfuse.source_run_id" not in below["train"].data.tags
    assert below["train"].data.metrics == {"loss": 0.5}
    # The exit task comes after it, and finds nothing to do.
    close_pipeline_run("SUCCEEDED")
    assert len(store.get_metric_history(parent, "system/seconds")) == 1


def test_a_repeated_task_logs_nothing_twice(store, parent, record):
    steps = [_record("ingest", None, {"patients": 40}, COHORT), _record("train", None)]
    cut_off = _opened(store, **{"mlflow.parentRunId": parent, STEP_TAG: "train", "vitalfuse.cached": "true"})
    record(*steps)
    record(*steps)
    runs = _runs(store)
    assert [run.data.tags[STEP_TAG] for run in runs if run.info.status == "FINISHED"] == ["pipeline", "ingest", "train"]
    assert store.get_run(cut_off).info.status == "KILLED"
    assert len(store.get_run(parent).inputs.dataset_inputs) == 1


def test_a_retried_run_is_finished_without_its_old_error_although_the_exit_task_is_over(store, parent, record):
    ingested = _ran(store, "ingest", {"patients": 40})
    with pytest.raises(OSError, match="evicted"), step_run("train"):
        raise OSError("evicted")
    close_pipeline_run("FAILED", "train was evicted")
    assert store.get_run(parent).data.tags["vitalfuse.error"] == "train was evicted"
    ingested.params.update(COHORT)
    record(ingested, _ran(store, "train"), _ran(store, "compare", {"test/macro_auc": 0.8}))
    run = store.get_run(parent)
    assert run.info.status == "FINISHED" and "vitalfuse.error" not in run.data.tags
    assert run.data.tags["vitalfuse.cached_steps"] == "0"
    assert run.data.metrics["test/macro_auc"] == 0.8 and run.data.metrics["patients"] == 40


def test_where_kfp_or_a_runner_tracks_the_run_nothing_is_recorded(store, parent, record, monkeypatch):
    for name in ("MLFLOW_RUN_ID", environment.PARENT_RUN_ID):
        monkeypatch.setenv(name, parent)
        record(_record("ingest", None, {"patients": 40}, COHORT))
        monkeypatch.delenv(name)
    assert store.get_run(parent).info.status == "RUNNING"
    assert not _below(store, parent)
