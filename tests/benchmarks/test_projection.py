"""The formulas behind the projection of docs/scale.md, on costs whose parts are known."""

import pytest

from benchmarks.projection import (
    MOST_PATIENTS,
    Linear,
    Task,
    fit_linear,
    fit_power,
    largest,
    project,
)


def test_a_line_finds_the_parts_of_a_cost_again():
    def cost(patients, own):
        return 2 + 3e-6 * patients + 1e-3 * own

    sizes = [(patients, patients / shards) for patients in (10_000, 100_000) for shards in (2, 4, 8)]
    fitted = fit_linear([(size, cost(*size)) for size in sizes])
    assert fitted.coefficients == pytest.approx((2, 3e-6, 1e-3), rel=1e-6)
    assert fitted(10_000_000, 50_000) == pytest.approx(2 + 30 + 50)


def test_no_part_of_a_cost_is_negative_and_small_costs_count_as_much_as_large_ones():
    # A straight line through both would start below zero.
    fitted = fit_linear([((10.0,), 1.0), ((100.0,), 100.0)])
    assert min(fitted.coefficients) >= 0
    # Least squares of (10 s - 1) and (100 s - 100) / 100: slope 0.11 / 0.0101 / 100... by hand.
    slope = (10 / 1 + 100 / 100) / ((10 / 1) ** 2 + (100 / 100) ** 2)
    assert fitted(1000.0) == pytest.approx(1000 * slope)


@pytest.mark.parametrize("points", [[], [((1.0,), 0.0)], [((1.0,), 2.0), ((2.0,), -1.0)]])
def test_a_line_needs_costs_above_zero(points):
    with pytest.raises(ValueError, match="costs above 0; received"):
        fit_linear(points)


def test_a_power_goes_through_both_points():
    fitted = fit_power((2_500, 3.0), (10_000, 48.0))
    assert fitted.exponent == pytest.approx(2)
    assert fitted(20_000) == pytest.approx(192)
    at_least = fit_power((2_500, 12.0), (10_000, 48.0), 2.0)
    assert (at_least(10_000), at_least(20_000)) == pytest.approx((48, 192))


def test_largest_cohort_within_a_limit():
    assert largest(lambda patients: 10 + patients / 1000, 1010) == pytest.approx(1_000_000, rel=2e-3)
    assert largest(lambda patients: 10.0, 5) == 0
    assert largest(lambda patients: 10.0, 50) == MOST_PATIENTS


def _task(sharded):
    return Task(
        name="task",
        seconds=Linear((60.0, 1e-3, 1e-1)),
        memory_mb=Linear((100.0, 1e-2, 1.0)),
        shared_bytes=lambda patients: 7.0 * patients,
        own_bytes=lambda own: 5.0 * own,
        written_bytes=lambda own: 3.0 * own,
        sharded=sharded,
    )


def test_a_sharded_task_runs_in_rounds_and_every_pod_reads_what_is_shared():
    found = project(_task(sharded=True), patients=1_000_000, shards=10, at_once=4)
    seconds = 60 + 1000 + 10_000
    assert found.pods == 10
    assert found.hours == pytest.approx(3 * seconds / 3600)
    assert found.pod_hours == pytest.approx(10 * seconds / 3600)
    assert found.memory_mb == pytest.approx(100 + 10_000 + 100_000)
    assert found.read_bytes == pytest.approx(10 * 7e6 + 5e6)
    assert found.written_bytes == pytest.approx(3e6)


def test_a_task_that_is_not_sharded_is_one_pod():
    found = project(_task(sharded=False), patients=1000, shards=10, at_once=1)
    assert found.pods == 1
    assert found.hours == found.pod_hours == pytest.approx((60 + 1 + 100) / 3600)
    assert found.read_bytes == pytest.approx(12_000)
    assert found.written_bytes == pytest.approx(3000)
