"""KFP interface of the ``register`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def register(
    settings: dict,
    code_version: str,
    store: str,
    cohort: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Model],
    comparison: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Register the trained model in MLflow as a new version; ``challenger`` where it passes its gates.

    Args:
        settings: Section ``register`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        store: Identity of the MLflow store: part of the cache key, since a version is registered there.
        cohort: Output of ``ingest``.
        features: Output of ``preprocess``.
        validation: Output of ``validate``.
        candidate: Output of ``train``.
        comparison: Output of ``compare``.
        registration: Name, version and aliases of the registered model, and the verdict of its gates.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.register.register import register_model
        from components.register.settings import RegisterSettings

        return register_model(
            cohort=Path(cohort.path),
            features=Path(features.path),
            validation=Path(validation.path),
            candidate=Path(candidate.path),
            comparison=Path(comparison.path),
            output=output,
            settings=RegisterSettings.model_validate(settings),
            progress=progress,
        )

    run_step("register", core, output=Path(registration.path), code_version=code_version, record=Path(record.path))
