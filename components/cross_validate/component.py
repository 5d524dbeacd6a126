"""KFP interface of the ``cross_validate`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def cross_validate(
    settings: dict,
    model: str,
    candidate: str,
    code_version: str,
    features: dsl.Input[dsl.Dataset],
    predictions: dsl.Output[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Fit one model on each fold of the training rows and predict the rows that were held out.

    Args:
        settings: Section ``cross_validate`` of the settings.
        model: Model name.
        candidate: The model that ``train`` fits. Every other model is fitted once more on all training rows to
            predict the test rows; the candidate's test predictions are those of the model that is registered.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        features: Output of ``preprocess``.
        predictions: Out-of-fold and test predictions, and timing.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.cross_validate.cross_validate import cross_validate_model
        from components.cross_validate.settings import CrossValidateSettings

        return cross_validate_model(
            model,
            Path(features.path),
            output,
            CrossValidateSettings.model_validate(settings),
            predict_test=model != candidate,
            progress=progress,
        )

    run_step(
        f"cross_validate[{model}]",
        core,
        output=Path(predictions.path),
        code_version=code_version,
        record=Path(record.path),
        tags={"vitalfuse.model": model},
    )
