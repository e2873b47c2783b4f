"""A user's own store, of no more than the abstract methods, keeps schedules, and they run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowrra.registry import TaskRegistry
from flowrra.scheduler import ScheduledTask, Scheduler, ScheduleType
from flowrra.scheduler.backends import BaseSchedulerBackend
from flowrra.scheduler.backends.own_runs import LEASE
from flowrra.scheduler.local_time import LOCAL, local, micros
from tests.core.apps import until

LATER = datetime(2030, 1, 1, 12)  # noqa: DTZ001 - the stores' datetimes are local


class Shelf(BaseSchedulerBackend):
    """Keeps schedules in a dict, as Flowrra 0.1 would have had it: it knows of no zones."""

    def __init__(self) -> None:
        self.tasks: dict[str, ScheduledTask] = {}
        self.finds_nothing_at_first = False

    async def create(self, task: ScheduledTask) -> None:
        if task.id in self.tasks:
            raise ValueError(f"Scheduled task '{task.id}' already exists")
        self.tasks[task.id] = replace(task)

    async def update(self, task: ScheduledTask) -> None:
        if task.id not in self.tasks:
            raise ValueError(f"Scheduled task '{task.id}' not found")
        self.tasks[task.id] = replace(task)

    async def delete(self, task_id: str) -> bool:
        return self.tasks.pop(task_id, None) is not None

    async def get(self, task_id: str) -> ScheduledTask | None:
        found = self.tasks.get(task_id)
        return None if found is None else replace(found)

    async def list_all(self) -> list[ScheduledTask]:
        return list(self.tasks.values())

    async def list_enabled(self) -> list[ScheduledTask]:
        return [task for task in self.tasks.values() if task.enabled]

    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]:
        assert now is not None
        return [task for task in await self.list_enabled() if task.next_run_at is not None and task.next_run_at <= now]

    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None:
        self.tasks[task_id].last_run_at, self.tasks[task_id].next_run_at = last_run, next_run

    async def clear(self) -> int:
        return 0

    async def find_by_definition(
        self,
        task_name: str,
        schedule_type: ScheduleType,
        schedule: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> ScheduledTask | None:
        if self.finds_nothing_at_first:
            self.finds_nothing_at_first = False
            return None
        sought = (task_name, schedule_type, schedule, args, kwargs)
        found = (
            task
            for task in self.tasks.values()
            if (task.task_name, task.schedule_type, task.schedule, task.args, task.kwargs) == sought
        )
        return next(found, None)

    async def close(self) -> None: ...


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def scheduler(shelf: Shelf) -> Scheduler:
    registry = TaskRegistry()

    @registry.task()
    async def note(*args: object) -> None: ...

    return Scheduler(shelf, registry)


def interval(name: str, **fields: Any) -> ScheduledTask:
    return ScheduledTask(name, "note", ScheduleType.INTERVAL, "60", next_run_at=LATER, **fields)


async def test_a_schedule_is_made_once_and_an_id_belongs_to_one(scheduler: Scheduler) -> None:
    first = await scheduler.schedule_interval("note", 60)
    assert await scheduler.schedule_interval("note", 60, task_id="other") == first
    other = await scheduler.schedule_interval("note", 61, task_id="mine")
    assert (other, [task.id for task in await scheduler.list_scheduled_tasks()]) == ("mine", [first, "mine"])
    with pytest.raises(ValueError, match="'mine' already exists"):
        await scheduler.schedule_interval("note", 62, task_id="mine")


async def test_of_two_that_make_the_same_at_once_the_later_one_gets_the_others_id(
    scheduler: Scheduler, shelf: Shelf
) -> None:
    await scheduler.schedule_interval("note", 60, task_id="mine")
    shelf.finds_nothing_at_first = True
    assert await scheduler.schedule_interval("note", 60, task_id="mine") == "mine"


async def test_a_schedule_that_is_enabled_and_well_keeps_its_due_time(shelf: Shelf) -> None:
    await shelf.create(interval("a"))
    await shelf.set_enabled("a", True, LATER + timedelta(days=1))
    assert shelf.tasks["a"] == replace(shelf.tasks["a"], enabled=True, next_run_at=LATER)


@pytest.mark.parametrize("fields", [{"enabled": False}, {"broken": "why"}])
async def test_one_that_was_disabled_or_broken_is_due_anew(shelf: Shelf, fields: dict[str, Any]) -> None:
    await shelf.create(interval("a", **fields))
    await shelf.set_enabled("a", True, LATER + timedelta(days=1))
    task = shelf.tasks["a"]
    assert (task.enabled, task.broken, task.next_run_at) == (True, None, LATER + timedelta(days=1))


async def test_one_that_is_disabled_keeps_its_due_time_and_an_unknown_one_is_refused(
    scheduler: Scheduler, shelf: Shelf
) -> None:
    await shelf.create(interval("a", broken="why"))
    await scheduler.disable_task("a")
    task = shelf.tasks["a"]
    assert (task.enabled, task.broken, task.next_run_at) == (False, "why", LATER)
    for call in (scheduler.disable_task, scheduler.enable_task):
        with pytest.raises(ValueError, match="'unknown' not found"):
            await call("unknown")


async def test_what_it_lacks_to_run_them_is_said(scheduler: Scheduler, shelf: Shelf) -> None:
    with pytest.raises(NotImplementedError, match="inherit from SqlSchedulerBackend"):
        await scheduler.schedule_interval("note", 60, task_id="mine", replace=True)
    with pytest.raises(NotImplementedError, match="inherit from SqlSchedulerBackend"):
        await scheduler.trigger("mine")


class TestRuns:
    @pytest.fixture
    def submitted(self, scheduler: Scheduler) -> list[object]:
        submitted: list[object] = []

        async def submit(_func: object, *args: object) -> None:
            submitted.extend(args)

        scheduler.set_submit_callback(submit)
        return submitted

    async def test_what_is_due_at_the_start_runs_once(
        self, scheduler: Scheduler, shelf: Shelf, submitted: list[object]
    ) -> None:
        ago = local(micros(datetime.now(UTC))) - timedelta(minutes=5)
        for name, kind, text in (
            ("cron", ScheduleType.CRON, "* * * * *"),
            ("interval", ScheduleType.INTERVAL, "60"),
            ("once", ScheduleType.ONE_TIME, ago.isoformat()),
        ):
            await shelf.create(ScheduledTask(name, "note", kind, text, args=(name,), next_run_at=ago))
        await shelf.create(ScheduledTask("off", "note", ScheduleType.INTERVAL, "60", ("off",), {}, False, None, ago))
        await shelf.create(ScheduledTask("strange", "unknown", ScheduleType.INTERVAL, "60", next_run_at=ago))
        await scheduler.start()
        await until(lambda: len(submitted) == 3)
        later = await scheduler.schedule_once("note", local(micros(datetime.now(UTC))), ("later",))
        await until(lambda: len(submitted) == 4)
        runs = await scheduler.list_runs()
        await scheduler.stop()

        assert sorted(map(str, submitted)) == ["cron", "interval", "later", "once"]
        for name in ("cron", "interval"):
            task = shelf.tasks[name]
            assert task.last_run_at is not None
            assert task.next_run_at is not None
            assert ago < task.last_run_at < task.next_run_at
        for name in ("once", later):
            assert (shelf.tasks[name].enabled, shelf.tasks[name].next_run_at) == (False, None)
            assert shelf.tasks[name].last_run_at is not None
        assert shelf.tasks["strange"].next_run_at == ago, "others may know it"
        assert {(run["schedule_id"], run["result"]) for run in runs} >= {("cron", "submitted"), ("once", "submitted")}

    @pytest.mark.slow
    async def test_one_that_could_not_be_submitted_is_tried_again(self, scheduler: Scheduler) -> None:
        tries: list[object] = []

        async def submit(_func: object, *args: object) -> None:
            tries.extend(args)
            if len(tries) == 1:
                raise ConnectionError("away")

        scheduler.set_submit_callback(submit)
        await scheduler.start()
        await scheduler.schedule_once("note", local(micros(datetime.now(UTC))), ("a",), task_id="a")
        await until(lambda: len(tries) == 2)
        await scheduler.stop()
        (run,) = await scheduler.list_runs("a")

        assert tries == ["a", "a"]
        assert (run["attempts"], run["result"]) == (2, "submitted")

    async def test_one_that_waits_for_another_try_is_skipped_when_its_schedule_goes(self, shelf: Shelf) -> None:
        now = micros(LATER)
        await shelf.create(interval("a"))
        await shelf.create(interval("b"))
        claims = await shelf.claim(now, LOCAL, "x", 10)
        await shelf.settle(claims.runs, now, {run.id: "away" for run in claims.runs})
        await shelf.delete("a")
        await shelf.set_enabled("b", False, None)
        again = await shelf.claim(now + 2_000_000, LOCAL, "x", 10)

        assert [run.schedule.id for run in claims.runs] == ["a", "b"]
        assert (again.runs, again.skipped) == ([], {"note": 2})

    async def test_no_other_scheduler_gets_what_is_on_its_way(self, shelf: Shelf) -> None:
        now = micros(LATER)
        await shelf.create(interval("a"))
        (run,) = (await shelf.claim(now, LOCAL, "x", 10)).runs
        await shelf.renew([run.id], [], "x", now + LEASE - 1)

        assert (await shelf.claim(now + LEASE, LOCAL, "y", 10)).runs == []
        assert [each.id for each in (await shelf.claim(now + 2 * LEASE, LOCAL, "y", 10)).runs] == [
            run.id,
            f"a@{now + 60_000_000}",
        ]

    async def test_a_claim_that_the_store_ends_half_way_loses_no_run(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = micros(LATER)
        await shelf.create(interval("a"))
        await shelf.create(interval("b"))
        move_on = shelf.update_run_times

        async def fail_at_b(task_id: str, *times: datetime | None) -> None:
            if task_id == "b":
                raise ConnectionError("away")
            await move_on(task_id, *times)

        with monkeypatch.context() as failing:
            failing.setattr(shelf, "update_run_times", fail_at_b)
            with pytest.raises(ConnectionError):
                await shelf.claim(now, LOCAL, "x", 10)

        assert [run.schedule.id for run in (await shelf.claim(now, LOCAL, "x", 10)).runs] == ["a", "b"]

    async def test_as_many_are_claimed_as_are_wanted(self, shelf: Shelf) -> None:
        now = micros(LATER)
        for name in "abc":
            await shelf.create(interval(name))
        first, second = [await shelf.claim(now, LOCAL, "x", 2) for _ in range(2)]

        assert (len(first.runs), first.more, len(second.runs), second.more) == (2, True, 1, False)

    async def test_one_that_can_not_be_read_is_set_aside_alone_until_it_is_changed(
        self, shelf: Shelf, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = micros(LATER)
        await shelf.create(interval("a"))
        await shelf.create(replace(interval("b"), schedule="often"))
        claims = [await shelf.claim(now, LOCAL, "x", 10) for _ in range(2)]
        await shelf.settle(claims[0].runs, now, {})
        figures = await shelf.figures(now, None)
        due = await shelf.next_due()
        await shelf.update(replace(shelf.tasks["b"], schedule="30"))
        changed = await shelf.claim(now, LOCAL, "x", 10)

        assert [[run.schedule.id for run in each.runs] for each in (*claims, changed)] == [["a"], [], ["b"]]
        assert [record.message.partition(" task")[0] for record in caplog.records] == [
            "schedule can't run, set aside until it is changed"
        ]
        assert figures == {"total": 2, "enabled": 2, "overdue": 0, "broken": 1, "next": due}
        assert due == now + 60_000_000

    async def test_what_is_too_long_ago_is_missed(self, shelf: Shelf) -> None:
        now = micros(LATER)
        await shelf.create(interval("a", misfire_grace=1.0))
        claims = await shelf.claim(now + 30_000_000, LOCAL, "x", 10)

        assert (claims.runs, claims.missed) == ([], {"note": 1})
        assert shelf.tasks["a"].next_run_at == LATER + timedelta(minutes=1)

    async def test_its_figures_are_those_of_any_scheduler(self, scheduler: Scheduler, shelf: Shelf) -> None:
        await shelf.create(interval("a"))
        await shelf.create(interval("b", enabled=False))
        stats = await scheduler.stats()

        assert (stats["total_schedules"], stats["enabled_schedules"], stats["disabled_schedules"]) == (2, 1, 1)
        assert stats["next_run_at"] == LATER.astimezone()


async def test_a_store_that_would_end_the_program_is_one_that_is_away(
    scheduler: Scheduler, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave(*args: object) -> None:
        raise SystemExit(3)

    async def submit(*args: object) -> None: ...

    monkeypatch.setattr(shelf, "clock", leave)
    monkeypatch.setattr(shelf, "count_by_task", leave)
    monkeypatch.setattr(shelf, "close", leave)
    scheduler.set_submit_callback(submit)
    await scheduler.start()
    await until(lambda: scheduler.store_error == "SystemExit: 3")
    await scheduler.stop()


async def test_it_has_no_clock_and_nothing_to_catch_up_with(shelf: Shelf) -> None:
    assert await shelf.clock() is None
    assert await shelf.catch_up_with_clock(0) == 0
    assert await shelf.list_broken(10) == []


async def test_it_keeps_arguments_of_any_type(scheduler: Scheduler, shelf: Shelf) -> None:
    anything = object()
    await scheduler.schedule_interval("note", 60, (anything,), task_id="a")
    assert shelf.tasks["a"].args == (anything,)


async def test_it_is_asked_for_a_hundred_runs_unless_for_others(
    scheduler: Scheduler, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, int]] = []

    async def list_runs(schedule_id: str | None, limit: int) -> list[dict[str, Any]]:
        asked.append((schedule_id, limit))
        return []

    monkeypatch.setattr(shelf, "list_runs", list_runs)
    assert await scheduler.list_runs() == []
    await scheduler.list_runs("a", 1000)
    for limit in (-1, 1001):
        with pytest.raises(ValueError, match="limit must be non-negative and finite, at most 1000"):
            await scheduler.list_runs("a", limit)
    for no_limit in ("5", 1.5, True):
        with pytest.raises(TypeError, match="limit must be an integer"):
            await scheduler.list_runs("a", no_limit)  # type: ignore[arg-type]
    assert asked == [(None, 100), ("a", 1000)]


@pytest.mark.parametrize("kind", ["cron", "interval", "once"])
async def test_options_that_are_not_given_are_as_documented(scheduler: Scheduler, shelf: Shelf, kind: str) -> None:
    if kind == "cron":
        made = await scheduler.schedule_cron("note", "@daily")
    elif kind == "interval":
        made = await scheduler.schedule_interval("note", 60)
    else:
        made = await scheduler.schedule_once("note", LATER)
    task = shelf.tasks[made]
    assert (task.args, task.kwargs, task.enabled, task.description) == ((), {}, True, None)
    assert (task.max_retries, task.retry_delay, task.priority) == (3, 1.0, 0)
    assert (task.timezone, task.misfire_grace, task.misfire, task.max_running) == (None, 86_400.0, "latest", None)
    assert (task.last_run_at, task.broken) == (None, None)
    assert task.next_run_at is not None
    assert task.next_run_at > task.created_at


class CoarseShelf(Shelf):
    """Keeps times as a column of seconds would: without microseconds, and without the pass of a doubled hour."""

    asked = 0

    async def create(self, task: ScheduledTask) -> None:
        await super().create(replace(task, next_run_at=_coarse(task.next_run_at)))

    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None:
        await super().update_run_times(task_id, _coarse(last_run), _coarse(next_run))

    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]:
        self.asked += 1
        return [replace(task) for task in await super().list_due(now)]


def _coarse(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(microsecond=0, fold=0)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setitem(os.environ, "TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


class TestATimeThatIsKeptInexactly:
    async def test_an_interval_keeps_its_grid_and_is_waited_for(self) -> None:
        shelf, begin = CoarseShelf(), micros(LATER)
        await shelf.create(replace(interval("a"), schedule="0.4"))
        due_times, now = [], begin
        for _ in range(6):
            claims = await shelf.claim(now, LOCAL, "x", 10)
            due_times += [run.due - begin for run in claims.runs]
            await shelf.settle(claims.runs, now, {})
            now = await shelf.next_due() or 0

        assert due_times == [0, 400_000, 800_000, 1_200_000, 1_600_000, 2_000_000]

    @pytest.mark.usefixtures("in_berlin")
    @pytest.mark.parametrize("minutes", [15, 50])
    async def test_a_doubled_hour_has_the_runs_of_two(self, minutes: int) -> None:
        begin = datetime(2030, 10, 26, 22, tzinfo=UTC)  # clocks are put back from 03:00 to 02:00 at 01:00 UTC
        now = micros(begin)
        shelf = CoarseShelf()
        await shelf.create(replace(interval("a"), schedule=str(minutes * 60), next_run_at=local(now)))
        lags, collapsed = [], 0
        while now < micros(begin + timedelta(hours=6)):
            claims = await shelf.claim(now, LOCAL, "x", 10)
            lags += [now - run.due for run in claims.runs]
            collapsed += sum(claims.collapsed.values())
            await shelf.settle(claims.runs, now, {})
            due = await shelf.next_due()
            assert due is not None
            assert due > now, "else the loop would turn without a pause"
            now = due + 100

        assert (collapsed, lags) == (0, [0, *[100] * (len(lags) - 1)])
        assert len(lags) == -(-360 // minutes)
        assert shelf.asked == len(lags)

    @pytest.mark.usefixtures("in_berlin")
    async def test_what_is_due_at_the_end_of_the_first_pass_runs_at_the_start_of_the_second(self) -> None:
        turn = micros(datetime(2030, 10, 27, 1, tzinfo=UTC))
        shelf = CoarseShelf()
        await shelf.create(replace(interval("a"), next_run_at=local(turn - 1_000_000)))

        assert [run.due for run in (await shelf.claim(turn + 1_000_000, LOCAL, "x", 10)).runs] == [turn - 1_000_000]

    async def test_a_time_that_somebody_has_set_counts(self) -> None:
        shelf, now = CoarseShelf(), micros(LATER)
        await shelf.create(interval("a"))
        await shelf.claim(now, LOCAL, "x", 10)
        await shelf.update_run_times("a", None, LATER + timedelta(seconds=5))

        (run,) = (await shelf.claim(now + 5_000_000, LOCAL, "x", 10)).runs
        assert run.due == now + 5_000_000


class TestAStoreOfItsOwnMind:
    async def test_one_that_tells_of_more_than_is_due_has_nothing_run_early(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shelf, "list_due", lambda _now: shelf.list_enabled())
        await shelf.create(interval("a"))

        assert (await shelf.claim(micros(LATER) - 1, LOCAL, "x", 10)).runs == []

    async def test_one_that_keeps_back_what_is_due_is_asked_again_after_a_second(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = micros(LATER) + 5

        async def list_due(_now: datetime) -> list[ScheduledTask]:
            return []

        await shelf.create(interval("a"))
        with monkeypatch.context() as keeping_back:
            keeping_back.setattr(shelf, "list_due", list_due)
            assert (await shelf.claim(now, LOCAL, "x", 10, ["note"])).runs == []
        await shelf.create(replace(interval("b"), task_name="other"))

        assert await shelf.next_due(["note"]) == now + 1_000_000
        assert await shelf.next_due() == micros(LATER), "nobody has asked for the other task"

    async def test_a_schedule_that_is_deleted_while_it_is_claimed_holds_up_no_other(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await shelf.create(interval("a"))
        await shelf.create(interval("b"))
        list_due = shelf.list_due

        async def list_and_lose(now: datetime | None = None) -> list[ScheduledTask]:
            found = await list_due(now)
            await shelf.delete("a")
            return found

        monkeypatch.setattr(shelf, "list_due", list_and_lose)

        assert [run.schedule.id for run in (await shelf.claim(micros(LATER), LOCAL, "x", 10)).runs] == ["b"]

    async def test_a_schedule_without_a_due_time_gets_one(self, scheduler: Scheduler, shelf: Shelf) -> None:
        async def submit(*args: object) -> None: ...

        scheduler.set_submit_callback(submit)
        await shelf.create(replace(interval("a"), next_run_at=None))
        await shelf.create(replace(interval("b"), next_run_at=None, enabled=False))
        assert (await scheduler.stats())["broken_schedules"] == 1
        await scheduler.start()
        await until(lambda: shelf.tasks["a"].next_run_at is not None)
        stats = await scheduler.stats()
        await scheduler.stop()

        assert (stats["broken_schedules"], shelf.tasks["b"].next_run_at) == (0, None)
        for known in ("a", "b", "unknown"):
            assert not await shelf.repair(known, LATER), "nothing is to be repaired there"


class TestRunsThatWait:
    async def test_what_is_made_up_for_stays_in_the_store_until_there_is_room(self, shelf: Shelf) -> None:
        now = micros(LATER) + 30 * 60_000_000
        for name in "abc":
            await shelf.create(interval(name, misfire="all"))
        claims = await shelf.claim(now, LOCAL, "x", 10)

        assert ([run.schedule.id for run in claims.runs], claims.more) == (["a"] * 10, True)
        assert (shelf.tasks["b"].next_run_at, shelf.tasks["c"].next_run_at) == (LATER, LATER)

    async def test_none_of_a_schedule_is_begun_that_was_deleted_meanwhile(self, shelf: Shelf) -> None:
        now = micros(LATER) + 30 * 60_000_000
        await shelf.create(interval("a", misfire="all"))
        await shelf.claim(now, LOCAL, "x", 10)
        await shelf.delete("a")
        claims = await shelf.claim(now, LOCAL, "x", 100)

        assert (claims.runs, claims.skipped) == ([], {"note": 21})

    @pytest.mark.parametrize("when", ["before the try failed", "after it"])
    async def test_one_of_a_schedule_that_runs_once_is_skipped_when_that_is_disabled(
        self, shelf: Shelf, when: str
    ) -> None:
        now = micros(LATER)
        await shelf.create(ScheduledTask("a", "note", ScheduleType.ONE_TIME, LATER.isoformat(), next_run_at=LATER))
        (run,) = (await shelf.claim(now, LOCAL, "x", 10)).runs
        if when == "before the try failed":
            await shelf.set_enabled("a", False, None)
        await shelf.settle([run], now, {run.id: "away"})
        if when == "after it":
            await shelf.set_enabled("a", False, None)
        claims = await shelf.claim(now + 5_000_000, LOCAL, "x", 10)

        assert (claims.runs, claims.skipped) == ([], {"note": 1})

    async def test_one_set_aside_runs_again_when_its_zone_is_put_right(self, shelf: Shelf) -> None:
        now = micros(LATER)
        await shelf.create(replace(interval("a"), schedule_type=ScheduleType.CRON, schedule="* * * * *", timezone="X"))
        assert (await shelf.claim(now, LOCAL, "x", 10)).runs == []
        await shelf.update(replace(shelf.tasks["a"], timezone="Europe/Berlin"))

        assert [run.schedule.id for run in (await shelf.claim(now, LOCAL, "x", 10)).runs] == ["a"]
