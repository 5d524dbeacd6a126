"""When scheduled runs start."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from data_schemas.errors import InputError
from pipelines.schedules import describe_trigger, make_trigger


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("0 3 * * 1", "0 0 3 * * 1"),
        ("*/15  6-18 * * mon-fri", "0 */15 6-18 * * mon-fri"),
        ("30 0 3 * * 1", "30 0 3 * * 1"),
        ("@daily", "@daily"),
    ],
)
def test_cron_gets_the_seconds_that_kfp_wants(given, sent):
    trigger = make_trigger(given, None, None, None)
    assert trigger.cron_schedule.cron == sent
    assert trigger.periodic_schedule is None
    assert describe_trigger(trigger) == f"cron {sent}"


@pytest.mark.parametrize(("given", "seconds"), [("30m", 1800), ("12h", 43200), ("1d", 86400), ("2w", 1209600)])
def test_spans_are_sent_in_seconds_and_read_back(given, seconds):
    trigger = make_trigger(None, given, None, None)
    assert trigger.periodic_schedule.interval_second == str(seconds)
    assert describe_trigger(trigger) == f"every {given}"


def test_start_and_end_are_utc_unless_they_say_otherwise():
    offset = timezone(timedelta(hours=2))
    trigger = make_trigger("@daily", None, datetime(2027, 1, 1, 6), datetime(2027, 2, 1, tzinfo=offset))
    assert trigger.cron_schedule.start_time == datetime(2027, 1, 1, 6, tzinfo=UTC)
    assert trigger.cron_schedule.end_time == datetime(2027, 1, 31, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "every", "says"),
    [
        (None, None, "either --cron or --every"),
        ("@daily", "1d", "either --cron or --every"),
        ("3 * *", None, "is no cron expression"),
        ("0 3 * * ; rm", None, "is no cron expression"),
        ("@yearlyish", None, "is no cron expression"),
        (None, "soon", "is no span of time"),
        (None, "0h", "is no span of time"),
        (None, "1.5h", "is no span of time"),
    ],
)
def test_what_can_t_be_read_is_refused(cron, every, says):
    with pytest.raises(InputError, match=says):
        make_trigger(cron, every, None, None)


def test_an_end_before_the_start_is_refused():
    with pytest.raises(InputError, match="is not after the start"):
        make_trigger("@daily", None, datetime(2027, 1, 2), datetime(2027, 1, 1))


def test_what_kfp_does_not_tell_is_a_dash():
    assert describe_trigger(None) == "-"
