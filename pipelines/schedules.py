"""When scheduled runs start."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import kfp_server_api as server

from data_schemas.errors import InputError

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_CRON_FIELD = re.compile(r"^[0-9A-Za-z*/,?#-]+$")


def make_trigger(
    cron: str | None, every: str | None, start: datetime | None, end: datetime | None
) -> server.V2beta1Trigger:
    """Return what starts the runs of a schedule.

    Args:
        cron: Cron expression: minute, hour, day, month, day of week, as crontab has it; a field for seconds may stand
            before them. Or one of @hourly, @daily, @weekly, @monthly.
        every: Digits and one of m, h, d, w, such as "12h".
        start: No run before; None: from now on. Without a time zone: UTC.
        end: No run after; None: for ever.

    Returns:
        The trigger.

    Raises:
        InputError: Neither or both of cron and every, or one that can't be read; the end is before the start.
    """
    if (cron is None) == (every is None):
        raise InputError(
            "give either --cron or --every", remedy="Such as --cron '0 3 * * 1', Mondays at 3:00, or --every 12h"
        )
    start, end = _in_utc(start), _in_utc(end)
    if start and end and end <= start:
        raise InputError(f"{end:%Y-%m-%d %H:%M} is not after the start", field="--end", remedy="Give a later time")
    if cron is not None:
        schedule = server.V2beta1CronSchedule(cron=_with_seconds(cron), start_time=start, end_time=end)
        return server.V2beta1Trigger(cron_schedule=schedule)
    assert every is not None
    interval = server.V2beta1PeriodicSchedule(interval_second=str(_interval(every)), start_time=start, end_time=end)
    return server.V2beta1Trigger(periodic_schedule=interval)


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _with_seconds(cron: str) -> str:
    """Return a cron expression with the field for seconds that KFP wants."""
    cron = " ".join(cron.split())
    if cron in ("@hourly", "@daily", "@weekly", "@monthly"):
        return cron
    fields = cron.split(" ")
    if len(fields) not in (5, 6) or not all(map(_CRON_FIELD.match, fields)):
        raise InputError(
            f"{cron!r} is no cron expression",
            field="--cron",
            remedy="Give minute, hour, day, month and day of week, such as '0 3 * * 1'",
        )
    return cron if len(fields) == 6 else f"0 {cron}"


def _interval(every: str) -> int:
    found = re.fullmatch(r"(\d+)([mhdw])", every)
    if not found or int(found[1]) == 0:
        raise InputError(f"{every!r} is no span of time", field="--every", remedy="Give 30m, 12h, 1d or 1w, say")
    return int(found[1]) * _UNITS[found[2]]


def describe_trigger(trigger: server.V2beta1Trigger | None) -> str:
    """Return in words when runs start.

    Args:
        trigger: The trigger of a schedule.

    Returns:
        Such as "cron 0 0 3 * * 1" or "every 12h".
    """
    if trigger is not None and trigger.cron_schedule is not None:
        return f"cron {trigger.cron_schedule.cron}"
    if trigger is not None and trigger.periodic_schedule is not None:
        seconds = int(trigger.periodic_schedule.interval_second)
        unit, size = next(((u, s) for u, s in reversed(_UNITS.items()) if seconds % s == 0), ("s", 1))
        return f"every {seconds // size}{unit}"
    return "-"
