"""Counters that several processes share count as the library's own in one process do."""

import multiprocessing
import random
import time

import pytest
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from serving.server import rates
from serving.server.rates import SharedStorage, create_counters


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rates"
    create_counters(path)
    return path


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_it_decides_as_the_library_does(table, clock):
    shared = [SlidingWindowCounterRateLimiter(SharedStorage(table)) for _ in range(3)]
    alone = SlidingWindowCounterRateLimiter(MemoryStorage())
    rate, numbers = parse("8/minute"), random.Random(0)
    decisions = []
    for _ in range(600):
        clock[0] += numbers.expovariate(1 / 2)
        address = f"192.0.2.{numbers.randrange(3)}"
        # Each hit by another process, so to speak.
        decisions.append(alone.hit(rate, address))
        limiter = numbers.choice(shared)
        assert limiter.hit(rate, address) == decisions[-1]
        assert limiter.get_window_stats(rate, address) == alone.get_window_stats(rate, address)
    assert {True, False} == set(decisions)


def test_a_full_table_counts_anew_and_refuses_nobody(table, clock, monkeypatch):
    monkeypatch.setattr(rates, "_BUCKETS", 1)
    limiter = SlidingWindowCounterRateLimiter(SharedStorage(table))
    rate = parse("2/minute")
    for number in range(100):
        clock[0] += 0.001
        assert limiter.hit(rate, f"address {number}")
    assert limiter.hit(rate, "address 99")
    assert not limiter.hit(rate, "address 99")


def _hit(path, count):
    limiter = SlidingWindowCounterRateLimiter(SharedStorage(path))
    return sum(limiter.hit(parse("1000/day"), "192.0.2.1") for _ in range(count))


@pytest.mark.slow
def test_processes_count_together(table):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        taken = pool.starmap(_hit, [(table, 500)] * 4)
    assert sum(taken) == 1000
