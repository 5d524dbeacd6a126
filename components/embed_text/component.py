"""KFP interface of the ``embed_text`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.TRAIN, install_kfp_package=False)
def embed_text(
    settings: dict,
    code_version: str,
    features: dsl.Input[dsl.Dataset],
    embedding: dsl.Output[dsl.Model],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Fit Word2Vec (CBOW) on the notes of the training rows.

    Args:
        settings: Section ``embed_text`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        features: Output of ``preprocess``.
        embedding: Vocabulary and word vectors.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.embed_text.embed_text import embed_notes
        from components.embed_text.settings import EmbedTextSettings

        return embed_notes(Path(features.path), output, EmbedTextSettings.model_validate(settings), progress=progress)

    run_step("embed_text", core, output=Path(embedding.path), code_version=code_version, record=Path(record.path))
