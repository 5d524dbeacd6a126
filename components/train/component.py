"""KFP interface of the ``train`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def train(
    settings: dict,
    code_version: str,
    features: dsl.Input[dsl.Dataset],
    embedding: dsl.Input[dsl.Model],
    model: dsl.Output[dsl.Model],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Fit the CNN-LSTM-attention model on the training rows, then predict the test rows once.

    Args:
        settings: Section ``train`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        features: Output of ``preprocess``.
        embedding: Output of ``embed_text``.
        model: Keras and ONNX model, vocabulary, contract and test predictions.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.train.settings import TrainSettings
        from components.train.train import train_candidate

        return train_candidate(
            Path(features.path),
            Path(embedding.path),
            output,
            TrainSettings.model_validate(settings),
            progress=progress,
        )

    run_step("train", core, output=Path(model.path), code_version=code_version, record=Path(record.path))
