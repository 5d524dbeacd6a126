import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from components.ingest.labels import DISAGREEMENT, adjudicate, annotator_agreement, count_votes
from components.ingest.rejections import Rejections
from components.ingest.source_tables import build_table


def _annotations(*rows):
    keys, annotators, labels, days = zip(*rows, strict=True)
    times = pd.to_datetime([f"2024-01-{day:02d}" for day in days], utc=True)
    count = len(rows)
    return build_table(
        "annotations",
        key=keys,
        annotator=annotators,
        label=labels,
        time=times,
        file=["a"] * count,
        row=range(2, count + 2),
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("p", "a", "x", 1), ("p", "b", "x", 1)], "x"),
        ([("p", "a", "x", 1), ("p", "b", "y", 1), ("p", "adjudicator", "z", 2)], "z"),
        # Agreement decides, whatever the adjudicator says.
        ([("p", "a", "x", 1), ("p", "b", "x", 1), ("p", "adjudicator", "y", 2)], "x"),
        ([("p", "a", "x", 1)], "x"),
        ([("p", "Adjudicator", "y", 1)], "y"),
        # An annotator's latest opinion counts, wherever it stands in the file.
        ([("p", "a", "x", 3), ("p", "b", "x", 1), ("p", "a", "y", 2)], "x"),
    ],
)
def test_who_decides(rows, expected):
    rejections = Rejections("fail")
    assert adjudicate(_annotations(*rows), rejections)["label"].tolist() == [expected]
    assert rejections.table().empty


def test_disagreement_without_adjudication():
    rejections = Rejections("fail")
    labels = adjudicate(_annotations(("p", "a", "x", 1), ("p", "b", "y", 1), ("q", "a", "x", 1)), rejections)
    assert labels.set_index("key")["label"].dropna().to_dict() == {"q": "x"}
    assert rejections.table()["reason"].tolist() == [DISAGREEMENT]


def test_kappa_agrees_with_scikit_learn_and_leaves_the_adjudicator_out():
    first = ["x", "y", "x", "z", "y", "x"]
    second = ["x", "x", "x", "z", "y", "z"]
    rows = [(str(i), "a", label, 1) for i, label in enumerate(first)]
    rows += [(str(i), "b", label, 1) for i, label in enumerate(second)]
    rows += [("1", "adjudicator", "y", 2), ("only", "a", "x", 1)]
    expected = pytest.approx(cohen_kappa_score(first, second))
    assert annotator_agreement(count_votes(_annotations(*rows), 0)) == expected
    # Counts of two shards stand beside each other.
    parts = [[row for row in rows if (row[0] in "012") is chosen] for chosen in (True, False)]
    assert annotator_agreement([vote for part in parts for vote in count_votes(_annotations(*part), 0)]) == expected


def test_kappa_of_a_single_annotator_is_not_defined():
    assert annotator_agreement(count_votes(_annotations(("p", "a", "x", 1), ("q", "a", "y", 1)), 0)) is None
