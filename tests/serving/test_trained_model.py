"""What is served is what was evaluated: raw rows through the predictor give the predictions of ``train``."""

import numpy as np
import pandas as pd
import pytest

from components.embed_text.embed_text import embed_notes
from components.embed_text.settings import EmbedTextSettings
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.ingest import ingest_sources
from components.ingest.settings import IngestSettings
from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from components.train.settings import TrainSettings
from components.train.train import train_candidate
from data_schemas.features import Features
from serving.predictor import Predictor


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The steps from a source to a model, small; returns the features and the model folder."""
    folder = tmp_path_factory.mktemp("trained")
    missing = {"missing_series": 0.2, "missing_images": 0.3, "missing_notes": 0.3}
    generate_source(folder / "source", DemoSettings(patients=40, days=3, image_size=(16, 16), seed=3, **missing))
    section = {"name": "tiny", "sources": [{"format": "export", "path": str(folder / "source")}]}
    ingest_sources(folder / "cohort", IngestSettings.model_validate(section), pseudonym_key=b"key of tests")
    preprocessing = PreprocessSettings(step="1d", steps=3, folds=2, test_fraction=0.3)
    preprocess_cohort(folder / "cohort", folder / "features", preprocessing)
    embed_notes(folder / "features", folder / "embedding", EmbedTextSettings())
    small = {"network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}}
    settings = TrainSettings.model_validate(small)
    train_candidate(folder / "features", folder / "embedding", folder / "model", settings)
    return Features.open(folder / "features"), folder / "model"


def _rows(features, places):
    """Rows as a caller has them: lists with None, and None for an absent modality."""
    series = [np.where(np.isnan(values), None, values).tolist() for values in features.series[places]]
    columns = {
        "series": series,
        "series_observed": features.series_observed[places].tolist(),
        "image": features.images[places].tolist(),
        "note": [features.texts[place] for place in places],
    }
    has = dict(zip(("series", "image", "note"), features.present[places].T, strict=True))
    has["series_observed"] = has["series"]
    masked = {
        name: [value if there else None for value, there in zip(values, has[name], strict=True)]
        for name, values in columns.items()
    }
    return pd.DataFrame(masked)


@pytest.mark.slow
def test_predictor_gives_the_predictions_of_the_evaluation(trained):
    features, folder = trained
    evaluated = pd.read_parquet(folder / "predictions.parquet").set_index("sample")
    places = evaluated.index.to_numpy()
    assert not features.present[places].all(), "the test needs patients who lack a modality"
    predicted = Predictor.load(folder).predict(_rows(features, places))
    columns = [f"probability:{name}" for name in features.manifest.classes]
    np.testing.assert_allclose(predicted[columns], evaluated[columns], atol=1e-5)
    attention = predicted[["attention:series", "attention:image", "attention:text"]].to_numpy()
    np.testing.assert_allclose(attention[~features.present[places]], 0, atol=1e-6)
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-5)
