"""The server's own zone means the same as that zone by its name, on every day on which clocks change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowrra.scheduler import CronExpression
from flowrra.scheduler.local_time import LOCAL

ZONES = sorted(
    name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "posix", "right"))
)
# One that is put forward by an hour, by half of one, at midnight, for Ramadan, over a whole day, backwards in winter.
ODD = [
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Europe/Dublin",
    "America/St_Johns",
    "Asia/Tehran",
    "Antarctica/Troll",
    "America/Havana",
]
EXPRESSIONS = ["0 2 * * *", "30 2 * * *", "0 0 * * *", "15 1,3 * * *", "*/20 * * * *", "0 */2 * * *", "45 0-4 * * SUN"]


@pytest.fixture(autouse=True)
def own_zone() -> Iterator[None]:
    before = os.environ.get("TZ")
    yield
    if before is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = before
    time.tzset()


def live_in(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


def changes_of(zone: ZoneInfo) -> list[datetime]:
    """The hours in which its clocks change, in some years."""
    hour, found = timedelta(hours=1), []
    for day in range(366):
        for year in (2011, 2018, 2026):
            at = datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day)
            if at.astimezone(zone).utcoffset() != (at + timedelta(days=1)).astimezone(zone).utcoffset():
                while at.astimezone(zone).utcoffset() == (at + hour).astimezone(zone).utcoffset():
                    at += hour
                found.append(at)
    return found


def test_a_fixed_time_in_a_gap_is_right_after_it() -> None:
    live_in("Europe/Berlin")
    run = CronExpression("0 2 * * *").next_after(datetime(2026, 3, 28, 12, tzinfo=UTC), LOCAL)
    assert run == datetime(2026, 3, 29, 1, tzinfo=UTC)  # 03:00 there


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_runs_around_each_change_are_those_of_the_zone_by_its_name(name: str) -> None:
    live_in(name)
    zone = ZoneInfo(name)
    for change in changes_of(zone):
        for text in EXPRESSIONS:
            expression, at = CronExpression(text), change - timedelta(hours=30)
            while at < change + timedelta(hours=30):
                run = expression.next_after(at, zone)
                assert (text, at, expression.next_after(at, LOCAL)) == (text, at, run)
                at = min(run, at + timedelta(hours=5))


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(ZONES),
    st.datetimes(datetime(1975, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001 - as clocks show them
    st.sampled_from([0, 1]),
)
def test_offsets_are_those_of_the_zone_by_its_name(name: str, clock: datetime, fold: int) -> None:
    live_in(name)
    clock = clock.replace(fold=fold)
    assert clock.replace(tzinfo=LOCAL).utcoffset() == clock.replace(tzinfo=ZoneInfo(name)).utcoffset()


@pytest.mark.parametrize("name", ODD)
def test_offsets_at_each_change_are_those_of_the_zone_by_its_name(name: str) -> None:
    live_in(name)
    zone = ZoneInfo(name)
    for change in changes_of(zone):
        for minutes in range(-26 * 60 + 10, 26 * 60, 30):
            for fold in (0, 1):
                clock = (change.astimezone(zone).replace(tzinfo=None) + timedelta(minutes=minutes)).replace(fold=fold)
                found = clock.replace(tzinfo=LOCAL).utcoffset()
                assert (clock, fold, found) == (clock, fold, clock.replace(tzinfo=zone).utcoffset())
