"""No single modality suffices, all together help, and nothing is perfect."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.ingest import ingest_sources
from components.ingest.settings import IngestSettings
from data_schemas.cohort import Cohort
from training.text import tokenize

BLOCK = 4


def _series(cohort):
    """Median, spread, and difference of night and day of each channel, by patient."""
    table = cohort.observations
    hour = table["time"].dt.tz_convert("Europe/Berlin").dt.hour
    keys = ["patient_id", "channel"]
    by_channel = table.groupby(keys)["value"]
    night = table[(hour < 6) | (hour >= 22)].groupby(keys)["value"].median()
    day = table[(hour >= 10) & (hour < 18)].groupby(keys)["value"].median()
    summary = pd.concat(
        [by_channel.median(), by_channel.quantile(0.9) - by_channel.quantile(0.1), night - day],
        axis=1,
        keys=["median", "spread", "night"],
    )
    return summary.unstack().reindex(cohort.patients["patient_id"]).to_numpy()


def _images(cohort):
    images = np.asarray(cohort.images)[..., 0]
    count, height, width = images.shape
    means = images.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean(axis=(2, 4)).reshape(count, -1)
    table = pd.DataFrame(means, index=cohort.image_index["patient_id"])
    return table.reindex(cohort.patients["patient_id"]).to_numpy()


def _texts(cohort):
    texts = cohort.notes.groupby("patient_id")["text"].agg(" ".join)
    return texts.reindex(cohort.patients["patient_id"], fill_value="").tolist()


@pytest.fixture(scope="module")
def probabilities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("difficulty")
    generate_source(folder / "source", DemoSettings())
    section = {"name": "demo", "sources": [{"format": "export", "path": str(folder / "source")}]}
    ingest_sources(folder / "cohort", IngestSettings.model_validate(section), pseudonym_key=b"a secret key of tests")
    cohort = Cohort.open(folder / "cohort")
    label = cohort.patients["label"].to_numpy(str)

    def regression(cost):
        return LogisticRegression(C=cost, max_iter=3000, class_weight="balanced")

    models = {
        "series": (make_pipeline(SimpleImputer(), StandardScaler(), regression(0.1)), _series(cohort)),
        "image": (make_pipeline(SimpleImputer(), PCA(16), StandardScaler(), regression(0.05)), _images(cohort)),
        "text": (
            make_pipeline(TfidfVectorizer(min_df=2, tokenizer=tokenize, token_pattern=None), regression(5.0)),
            _texts(cohort),
        ),
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = {
        name: cross_val_predict(model, features, label, cv=folds, method="predict_proba")
        for name, (model, features) in models.items()
    }
    joined = np.exp(sum(np.log(table + 1e-3) for table in predicted.values()))
    return label, {**predicted, "all": joined / joined.sum(axis=1, keepdims=True)}


@pytest.mark.slow
def test_no_modality_suffices_and_all_together_are_not_perfect(probabilities):
    label, predicted = probabilities
    auc = {name: roc_auc_score(label, table, multi_class="ovr") for name, table in predicted.items()}
    singles = [auc[name] for name in ("series", "image", "text")]
    assert min(singles) > 0.7
    assert max(singles) < 0.9
    assert max(singles) + 0.03 < auc["all"] < 0.98


@pytest.mark.slow
def test_hypertension_and_kidney_disease_are_mistaken_for_each_other(probabilities):
    label, predicted = probabilities
    classes = np.unique(label)
    guess = classes[predicted["series"].argmax(axis=1)]
    kidney = guess[label == "chronic_kidney_disease"]
    assert (kidney == "hypertension").mean() > (kidney == "copd").mean()
    assert (guess[label == "diabetes"] == "healthy").any()
