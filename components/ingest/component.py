"""KFP interface of the ``ingest`` step."""

from kfp import dsl

from components import image


@dsl.component(base_image=image.DATA, install_kfp_package=False)
def ingest(settings: dict, source_digest: str, code_version: str, cohort: dsl.Output[dsl.Dataset]) -> None:
    """Read the sources into the cohort contract, with pseudonymised patients.

    Args:
        settings: Section ``ingest`` of the settings.
        source_digest: Digest of the source's listing (names, sizes, times or etags): part of the cache key.
        code_version: Package version and digest of the sources of this step: part of the cache key.
        cohort: The cohort folder.
    """
    from pathlib import Path

    from components.common.step import run_step

    def core(output, progress):
        from components.ingest.ingest import ingest_sources
        from components.ingest.pseudonyms import pseudonym_key
        from components.ingest.settings import IngestSettings

        return ingest_sources(
            output, IngestSettings.model_validate(settings), pseudonym_key=pseudonym_key(), progress=progress
        )

    run_step("ingest", core, output=Path(cohort.path))
