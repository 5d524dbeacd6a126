"""Baselines on summary features: random forest, support vector machine, gradient boosting."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from data_schemas.errors import InputError
from data_schemas.features import MODALITIES, Features
from training.data import PREDICTION_BATCH, InputSpec
from training.neural import FitReport
from training.settings import TrainingSettings
from training.text import tokenize

TABULAR_NAMES = ("random_forest", "svm", "gradient_boosting")
STATISTICS = ("mean", "deviation", "lowest", "highest", "first", "last", "slope", "observed")


def series_features(series: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Summary statistics of each channel.

    Args:
        series: float ``[n, steps, channels]``, NaN where a channel was never measured.
        observed: bool of the same shape.

    Returns:
        float64 ``[n, channels * 8]`` in the order of ``STATISTICS`` within a channel: mean, deviation (of the
        population), lowest, highest, first and last over measured cells, least-squares slope of the imputed series
        per step, and the measured fraction. NaN, but for the fraction, where nothing was measured.
    """
    values = np.where(observed, np.asarray(series, dtype=np.float64), 0.0)
    count = observed.sum(axis=1)
    measured = count > 0
    divisor = np.maximum(count, 1)
    mean = values.sum(axis=1) / divisor
    deviation = np.sqrt((np.where(observed, values - mean[:, None, :], 0.0) ** 2).sum(axis=1) / divisor)
    lowest = np.where(observed, values, np.inf).min(axis=1)
    highest = np.where(observed, values, -np.inf).max(axis=1)
    steps = series.shape[1]
    first_place = observed.argmax(axis=1)[:, None, :]
    last_place = steps - 1 - observed[:, ::-1, :].argmax(axis=1)[:, None, :]
    first = np.take_along_axis(values, first_place, axis=1)[:, 0, :]
    last = np.take_along_axis(values, last_place, axis=1)[:, 0, :]
    place = np.arange(steps) - (steps - 1) / 2
    slope = np.einsum("t,ntc->nc", place, np.nan_to_num(series)) / max(float((place**2).sum()), 1.0)
    statistics = np.stack([mean, deviation, lowest, highest, first, last, slope], axis=-1)
    statistics = np.where(measured[..., None], statistics, np.nan)
    table = np.concatenate([statistics, (count / steps)[..., None]], axis=-1)
    return table.reshape(len(series), -1)


