import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.ingest.demo.classes import CLASS_LABELS, CLASSES, PAPER_COUNTS, scale_counts

REFERENCES = st.lists(st.integers(1, 1000), min_size=1, max_size=12).map(
    lambda counts: {f"class {place}": count for place, count in enumerate(counts)}
)


@given(REFERENCES, st.integers(0, 5000))
def test_scaled_counts_add_up_and_leave_no_class_empty(reference, total):
    counts = scale_counts(reference, total)
    assert list(counts) == list(reference)
    assert sum(counts.values()) == total
    assert min(counts.values()) >= (1 if total >= len(reference) else 0)


@given(REFERENCES, st.integers(1, 20))
def test_multiples_of_the_reference_are_exact(reference, factor):
    assert scale_counts(reference, factor * sum(reference.values())) == {
        name: factor * count for name, count in reference.items()
    }


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (300, [100, 60, 50, 40, 30, 20]),
        # Quotas 3.33, 2, 1.67, 1.33, 1, 0.67: the largest remainders are those of the third and the last class.
        (10, [3, 2, 2, 1, 1, 1]),
        # Quotas 2, 1.2, 1, 0.8, 0.6, 0.4: the last class would be empty and takes one of the first.
        (6, [1, 1, 1, 1, 1, 1]),
        (2, [1, 1, 0, 0, 0, 0]),
    ],
)
def test_paper_counts_by_hand(total, expected):
    assert list(scale_counts(PAPER_COUNTS, total).values()) == expected


def test_labels_are_those_of_the_paper():
    assert CLASS_LABELS["Z1"] == "healthy"
    assert CLASS_LABELS["Z6"] == "chronic_kidney_disease"
    assert list(CLASS_LABELS.values()) == list(CLASSES)
