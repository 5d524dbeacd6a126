"""Compiles the pipeline to the YAML that KFP runs."""

from __future__ import annotations

from pathlib import Path

from components.common.files import atomic_file


def compile_pipeline(output: Path) -> None:
    """Compile the pipeline to KFP's intermediate representation.

    Args:
        output: YAML file to write.
    """
    from kfp import compiler

    from pipelines.diagnosis import diagnosis_pipeline

    # The compiler goes by the suffix.
    with atomic_file(output) as temporary:
        named = temporary.with_suffix(".yaml")
        compiler.Compiler().compile(diagnosis_pipeline, str(named))
        named.rename(temporary)
