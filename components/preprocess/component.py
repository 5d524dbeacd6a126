"""KFP interface of the ``preprocess`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def preprocess(
    settings: dict,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    features: dsl.Output[dsl.Dataset],
) -> None:
    """Align, calibrate, denoise and impute the series; denoise the images; split the patients into folds.

    Args:
        settings: Section ``preprocess`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key.
        cohort: Output of ``ingest``.
        validation: Output of ``validate``; taken so that only a validated cohort is preprocessed.
        features: The features folder: memory-mapped arrays, one row a sample.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.preprocess.preprocess import preprocess_cohort
        from components.preprocess.settings import PreprocessSettings

        return preprocess_cohort(
            Path(cohort.path), output, PreprocessSettings.model_validate(settings), progress=progress
        )

    run_step("preprocess", core, output=Path(features.path))
