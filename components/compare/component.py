"""KFP interface of the ``compare`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def compare(
    settings: dict,
    code_version: str,
    features: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Model],
    cross_validations: dsl.Input[list[dsl.Dataset]],
    comparison: dsl.Output[dsl.Artifact],
) -> None:
    """Write the paper's tables and figures from out-of-fold and test predictions only, and the report.

    Args:
        settings: Section ``compare`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key.
        features: Output of ``preprocess``.
        validation: Output of ``validate``.
        candidate: Output of ``train``.
        cross_validations: Outputs of ``cross_validate``, one a model.
        comparison: Report, tables, figures and metrics.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.compare.compare import compare_models
        from components.compare.settings import CompareSettings

        return compare_models(
            Path(features.path),
            Path(candidate.path),
            [Path(item.path) for item in cross_validations],
            Path(validation.path),
            output,
            CompareSettings.model_validate(settings),
            progress=progress,
        )

    run_step("compare", core, output=Path(comparison.path))
