"""KFP interfaces of the ``preprocess`` step: as one task, or as a task a shard and one that joins them."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def preprocess(
    settings: dict,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    features: dsl.Output[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Align, calibrate, denoise and impute the series; denoise the images; split the patients into folds.

    Args:
        settings: Section ``preprocess`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        cohort: Output of ``ingest``.
        validation: Output of ``validate``; taken so that only a validated cohort is preprocessed.
        features: The features folder: memory-mapped arrays, one row a sample.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.preprocess.preprocess import preprocess_cohort
        from components.preprocess.settings import PreprocessSettings

        return preprocess_cohort(
            Path(cohort.path), output, PreprocessSettings.model_validate(settings), progress=progress
        )

    run_step("preprocess", core, output=Path(features.path), code_version=code_version, record=Path(record.path))


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def preprocess_shard(
    settings: dict,
    shard: str,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    part: dsl.Output[dsl.Dataset],
) -> None:
    """Make the arrays of one shard of a cohort's patients.

    Args:
        settings: Section ``preprocess`` of the settings.
        shard: Which one, such as ``2-of-8``.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        cohort: Output of ``ingest`` or ``merge_cohort``.
        validation: Output of ``validate``; taken so that only a validated cohort is preprocessed.
        part: The arrays of these patients.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.common.shards import Shard
        from components.preprocess.settings import PreprocessSettings
        from components.preprocess.shards import preprocess_shard as core_function

        return core_function(
            Path(cohort.path),
            output,
            PreprocessSettings.model_validate(settings),
            Shard.parse(shard),
            progress=progress,
        )

    run_step(
        f"preprocess_shard[{shard}]",
        core,
        output=Path(part.path),
        code_version=code_version,
        tags={"vitalfuse.shard": shard},
    )


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def merge_features(
    settings: dict,
    code_version: str,
    cohort: dsl.Input[dsl.Dataset],
    parts: dsl.Input[list[dsl.Dataset]],
    features: dsl.Output[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Join the arrays of all shards; split the patients into held-out rows and folds, once.

    Args:
        settings: Section ``preprocess`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        cohort: Output of ``ingest`` or ``merge_cohort``.
        parts: Outputs of ``preprocess_shard``.
        features: The features folder, the same for any number of shards.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.preprocess.settings import PreprocessSettings
        from components.preprocess.shards import merge_features as core_function

        return core_function(
            Path(cohort.path),
            [Path(part.path) for part in parts],
            output,
            PreprocessSettings.model_validate(settings),
            progress=progress,
        )

    run_step(
        "merge_features",
        core,
        output=Path(features.path),
        code_version=code_version,
        record=Path(record.path),
        parts=[Path(part.path) for part in parts],
    )
