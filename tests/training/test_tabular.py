from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_schemas.errors import InputError
from training.data import InputSpec
from training.tabular import (
    STATISTICS,
    TABULAR_NAMES,
    TabularModel,
    TextComponents,
    image_features,
    series_features,
    summary_table,
)


def test_series_features_by_hand():
    series = np.float32([[[10], [12], [14], [16]]])
    observed = np.array([[[False], [True], [False], [True]]])
    values = dict(zip(STATISTICS, series_features(series, observed)[0], strict=True))
    assert values == {
        "mean": 14,
        "deviation": 2,
        "lowest": 12,
        "highest": 16,
        "first": 12,
        "last": 16,
        "slope": 2,
        "observed": 0.5,
    }


def test_series_features_agree_with_pandas_and_numpy():
    random = np.random.default_rng(3)
    series = random.normal(size=(5, 8, 3))
    observed = random.random(series.shape) > 0.4
    table = series_features(series, observed).reshape(5, 3, 8)
    for sample in range(5):
        for channel in range(3):
            seen = pd.Series(series[sample, :, channel])[observed[sample, :, channel]]
            slope = np.polyfit(np.arange(8), series[sample, :, channel], 1)[0]
            expected = [
                seen.mean(), seen.std(ddof=0), seen.min(), seen.max(), seen.iloc[0], seen.iloc[-1], slope, len(seen) / 8
            ]  # fmt: skip
            np.testing.assert_allclose(table[sample, channel], expected)


def test_a_channel_never_measured_is_nan_but_for_its_fraction():
    table = series_features(np.full((1, 3, 1), np.nan), np.zeros((1, 3, 1), dtype=bool))[0]
    assert np.isnan(table[:-1]).all() and table[-1] == 0


def test_image_features_by_hand():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(image_features(image, 2), [[2.5, 4.5, 10.5, 12.5]])
    assert image_features(np.ones((2, 5, 7, 3), dtype=np.float32), 2).shape == (2, 1 * 1 * 3)
    np.testing.assert_array_equal(image_features(image, 4), image.reshape(1, -1))


def test_summary_table_columns(features):
    table = summary_table(features, InputSpec.of(features), 4)
    assert len(table) == len(features.samples)
    assert sum(column.startswith("series:") for column in table) == 3 * 8
    assert sum(column.startswith("image:") for column in table) == 16
    absent = ~np.array(features.present[:, 1])
    assert table.loc[absent, "image:0"].isna().all() and table.loc[~absent, "image:0"].notna().all()


@pytest.mark.parametrize("texts", [["", ""], ["a", "b"], ["cough cough", "cough cough"]])
def test_text_components_without_much_text(texts):
    table = TextComponents(4, 0).fit(texts).transform([*texts, "new"])
    assert table.shape[0] == 3 and np.isfinite(table).all()


def test_svm_says_what_it_needs(features, settings):
    labels = features.labels
    rows = np.concatenate([np.flatnonzero(labels == 0)[:5], np.flatnonzero(labels == 1)[:5], [2]])
    with pytest.raises(InputError, match="two training patients"):
        TabularModel("svm", InputSpec.of(features), settings).fit(features, rows)


@pytest.mark.parametrize("name", TABULAR_NAMES)
def test_a_class_without_training_rows_has_probability_zero(features, settings, name):
    rows = features.train_rows[features.labels[features.train_rows] != 1]
    model = TabularModel(name, InputSpec.of(features), settings)
    model.fit(features, rows)
    probabilities = model.predict(features, features.test_rows)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
