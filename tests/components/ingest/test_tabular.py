from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.rejections import ABSENT, Rejections, shown
from components.ingest.tabular import (
    localise,
    parse_times,
    split_pressures,
    take_numbers,
)
from data_schemas.errors import InputError

TIMES = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2250, 1, 1)).map(
    lambda time: time.replace(microsecond=time.microsecond)
)


def _isoformat(series):
    return [None if pd.isna(time) else time.isoformat() for time in series]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TIMES, st.integers(-14, 14), st.booleans()), min_size=1, max_size=8))
def test_times_with_and_without_offsets_mix(entries):
    texts = [
        time.isoformat() + (f"{'+' if hours >= 0 else '-'}{abs(hours):02d}:00" if aware else "")
        for time, hours, aware in entries
    ]
    expected = [
        datetime.fromisoformat(text) if aware else datetime.fromisoformat(text).replace(tzinfo=UTC)
        for text, (_, _, aware) in zip(texts, entries, strict=True)
    ]
    assert parse_times(pd.Series(texts)).tolist() == [pd.Timestamp(time.astimezone(UTC)) for time in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=8))
def test_wall_clock_times_agree_with_the_standard_library(times):
    zone = ZoneInfo("America/New_York")
    found = localise(pd.Series(pd.DatetimeIndex(times).as_unit("us")), "America/New_York")
    back = found.dt.tz_convert("UTC").dt.tz_localize(None)
    for naive, utc in zip(times, back, strict=True):
        wall = utc.to_pydatetime().replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
        # An hour that spring skips does not come back as itself.
        assert wall == naive or naive.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).hour != naive.hour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-6-1", "2022-05-31T22:00:00+00:00"),
        ("2022-06", "2022-05-31T22:00:00+00:00"),
        ("2022-06-01T00:00Z", "2022-06-01T00:00:00+00:00"),
        ("2022-06-01 00:00:00.25", "2022-05-31T22:00:00.250000+00:00"),
        ("2180-07-22T19:47:00-04:00", "2180-07-22T23:47:00+00:00"),
        # Summer time also holds past 2037.
        ("2180-07-22T00:00:00", "2180-07-21T22:00:00+00:00"),
        # The hour that occurs twice is the first one; the one that is skipped is the next that exists.
        ("2024-10-27T02:30:00", "2024-10-27T00:30:00+00:00"),
        ("2024-03-31T02:30:00", "2024-03-31T01:00:00+00:00"),
        ("2022-02-30", None),
        ("31.12.2022", None),
        ("soon", None),
        ("", None),
    ],
)
def test_time_stamps_of_berlin(text, expected):
    assert _isoformat(parse_times(pd.Series([text]), "Europe/Berlin")) == [expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=8))
def test_pressures_come_apart(pairs):
    frame = pd.DataFrame({"value": [f"{a}/{b}" for a, b in pairs], "file": "f", "row": range(len(pairs))})
    split = split_pressures(frame, Rejections("fail"))
    assert list(zip(split["first"], split["second"], strict=True)) == pairs


@pytest.mark.parametrize("text", ["120", "120/", "/80", "120/80/60", "120\\80", "a/b", "12000/80", "120 80"])
def test_malformed_pressures(text):
    frame = pd.DataFrame({"value": ["120/80", text], "file": "f", "row": [2, 3]})
    with pytest.raises(InputError, match=r"f, row 3, field value: is not a blood pressure"):
        split_pressures(frame, Rejections("fail"))
    rejections = Rejections("reject")
    assert len(split_pressures(frame, rejections)) == 1
    assert rejections.table()["row"].tolist() == [3]


def test_numbers_and_absent_values():
    frame = pd.DataFrame({"value": ["1", "-2.5e1", "", "NA"], "file": "f", "row": [2, 3, 4, 5]})
    rejections = Rejections("fail")
    assert take_numbers(frame, rejections)["value"].tolist() == [1.0, -25.0]
    assert rejections.table()[["row", "reason"]].to_numpy().tolist() == [[4, ABSENT], [5, ABSENT]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120-80", "'120-80'"),
        ("", "nothing"),
        ("Ann Example", "text of 11 characters"),
        ("1" * 50, "text of 50 characters"),
    ],
)
def test_only_digits_and_punctuation_are_shown(text, expected):
    assert shown(text) == expected
