"""When what is due: the due times of schedules, which of them still run, and when a submission is tried again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

from flowrra.ranges import SOME_SECONDS
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.local_time import LOCAL, local, micros, zone_named
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType

# Microseconds between two tries of a submission, at first and at the most.
RETRY = 1_000_000
LONGEST_RETRY = 10_000_000
# Of a schedule that makes up for all that it missed, so many of the latest due times.
MOST_MADE_UP = 100
# Microseconds: ten years, before which the due times of a cron expression are not counted.
LONGEST_COUNT = 3653 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class Firing:
    """What becomes of a schedule that is due: the due times to run, those that are too long ago, the next one (None: no
    more), and how many were collapsed into these."""

    due: tuple[int, ...]
    missed: tuple[int, ...]
    following: int | None
    collapsed: int


def latest_start(task: ScheduledTask, due: int) -> int:
    """Until when the run that was due then may still happen."""
    return due + round(task.misfire_grace * 1_000_000)


def retry_at(run: Run, now: int) -> int | None:
    """When a run that could not be submitted just now is tried again; None if it would be too late by then."""
    at = now + min(RETRY * 2 ** min(run.attempts, 10), LONGEST_RETRY)
    return at if at <= run.until else None


def following(task: ScheduledTask, after: int, zone: tzinfo = LOCAL) -> int | None:
    """The due time that follows the one at ``after``; None if there is none.

    Raises:
        ValueError: The schedule can't be read.
    """
    if task.schedule_type is ScheduleType.ONE_TIME:
        return None
    if task.schedule_type is ScheduleType.INTERVAL:
        interval = float(task.schedule)
        SOME_SECONDS.check("interval", interval)
        if (step := round(interval * 1_000_000)) == 0:
            raise ValueError(f"interval must be a microsecond at least, not {interval!r} s")
        return after + step
    return _next_of_cron(task.schedule, task.timezone, zone, after)


def period(task: ScheduledTask, zone: tzinfo = LOCAL) -> float | None:
    """Seconds between the due times of a schedule; None if it doesn't repeat, is not due any more or can't be read.

    Those of a cron expression differ, as over a weekend: it is the longer of the times before and after the next one.
    """
    if task.next_run_at is None or task.broken is not None:
        return None
    try:
        due = micros(task.next_run_at)
        if (after := following(task, due, zone)) is None:
            return None
        longest = after - due
        if task.schedule_type is ScheduleType.CRON and task.last_run_at is not None:
            last = micros(task.last_run_at)
            # Unless it missed a run in between.
            if (following(task, last, zone) or 0) >= due:
                longest = max(longest, due - last)
    except (ValueError, OverflowError, OSError):
        return None
    return longest / 1_000_000


@lru_cache(maxsize=4096)  # schedules are listed again and again, and change with each run
def _next_of_cron(expression: str, timezone: str | None, zone: tzinfo, after: int) -> int:
    return micros(_cron(expression).next_after(_instant(after), _zone(timezone, zone)))


@lru_cache(maxsize=1024)
def _cron(expression: str) -> CronExpression:
    return CronExpression(expression)


def _zone(timezone: str | None, zone: tzinfo) -> tzinfo:
    return zone_named(timezone) if timezone else zone


def _instant(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1_000_000, UTC)


def first_run(task: ScheduledTask, now: int, zone: tzinfo) -> datetime | None:
    """When a schedule that is made, enabled or repaired now is due first, as a naive local time; None if never."""
    if task.schedule_type is ScheduleType.ONE_TIME:
        return local(micros(datetime.fromisoformat(task.schedule)))
    due = following(task, now, zone)
    return None if due is None else local(due)


def fire(task: ScheduledTask, due: int, now: int, zone: tzinfo = LOCAL) -> Firing:
    """The runs of a schedule that has been due since ``due``: of the latest due time, or of all that are not too long
    ago.

    Raises:
        ValueError: The schedule can't be read.
    """
    most = MOST_MADE_UP if task.misfire == "all" else 1
    later, count, after = _since(task, due, now, zone, most)
    times = (due, *later)[-most:]
    missed = tuple(at for at in times if now > latest_start(task, at))
    return Firing(times[len(missed) :], missed, after, 1 + count - len(times))


def _since(task: ScheduledTask, due: int, now: int, zone: tzinfo, most: int) -> tuple[Sequence[int], int, int | None]:
    """What came due after a due time and until now: the latest of it, how many these are in all, and what follows."""
    after = following(task, due, zone)
    if after is None or after > now:
        return (), 0, after
    if task.schedule_type is ScheduleType.INTERVAL:
        step = after - due
        count = (now - due) // step
        return (
            [due + number * step for number in range(max(1, count - most + 1), count + 1)],
            count,
            due + (count + 1) * step,
        )
    latest, count = _cron(task.schedule).latest_runs(
        _instant(max(due, now - LONGEST_COUNT)), _instant(now), _zone(task.timezone, zone), most
    )
    return [micros(at) for at in latest], count, following(task, now, zone)
