"""KFP interfaces of the tasks at the two ends of a run on a cluster."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def open_run(settings: dict, mlflow_run_id: str) -> str:
    """Open the MLflow run of this pipeline run, and list the sources. Never cached.

    Args:
        settings: All settings, which become the MLflow run's parameters.
        mlflow_run_id: The run that was opened when the pipeline was submitted; empty where none was, as in scheduled
            runs.

    Returns:
        Digest of the sources' listing: part of the cache key of ``ingest``.
    """
    from components.run.run import open_pipeline_run

    return open_pipeline_run(settings, mlflow_run_id)


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def close_run(status: dsl.PipelineTaskFinalStatus) -> None:
    """Close the MLflow run as it ended: finished, failed or killed. Runs also when a step failed.

    Args:
        status: How the steps ended, from KFP.
    """
    from components.run.run import close_pipeline_run

    close_pipeline_run(status.state, status.error_message)
