"""KFP interfaces of the tasks at the two ends of a run on a cluster."""

from typing import NamedTuple

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def open_run(settings: dict, mlflow_run_id: str) -> NamedTuple(  # type: ignore[valid-type]
    "Opened", [("sources", str), ("baseline", str), ("store", str)]
):
    """Open the MLflow run of this pipeline run, and list the sources. Never cached.

    Args:
        settings: All settings, which become the MLflow run's parameters.
        mlflow_run_id: The run that was opened when the pipeline was submitted; empty where none was, as in scheduled
            runs.

    Returns:
        ``sources``: digest of the sources' listing, part of the cache key of ``ingest``. ``baseline``: digest of the
        baseline, likewise for ``validate``. ``store``: identity of the MLflow store and of the key of sealed
        predictions, part of the cache keys of the steps whose results are kept there.
    """
    from components.run.run import open_pipeline_run

    return open_pipeline_run(settings, mlflow_run_id)


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def record_run(
    ingest_record: dsl.Input[dsl.Artifact],
    validate_record: dsl.Input[dsl.Artifact],
    preprocess_record: dsl.Input[dsl.Artifact],
    embed_text_record: dsl.Input[dsl.Artifact],
    train_record: dsl.Input[dsl.Artifact],
    cross_validate_records: dsl.Input[list[dsl.Artifact]],
    compare_record: dsl.Input[dsl.Artifact],
    register_record: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
) -> None:
    """Log into the MLflow run which steps came from the cache, the report and the dataset, and close it. Never cached.

    Args:
        ingest_record: Record of ``ingest`` or ``merge_cohort``, with those of the shards.
        validate_record: Record of ``validate``.
        preprocess_record: Record of ``preprocess`` or ``merge_features``, with those of the shards.
        embed_text_record: Record of ``embed_text``.
        train_record: Record of ``train``.
        cross_validate_records: Records of ``cross_validate``, one a model.
        compare_record: Record of ``compare``.
        register_record: Record of ``register``.
        report: Report of ``compare``.
    """
    from pathlib import Path

    from components.run.run import record_pipeline_run

    before = [ingest_record, validate_record, preprocess_record, embed_text_record, train_record]
    records = [*before, *cross_validate_records, compare_record, register_record]
    record_pipeline_run([Path(record.path) for record in records], Path(report.path))


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def close_run(status: dsl.PipelineTaskFinalStatus) -> None:
    """Close the MLflow run as it ended: finished, failed or killed. Runs also when a step failed.

    Args:
        status: How the steps ended, from KFP.
    """
    from components.run.run import close_pipeline_run

    close_pipeline_run(status.state, status.error_message)
