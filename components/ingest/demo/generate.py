"""The generator of the demo cohort: settings in, source files out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.common.result import ignore_progress
from components.ingest.demo.export import write_export
from components.ingest.demo.settings import DemoSettings
from components.ingest.demo.table_one import write_table_one


def generate_source(output: Path, settings: DemoSettings, progress: Callable[[str], None] = ignore_progress) -> None:
    """Write a synthetic cohort in the files that a hospital would export; either all of it, or nothing.

    Args:
        output: The folder to write, or for the layout "table_one" a file that ends in ``.csv``; replaced if it exists.
        settings: Size, seed and dirt; the same settings give the same bytes.
        progress: Called with a few words on what is being done.
    """
    write = {"export": write_export, "table_one": write_table_one}[settings.layout]
    write(output, settings, progress)
