from __future__ import annotations

import numpy as np
import pytest

from evaluation.paper import paper_results


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("healthy", "Z1"),
        ("Cardiovascular disease", "Z2"),
        ("diabetes", "Z3"),
        ("COPD", "Z4"),
        ("htn", "Z5"),
        ("chronic-kidney-disease", "Z6"),
        ("z4", "Z4"),
        ("none", None),
        ("medical_icu", None),
    ],
)
def test_classes_are_found_by_name_code_and_alias(name, code):
    assert paper_results().code(name) == code


def test_figure_4_has_the_papers_class_sizes_and_300_participants():
    confusion = paper_results().confusion
    assert confusion.sum(axis=1).tolist() == [100, 60, 50, 40, 30, 20]
    assert np.trace(confusion) == 295


def test_table_2_and_3_as_published():
    paper = paper_results()
    assert paper.class_auc("svm", "hypertension") == 0.79
    assert paper.class_auc("gradient_boosting", "hypertension") is None
    assert paper.class_auc("svm", "asthma") is None
    assert np.mean(paper.fold_precision("cnn_lstm_attention")) == pytest.approx(0.96)
    assert paper.fold_precision("gru") is None


def test_every_figure_covers_all_six_classes():
    paper = paper_results()
    by_code = [paper.accuracy, paper.kappa_and_mcc, paper.diagnosis_seconds, paper.traditional_seconds]
    assert all(list(entry) == ["Z1", "Z2", "Z3", "Z4", "Z5", "Z6"] for entry in [*by_code, *paper.auc.values()])
