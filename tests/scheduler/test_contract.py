"""What the published API promises of schedules, and of the Management API's part in them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from flowrra import Config, Flowrra, TaskStatus
from flowrra.config import SchedulerConfig
from flowrra.management import FlowrraManager
from flowrra.registry import TaskRegistry
from flowrra.scheduler import Scheduler, ScheduleType
from flowrra.scheduler.backends import SQLiteSchedulerBackend, get_scheduler_backend
from tests.core.apps import until


def local_now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - the scheduler's datetimes are local


class Shop:
    """An app with a scheduler and a task that notes what it was called with."""

    def __init__(self, path: Path) -> None:
        self.app = Flowrra()
        self.scheduler = self.app.create_scheduler(str(path))
        self.manager = FlowrraManager(self.app)
        self.calls: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

        @self.app.task()
        async def note(*args: Any, **kwargs: Any) -> str:
            self.calls.put_nowait((args, kwargs))
            return "noted"

        @self.app.task(retry_delay=60)
        async def flawed() -> None:
            self.calls.put_nowait(())
            raise ConnectionError("as planned")

    async def counted(self, result: str, task_name: str = "note") -> int:
        stats = await self.manager.get_schedule_run_stats()
        assert stats is not None
        count: int = stats["runs"][task_name][result]
        return count


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path / "schedules.db")
    yield shop
    await shop.app.stop()
    await shop.scheduler.backend.close()


# ── creation ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.schedule_cron("unknown", "@daily"), "not registered"),
        (lambda s: s.schedule_interval("unknown", 1), "not registered"),
        (lambda s: s.schedule_once("unknown", local_now()), "not registered"),
        (lambda s: s.schedule_cron("note", "* * * *"), "Expected 5 fields"),
        (lambda s: s.schedule_cron("note", "0 0 31 2 *"), "never"),
        (lambda s: s.schedule_interval("note", 0), "must be positive"),
        (lambda s: s.schedule_interval("note", -1.5), "must be positive"),
        (lambda s: s.schedule_cron("note", "@daily", timezone="Nowhere/Land"), "timezone is not known"),
        (lambda s: s.schedule_cron("note", "@daily", misfire_grace=0), "misfire_grace must be positive"),
        (lambda s: s.schedule_cron("note", "@daily", max_running=0), "max_running must be positive"),
        (lambda s: s.schedule_interval("note", float("nan")), "interval must be positive and finite, at most 3.1536e"),
        (lambda s: s.schedule_interval("note", float("inf")), "interval must be positive"),
        (lambda s: s.schedule_interval("note", 1e-9), "interval must be a microsecond at least"),
        (lambda s: s.schedule_interval("note", 1e300), "interval must be positive"),
        (
            lambda s: s.schedule_interval("note", 60, retry_delay=-5),
            "retry_delay must be non-negative and finite, at most 3.1536e",
        ),
        (lambda s: s.schedule_cron("note", "@daily", retry_delay=float("nan")), "retry_delay must be non-negative"),
        (lambda s: s.schedule_once("note", local_now(), retry_delay=1e300), "retry_delay must be non-negative"),
        (lambda s: s.schedule_interval("note", 60, max_retries=-1), "max_retries must be non-negative"),
        (lambda s: s.schedule_interval("note", 60, max_retries=2**31), "max_retries must be non-negative"),
        (lambda s: s.schedule_interval("note", 60, priority=2**40), "priority must be finite, between -2.14748e"),
        (lambda s: s.schedule_interval("note", 60, misfire_grace=float("inf")), "misfire_grace must be positive"),
        (lambda s: s.schedule_interval("note", 60, misfire="some"), "misfire must be one of latest, all"),
        (
            lambda s: s.schedule_interval("note", 60, task_id="x" * 239),
            "id must have from 1 to 238 characters",
        ),
        (lambda s: s.schedule_interval("note", 60, task_id=""), "id must have from 1 to 238"),
        (lambda s: s.schedule_once("note", datetime.max.replace(tzinfo=UTC)), "run_at is no time"),
        (lambda s: s.schedule_cron("note", "@daily", replace=True), "replace needs the task_id"),
        (lambda s: s.enable_task("missing"), "not found"),
        (lambda s: s.disable_task("missing"), "not found"),
        (lambda s: s.trigger("missing"), "not found"),
        (lambda s: s.list_runs(limit=1001), "limit"),
    ],
)
async def test_what_is_wrong_is_refused(shop: Shop, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await call(shop.scheduler)
    assert await shop.scheduler.list_scheduled_tasks() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.schedule_interval("note", [1]), r"interval must be a number, not \[1\]"),
        (lambda s: s.schedule_interval("note", timedelta(hours=1)), "interval must be a number"),
        (lambda s: s.schedule_interval("note", local_now()), "interval must be a number"),
        (lambda s: s.schedule_interval("note", True), "interval must be a number"),
        (lambda s: s.schedule_interval("note", "60"), "interval must be a number"),
        (lambda s: s.schedule_interval("note", 60, retry_delay="1"), "retry_delay must be a number"),
        (lambda s: s.schedule_interval("note", 60, max_retries=1.5), "max_retries must be an integer"),
        (lambda s: s.schedule_interval("note", 60, priority=[1]), "priority must be an integer"),
        (lambda s: s.schedule_interval("note", 60, args="ab"), "args must be a list or tuple, not 'ab'"),
        (lambda s: s.schedule_cron("note", "@daily", args={"a": 1}), "args must be a list or tuple"),
        (lambda s: s.schedule_cron("note", "@daily", kwargs=[1]), "kwargs must be a dict"),
        (lambda s: s.schedule_cron("note", "@daily", kwargs={1: 2}), "kwargs must be a dict whose keys are text"),
        (lambda s: s.schedule_cron("note", 5), "cron must be text"),
        (lambda s: s.schedule_cron("note", "@daily", timezone=1), "timezone must be the name"),
        (lambda s: s.schedule_cron("note", "@daily", enabled="no"), "enabled must be True or False"),
        (lambda s: s.schedule_cron("note", "@daily", description=1), "description must be text"),
        (lambda s: s.schedule_cron("note", "@daily", task_id=7), "id must be text"),
        (lambda s: s.schedule_cron("note", "@daily", max_running=1.5), "max_running must be an integer"),
        (lambda s: s.schedule_once("note", local_now().date()), "run_at must be a datetime"),
        (lambda s: s.schedule_once("note", local_now(), enabled=False), "can't be given enabled"),
        (lambda s: s.schedule_interval("note", 60, next_run_at=local_now()), "can't be given next_run_at"),
        (lambda s: s.schedule_cron("note", "@daily", broken="no", cron_text=1), "can't be given broken, cron_text"),
    ],
)
async def test_what_is_of_the_wrong_type_is_refused(shop: Shop, call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        await call(shop.scheduler)
    assert await shop.scheduler.list_scheduled_tasks() == []


async def test_an_id_of_the_greatest_length_runs(shop: Shop) -> None:
    await shop.scheduler.schedule_once("note", local_now(), task_id="x" * 238)
    async with shop.app, asyncio.timeout(2):
        assert await shop.calls.get() == ((), {})


async def test_a_schedule_is_replaced_by_its_id(shop: Shop) -> None:
    plan = shop.scheduler
    for cron in ("0 3 * * *", "0 4 * * *"):
        assert await plan.schedule_cron("note", cron, task_id="x", replace=True) == "x"
    [task] = await plan.list_scheduled_tasks()
    assert task.next_run_at is not None
    assert (task.schedule, task.next_run_at.hour) == ("0 4 * * *", 4)
    await plan.schedule_interval("note", 60, (1,), task_id="x", replace=True, priority=3)
    [task] = await plan.list_scheduled_tasks()
    assert (task.schedule_type, task.schedule, task.args, task.priority) == (ScheduleType.INTERVAL, "60", (1,), 3)
    at = local_now() + timedelta(days=1)
    await plan.schedule_once("note", at, task_id="x", replace=True)
    [task] = await plan.list_scheduled_tasks()
    assert (task.schedule_type, task.next_run_at) == (ScheduleType.ONE_TIME, at)


async def test_a_replacement_that_means_the_same_changes_only_options(shop: Shop) -> None:
    plan = shop.scheduler
    await plan.schedule_interval("note", 60, task_id="x")
    before = await plan.get_scheduled_task("x")
    await plan.disable_task("x")
    await plan.schedule_interval("note", 60.0, task_id="x", replace=True, max_retries=9, description="why")
    task = await plan.get_scheduled_task("x")
    assert before is not None
    assert task is not None
    assert (task.enabled, task.next_run_at) == (False, before.next_run_at)
    assert (task.max_retries, task.description) == (9, "why")
    await plan.enable_task("x")
    await plan.schedule_interval("note", 60, task_id="x", replace=True, enabled=False)
    task = await plan.get_scheduled_task("x")
    assert task is not None
    assert task.enabled is False


async def test_processes_that_replace_a_schedule_at_once_leave_one(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / "one.db") for _ in range(3)]
    crons = [f"{minute} 3 * * *" for minute in range(4)]
    await asyncio.gather(
        *(s.scheduler.schedule_cron("note", c, task_id="x", replace=True) for s in shops for c in crons)
    )
    assert [task.id for task in await shops[0].scheduler.list_scheduled_tasks()] == ["x"]
    await asyncio.gather(*(shop.scheduler.backend.close() for shop in shops))


async def test_a_one_time_schedule_that_is_over_is_not_enabled_but_can_be_triggered(shop: Shop) -> None:
    await shop.scheduler.schedule_once("note", local_now(), task_id="x")
    await shop.scheduler.schedule_once("note", local_now() + timedelta(days=1), task_id="later")
    async with shop.app, asyncio.timeout(5):
        await shop.calls.get()
        with pytest.raises(ValueError, match=r"was due once, at .* and that is over"):
            await shop.scheduler.enable_task("x")
        await shop.scheduler.trigger("x")
        await shop.calls.get()
        await shop.scheduler.disable_task("later")
        await shop.scheduler.enable_task("later")
        assert await shop.counted("submitted") == 2


async def test_a_stop_does_not_wait_for_a_store_that_will_not_close(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flowrra.scheduler.scheduler.STOP_TIMEOUT", 0.2)
    close = shop.scheduler.backend.close

    async def hang() -> None:
        await asyncio.Event().wait()

    await shop.app.start()
    monkeypatch.setattr(shop.scheduler.backend, "close", hang)
    async with asyncio.timeout(3):
        await shop.app.stop()
    assert "was not closed" in caplog.text
    monkeypatch.setattr(shop.scheduler.backend, "close", close)


async def test_what_means_the_same_is_one_schedule_however_it_is_written(shop: Shop) -> None:
    create = shop.scheduler
    first = await create.schedule_interval("note", 300, (1, 2), {"a": 1, "b": 2}, task_id="mine")
    assert first == "mine"
    assert await create.schedule_interval("note", 300.0, [1, 2], {"b": 2, "a": 1}, priority=3, task_id="else") == first
    cron = await create.schedule_cron("note", "0 0 * * 0")
    assert await create.schedule_cron("note", " 0  0 * * 0 ", enabled=False) == cron
    at = local_now() + timedelta(days=1)
    once = await create.schedule_once("note", at)
    assert await create.schedule_once("note", at.astimezone(UTC)) == once
    assert len({first, cron, once}) == len(await create.list_scheduled_tasks()) == 3
    kept = await create.get_scheduled_task(first)
    assert kept is not None
    assert (kept.schedule, kept.priority, kept.args) == ("300", 0, (1, 2))


async def test_the_same_time_in_another_zone_is_another_schedule(shop: Shop) -> None:
    zones = ("Europe/Berlin", "America/New_York", "Europe/Berlin")
    ids = [await shop.scheduler.schedule_cron("note", "0 9 * * *", timezone=zone) for zone in zones]
    assert ids[0] == ids[2] != ids[1]


async def test_an_id_belongs_to_one_definition(shop: Shop) -> None:
    await shop.scheduler.schedule_cron("note", "@daily", task_id="nightly")
    with pytest.raises(ValueError, match="already exists"):
        await shop.scheduler.schedule_cron("note", "@hourly", task_id="nightly")


@pytest.mark.slow
async def test_callers_at_the_same_time_make_one_schedule(tmp_path: Path) -> None:
    shops = [Shop(tmp_path / "one.db") for _ in range(3)]
    ids = await asyncio.gather(*(shop.scheduler.schedule_interval("note", 60) for shop in shops for _ in range(5)))
    assert len(set(ids)) == 1
    await asyncio.gather(*(shop.scheduler.backend.close() for shop in shops))


async def test_public_times_are_naive_and_local(shop: Shop) -> None:
    for aware in (False, True):
        at = local_now().replace(microsecond=0) + timedelta(hours=1, seconds=aware)
        schedule_id = await shop.scheduler.schedule_once("note", at.astimezone(UTC) if aware else at)
        task = await shop.scheduler.get_scheduled_task(schedule_id)
        assert task is not None
        assert task.next_run_at == at
    nightly = await shop.scheduler.get_scheduled_task(await shop.scheduler.schedule_cron("note", "0 3 * * *"))
    assert nightly is not None
    assert nightly.next_run_at is not None
    assert nightly.next_run_at > local_now()
    assert (nightly.next_run_at.hour, nightly.next_run_at.tzinfo) == (3, None)


async def test_a_schedule_survives_to_dict_and_back(shop: Shop) -> None:
    task = await shop.scheduler.get_scheduled_task(await shop.scheduler.schedule_cron("note", "@daily", (1,)))
    assert task is not None
    assert (task.to_dict()["args"], task.to_dict()["schedule_type"]) == ([1], "cron")
    assert type(task).from_dict(task.to_dict()) == task
    assert task.schedule_type is ScheduleType.CRON


# ── firing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_due_rows_fire_at_the_start_once_with_their_arguments(shop: Shop) -> None:
    shop.scheduler.check_interval = 20.0
    await shop.scheduler.schedule_once("note", local_now() - timedelta(minutes=5), (1, "b"), {"key": [2]})
    async with shop.app:
        async with asyncio.timeout(shop.scheduler.check_interval / 2):
            assert await shop.calls.get() == ((1, "b"), {"key": [2]})
        [task] = await shop.scheduler.list_scheduled_tasks()
        assert (task.enabled, task.next_run_at, task.last_run_at is None) == (False, None, False)
        await shop.scheduler.start()  # as 0.1.8's README did; harmless
        await shop.scheduler.schedule_once("note", local_now(), (2,))
        async with asyncio.timeout(shop.scheduler.check_interval / 2):
            assert await shop.calls.get() == ((2,), {})  # and nothing in between
        assert await shop.counted("submitted") == 2


async def test_a_scheduler_needs_something_to_submit_to(tmp_path: Path) -> None:
    scheduler = Scheduler(SQLiteSchedulerBackend(str(tmp_path / "s.db")), TaskRegistry())
    with pytest.raises(ValueError, match="requires either"):
        await scheduler.start()
    await scheduler.stop()


async def test_a_submit_callback_takes_precedence_and_gets_function_and_arguments(tmp_path: Path) -> None:
    registry, seen = TaskRegistry(), asyncio.Queue[tuple[Any, ...]]()

    @registry.task()
    async def note(value: int) -> None: ...

    async def submit(func: Any, *args: Any, **kwargs: Any) -> None:
        seen.put_nowait((func, args, kwargs))

    scheduler = Scheduler(SQLiteSchedulerBackend(str(tmp_path / "s.db")), registry)
    scheduler.set_submit_callback(submit)
    with pytest.raises(ValueError, match="callback"):
        await scheduler.schedule_interval("note", 60, max_running=1)
    await scheduler.schedule_once("note", local_now(), (1,), {"b": 2})
    await scheduler.start()
    async with asyncio.timeout(2):
        assert await seen.get() == (registry.get("note"), (1,), {"b": 2})
    await scheduler.stop()


async def test_retries_of_a_schedule_reach_its_task_and_higher_priorities_go_first(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "s.db")
    shop.app.config.executor.io_workers = 1
    past = local_now() - timedelta(seconds=5)
    for priority in (0, 5, -5):
        await shop.scheduler.schedule_once("note", past, (priority,), priority=priority)
    await shop.scheduler.schedule_once("flawed", past, max_retries=1, retry_delay=0.01, priority=-9, task_id="flawed")
    async with shop.app, asyncio.timeout(3):
        assert [(await shop.calls.get())[0][0] for _ in range(3)] == [5, 0, -5]
        [run] = await shop.manager.list_schedule_runs("flawed")
        record = await shop.app.wait_for_result(run["task_id"])
        assert (record.status, record.retries) == (TaskStatus.FAILED, 1)


@pytest.mark.parametrize("replace", [False, True])
async def test_retries_that_are_not_given_are_those_of_the_task(shop: Shop, replace: bool) -> None:
    calls = []

    @shop.app.task(max_retries=0, retry_delay=7)
    async def pay() -> None:
        calls.append("paid")
        raise ConnectionError("whether it was paid is not known")

    if replace:
        await shop.scheduler.schedule_interval("pay", 60, task_id="pay", max_retries=2)
    await shop.manager.create_schedule_interval("pay", 60, task_id="pay", replace=replace)
    await shop.scheduler.schedule_cron("pay", "@daily", task_id="daily", max_retries=3, retry_delay=1)
    await shop.scheduler.schedule_once("pay", local_now() + timedelta(days=1), task_id="once", retry_delay=2)
    async with shop.app, asyncio.timeout(10):
        record = await shop.app.wait_for_result(await shop.manager.trigger_schedule("pay"))
    schedules = {task.id: (task.max_retries, task.retry_delay) for task in await shop.scheduler.list_scheduled_tasks()}

    assert (record.status, calls) == (TaskStatus.FAILED, ["paid"])
    assert schedules == {"pay": (0, 7), "daily": (3, 1), "once": (0, 2)}


async def test_the_configuration_creates_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Flowrra(Config(scheduler=SchedulerConfig(enabled=False))).scheduler is None
    monkeypatch.setenv("FLOWRRA_SCHEDULER_ENABLED", "true")
    monkeypatch.setenv("FLOWRRA_SCHEDULER_DATABASE_URL", f"sqlite:///{tmp_path}/env.db")
    monkeypatch.setenv("FLOWRRA_SCHEDULER_CHECK_INTERVAL", "7.5")
    monkeypatch.setenv("FLOWRRA_SCHEDULER_TIMEZONE", "Asia/Tokyo")
    app = Flowrra(Config.from_env())
    assert app.scheduler is not None
    assert app.scheduler.check_interval == 7.5
    assert app.scheduler.zone == ZoneInfo("Asia/Tokyo")
    async with app:
        assert app.scheduler.is_running


def test_an_unknown_zone_is_refused_and_a_new_scheduler_replaces_the_one_before() -> None:
    app = Flowrra()
    with pytest.raises(ValueError, match="timezone is not known"):
        app.create_scheduler("sqlite:///:memory:", timezone="Nowhere/Land")
    assert app.create_scheduler("sqlite:///:memory:") is not app.create_scheduler("sqlite:///:memory:")
    last = app.create_scheduler("sqlite:///:memory:", timezone="Asia/Tokyo")
    assert app.scheduler is last


async def test_the_zone_of_a_scheduler_is_that_of_its_cron_expressions(tmp_path: Path) -> None:
    app = Flowrra()
    scheduler = app.create_scheduler(str(tmp_path / "s.db"), timezone="Asia/Tokyo")

    @app.task()
    async def note() -> None: ...

    found = await scheduler.get_scheduled_task(await scheduler.schedule_cron("note", "0 3 * * *"))
    other = await scheduler.get_scheduled_task(await scheduler.schedule_cron("note", "0 4 * * *", timezone="UTC"))
    assert found is not None
    assert other is not None
    assert found.next_run_at is not None
    assert other.next_run_at is not None
    assert found.next_run_at.astimezone(ZoneInfo("Asia/Tokyo")).hour == 3
    assert other.next_run_at.astimezone(UTC).hour == 4
    assert [each["timezone"] for each in await FlowrraManager(app).list_schedules()] == [None, "UTC"]
    assert (await scheduler.stats())["timezone"] == "Asia/Tokyo"
    await scheduler.backend.close()
    local = app.create_scheduler("sqlite:///:memory:")
    assert (await local.stats())["timezone"] is None
    await local.backend.close()


def test_three_slashes_are_relative_and_four_absolute() -> None:
    def path(url: str) -> str:
        store = get_scheduler_backend(url)
        assert isinstance(store, SQLiteSchedulerBackend)
        return store.database_path

    assert path("sqlite:///custom.db") == "custom.db"
    assert path("sqlite:////var/custom%20one.db") == "/var/custom one.db"
    assert path("sqlite:///:memory:") == ":memory:"
    assert path("/var/custom.db") == "/var/custom.db"


async def test_a_task_registered_after_the_start_can_be_scheduled(shop: Shop) -> None:
    async with shop.app, asyncio.timeout(2):

        @shop.app.task()
        async def late() -> None:
            shop.calls.put_nowait(("late",))

        await shop.scheduler.schedule_once("late", local_now())
        assert await shop.calls.get() == ("late",)


@pytest.mark.parametrize("seconds", ["20", 0, -1, float("nan"), float("inf"), None])
async def test_a_check_interval_that_nothing_can_wait_for_is_refused(shop: Shop, seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="check_interval must be "):
        shop.scheduler.check_interval = seconds
    assert shop.scheduler.check_interval == 60


async def test_what_is_made_enabled_or_replaced_is_due_without_waiting_for_the_check_interval(shop: Shop) -> None:
    assert shop.scheduler.check_interval == 60
    await shop.scheduler.schedule_interval("note", 0.05, ("enabled",), enabled=False, task_id="a")
    await shop.scheduler.schedule_interval("note", 3600, ("replaced",), task_id="b")
    async with shop.app, asyncio.timeout(30):
        await until(lambda: (shop.scheduler.expected_at or 0.0) > time.monotonic() + 60)  # it waits for a minute
        await shop.scheduler.enable_task("a")
        assert (await shop.calls.get())[0] == ("enabled",)
        await shop.scheduler.disable_task("a")
        await shop.scheduler.schedule_once("note", local_now(), ("replaced",), task_id="b", replace=True)
        while (await shop.calls.get())[0] != ("replaced",):
            pass
        await shop.scheduler.schedule_once("note", local_now(), ("made",))
        while (await shop.calls.get())[0] != ("made",):
            pass


async def test_changes_of_another_scheduler_are_noticed_within_the_check_interval(tmp_path: Path) -> None:
    shop, other = Shop(tmp_path / "s.db"), Shop(tmp_path / "s.db")
    shop.scheduler.check_interval = 0.2
    async with shop.app, asyncio.timeout(2):
        await other.scheduler.schedule_once("note", local_now(), ("other",))
        assert await shop.calls.get() == (("other",), {})
    await other.scheduler.backend.close()


# ── the Management API ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_zone_that_this_host_does_not_know_breaks_its_own_schedule_from_the_start(shop: Shop) -> None:
    abroad = await shop.manager.create_schedule_cron("note", "0 3 * * *", timezone="Asia/Tokyo")
    at_home = await shop.manager.create_schedule_cron("note", "0 4 * * *")
    with closing(sqlite3.connect(shop.scheduler.backend.database_path)) as connection, connection:  # type: ignore[attr-defined]
        connection.execute("UPDATE scheduled_tasks SET timezone = 'America/Newtown' WHERE id = ?", [abroad])
    listed = {schedule["id"]: schedule for schedule in await shop.manager.list_schedules()}
    why = "timezone is not known: 'America/Newtown'"
    assert (listed[abroad]["broken"], listed[abroad]["period"]) == (why, None)
    assert (listed[at_home]["broken"], listed[at_home]["period"]) == (None, 86_400.0)
    shown = await shop.manager.get_schedule(abroad)
    assert shown is not None
    assert shown["broken"] == why
    with pytest.raises(ValueError, match=why):
        await shop.manager.enable_schedule(abroad)


async def test_schedules_are_created_shown_switched_and_deleted(shop: Shop) -> None:
    manager = shop.manager
    nightly = await manager.create_schedule_cron("note", "0 3 * * *", (1,), {"b": 2}, False, "why", 4, max_retries=7)
    often = await manager.create_schedule_interval("note", 300)
    once = await manager.create_schedule_once("note", local_now() + timedelta(days=1), priority=2)
    assert [schedule["id"] for schedule in await manager.list_schedules()] == [nightly, often, once]
    assert [schedule["id"] for schedule in await manager.list_schedules(enabled_only=True)] == [often, once]
    shown = await manager.get_schedule(nightly)
    assert shown is not None
    expected = {
        "task_name": "note",
        "schedule_type": "cron",
        "schedule": "0 3 * * *",
        "enabled": False,
        "description": "why",
        "priority": 4,
        "args": (1,),
        "kwargs": {"b": 2},
        "max_retries": 7,
    }
    assert {name: shown[name] for name in expected} == expected
    await manager.enable_schedule(nightly)
    await manager.disable_schedule(often)
    assert await manager.delete_schedule(once) is True
    assert await manager.delete_schedule(once) is False
    assert await manager.get_schedule(once) is None
    stats = await manager.get_scheduler_stats()
    assert stats is not None
    assert (stats["total_schedules"], stats["enabled_schedules"], stats["disabled_schedules"]) == (2, 1, 1)
    summary = (await manager.get_stats())["scheduler"]
    assert summary == {
        "enabled": True,
        "running": False,
        "schedules": 2,
        "total_schedules": 2,
        "enabled_schedules": 1,
    }
    for change in (manager.enable_schedule, manager.disable_schedule, manager.trigger_schedule):
        with pytest.raises(ValueError, match="not found"):
            await change(once)


async def test_a_schedule_runs_when_it_is_triggered_though_it_is_disabled(shop: Shop) -> None:
    async with shop.app, asyncio.timeout(2):
        schedule_id = await shop.manager.create_schedule_cron("note", "@yearly", ("now",), enabled=False)
        task_id = await shop.manager.trigger_schedule(schedule_id)
        assert (await shop.app.wait_for_result(task_id)).result == "noted"
        assert shop.calls.get_nowait() == (("now",), {})
        assert await shop.counted("submitted") == 1
        [run] = await shop.manager.list_schedule_runs(schedule_id)
        assert (run["task_id"], run["result"], run["attempts"], run["error"]) == (task_id, "submitted", 1, None)
        assert run["due"].tzinfo is run["fired"].tzinfo is UTC
        assert 0 <= run["lag"] == (run["fired"] - run["due"]).total_seconds()
        [shown] = await shop.manager.list_schedules()
        assert shown["last_run_at"].astimezone(UTC) == run["due"]


async def test_a_run_that_could_not_be_triggered_is_counted_and_not_tried_again(shop: Shop) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("as planned")

    shop.scheduler.set_submit_callback(refuse)
    schedule_id = await shop.manager.create_schedule_cron("note", "@yearly")
    with pytest.raises(ConnectionError):
        await shop.manager.trigger_schedule(schedule_id)
    [run] = await shop.manager.list_schedule_runs()
    assert (run["result"], run["error"], run["fired"]) == ("failed", "ConnectionError: as planned", None)
    assert await shop.counted("failed") == 1


async def test_the_latest_runs_are_listed_up_to_a_limit(shop: Shop) -> None:
    async with shop.app:
        ids = [await shop.manager.create_schedule_cron("note", "@yearly", (n,)) for n in range(2)]
        triggered = [await shop.manager.trigger_schedule(ids[n % 2]) for n in range(6)]
        listed = [run["task_id"] for run in await shop.manager.list_schedule_runs(limit=4)]
        assert listed == triggered[:1:-1]
        assert {run["schedule_id"] for run in await shop.manager.list_schedule_runs(ids[0])} == {ids[0]}


# ── overlap, and what can't run ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_a_schedule_that_skips_every_other_run_fills_no_log(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    @shop.app.task()
    async def long() -> None:
        await asyncio.sleep(0.15)

    async with shop.app, asyncio.timeout(30):
        await shop.manager.create_schedule_interval("long", 0.1, max_running=1)
        while await shop.counted("skipped", "long") < 3 or await shop.counted("submitted", "long") < 4:
            await asyncio.sleep(0.02)

    said = [record for record in caplog.records if record.message.startswith("run was skipped max_running=1 task=long")]
    assert len(said) == 1


async def test_a_run_is_skipped_while_as_many_as_may_run_have_not_ended(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()

    @shop.app.task()
    async def long() -> None:
        shop.calls.put_nowait(())
        await gate.wait()

    async with shop.app, asyncio.timeout(5):
        schedule_id = await shop.manager.create_schedule_interval("long", 0.1, max_running=2)
        await shop.calls.get()
        await shop.calls.get()
        while await shop.counted("skipped", "long") < 2:
            await asyncio.sleep(0.05)
        assert shop.calls.empty()
        gate.set()
        await shop.calls.get()
        runs = await shop.manager.list_schedule_runs(schedule_id)
        skipped = [run for run in runs if run["result"] == "skipped"]
        assert {(run["fired"], run["lag"]) for run in skipped} == {(None, None)}
        assert await shop.counted("submitted", "long") >= 3
    assert f"run was skipped max_running=2 task=long schedule={schedule_id}" in caplog.text


@pytest.mark.slow
async def test_more_than_a_hundred_tasks_of_a_schedule_are_counted(shop: Shop) -> None:
    gate, begun = asyncio.Event(), 0

    @shop.app.task()
    async def long() -> None:
        nonlocal begun
        begun += 1
        await gate.wait()

    async with shop.app, asyncio.timeout(20):
        await shop.manager.create_schedule_interval("long", 0.01, max_running=105)
        while await shop.counted("skipped", "long") < 5:
            await asyncio.sleep(0.05)
        assert begun <= 105
        assert await shop.counted("submitted", "long") == 105
        gate.set()


async def test_a_task_that_takes_long_is_counted_after_many_others_of_its_schedule(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.scheduler.submissions.LOOK_BACK", 2)
    gate, begun, running = asyncio.Event(), 0, 0

    @shop.app.task()
    async def some() -> None:
        nonlocal begun, running
        begun, running = begun + 1, running + 1
        if begun == 1 or begun > 10:
            await gate.wait()
        running -= 1

    async with shop.app, asyncio.timeout(20):
        await shop.manager.create_schedule_interval("some", 0.02, max_running=2)
        while begun < 11:
            await asyncio.sleep(0.02)
        skipped = await shop.counted("skipped", "some")
        while await shop.counted("skipped", "some") < skipped + 3:
            await asyncio.sleep(0.02)
        assert running == 2
        gate.set()


async def test_every_scheduled_task_is_counted_from_the_start(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "s.db")
    await shop.scheduler.schedule_cron("note", "@yearly")
    assert await shop.counted("submitted") == 0
    later = Shop(tmp_path / "s.db")
    async with later.app, asyncio.timeout(2):
        while (await later.manager.get_schedule_run_stats() or {})["runs"] == {}:
            await asyncio.sleep(0.01)
        assert await later.counted("missed") == 0
    await shop.scheduler.backend.close()


async def test_a_schedule_whose_task_is_not_registered_is_broken_until_it_is(tmp_path: Path) -> None:
    shop, other = Shop(tmp_path / "s.db"), Flowrra()
    calls: asyncio.Queue[None] = asyncio.Queue()
    async with shop.app:
        other.create_scheduler(str(tmp_path / "s.db"))

        @other.task()
        async def elsewhere() -> None: ...

        await FlowrraManager(other).create_schedule_interval("elsewhere", 0.3)
        stats = await shop.manager.get_scheduler_stats()
        assert stats is not None
        assert stats["broken_schedules"] == 1

        @shop.app.task("elsewhere")
        async def here() -> None:
            calls.put_nowait(None)

        shop.scheduler.check_interval = 0.1
        await shop.scheduler.schedule_cron("note", "@yearly")  # wakes the scheduler
        async with asyncio.timeout(3):
            await calls.get()
        stats = await shop.manager.get_scheduler_stats()
        assert stats is not None
        assert stats["broken_schedules"] == 0
    assert other.scheduler is not None
    await other.scheduler.backend.close()


async def test_a_schedule_that_cannot_be_read_goes_on_once_its_row_is_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flowrra.scheduler")
    shop = Shop(tmp_path / "s.db")
    schedule_id = await shop.scheduler.schedule_interval("note", 0.05)

    def write(schedule: str) -> None:
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
            connection.execute("UPDATE scheduled_tasks SET schedule = ?", (schedule,))

    async def broken() -> int:
        stats = await shop.manager.get_scheduler_stats()
        assert stats is not None
        count: int = stats["broken_schedules"]
        return count

    shop.scheduler.check_interval = 0.1
    await asyncio.to_thread(write, "often")
    async with shop.app, asyncio.timeout(3):
        while await broken() == 0:
            await asyncio.sleep(0.02)
        shown = await shop.manager.get_schedule(schedule_id)
        assert shown is not None
        assert (shown["enabled"], shown["next_run_at"]) == (True, None)
        assert "often" in shown["broken"]
        await asyncio.to_thread(write, "0.1")
        await shop.calls.get()
        assert await broken() == 0
    assert caplog.text.count(f"broken schedule was repaired task=note schedule={schedule_id}") == 1


async def test_a_scheduler_whose_loop_hangs_is_unhealthy(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.scheduler.dispatcher.TURN_TIMEOUT", 0.2)
    hang = asyncio.Event()

    async def hanging(*_: Any) -> None:
        await hang.wait()

    async def health() -> Any:
        return (await shop.manager.health_check())["components"]["scheduler"]

    async with shop.app:
        assert (await health())["healthy"] is True
        monkeypatch.setattr(shop.scheduler.backend, "claim", hanging)
        shop.scheduler.check_interval = 0.05
        await shop.scheduler.schedule_cron("note", "@yearly")
        async with asyncio.timeout(3):
            while (await health())["healthy"]:
                await asyncio.sleep(0.05)
        assert "TimeoutError" in (await health())["message"] or "hangs" in (await health())["message"]