def image_features(images: np.ndarray, size: int) -> np.ndarray:
    """Average images down to at most ``size`` by ``size`` pixels.

    Args:
        images: float32 ``[n, height, width, channels]``.
        size: Largest side of the result.

    Returns:
        float64 ``[n, pixels]``: the means of equal blocks; pixels beyond the last whole block are left out.
    """
    count, height, width, channels = images.shape
    block_height, block_width = -(-height // size), -(-width // size)
    rows, columns = height // block_height, width // block_width
    cut = images[:, : rows * block_height, : columns * block_width, :]
    blocks = cut.reshape(count, rows, block_height, columns, block_width, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float64).reshape(count, -1)


def summary_table(features: Features, spec: InputSpec, image_size: int) -> pd.DataFrame:
    """Summarise every sample; no row has an influence on another, so it is made once for all folds.

    Args:
        features: The features.
        spec: Which modalities there are.
        image_size: Side to which images are averaged.

    Returns:
        One row a sample: ``series:<channel>:<statistic>``, ``present:<modality>``, ``image:<pixel>`` (NaN where absent)
        and ``text``.
    """
    count = len(features.samples)
    chunks = [slice(start, start + PREDICTION_BATCH) for start in range(0, count, PREDICTION_BATCH)]
    present = np.asarray(features.present)
    columns: dict[str, np.ndarray | list[str]] = {
        f"present:{name}": present[:, place].astype(np.float64) for place, name in enumerate(MODALITIES)
    }
    if "series" in spec.modalities:
        series = np.concatenate(
            [series_features(features.series[part], np.asarray(features.series_observed[part])) for part in chunks]
        )
        names = [f"series:{channel}:{statistic}" for channel in spec.channels for statistic in STATISTICS]
        columns |= dict(zip(names, series.T, strict=True))
    if "image" in spec.modalities:
        pixels = np.concatenate([image_features(features.images[part], image_size) for part in chunks])
        pixels[~present[:, MODALITIES.index("image")]] = np.nan
        columns |= {f"image:{place}": pixel for place, pixel in enumerate(pixels.T)}
    if "text" in spec.modalities:
        columns["text"] = features.texts
    return pd.DataFrame(columns)


def build_tabular(
    name: str, columns: Sequence[str], rows: int, smallest_class: int, settings: TrainingSettings
) -> Pipeline:
    """Build the scikit-learn pipeline of one baseline; every part of it learns from the rows given to ``fit`` alone.

    Args:
        name: One of ``TABULAR_NAMES``.
        columns: Columns of ``summary_table``.
        rows: Rows that it will be fitted on, which limit the components.
        smallest_class: Rows of the smallest class among them, which limit the calibration folds.
        settings: Sizes, seed and class weights.

    Returns:
        Imputation, scaling, PCA of pixels, TF-IDF with SVD of notes, then the classifier.
    """
    sizes = settings.tabular
    numbers = [column for column in columns if column.startswith(("series:", "present:"))]
    pixels = [column for column in columns if column.startswith("image:")]
    # Trees that take NaN as it is learn from a channel's absence; the others get the median and the measured fraction.
    numeric = Pipeline(
        [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
    )
    parts: list[tuple] = [("numbers", "passthrough" if name == "gradient_boosting" else numeric, numbers)]
    if pixels:
        parts.append(("image", _image_part(len(pixels), rows, settings), pixels))
    if "text" in columns:
        parts.append(("text", TextComponents(sizes.text_components, settings.seed), "text"))
    table = ColumnTransformer(parts, sparse_threshold=0)
    return Pipeline([("table", table), ("classifier", _classifier(name, smallest_class, settings))])


def _image_part(pixels: int, rows: int, settings: TrainingSettings) -> Pipeline:
    components = min(settings.tabular.image_components, pixels, rows)
    return Pipeline(
        [
            ("impute", SimpleImputer(strategy="mean", keep_empty_features=True)),
            ("components", PCA(components, random_state=settings.seed)),
            ("scale", StandardScaler()),
        ]
    )


class TextComponents(TransformerMixin, BaseEstimator):
    """TF-IDF of words and word pairs, then truncated SVD, with fewer components where there are few words.

    Args:
        components: Most components.
        seed: Seed of the SVD.
    """

    def __init__(self, components: int, seed: int) -> None:
        self.components = components
        self.seed = seed

    def fit(self, texts: Sequence[str], y: np.ndarray | None = None) -> TextComponents:
        """Learn vocabulary, weights and components.

        Args:
            texts: Notes of training rows.
            y: Ignored.

        Returns:
            Itself.
        """
        self.n_features_in_ = 1
        self.vectorizer_ = TfidfVectorizer(
            tokenizer=tokenize,
            token_pattern=None,
            lowercase=False,
            ngram_range=(1, 2),
            min_df=2,
            sublinear_tf=True,
        )
        self.decomposition_ = None
        try:
            matrix = self.vectorizer_.fit_transform(texts)
        except ValueError:
            # scikit-learn refuses a vocabulary that is empty; then the notes say nothing.
            return self
        components = min(self.components, matrix.shape[1] - 1, matrix.shape[0] - 1)
        if components >= 1:
            self.decomposition_ = TruncatedSVD(components, random_state=self.seed).fit(matrix)
            self.scale_ = max(float(self.decomposition_.transform(matrix).std()), 1e-12)
        return self

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Turn notes into components of unit overall deviation.

        Args:
            texts: Notes.

        Returns:
            float64 ``[n, components]``, or ``[n, 1]`` of zeros where nothing could be learnt.
        """
        if self.decomposition_ is None:
            return np.zeros((len(texts), 1))
        return self.decomposition_.transform(self.vectorizer_.transform(texts)) / self.scale_


def _classifier(name: str, smallest_class: int, settings: TrainingSettings) -> ClassifierMixin:
    sizes = settings.tabular
    weight = "balanced" if settings.class_weight == "balanced" else None
    if name == "random_forest":
        return RandomForestClassifier(
            sizes.forest_trees,
            min_samples_leaf=sizes.forest_leaf,
            class_weight=weight,
            random_state=settings.seed,
            n_jobs=1,
        )
    if name == "svm":
        machine = SVC(C=sizes.svm_cost, class_weight=weight, random_state=settings.seed)
        return CalibratedClassifierCV(machine, cv=max(min(3, smallest_class), 2), ensemble=False)
    if name == "gradient_boosting":
        return HistGradientBoostingClassifier(
            learning_rate=sizes.boosting_rate,
            max_iter=sizes.boosting_rounds,
            max_leaf_nodes=sizes.boosting_leaves,
            min_samples_leaf=sizes.boosting_leaf,
            class_weight=weight,
            random_state=settings.seed,
        )
    raise ValueError(f"There are the models {TABULAR_NAMES}; received {name!r}.")


class TabularModel:
    """A scikit-learn baseline on summary features of all modalities.

    Args:
        name: One of ``TABULAR_NAMES``.
        spec: Shapes.
        settings: Sizes, seed and class weights.
    """

    def __init__(self, name: str, spec: InputSpec, settings: TrainingSettings) -> None:
        self.name = name
        self.spec = spec
        self.settings = settings
        self.pipeline: Pipeline | None = None
        self._summary: tuple[Features, pd.DataFrame] | None = None

    def unavailable(self) -> str | None:
        """Return why the model cannot be fitted on these features, or None where it can."""
        return None if self.spec.modalities else "The cohort has no modality."

    def _table(self, features: Features) -> pd.DataFrame:
        if self._summary is None or self._summary[0] is not features:
            self._summary = (features, summary_table(features, self.spec, self.settings.tabular.image_size))
        return self._summary[1]

    def fit(self, features: Features, rows: np.ndarray) -> FitReport:
        """Fit on some rows; nothing is learnt from any other row.

        Args:
            features: The features.
            rows: int ``[m]``, training rows.

        Returns:
            Seconds.

        Raises:
            InputError: A class has a single row, so that an SVM's probabilities cannot be calibrated.
        """
        started = time.perf_counter()
        table, labels = self._table(features), features.labels[rows]
        counts = np.bincount(labels)
        smallest = int(counts[counts > 0].min())
        if self.name == "svm" and smallest < 2:
            raise InputError(
                "the svm needs two training patients of each class, one class has a single one",
                remedy="Leave svm out of the models, or use fewer folds",
            )
        self.pipeline = build_tabular(self.name, list(table.columns), len(rows), smallest, self.settings)
        # Several steps share the machine; waiting OpenMP threads would take its cores from one another.
        with threadpool_limits(self.settings.optimiser.threads or None):
            self.pipeline.fit(table.iloc[rows], labels)
        return FitReport(seconds=time.perf_counter() - started)

    def predict(self, features: Features, rows: np.ndarray) -> np.ndarray:
        """Predict class probabilities.

        Args:
            features: The features.
            rows: int ``[m]``.

        Returns:
            float64 ``[m, classes]``, rows summing to 1; 0 for a class that had no training row.

        Raises:
            ValueError: The model has not been fitted.
        """
        if self.pipeline is None:
            raise ValueError(f"{self.name} must be fitted before it predicts.")
        probabilities = np.zeros((len(rows), len(self.spec.classes)))
        if len(rows):
            known = self.pipeline.classes_.astype(int)
            with threadpool_limits(self.settings.optimiser.threads or None):
                probabilities[:, known] = self.pipeline.predict_proba(self._table(features).iloc[rows])
        return probabilities
