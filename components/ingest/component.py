"""KFP interfaces of the ``ingest`` step: as one task, or as a task a shard and one that joins them."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def ingest(
    settings: dict,
    source_digest: str,
    code_version: str,
    cohort: dsl.Output[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Read the sources into the cohort contract, with pseudonymised patients.

    Args:
        settings: Section ``ingest`` of the settings.
        source_digest: Digest of the source's listing (names, sizes, times or etags): part of the cache key. Where the
            source has another one by now, the step ends.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        cohort: The cohort folder.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.ingest.ingest import ingest_sources
        from components.ingest.pseudonyms import pseudonym_key
        from components.ingest.settings import IngestSettings

        return ingest_sources(
            output,
            IngestSettings.model_validate(settings),
            pseudonym_key=pseudonym_key(),
            listing=source_digest,
            progress=progress,
        )

    run_step("ingest", core, output=Path(cohort.path), code_version=code_version, record=Path(record.path))


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def ingest_shard(
    settings: dict, shard: str, source_digest: str, code_version: str, part: dsl.Output[dsl.Dataset]
) -> None:
    """Read one shard of the patients of the sources, pseudonymised.

    Args:
        settings: Section ``ingest`` of the settings.
        shard: Which one, such as ``2-of-8``.
        source_digest: Digest of the source's listing (names, sizes, times or etags): part of the cache key. Where the
            source has another one by now, the step ends.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        part: The part of the cohort.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.common.shards import Shard
        from components.ingest.ingest import ingest_shard as core_function
        from components.ingest.pseudonyms import pseudonym_key
        from components.ingest.settings import IngestSettings

        return core_function(
            output,
            IngestSettings.model_validate(settings),
            Shard.parse(shard),
            pseudonym_key=pseudonym_key(),
            listing=source_digest,
            progress=progress,
        )

    run_step(
        f"ingest_shard[{shard}]",
        core,
        output=Path(part.path),
        code_version=code_version,
        tags={"vitalfuse.shard": shard},
    )


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def merge_cohort(
    settings: dict,
    code_version: str,
    parts: dsl.Input[list[dsl.Dataset]],
    cohort: dsl.Output[dsl.Dataset],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Join the parts of all shards into the cohort contract; decide what concerns the whole cohort.

    Args:
        settings: Section ``ingest`` of the settings.
        code_version: Package version and digest of the sources of this step: part of the cache key. Where the
            image holds other code, the step ends.
        parts: Outputs of ``ingest_shard``.
        cohort: The cohort folder, the same for any number of shards.
        record: What the step has to say for itself: parameters, figures, tags, its MLflow run.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.ingest.ingest import merge_shards
        from components.ingest.settings import IngestSettings

        return merge_shards(
            [Path(part.path) for part in parts], output, IngestSettings.model_validate(settings), progress=progress
        )

    run_step(
        "merge_cohort",
        core,
        output=Path(cohort.path),
        code_version=code_version,
        record=Path(record.path),
        parts=[Path(part.path) for part in parts],
    )
