import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from components.preprocess.align import aggregate_cells, grid_steps, window_ends, window_references

PATIENT = np.array([0, 0, 2, 2, 2])
TIME = np.array([50, 10, 7, 90, 33], dtype=np.int64)


def test_references_are_the_first_or_last_time_and_know_patients_without_readings():
    first, seen = window_references(PATIENT, TIME, 4, "first")
    last, _ = window_references(PATIENT, TIME, 4, "last")
    assert first.tolist() == [10, 0, 7, 0]
    assert last.tolist() == [50, 0, 90, 0]
    assert seen.tolist() == [True, False, True, False]


def test_anchor_first_puts_the_start_of_a_step_into_that_step():
    steps = grid_steps(np.array([99, 100, 109, 110, 130]), np.full(5, 100), anchor="first", step=10, steps=3)
    assert steps.tolist() == [-1, 0, 0, 1, 3]
    assert window_ends(np.array([100]), anchor="first", step=10, steps=3).tolist() == [130]


def test_anchor_last_puts_the_last_observation_into_the_last_step():
    steps = grid_steps(np.array([100, 91, 90, 71, 70]), np.full(5, 100), anchor="last", step=10, steps=3)
    assert steps.tolist() == [2, 2, 1, 0, -1]
    assert window_ends(np.array([100]), anchor="last", step=10, steps=3).tolist() == [100]


def test_cells_take_the_mean_or_the_last_reading_and_stay_empty_without_one():
    cell = np.array([0, 0, 0, 2])
    time = np.array([5, 9, 9, 1])
    value = np.array([1.0, 2.0, 6.0, 7.0])
    np.testing.assert_array_equal(aggregate_cells(cell, time, value, 3, "mean"), [3.0, np.nan, 7.0])
    # Two readings share the last time stamp: their mean.
    np.testing.assert_array_equal(aggregate_cells(cell, time, value, 3, "last"), [4.0, np.nan, 7.0])


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 5), st.integers(-(10**15), 10**15), st.integers(-1000, 1000)), min_size=1, max_size=30
    ),
    how=st.sampled_from(["mean", "last"]),
    random=st.randoms(use_true_random=False),
)
def test_cells_do_not_depend_on_the_order_of_the_rows(rows, how, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    results = []
    for order in (rows, shuffled):
        cell, time, value = (np.array(column) for column in zip(*order, strict=True))
        results.append(aggregate_cells(cell, time, value.astype(float), 6, how))
    np.testing.assert_allclose(*results, rtol=1e-12)


@given(
    times=st.lists(st.integers(0, 10**13), min_size=1, max_size=30),
    shift=st.integers(-(10**13), 10**13),
    step=st.integers(1, 10**10),
    anchor=st.sampled_from(["first", "last"]),
)
def test_the_grid_moves_with_the_patient(times, shift, step, anchor):
    time = np.array(times, dtype=np.int64)
    patient = np.zeros(len(time), dtype=np.int64)
    results = []
    for moved in (time, time + shift):
        reference, _ = window_references(patient, moved, 1, anchor)
        results.append(grid_steps(moved, reference[patient], anchor=anchor, step=step, steps=8))
    np.testing.assert_array_equal(*results)
    assert (results[0].min() == 0) if anchor == "first" else (results[0].max() == 7)
