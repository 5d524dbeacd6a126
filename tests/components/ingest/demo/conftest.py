from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings

SMALL = DemoSettings(patients=60, days=3, seed=5, image_size=(24, 20))


@pytest.fixture(scope="session")
def export(tmp_path_factory) -> Path:
    """A small export, to look at and leave alone."""
    folder = tmp_path_factory.mktemp("demo") / "export"
    generate_source(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def observations(export) -> pd.DataFrame:
    """Its observations, with every column as text."""
    files = sorted((export / "observations").glob("*.csv"))
    return pd.concat([pd.read_csv(file, dtype=str, keep_default_na=False) for file in files], ignore_index=True)
