"""Cron where clocks are put forward and back."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from flowrra.scheduler import CronExpression

# (what happens, zone, expression, start, the runs that follow); times are the zone's clock with its offset.
CASES = [
    # Berlin, 2024-03-31: 02:00 +01 becomes 03:00 +02; 2024-10-27: 03:00 +02 becomes 02:00 +01.
    ("skipped", "Europe/Berlin", "30 2 * * *", "2024-03-30T02:30+01:00", ["2024-03-31T03:00+02:00", "2024-04-01T02:30+02:00"]),
    ("skipped, twice", "Europe/Berlin", "15,45 2 * * *", "2024-03-31T00:00+01:00", ["2024-03-31T03:00+02:00", "2024-04-01T02:15+02:00"]),
    ("skipped, beside one that isn't", "Europe/Berlin", "30 2,3 * * *", "2024-03-31T00:00+01:00", ["2024-03-31T03:00+02:00", "2024-03-31T03:30+02:00"]),
    ("skipped, onto one that isn't", "Europe/Berlin", "0 2,3 * * *", "2024-03-31T00:00+01:00", ["2024-03-31T03:00+02:00", "2024-04-01T02:00+02:00"]),
    ("doubled", "Europe/Berlin", "30 2 * * *", "2024-10-26T02:30+02:00", ["2024-10-27T02:30+02:00", "2024-10-28T02:30+01:00"]),
    ("doubled, from within", "Europe/Berlin", "30 2 * * *", "2024-10-27T02:10+01:00", ["2024-10-28T02:30+01:00"]),
    ("by elapsed time over a gap", "Europe/Berlin", "*/30 * * * *", "2024-03-31T01:20+01:00", ["2024-03-31T01:30+01:00", "2024-03-31T03:00+02:00"]),
    ("by elapsed time, skipped", "Europe/Berlin", "*/30 2 * * *", "2024-03-31T00:00+01:00", ["2024-04-01T02:00+02:00"]),
    ("by elapsed time, doubled", "Europe/Berlin", "@hourly", "2024-10-27T01:30+02:00", ["2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00", "2024-10-27T03:00+01:00"]),
    ("by elapsed time, in both passes", "Europe/Berlin", "*/30 2 * * *", "2024-10-27T00:00+02:00", ["2024-10-27T02:00+02:00", "2024-10-27T02:30+02:00", "2024-10-27T02:00+01:00", "2024-10-27T02:30+01:00", "2024-10-28T02:00+01:00"]),
    # New York, 2024-03-10: 02:00 -05 becomes 03:00 -04; 2024-11-03: 02:00 -04 becomes 01:00 -05.
    ("skipped", "America/New_York", "30 2 * * *", "2024-03-10T00:00-05:00", ["2024-03-10T03:00-04:00", "2024-03-11T02:30-04:00"]),
    ("doubled", "America/New_York", "0 1 * * *", "2024-11-03T00:00-04:00", ["2024-11-03T01:00-04:00", "2024-11-04T01:00-05:00"]),
    ("not touched", "America/New_York", "0 9 * * *", "2024-03-09T09:00-05:00", ["2024-03-10T09:00-04:00"]),
    # Lord Howe changes by half an hour. 2024-10-06: 02:00 +10:30 becomes 02:30 +11; 2025-04-06: 02:00 +11 becomes 01:30.
    ("skipped half hour", "Australia/Lord_Howe", "15 2 * * *", "2024-10-06T00:00+10:30", ["2024-10-06T02:30+11:00", "2024-10-07T02:15+11:00"]),
    ("later the same day", "Australia/Lord_Howe", "*/15 5 * * *", "2024-10-06T01:45+10:30", ["2024-10-06T05:00+11:00"]),
    ("doubled half hour", "Australia/Lord_Howe", "45 1 * * *", "2025-04-06T00:00+11:00", ["2025-04-06T01:45+11:00", "2025-04-07T01:45+10:30"]),
    ("doubled half hour, elapsed", "Australia/Lord_Howe", "*/30 1 * * *", "2025-04-06T01:10+11:00", ["2025-04-06T01:30+11:00", "2025-04-06T01:30+10:30", "2025-04-07T01:00+10:30"]),
    ("hours after it, elapsed", "Australia/Lord_Howe", "*/15 5 * * *", "2025-04-06T01:45+10:30", ["2025-04-06T05:00+10:30"]),
    # Kathmandu is 45 minutes off and never changes.
    ("no change", "Asia/Kathmandu", "0 0 * * *", "2024-03-31T12:00+05:45", ["2024-04-01T00:00+05:45"]),
    # Casablanca puts its clocks back for Ramadan: 2024-03-10 03:00 +01 becomes 02:00 +00; 2024-04-14 forward again.
    ("doubled for Ramadan", "Africa/Casablanca", "30 2 * * *", "2024-03-09T12:00+01:00", ["2024-03-10T02:30+01:00", "2024-03-11T02:30+00:00"]),
    ("skipped after Ramadan", "Africa/Casablanca", "30 2 * * *", "2024-04-13T12:00+00:00", ["2024-04-14T03:00+01:00", "2024-04-15T02:30+01:00"]),
    # Sao Paulo had its gap at midnight, 2018-11-04: 00:00 -03 becomes 01:00 -02; back at midnight, 2018-02-18.
    ("skipped midnight", "America/Sao_Paulo", "@daily", "2018-11-03T12:00-03:00", ["2018-11-04T01:00-02:00", "2018-11-05T00:00-02:00"]),
    ("back over midnight", "America/Sao_Paulo", "30 23 * * *", "2018-02-17T12:00-02:00", ["2018-02-17T23:30-02:00", "2018-02-18T23:30-03:00"]),
    ("back over midnight, elapsed", "America/Sao_Paulo", "*/30 * * * *", "2018-02-17T23:10-02:00", ["2018-02-17T23:30-02:00", "2018-02-17T23:00-03:00", "2018-02-17T23:30-03:00", "2018-02-18T00:00-03:00"]),
    # St. John's went back a minute past midnight, so that the next day had begun already.
    ("back into the day before", "America/St_Johns", "*/30 * * * *", "2010-11-06T23:40-02:30", ["2010-11-07T00:00-02:30", "2010-11-06T23:30-03:30", "2010-11-07T00:00-03:30"]),
    # Samoa left out the whole of 2011-12-30.
    ("skipped day", "Pacific/Apia", "0 12 * * *", "2011-12-29T12:00-10:00", ["2011-12-31T00:00+14:00", "2011-12-31T12:00+14:00"]),
    ("skipped day, elapsed", "Pacific/Apia", "@hourly", "2011-12-29T22:30-10:00", ["2011-12-29T23:00-10:00", "2011-12-31T00:00+14:00"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "text", "start", "runs"), [case[1:] for case in CASES], ids=[f"{case[1]}: {case[0]}" for case in CASES]
)
def test_clocks_that_change(zone: str, text: str, start: str, runs: list[str]) -> None:
    cron, at = CronExpression(text), datetime.fromisoformat(start)
    for expected in runs:
        at = cron.next_after(at, ZoneInfo(zone))
        assert at == datetime.fromisoformat(expected), at.astimezone(ZoneInfo(zone)).isoformat()
        assert at.tzinfo is UTC


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        CronExpression("@daily").next_after(datetime(2024, 1, 1), UTC)


def test_an_aware_start_is_answered_in_its_own_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    run = CronExpression("30 2 * * *").next_run(datetime(2024, 3, 31, tzinfo=berlin))
    assert (run.tzinfo, run.isoformat()) == (berlin, "2024-03-31T03:00:00+02:00")


def test_the_end_of_the_calendar_is_an_error_in_any_zone() -> None:
    for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
        for text in ("@daily", "* * * * *"):
            with pytest.raises(ValueError, match="has no run after 9999"):
                CronExpression(text).next_after(datetime.max.replace(tzinfo=UTC), ZoneInfo(zone))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"])
def test_random_starts_near_changes_agree_with_cronsim(zone: str) -> None:
    """Where cronsim is right: changes by an hour, not at midnight, and answers that are after the start."""
    chance = random.Random(zone)
    compared = 0
    for _ in range(1500):
        text, start = _expression(chance), _near_a_change(chance)
        expected = next(CronSim(text, start.astimezone(ZoneInfo(zone)))).astimezone(UTC)
        if expected > start:
            compared += 1
            assert CronExpression(text).next_after(start, ZoneInfo(zone)) == expected, f"{text!r} after {start}"
    assert compared > 1300


@pytest.mark.parametrize(
    "zone",
    ["Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "America/Sao_Paulo", "Africa/Casablanca"],
)
def test_a_run_by_elapsed_time_is_the_first_minute_whose_clock_matches(zone: str) -> None:
    """Against the definition: every minute that passes, looked at one by one."""
    chance = random.Random(zone)
    for _ in range(60):
        text = f"{chance.choice(['*', '*/7', '*/15', '*/30'])} {chance.choice(['*', '0-3', '1', '2,23'])} * * *"
        cron, start = CronExpression(text), _near_a_change(chance)
        minute = start.replace(second=0, microsecond=0)
        while not (minute > start and cron.matches(minute.astimezone(ZoneInfo(zone)))):
            minute += timedelta(minutes=1)
        assert cron.next_after(start, ZoneInfo(zone)) == minute, f"{text!r} after {start}"


def _near_a_change(chance: random.Random) -> datetime:
    year = chance.randint(2005, 2018)
    day = chance.choice([(3, 8), (3, 25), (4, 1), (10, 1), (10, 25), (11, 1), (2, 15)])
    return datetime(year, *day, tzinfo=UTC) + timedelta(seconds=chance.randrange(9 * 24 * 3600))


def _expression(chance: random.Random) -> str:
    minute = chance.choice(["*", "*/10", "0", "30", "15,45", str(chance.randrange(60))])
    hour = chance.choice(["*", "*/2", "0", "1", "2", "3", "1-3", "23", str(chance.randrange(24))])
    return f"{minute} {hour} {chance.choice(['*', '*', '*/2', '10-28'])} * {chance.choice(['*', '*', '0', '1-5'])}"


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/Berlin", (2026, 3, 29)),
        ("Europe/Berlin", (2026, 10, 25)),
        ("Australia/Lord_Howe", (2026, 4, 5)),  # by half an hour
        ("America/Havana", (2026, 3, 8)),  # at midnight
        ("America/Santiago", (2026, 4, 5)),  # over midnight
        ("Pacific/Apia", (2011, 12, 30)),  # the day is skipped
    ],
)
@pytest.mark.parametrize(
    "expression", ["*/30 * * * *", "30 2 * * *", "0 0 * * *", "15,45 0-3,23 * * *", "0 */6 * * 6,0"]
)
def test_the_latest_runs_are_those_that_follow_each_other(
    zone: str, change: tuple[int, int, int], expression: str
) -> None:
    cron, clock = CronExpression(expression), ZoneInfo(zone)
    after = datetime(*change, 0, 10, tzinfo=UTC) - timedelta(days=2)
    runs = [cron.next_after(after, clock)]
    while runs[-1] < after + timedelta(days=4):
        runs.append(cron.next_after(runs[-1], clock))
    until = runs[-2]  # included, unlike the start
    for begin in (after, runs[0]):
        following = [run for run in runs[:-1] if run > begin]
        for most in (1, 3, 1000):
            assert cron.latest_runs(begin, until, clock, most) == (following[-most:], len(following))
