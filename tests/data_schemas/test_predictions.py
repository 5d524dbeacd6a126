import numpy as np
import pandas as pd
import pytest

from data_schemas import predictions

SAMPLES = pd.DataFrame({"patient_id": ["p0", "p1", "p2"], "label": ["a", "b", "a"]})


def _frame(probabilities):
    return predictions.predictions_frame(
        model="svm",
        rows=np.array([2, 0]),
        samples=SAMPLES,
        classes=["a", "b"],
        probabilities=probabilities,
        prediction_set=predictions.TEST,
    )


def test_rows_keep_their_patient_label_and_probabilities(tmp_path):
    expected = np.array([[0.2, 0.8], [0.6, 0.4]])
    predictions.write_predictions(tmp_path / "p.parquet", _frame(expected))
    frame = predictions.read_predictions(tmp_path / "p.parquet")
    assert frame["patient_id"].tolist() == ["p2", "p0"]
    assert frame["fold"].tolist() == [-1, -1]
    np.testing.assert_array_equal(predictions.class_probabilities(frame, ["a", "b"]), expected)
    np.testing.assert_array_equal(predictions.class_probabilities(frame, ["b", "a"]), expected[:, ::-1])


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"received \(1, 2\)"):
        _frame(np.array([[0.5, 0.5]]))


def test_empty_table_has_the_same_columns():
    empty = predictions.empty_predictions(["a", "b"])
    assert list(empty.columns) == list(_frame(np.full((2, 2), 0.5)).columns)
    assert len(empty) == 0
