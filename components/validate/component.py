"""KFP interface of the ``validate`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.VALIDATE, install_kfp_package=False)
def validate(
    settings: dict,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    validation: dsl.Output[dsl.Artifact],
) -> None:
    """Compute TFDV statistics of a cohort and hold them against the schema; errors stop the run.

    Args:
        settings: Section ``validate`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key.
        cohort: Output of ``ingest``.
        validation: Statistics, schema, anomalies and a summary for the report.
    """
    from pathlib import Path

    from components.common.step import run_step
    from components.validate.settings import ValidateSettings
    from components.validate.validate import validate_cohort

    run_step(
        "validate",
        validate_cohort,
        output=Path(validation.path),
        cohort=Path(cohort.path),
        settings=ValidateSettings.model_validate(settings),
    )
