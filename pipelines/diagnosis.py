"""The one pipeline, on this machine and on a cluster: it reads like the paper's method section."""

from collections.abc import Callable

from kfp import dsl
from kfp.dsl import PipelineTask
from kfp.dsl.base_component import BaseComponent

from components.common.shards import shard_names
from components.compare.component import compare
from components.cross_validate.component import cross_validate
from components.embed_text.component import embed_text
from components.ingest.component import ingest, ingest_shard, merge_cohort
from components.preprocess.component import merge_features, preprocess, preprocess_shard
from components.register.component import register
from components.run.component import close_run, open_run, record_run
from components.train.component import train
from components.validate.component import validate

NAME = "vitalfuse-diagnosis"
# Two cross-validations, or shards, at a time: as many as a small machine has cores.
PARALLELISM = 2

# Fits the task of a step to where it runs: resources, retries, secrets.
Configure = Callable[[str, PipelineTask], None]


def _leave(step: str, task: PipelineTask) -> None:
    """Leave a task as it is, as on this machine."""


def build_pipeline(
    configure: Configure | None = None,
    *,
    parallelism: int = PARALLELISM,
    shards: int = 1,
    shard_parallelism: int = PARALLELISM,
    on_cluster: bool = False,
    source_digest: str | None = None,
) -> BaseComponent:
    """Build the pipeline.

    Args:
        configure: Called with the name and the task of each step; None: tasks stay as they are.
        parallelism: Cross-validations that run at a time.
        shards: Parts into which ``ingest`` and ``preprocess`` divide the patients; 1: they are one task each.
        shard_parallelism: Shards that run at a time.
        on_cluster: Whether a task records in MLflow what the steps left; a runner on this machine does so itself.
        source_digest: Digest of the sources' listing, from a runner on this machine; None: from the run's first task.
            Local runs of KFP 2.17 give tasks in a loop the loop's item in place of another task's output.

    Returns:
        The pipeline, to be compiled or called.
    """
    configure = configure or _leave

    @dsl.pipeline(name=NAME, description="A cohort in; a validated, trained, compared and registered model out.")
    def diagnosis(
        settings: dict,
        mlflow_run_id: str,
        ingest_settings: dict,
        validate_settings: dict,
        preprocess_settings: dict,
        embed_text_settings: dict,
        train_settings: dict,
        cross_validate_settings: dict,
        compare_settings: dict,
        register_settings: dict,
        models: list[str],
        candidate: str,
        ingest_version: str,
        validate_version: str,
        preprocess_version: str,
        embed_text_version: str,
        train_version: str,
        cross_validate_version: str,
        compare_version: str,
        register_version: str,
    ) -> None:
        """Chain the steps.

        Args:
            settings: All settings, for the record; no cached step sees them.
            mlflow_run_id: The parent run in MLflow where it is open already, else empty.
            ingest_settings: Section ``ingest`` of the settings; each step gets its own section alone, so that a
                change elsewhere leaves its cache entry valid.
            validate_settings: Section ``validate``.
            preprocess_settings: Section ``preprocess``.
            embed_text_settings: Section ``embed_text``.
            train_settings: Section ``train``.
            cross_validate_settings: Section ``cross_validate``.
            compare_settings: Section ``compare``.
            register_settings: Section ``register``.
            models: Names of the models to cross-validate. Plain names: local runs of KFP 2.17 mistake fields of
                structured loop items, and then mix up their cache entries.
            candidate: Name of the model that ``train`` fits and ``register`` registers.
            ingest_version: Package version and digest of the sources of the step: KFP's cache key does not see the
                code of an imported package.
            validate_version: Likewise for ``validate``.
            preprocess_version: Likewise for ``preprocess``.
            embed_text_version: Likewise for ``embed_text``.
            train_version: Likewise for ``train``.
            cross_validate_version: Likewise for ``cross_validate``.
            compare_version: Likewise for ``compare``.
            register_version: Likewise for ``register``.
        """
        # Never cached: it would leave the MLflow run open.
        closed = close_run().set_caching_options(False)
        configure("close_run", closed)
        with dsl.ExitHandler(closed, name="steps"):
            # Never cached: it lists the sources as they are now.
            opened = open_run(settings=settings, mlflow_run_id=mlflow_run_id).set_caching_options(False)
            configure("open_run", opened)
            sources = source_digest or opened.outputs["sources"]

            if shards == 1:
                ingested = ingest(settings=ingest_settings, source_digest=sources, code_version=ingest_version)
                configure("ingest", ingested)
            else:
                with dsl.ParallelFor(shard_names(shards), parallelism=shard_parallelism) as shard:
                    part = ingest_shard(
                        settings=ingest_settings,
                        shard=shard,
                        source_digest=sources,
                        code_version=ingest_version,
                    )
                    configure("ingest_shard", part)
                ingested = merge_cohort(
                    settings=ingest_settings, parts=dsl.Collected(part.outputs["part"]), code_version=ingest_version
                )
                configure("merge_cohort", ingested)
            cohort = ingested.outputs["cohort"]

            validated = validate(
                settings=validate_settings,
                baseline=opened.outputs["baseline"],
                cohort=cohort,
                code_version=validate_version,
            )
            configure("validate", validated)
            validation = validated.outputs["validation"]

            if shards == 1:
                preprocessed = preprocess(
                    settings=preprocess_settings, cohort=cohort, validation=validation, code_version=preprocess_version
                )
                configure("preprocess", preprocessed)
            else:
                with dsl.ParallelFor(shard_names(shards), parallelism=shard_parallelism) as shard:
                    part = preprocess_shard(
                        settings=preprocess_settings,
                        shard=shard,
                        cohort=cohort,
                        validation=validation,
                        code_version=preprocess_version,
                    )
                    configure("preprocess_shard", part)
                preprocessed = merge_features(
                    settings=preprocess_settings,
                    cohort=cohort,
                    parts=dsl.Collected(part.outputs["part"]),
                    code_version=preprocess_version,
                )
                configure("merge_features", preprocessed)
            features = preprocessed.outputs["features"]

            embedded = embed_text(settings=embed_text_settings, features=features, code_version=embed_text_version)
            configure("embed_text", embedded)

            trained = train(
                settings=train_settings,
                features=features,
                embedding=embedded.outputs["embedding"],
                code_version=train_version,
            )
            configure("train", trained)

            with dsl.ParallelFor(models, parallelism=parallelism) as model:
                cross_validated = cross_validate(
                    settings=cross_validate_settings,
                    model=model,
                    candidate=candidate,
                    features=features,
                    code_version=cross_validate_version,
                )
                configure("cross_validate", cross_validated)

            compared = compare(
                settings=compare_settings,
                features=features,
                validation=validation,
                candidate=trained.outputs["model"],
                cross_validations=dsl.Collected(cross_validated.outputs["predictions"]),
                code_version=compare_version,
                store=opened.outputs["store"],
            )
            configure("compare", compared)

            registered = register(
                settings=register_settings,
                cohort=cohort,
                features=features,
                validation=validation,
                candidate=trained.outputs["model"],
                comparison=compared.outputs["comparison"],
                code_version=register_version,
                store=opened.outputs["store"],
            )
            configure("register", registered)

            if on_cluster:
                # Never cached: it tells what this run took from the cache.
                recorded = record_run(
                    ingest_record=ingested.outputs["record"],
                    validate_record=validated.outputs["record"],
                    preprocess_record=preprocessed.outputs["record"],
                    embed_text_record=embedded.outputs["record"],
                    train_record=trained.outputs["record"],
                    cross_validate_records=dsl.Collected(cross_validated.outputs["record"]),
                    compare_record=compared.outputs["record"],
                    register_record=registered.outputs["record"],
                    report=compared.outputs["report"],
                ).set_caching_options(False)
                configure("record_run", recorded)

    return diagnosis
