import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.shards import Shard, shard_names


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shards_cover_everything_once_and_evenly(total, count):
    bounds = [Shard.parse(name).bounds(total) for name in shard_names(count)]
    assert [element for start, stop in bounds for element in range(start, stop)] == list(range(total))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1


def test_names():
    assert shard_names(3) == ["1-of-3", "2-of-3", "3-of-3"]
    assert Shard.parse("2-of-8") == Shard(2, 8)
    for name in ("0-of-2", "3-of-2", "1/2", "1-of-2 ", "-1-of-2", "a-of-b"):
        with pytest.raises(ValueError, match="shard"):
            Shard.parse(name)
