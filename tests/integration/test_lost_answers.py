"""What is made in MLflow through a proxy that loses every first answer: the client asks again, and makes it twice."""

from __future__ import annotations

import pytest

from tests.integration.lossy import LossyProxy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lossy(stack):
    """A client that loses answers, in an experiment of its own."""
    import mlflow

    with (
        LossyProxy(stack.mlflow.port, r"/(runs/create|logged-models|model-versions/create)$").serve() as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in stack.mlflow.client_environment(*stack.mlflow.admin).items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        mlflow.set_tracking_uri(proxy.uri)
        try:
            yield proxy, mlflow.set_experiment("lost answers").experiment_id
        finally:
            mlflow.set_tracking_uri(None)


def _active(experiment_id):
    import mlflow

    return mlflow.MlflowClient().search_runs([experiment_id])


def test_the_client_makes_a_run_twice(lossy):
    """What this module is about; where MLflow mends it one day, the code against it may go."""
    import mlflow

    _, experiment_id = lossy
    run = mlflow.MlflowClient().create_run(experiment_id, run_name="bare")
    made = _active(experiment_id)
    assert [entry.info.run_name for entry in made] == ["bare", "bare"]
    assert run.info.run_id in {entry.info.run_id for entry in made}
    for entry in made:
        mlflow.MlflowClient().delete_run(entry.info.run_id)


def test_a_pipeline_its_step_and_their_parts_are_made_once(lossy):
    import mlflow

    from components.common import environment, tracking
    from components.common.parent_run import close_parent_run, open_parent_run
    from components.common.result import NestedResult, StepResult

    proxy, experiment_id = lossy
    before = proxy.lost["/runs/create"]
    client = mlflow.MlflowClient()
    parent = open_parent_run(client, experiment_id, "pipeline", {"folds": 2}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(environment.PARENT_RUN_ID, parent)
        with tracking.step_run("train"):
            tracking.log_result(StepResult(nested=[NestedResult("fold 1", metrics={"accuracy": 0.5})]))
    close_parent_run(client, parent, "FINISHED", {}, {})
    runs = _active(experiment_id)
    assert sorted(run.info.run_name for run in runs) == ["fold 1", "pipeline", "train"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert proxy.lost["/runs/create"] == before + 3


def test_a_version_is_registered_once_and_found_by_the_next_attempt(lossy):
    import mlflow

    from components.register import register

    proxy, _ = lossy
    tags = {"vitalfuse.run_id": "r1", "vitalfuse.model_digest": "d1"}
    client = mlflow.MlflowClient()
    register._ensure_registered_model(client, "diagnosis", "a cohort")
    with mlflow.start_run():
        model = mlflow.pyfunc.log_model(name="model", python_model=lambda model_input: model_input, pip_requirements=[])
    assert register.find_version(client, "diagnosis", tags) is None
    version = register._register(client, model.model_uri, "diagnosis", tags)
    assert proxy.lost["/model-versions/create"] == 1
    versions = client.search_model_versions("name = 'diagnosis'")
    assert [entry.version for entry in versions] == [version.version]
    assert register.find_version(client, "diagnosis", tags).version == version.version
    assert register.find_version(client, "diagnosis", tags | {"vitalfuse.run_id": "r2"}) is None
