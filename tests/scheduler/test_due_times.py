"""When what is due: the arithmetic, to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flowrra.scheduler.due_times import Firing, fire, first_run, following, latest_start, period, retry_at
from flowrra.scheduler.figures import LAG_BOUNDS, RunFigures, listed_run
from flowrra.scheduler.local_time import LOCAL, local, micros
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType, check, definition_key

SECOND = 1_000_000
DUE = micros(datetime(2026, 5, 18, 12, tzinfo=UTC))


def every(seconds: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask("a", "note", ScheduleType.INTERVAL, seconds, **fields)


def cron(expression: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask("a", "note", ScheduleType.CRON, expression, **fields)


def once() -> ScheduledTask:
    return ScheduledTask("a", "note", ScheduleType.ONE_TIME, "2026-05-18T12:00:00+00:00")


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (5, 10), (10, 10), (1000, 10)]
)
def test_a_submission_is_tried_again_later_each_time_at_most_ten_seconds(attempts: int, seconds: int) -> None:
    again = DUE + seconds * SECOND
    assert retry_at(Run("a", once(), DUE, attempts, again), DUE) == again
    assert retry_at(Run("a", once(), DUE, attempts, again - 1), DUE) is None


def test_a_run_may_start_until_its_grace_has_passed() -> None:
    assert latest_start(every("60", misfire_grace=0.25), DUE) == DUE + 250_000


def test_what_follows_is_an_interval_later_or_the_next_match_or_nothing() -> None:
    assert following(every("0.000001"), DUE) == DUE + 1
    assert following(every("90.5"), DUE) == DUE + 90_500_000
    assert following(once(), DUE) is None
    assert following(cron("30 14 * * *"), DUE, ZoneInfo("Europe/Berlin")) == DUE + 30 * 60 * SECOND
    assert following(cron("30 14 * * *", timezone="UTC"), DUE, ZoneInfo("Europe/Berlin")) == DUE + 9_000 * SECOND


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "0.0000001", "often"])
def test_an_interval_that_can_not_be_is_refused(seconds: str) -> None:
    with pytest.raises(ValueError, match=r"interval|convert"):
        following(every(seconds), DUE)


def test_the_first_run_is_an_interval_from_now_or_the_time_that_was_named() -> None:
    assert first_run(every("60"), DUE, LOCAL) == local(DUE + 60 * SECOND)
    assert first_run(cron("0 0 * * *"), DUE, UTC) == local(DUE + 12 * 3600 * SECOND)
    assert first_run(once(), DUE + 10**9, LOCAL) == local(DUE)


@pytest.mark.parametrize(
    ("task", "late", "firing"),
    [
        (every("60"), 0, Firing((0,), (), 60, 0)),
        (every("60"), 59, Firing((0,), (), 60, 0)),
        (every("60"), 60, Firing((60,), (), 120, 1)),
        (every("60"), 630, Firing((600,), (), 660, 10)),
        (every("60", misfire_grace=30.0), 630, Firing((600,), (), 660, 10)),
        (every("60", misfire_grace=29.0), 630, Firing((), (600,), 660, 10)),
        (every("60", misfire="all"), 180, Firing((0, 60, 120, 180), (), 240, 0)),
        (every("60", misfire="all", misfire_grace=60.0), 180, Firing((120, 180), (0, 60), 240, 0)),
        (once(), 100, Firing((0,), (), None, 0)),
        (cron("* * * * *"), 0, Firing((0,), (), 60, 0)),
        (cron("* * * * *"), 60, Firing((60,), (), 120, 1)),
        (cron("* * * * *", misfire="all"), 120, Firing((0, 60, 120), (), 180, 0)),
    ],
)
def test_of_what_came_due_meanwhile_the_latest_runs_or_all(task: ScheduledTask, late: int, firing: Firing) -> None:
    found = fire(task, DUE, DUE + late * SECOND, UTC)
    after = None if found.following is None else (found.following - DUE) // SECOND
    due, missed = (tuple((at - DUE) // SECOND for at in times) for times in (found.due, found.missed))
    assert Firing(due, missed, after, found.collapsed) == firing


@pytest.mark.parametrize("task", [every("60", misfire="all"), cron("* * * * *", misfire="all")])
def test_at_most_a_hundred_are_made_up_for(task: ScheduledTask) -> None:
    found = fire(task, DUE, DUE + 149 * 60 * SECOND, UTC)
    assert [(at - DUE) // (60 * SECOND) for at in found.due] == list(range(50, 150))
    assert (found.collapsed, found.following) == (50, DUE + 150 * 60 * SECOND)


@pytest.mark.parametrize("misfire", ["latest", "all"])
def test_after_weeks_the_latest_due_times_run_and_each_is_counted(misfire: str) -> None:
    minute, weeks = 60 * SECOND, 30 * 1440
    found = fire(cron("* * * * *", misfire=misfire), DUE, DUE + weeks * minute, UTC)
    most = 100 if misfire == "all" else 1
    assert found.due == tuple(DUE + number * minute for number in range(weeks - most + 1, weeks + 1))
    assert (found.missed, found.collapsed, found.following) == ((), weeks + 1 - most, DUE + (weeks + 1) * minute)


def test_of_a_schedule_that_was_away_for_longer_than_ten_years_those_are_counted() -> None:
    found = fire(cron("0 12 * * *"), DUE - 40 * 365 * 86_400 * SECOND, DUE, UTC)
    assert (found.due, found.collapsed) == ((DUE,), 3653)


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [
        ("priority", -(2**31 - 1), 2**31 - 1),
        ("max_running", 1, 2**31 - 1),
        ("id", "i", "i" * 238),
        ("task_name", "n", "n" * 255),
    ],
)
def test_values_reach_as_far_as_the_columns_of_the_stores(field: str, least: Any, most: Any) -> None:
    for good in (least, most):
        task = once()
        setattr(task, field, good)
        check(task)
    beyond = (least - 1, most + 1) if isinstance(most, int) else ("", most + "x")
    for bad in beyond:
        task = once()
        setattr(task, field, bad)
        with pytest.raises(ValueError, match=field):
            check(task)


def test_lag_is_counted_by_its_bounds_and_never_negative() -> None:
    figures = RunFigures()
    for lag in (-1.0, 0.005, 0.0051, 600.0, 601.0):
        figures.observe("note", lag)
    found = figures.all(True)
    assert found["lag"]["bounds"] == LAG_BOUNDS
    assert found["lag"]["counts"] == (2, 1, *[0] * 9, 1, 1)
    assert found["lag"]["sum"] == pytest.approx(1201.0101)
    assert found["runs"] == {"note": {"submitted": 5, "missed": 0, "collapsed": 0, "skipped": 0, "failed": 0}}
    assert (found["running"], found["store_errors"]) == (True, {"claim": 0, "settle": 0})


def test_what_was_read_of_the_figures_changes_no_more() -> None:
    figures = RunFigures()
    figures.count("note", "missed")
    before = figures.all(False)
    figures.count("note", "missed", 2)
    figures.store_errors["claim"] += 1
    assert (before["runs"]["note"]["missed"], before["store_errors"]["claim"]) == (1, 0)
    assert figures.all(False)["runs"]["note"]["missed"] == 3


@pytest.mark.parametrize(("fired", "lag"), [(None, None), (DUE + 1_500_000, 1.5), (DUE - SECOND, 0.0)])
def test_a_run_is_listed_in_utc_with_its_lag(fired: int | None, lag: float | None) -> None:
    row = {"schedule_id": "a", "id": "a@1", "due": DUE, "fired": fired, "result": "?", "attempts": 2, "error": "why"}
    found = listed_run(row)
    assert (found["due"], found["lag"]) == (datetime(2026, 5, 18, 12, tzinfo=UTC), lag)
    assert found["fired"] == (None if fired is None else datetime.fromtimestamp(fired / SECOND, UTC))
    assert (found["schedule_id"], found["task_id"], found["attempts"], found["error"]) == ("a", "a@1", 2, "why")


@pytest.mark.parametrize(
    ("kind", "schedule", "zone", "key"),
    [
        (ScheduleType.CRON, " 0  9 * * mon ", None, "f33efd1ff30b8b26796f83e480d2b581f1fe82946a7042fbb73cd8c42d644b57"),
        (ScheduleType.CRON, "0 9 * * MON", "Asia/Tokyo", "19d6a0de86154e153da990ab3b02de375553e1e94fe57be049a87450e10a6d6d"),
        (ScheduleType.INTERVAL, "3e2", None, "7cb6f918b9e615247e652a107119db7bfc3b428dae6a2a034430bc3d3a89eb72"),
        (ScheduleType.INTERVAL, "300", "Asia/Tokyo", "7cb6f918b9e615247e652a107119db7bfc3b428dae6a2a034430bc3d3a89eb72"),
        (ScheduleType.ONE_TIME, "2026-05-18T14:00:00+02:00", None, "49d05c8331d5ef15bae197d972e090ddee8c7c557e99ffe5574f3f35dbee3fa8"),
    ],
)  # fmt: skip
def test_what_schedules_in_stores_are_found_by_stays_as_it_is(
    kind: ScheduleType, schedule: str, zone: str | None, key: str
) -> None:
    task = ScheduledTask("x", "note", kind, schedule, (1, "a"), {"b": 2}, timezone=zone)
    assert definition_key(task) == key


HOUR = 3600.0
# A Friday and the Monday after it.
FRIDAY, MONDAY = datetime(2026, 5, 15, 9), datetime(2026, 5, 18, 9)  # noqa: DTZ001 - schedules are local
WORKDAYS = "0 9 * * 1-5"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (every("90.5", next_run_at=FRIDAY), 90.5),
        (cron("*/5 * * * *", next_run_at=FRIDAY), 300.0),
        # The weekend lies before the next run, or after it.
        (cron(WORKDAYS, timezone="UTC", next_run_at=MONDAY, last_run_at=FRIDAY), 72 * HOUR),
        (cron(WORKDAYS, timezone="UTC", next_run_at=FRIDAY), 72 * HOUR),
        # It has missed Friday's run: it is not the period that is twice as long.
        (cron(WORKDAYS, timezone="UTC", next_run_at=MONDAY, last_run_at=FRIDAY - timedelta(days=1)), 24 * HOUR),
        (once(), None),
        (every("60"), None),
        (every("nonsense", next_run_at=FRIDAY), None),
        (every("nan", next_run_at=FRIDAY), None),
        (cron("nonsense", next_run_at=FRIDAY), None),
        (cron(WORKDAYS, timezone="America/Newtown", next_run_at=FRIDAY), None),
        (cron(WORKDAYS, next_run_at=datetime(1, 1, 1)), None),  # noqa: DTZ001 - before any that a system knows
        (every("60", next_run_at=FRIDAY, broken="its arguments can't be read"), None),
    ],
)
def test_the_period_is_the_longer_of_the_times_around_the_next_run(
    schedule: ScheduledTask, expected: float | None
) -> None:
    assert period(schedule, UTC) == expected
