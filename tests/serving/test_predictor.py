"""What the served model does with raw rows, against a model whose answers are found by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from serving.predictor import Predictor

ALL = ("series", "image", "text")
SERIES = [[0.5, 0.25], [1.0, -0.75]]
IMAGE = [[[0.1], [0.2]], [[0.3], [0.4]]]


@pytest.fixture
def predictor(model_folder):
    return Predictor.load(model_folder(*ALL))


def _row(**changes):
    return {"series": SERIES, "image": IMAGE, "note": "Fever. Cough."} | changes


def _probabilities(predicted):
    return predicted[["probability:healthy", "probability:copd", "probability:diabetes"]].to_numpy()


def _attention(predicted):
    return predicted[["attention:series", "attention:image", "attention:text"]].to_numpy()


def test_every_modality_reaches_its_input(predictor):
    predicted = predictor.predict(pd.DataFrame([_row()]))
    # Series sum to 1, pixels to 1, "fever" and "cough" are words 3 and 2.
    np.testing.assert_allclose(_probabilities(predicted), softmax([[1.0, 1.0, 5.0]], axis=1), rtol=1e-6)
    assert predicted["diagnosis"].tolist() == ["diabetes"]
    np.testing.assert_allclose(_attention(predicted), 1 / 3, rtol=1e-6)


def test_probabilities_sum_to_one_and_rows_keep_their_index(predictor):
    rows = pd.DataFrame([_row(), _row(note=None), _row(image=None)], index=["c", "a", "b"])
    predicted = predictor.predict(rows)
    assert predicted.index.tolist() == ["c", "a", "b"]
    np.testing.assert_allclose(_probabilities(predicted).sum(axis=1), 1, rtol=1e-6)
    # A row's answer does not depend on the rows beside it.
    pd.testing.assert_frame_equal(predicted.loc[["a"]], predictor.predict(rows.loc[["a"]]))


@pytest.mark.parametrize(
    ("absent", "scores", "attention"),
    [
        ("series", [0.0, 1.0, 5.0], [0, 0.5, 0.5]),
        ("image", [1.0, 0.0, 5.0], [0.5, 0, 0.5]),
        ("note", [1.0, 1.0, 0.0], [0.5, 0.5, 0]),
    ],
)
@pytest.mark.parametrize("how", ["None", "NaN", "pandas NA", "no column"])
def test_absent_modality_is_masked(predictor, absent, scores, attention, how):
    rows = pd.DataFrame([_row()])
    if how == "no column":
        rows = rows.drop(columns=absent)
    else:
        rows[absent] = pd.Series([{"None": None, "NaN": float("nan"), "pandas NA": pd.NA}[how]], dtype=object)
    predicted = predictor.predict(rows)
    np.testing.assert_allclose(_probabilities(predicted), softmax([scores], axis=1), rtol=1e-6)
    np.testing.assert_allclose(_attention(predicted), [attention], rtol=1e-6)


@pytest.mark.parametrize("note", ["", "  \n"])
def test_blank_note_is_an_absent_one(predictor, note):
    attention = _attention(predictor.predict(pd.DataFrame([_row(note=note)])))
    np.testing.assert_allclose(attention, [[0.5, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("note", "score"), [("gibberish", 1.0), ("No cough", 1.0 + 4.0), ("fever fever fever fever fever", 12.0)]
)
def test_notes_go_through_the_tokeniser_of_training(predictor, note, score):
    """An unknown word is 1, "no" is unknown too and turns cough into not_cough (4), and four words are kept."""
    predicted = predictor.predict(pd.DataFrame([_row(series=None, image=None, note=note)]))
    np.testing.assert_allclose(_probabilities(predicted), softmax([[0, 0, score]], axis=1), rtol=1e-6)


def test_none_in_the_series_is_not_observed(predictor):
    series = [[0.5, None], [1.0, None]]
    predicted = predictor.predict(pd.DataFrame([_row(series=series, image=None, note=None)]))
    np.testing.assert_allclose(_probabilities(predicted), softmax([[1.5, 0, 0]], axis=1), rtol=1e-6)


def test_series_observed_tells_measured_from_imputed(predictor):
    row = _row(image=None, note=None) | {"series_observed": [[True, False], [None, True]]}
    predicted = predictor.predict(pd.DataFrame([row]))
    np.testing.assert_allclose(_probabilities(predicted), softmax([[0.5 - 0.75, 0, 0]], axis=1), rtol=1e-6)


def test_series_observed_cannot_make_a_value_of_none(predictor):
    row = _row(series=[[None, 0.25], [1.0, -0.75]], series_observed=[[True] * 2] * 2, image=None, note=None)
    predicted = predictor.predict(pd.DataFrame([row]))
    np.testing.assert_allclose(_probabilities(predicted), softmax([[0.5, 0, 0]], axis=1), rtol=1e-6)


def test_series_without_a_single_number_is_an_absent_one(predictor):
    predicted = predictor.predict(pd.DataFrame([_row(series=[[None, None]] * 2)]))
    np.testing.assert_allclose(_attention(predicted), [[0, 0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["array", "array of arrays"])
def test_arrays_are_taken_like_lists(predictor, kind):
    series: object = np.array(SERIES)
    if kind == "array of arrays":
        # As Parquet gives nested lists back.
        series = np.empty(2, dtype=object)
        series[:] = [np.array(row) for row in SERIES]
    given = predictor.predict(pd.DataFrame([_row(series=series)]))
    pd.testing.assert_frame_equal(given, predictor.predict(pd.DataFrame([_row()])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"series": [[1.0, 2.0]]}, r"series of row 0 needs the shape \[2, 2\]; received \[1, 2\]"),
        ({"series": [[1.0], [2.0, 3.0]]}, r"series of row 0 needs numbers .* \[2, 2\]; received rows of unequal"),
        ({"series": [["high", 1.0], [1.0, 1.0]]}, r"series of row 0 needs numbers .* or text"),
        ({"series_observed": [[True]]}, r"series_observed of row 0 needs the shape \[2, 2\]; received \[1, 1\]"),
        ({"image": [[0.1, 0.2], [0.3, 0.4]]}, r"image of row 0 needs the shape \[2, 2, 1\]; received \[2, 2\]"),
        ({"image": [[[0], [128]], [[255], [7]]]}, r"image of row 0 .* \[0, 1\]; received 0 to 255"),
        ({"image": [[[0.5], [None]], [[0.5], [0.5]]]}, r"image of row 0 .* \[0, 1\]; received nan"),
    ],
)
def test_wrong_input_is_told_with_what_was_received(predictor, changes, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(pd.DataFrame([_row(**changes)]))


def test_second_row_is_named_when_it_is_wrong(predictor):
    with pytest.raises(ValueError, match="series of row 1"):
        predictor.predict(pd.DataFrame([_row(), _row(series=[[1.0]])]))


def test_nothing_gives_no_diagnosis(predictor):
    rows = pd.DataFrame([_row(), {"series": None, "image": None, "note": " "}])
    with pytest.raises(ValueError, match="row 1 has no series or image or text"):
        predictor.predict(rows)


def test_model_of_one_modality_ignores_the_others(model_folder):
    predictor = Predictor.load(model_folder("series"))
    predicted = predictor.predict(pd.DataFrame([_row(image=[[["broken"]]])]))
    np.testing.assert_allclose(_probabilities(predicted), softmax([[1.0, 0, 0]], axis=1), rtol=1e-6)
    np.testing.assert_allclose(_attention(predicted), [[1, 0, 0]], rtol=1e-6)


def test_no_rows_give_no_diagnoses(predictor):
    predicted = predictor.predict(pd.DataFrame(columns=["series", "image", "note"]))
    assert len(predicted) == 0
    assert "probability:copd" in predicted
