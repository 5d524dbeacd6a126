"""KFP interface of the ``validate`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.VALIDATE, install_kfp_package=False)
def validate(
    settings: dict,
    baseline: str,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    validation: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Compute TFDV statistics of a cohort and hold them against the schema; errors stop the run.

    Args:
        settings: Section ``validate`` of the settings.
        baseline: Digest of the baseline of the settings: part of the cache key. Empty without one.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        cohort: Output of ``ingest``.
        validation: Statistics, schema, anomalies and a summary for the report.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.validate.settings import ValidateSettings
        from components.validate.validate import validate_cohort

        return validate_cohort(Path(cohort.path), output, ValidateSettings.model_validate(settings), progress=progress)

    run_step("validate", core, output=Path(validation.path), code_version=code_version, record=Path(record.path))
