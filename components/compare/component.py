"""KFP interface of the ``compare`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def compare(
    settings: dict,
    code_version: str,
    store: str,
    features: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Model],
    cross_validations: dsl.Input[list[dsl.Dataset]],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Write the paper's tables and figures from out-of-fold and test predictions only, and the report.

    Args:
        settings: Section ``compare`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        store: Identity of the MLflow store: part of the cache key, since the sealed predictions are kept there.
        features: Output of ``preprocess``.
        validation: Output of ``validate``.
        candidate: Output of ``train``.
        cross_validations: Outputs of ``cross_validate``, one a model.
        comparison: Report, tables, figures and metrics.
        report: The report once more, as one file.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    import shutil
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.compare.compare import compare_models
        from components.compare.settings import CompareSettings

        result = compare_models(
            Path(features.path),
            Path(candidate.path),
            [Path(item.path) for item in cross_validations],
            Path(validation.path),
            output,
            CompareSettings.model_validate(settings),
            progress=progress,
        )
        shutil.copyfile(output / "report.html", report.path)
        return result

    run_step("compare", core, output=Path(comparison.path), code_version=code_version, record=Path(record.path))
