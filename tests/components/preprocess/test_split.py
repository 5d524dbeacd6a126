import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.preprocess.split import HELD_OUT, check_classes, split_samples
from data_schemas.errors import InputError

CLASSES = ["a", "b", "c"]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(8, 40), min_size=3, max_size=3),
    folds=st.integers(2, 5),
    repeats=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_are_disjoint_by_patient_and_stratified(counts, folds, repeats, seed):
    names = np.repeat(CLASSES, counts)
    names = names[np.random.default_rng(seed).permutation(len(names))]
    patients, labels = np.tile(np.arange(len(names)), repeats), np.tile(names, repeats)
    fold = split_samples(patients, labels, CLASSES, folds=folds, test_fraction=0.2, seed=seed)
    by_patient = fold.reshape(repeats, -1)
    assert (by_patient == by_patient[0]).all()
    assert set(fold) == {HELD_OUT, *range(folds)}
    for name, count in zip(CLASSES, counts, strict=True):
        sizes = np.bincount(by_patient[0][names == name] + 1, minlength=folds + 1)
        assert sizes[0] == int(count * 0.2 + 0.5)
        assert sizes[1:].max() - sizes[1:].min() <= 1


def test_the_paper_s_cohort_holds_out_a_fifth_of_each_class():
    labels = np.repeat(["Z1", "Z2", "Z3", "Z4", "Z5", "Z6"], [100, 60, 50, 40, 30, 20])
    fold = split_samples(np.arange(300), labels, sorted(set(labels)), folds=10, test_fraction=0.2, seed=1)
    held_out = labels[fold == HELD_OUT]
    assert [int((held_out == f"Z{i}").sum()) for i in range(1, 7)] == [20, 12, 10, 8, 6, 4]


def test_pseudonyms_do_not_matter_and_the_seed_does():
    labels = np.repeat(CLASSES, 12)
    keys = [np.arange(36), np.array([f"{(i * 7919) % 104729:x}" for i in range(36)])]
    folds = [split_samples(key, labels, CLASSES, folds=3, test_fraction=0.25, seed=5) for key in keys]
    np.testing.assert_array_equal(*folds)
    assert (split_samples(keys[0], labels, CLASSES, folds=3, test_fraction=0.25, seed=6) != folds[0]).any()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([0, 0, 0], "0 patients"),
        ([30, 0, 0], "single class: all 30 patients are a"),
        ([30, 30, 0], r"c: 0 patients, of which 0 for training.*leave the class out"),
        ([30, 30, 5], r"Too few: c: 5 patients, of which 4 for training\. Set preprocess\.folds to 4 at most"),
    ],
)
def test_cohorts_that_cannot_be_split_are_refused_with_the_counts(counts, message):
    with pytest.raises(InputError, match=message):
        check_classes(np.array(counts), CLASSES, folds=5, test_fraction=0.2)


def test_the_fewest_patients_that_suffice():
    labels = np.repeat(["a", "b"], [6, 6])
    fold = split_samples(np.arange(12), labels, ["a", "b"], folds=5, test_fraction=0.2, seed=0)
    assert np.bincount(fold[labels == "a"] + 1).tolist() == [1] * 6


def test_unknown_labels_and_two_labels_of_a_patient_are_refused():
    with pytest.raises(InputError, match="2 patients have a label that is not one of the classes a, b"):
        split_samples(np.arange(3), np.array(["a", "z", None]), ["a", "b"], folds=2, test_fraction=0.5, seed=0)
    with pytest.raises(InputError, match="different labels"):
        split_samples(np.array([1, 1]), np.array(["a", "b"]), ["a", "b"], folds=2, test_fraction=0.5, seed=0)
