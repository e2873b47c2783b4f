"""What every schedule store does: SQLite, PostgreSQL, MariaDB."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from flowrra.scheduler.backends import get_scheduler_backend
from flowrra.scheduler.backends.sql import LEASE, SqlSchedulerBackend
from flowrra.scheduler.backends.sql_rows import written
from flowrra.scheduler.backends.sql_schema import RUNS, SCHEDULES
from flowrra.scheduler.local_time import LOCAL, micros
from flowrra.scheduler.models import ScheduledTask, ScheduleType
from tests.support.forks import FORK_IS_MEANT

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456)  # noqa: DTZ001 - the stores' datetimes are local
SECOND = 1_000_000
NOT_IN_0_1_8 = ("timezone", "misfire_grace", "max_running", "broken", "due", "last_run", "definition", "misfire")


def new_store(url: str) -> SqlSchedulerBackend:
    store = get_scheduler_backend(url)
    assert isinstance(store, SqlSchedulerBackend)
    return store


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlSchedulerBackend]:
    found = new_store(url)
    yield found
    await found.close()


def once(name: str, late: float = 1.0, **fields: Any) -> ScheduledTask:
    """A schedule that is due once, `late` seconds ago."""
    at = NOW - timedelta(seconds=late)
    return ScheduledTask(name, "note", ScheduleType.ONE_TIME, at.isoformat(), (name,), next_run_at=at, **fields)


async def spoil(store: SqlSchedulerBackend, task_id: str, **columns: str) -> None:
    """Write what 0.1.8 or a person might have written, past all checks."""
    changes = ", ".join(f"{name} = '{text}'" for name, text in columns.items())
    await store._write(sa.text(f"UPDATE scheduled_tasks SET {changes} WHERE id = '{task_id}'"))


async def test_a_schedule_reads_back_as_it_was_written(store: SqlSchedulerBackend) -> None:
    task = once("a", kwargs={"ä": [1, None, {"b": 0.5}]}, description="für", priority=3, timezone="Asia/Tokyo")
    await store.create(task)
    assert await store.get("a") == task
    task.enabled, task.max_retries = False, 7
    before = task.updated_at
    await store.update(task)
    assert task.updated_at > before
    assert await store.get("a") == task
    assert (await store.delete("a"), await store.delete("a"), await store.get("a")) == (True, False, None)


async def test_what_is_there_already_or_not_at_all_is_refused(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    with pytest.raises(ValueError, match="already exists"):
        await store.create(once("a", 2.0))
    for change in (store.update(once("b")), store.update_run_times("b", NOW, NOW), store.set_enabled("b", True, NOW)):
        with pytest.raises(ValueError, match="not found"):
            await change


async def test_lists_are_ordered_and_bounded_as_they_say(store: SqlSchedulerBackend) -> None:
    ages = {"old": 9.0, "urgent": 1.0, "new": 3.0, "future": -60.0, "off": 5.0}
    for number, (name, late) in enumerate(ages.items()):
        created = NOW + timedelta(seconds=number)
        await store.create(once(name, late, priority=int(name == "urgent"), enabled=name != "off", created_at=created))
    assert [task.id for task in await store.list_all()] == list(ages)
    assert [task.id for task in await store.list_enabled()] == ["old", "new", "urgent", "future"]
    assert [task.id for task in await store.list_due(NOW)] == ["urgent", "old", "new"]
    await store.update_run_times("old", NOW, None)
    assert [task.id for task in await store.list_due(NOW)] == ["urgent", "new"]
    assert (await store.clear(), await store.list_all()) == (5, [])


async def test_a_definition_is_found_however_it_is_written(store: SqlSchedulerBackend) -> None:
    await store.create(ScheduledTask("i", "note", ScheduleType.INTERVAL, "300", (), {"a": 1, "b": 2}))
    found = await store.find_by_definition("note", ScheduleType.INTERVAL, "300.0", (), {"b": 2, "a": 1})
    assert found is not None
    assert (found.id, found.schedule) == ("i", "300")
    assert await store.find_by_definition("note", ScheduleType.INTERVAL, "301", (), {"b": 2, "a": 1}) is None
    with pytest.raises(ValueError, match="already exists"):
        await store.create_once(ScheduledTask("j", "note", ScheduleType.INTERVAL, "3e2", (), {"b": 2, "a": 1}))


@pytest.mark.slow
async def test_schedules_of_equal_content_are_kept_under_their_ids(store: SqlSchedulerBackend) -> None:
    def task(name: str) -> ScheduledTask:
        return ScheduledTask(name, "note", ScheduleType.INTERVAL, "300", next_run_at=NOW)

    for name in ("one", "two", "three"):
        await store.create(task(name))
    with pytest.raises(ValueError, match="'two' already exists"):
        await store.create(task("two"))
    await store.update(task("two"))
    changed = task("four")
    changed.schedule = "60"
    await store.create(changed)
    changed.schedule = "300"
    await store.update(changed)
    assert len((await store.claim(micros(NOW), LOCAL, "x", 10)).runs) == 4
    await store.delete("one")
    await store.close()
    found = await store.find_by_definition("note", ScheduleType.INTERVAL, "300.0")
    assert found is not None
    assert found.id in {"two", "three", "four"}


@pytest.mark.parametrize(
    "columns",
    [{"retry_delay": "-5"}, {"max_retries": "-1"}, {"max_running": "0"}, {"misfire": "some"}, {"timezone": "Nowhere"}],
)
async def test_a_row_whose_values_no_task_can_have_is_set_aside_and_told_of_once(
    store: SqlSchedulerBackend, columns: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        await store.create(once(name))
    await spoil(store, "bad", **columns)
    for turn in range(3):
        runs = (await store.claim(micros(NOW) + turn, LOCAL, "x", 10)).runs
        assert [run.schedule.id for run in runs] == ([] if turn else ["good"])
    assert (await store.figures(micros(NOW)))["broken"] == 1
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "schedule=bad" in told
    assert next(iter(columns)) in told


@pytest.mark.slow
async def test_a_due_time_that_was_dealt_with_is_not_run_again(
    store: SqlSchedulerBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await store.create(once("a"))
    await store.settle((await store.claim(micros(NOW), LOCAL, "x", 10)).runs, micros(NOW), {})
    await store.set_enabled("a", True, NOW - timedelta(seconds=1))
    assert (await store.claim(micros(NOW), LOCAL, "x", 10)).runs == []
    assert "dealt with before" in caplog.text


@pytest.mark.slow
async def test_many_that_open_an_empty_database_at_once_claim_each_due_time_once(url: str) -> None:
    stores = [new_store(url) for _ in range(6)]
    await asyncio.gather(*(store.list_all() for store in stores))
    for number in range(40):
        await stores[0].create(once(f"{number}"))
    claims = await asyncio.gather(*(store.claim(micros(NOW), LOCAL, str(n), 10) for n, store in enumerate(stores * 3)))
    claimed = [run.id for claim in claims for run in claim.runs]
    while more := (await stores[0].claim(micros(NOW), LOCAL, "last", 10)).runs:
        claimed += [run.id for run in more]
    assert sorted(claimed) == sorted(f"{n}@{micros(NOW) - SECOND}" for n in range(40))
    assert not [task for task in await stores[0].list_all() if task.enabled]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_run_whose_scheduler_is_gone_is_taken_after_its_lease_and_a_settled_one_is_not(
    store: SqlSchedulerBackend,
) -> None:
    await store.create(once("a"))
    [run] = (await store.claim(micros(NOW), LOCAL, "killed", 10)).runs
    assert (await store.claim(micros(NOW) + LEASE - 1, LOCAL, "other", 10)).runs == []
    [again] = (await store.claim(micros(NOW) + LEASE, LOCAL, "other", 10)).runs
    assert (again.id, again.attempts) == (run.id, 2)
    await store.settle([again], micros(NOW) + LEASE, {})
    assert (await store.claim(micros(NOW) + 3 * LEASE, LOCAL, "third", 10)).runs == []
    assert await store.next_due() is None


@pytest.mark.slow
async def test_a_run_that_is_still_being_submitted_is_not_taken_over(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    [run] = (await store.claim(micros(NOW), LOCAL, "slow", 10)).runs
    await store.renew([run.id], [], "slow", micros(NOW) + LEASE - 1)
    assert (await store.claim(micros(NOW) + LEASE, LOCAL, "other", 10)).runs == []
    [again] = (await store.claim(micros(NOW) + 2 * LEASE, LOCAL, "other", 10)).runs
    await store.renew([run.id], [], "slow", micros(NOW) + 3 * LEASE)  # too late: it is another's
    [third] = (await store.claim(micros(NOW) + 3 * LEASE, LOCAL, "third", 10)).runs
    assert again.id == third.id == run.id


async def test_any_number_of_runs_are_kept_alive_and_from_being_taken_over(store: SqlSchedulerBackend) -> None:
    for name in ("a", "b"):
        await store.create(once(name))
    running, claimed = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    await store.settle([running], micros(NOW), {})
    others = [f"other@{number}" for number in range(33_000)]  # more than a query of PostgreSQL takes
    await store.renew([*others, claimed.id], [*others, running.id], "x", micros(NOW) + SECOND)
    rows = {row["id"]: row for row in await store.list_runs(None, 10)}
    assert rows[claimed.id]["lease"] == rows[running.id]["alive"] == micros(NOW) + SECOND + LEASE


async def test_a_run_whose_scheduler_is_gone_is_missed_once_its_grace_has_ended(store: SqlSchedulerBackend) -> None:
    await store.create(once("a", misfire_grace=60.0))
    await store.claim(micros(NOW), LOCAL, "killed", 10)
    claims = await store.claim(micros(NOW) + 60 * SECOND, LOCAL, "late", 10)
    assert (claims.runs, claims.missed) == ([], {"note": 1})
    assert [run["result"] for run in await store.list_runs("a", 10)] == ["missed"]
    assert await store.next_due() is None


async def test_a_run_whose_schedule_was_deleted_before_it_was_submitted_is_counted(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    await store.claim(micros(NOW), LOCAL, "killed", 10)
    await store.delete("a")
    claims = await store.claim(micros(NOW) + LEASE, LOCAL, "other", 10)
    assert (claims.runs, claims.skipped) == ([], {"note": 1})
    assert [run["result"] for run in await store.list_runs("a", 10)] == ["skipped"]


@pytest.mark.parametrize(
    "change", ["disable", "disable and enable", "replace", "replace and disable", "create anew", "clear"]
)
async def test_a_run_that_waits_for_another_try_is_skipped_once_its_schedule_is_another_or_disabled(
    store: SqlSchedulerBackend, change: str
) -> None:
    for name in ("a", "b"):
        await store.create(ScheduledTask(name, "note", ScheduleType.INTERVAL, "3600", (name,), next_run_at=NOW))
    runs = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    await store.settle(runs, micros(NOW), {run.id: "ConnectionError: away" for run in runs})
    other = ScheduledTask("a", "note", ScheduleType.INTERVAL, "86400", ("wipe",), next_run_at=NOW + timedelta(days=1))
    if change.startswith("disable"):
        await store.set_enabled("a", False, None)
    if change.endswith("enable"):
        await store.set_enabled("a", True, NOW + timedelta(days=1))
    if change == "replace":
        assert await store.replace(other)
    if change == "replace and disable":
        same = ScheduledTask("a", "note", ScheduleType.INTERVAL, "3600", ("a",), next_run_at=NOW, enabled=False)
        assert await store.replace(same)
    if change == "create anew":
        await store.delete("a")
        await store.create(other)
    if change == "clear":
        await store.clear()
        for name in ("a", "b"):
            await store.create(
                ScheduledTask(name, "note", ScheduleType.INTERVAL, "60", (name,), next_run_at=NOW + timedelta(days=1))
            )
    kept = [] if change == "clear" else ["b"]
    claims = await store.claim(micros(NOW) + 2 * SECOND, LOCAL, "x", 10)
    assert [run.schedule.id for run in claims.runs] == kept
    assert claims.skipped == {"note": 2 - len(kept)}
    assert [run["result"] for run in await store.list_runs("a", 10)] == ["skipped"]


async def test_a_replacement_that_means_the_same_leaves_its_runs_to_be_tried_again(store: SqlSchedulerBackend) -> None:
    task = ScheduledTask("a", "note", ScheduleType.INTERVAL, "3600", next_run_at=NOW)
    await store.create(task)
    [run] = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    await store.settle([run], micros(NOW), {run.id: "ConnectionError: away"})
    task.description = "hourly"
    assert await store.replace(task)
    [again] = (await store.claim(micros(NOW) + 2 * SECOND, LOCAL, "x", 10)).runs
    assert (again.id, again.schedule.description) == (run.id, "hourly")


async def test_a_run_that_is_being_submitted_while_its_schedule_is_disabled_is_recorded(
    store: SqlSchedulerBackend,
) -> None:
    await store.create(once("a"))
    await store.create(once("b"))
    runs = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    await store.set_enabled("a", False, None)
    await store.set_enabled("b", False, None)
    failed = next(run.id for run in runs if run.schedule.id == "b")
    await store.settle(runs, micros(NOW), {failed: "ConnectionError: away"})
    claims = await store.claim(micros(NOW) + 2 * SECOND, LOCAL, "x", 10)
    assert (claims.runs, claims.skipped) == ([], {"note": 1})
    assert {row["schedule_id"]: row["result"] for row in await store.list_runs(None, 10)} == {
        "a": "submitted",
        "b": "skipped",
    }


@pytest.mark.slow
async def test_an_error_that_is_told_late_undoes_no_submission(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    [run] = (await store.claim(micros(NOW), LOCAL, "slow", 10)).runs
    [again] = (await store.claim(micros(NOW) + LEASE, LOCAL, "other", 10)).runs
    await store.settle([again], micros(NOW) + LEASE, {})
    await store.settle([run], micros(NOW) + LEASE, {run.id: "OSError: too late"})
    [listed] = await store.list_runs("a", 10)
    assert (listed["result"], listed["lease"]) == ("submitted", None)


async def test_a_schedule_that_is_disabled_stays_so_and_one_that_is_enabled_keeps_its_due_time(
    store: SqlSchedulerBackend,
) -> None:
    await store.create(ScheduledTask("i", "note", ScheduleType.INTERVAL, "1", next_run_at=NOW))
    await store.set_enabled("i", True, NOW + timedelta(hours=1))
    assert await store.next_due() == micros(NOW)
    await asyncio.gather(store.claim(micros(NOW), LOCAL, "x", 10), store.set_enabled("i", False, None))
    found = await store.get("i")
    assert found is not None
    assert found.enabled is False
    await store.set_enabled("i", True, NOW + timedelta(hours=1))
    found = await store.get("i")
    assert found is not None
    assert (found.enabled, found.next_run_at) == (True, NOW + timedelta(hours=1))


async def test_only_what_is_enabled_and_still_broken_is_repaired(store: SqlSchedulerBackend) -> None:
    for name, broken, enabled in (("well", None, True), ("off", "why", False), ("broken", "why", True)):
        await store.create(once(name, -5.0, broken=broken, enabled=enabled))
    assert [await store.repair(name, NOW) for name in ("well", "off", "broken", "gone")] == [False, False, True, False]
    assert [task.id for task in await store.list_due(NOW)] == ["broken"]
    assert {task.id: task.enabled for task in await store.list_all()} == {"well": True, "off": False, "broken": True}


async def test_an_unknown_type_is_broken_visible_and_stops_nothing(store: SqlSchedulerBackend) -> None:
    for name in ("bad", "good"):
        await store.create(once(name))
    await spoil(store, "bad", schedule_type="hourly")
    listed = {task.id: task.broken for task in await store.list_all()}
    assert listed["good"] is None
    assert "'hourly' is not a valid ScheduleType" in str(listed["bad"])
    claims = await store.claim(micros(NOW), LOCAL, "x", 10)
    assert [run.schedule.id for run in claims.runs] == ["good"]
    await store.settle(claims.runs, micros(NOW), {})
    assert await store.next_due() is None  # it doesn't spin
    assert (await store.figures(micros(NOW)))["broken"] == 1
    with pytest.raises(ValueError, match="is broken"):
        await store.begin_run("bad", micros(NOW), "x")
    await spoil(store, "bad", schedule_type="one_time")
    await store.set_enabled("bad", True, NOW)
    assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["bad"]


async def test_a_zone_or_interval_that_makes_no_sense_stops_nothing(
    store: SqlSchedulerBackend,
) -> None:
    hourly = {"schedule_type": ScheduleType.CRON, "schedule": "0 * * * *", "next_run_at": NOW}
    await store.create(ScheduledTask("folder", "note", timezone="Europe", args=(1,), **hourly))
    await store.create(ScheduledTask("zero", "note", ScheduleType.INTERVAL, "0", (2,), next_run_at=NOW))
    await store.create(once("good"))
    claims = await store.claim(micros(NOW), LOCAL, "x", 10)
    assert [run.schedule.id for run in claims.runs] == ["good"]
    await store.settle(claims.runs, micros(NOW), {})
    assert await store.next_due() is None
    assert (await store.figures(micros(NOW)))["broken"] == 2


@pytest.mark.slow
async def test_a_missed_run_is_not_a_last_run(store: SqlSchedulerBackend) -> None:
    at = NOW - timedelta(hours=1)
    late = ScheduledTask("late", "note", ScheduleType.INTERVAL, "86400", next_run_at=at, misfire_grace=60.0)
    await store.create(late)
    claims = await store.claim(micros(NOW), LOCAL, "x", 10)
    assert claims.missed == {"note": 1}
    found = await store.get("late")
    assert found is not None
    assert found.last_run_at is None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("column", "text"),
    [("args", "[1, "), ("args", "7"), ("kwargs", "[]"), ("created_at", "yesterday"), ("last_run_at", "9")],
)
async def test_text_that_no_column_should_hold_breaks_its_row_only(
    store: SqlSchedulerBackend, column: str, text: str
) -> None:
    for name in ("bad", "good"):
        await store.create(once(name))
    await spoil(store, "bad", **{column: text})
    [bad] = [task for task in await store.list_all() if task.id == "bad"]
    assert str(bad.broken).startswith(f"{column} ")
    # Who may see that a schedule is broken may not see what its task is called with.
    assert (text in str(bad.broken)) == (column not in ("args", "kwargs"))
    assert "can't be read" in str(bad.broken)
    assert column != "created_at" or bad.created_at == datetime(1970, 1, 1)  # noqa: DTZ001
    assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["good"]
    assert await store.next_due() == micros(NOW) + LEASE


@pytest.mark.slow
async def test_tables_of_0_1_8_are_upgraded_by_many_at_once_and_lose_nothing(url: str) -> None:
    store = new_store(url)
    tasks = [once("a"), once("b", 2.0), once("twin", 2.0)]
    tasks[2].args = tasks[1].args
    for number, task in enumerate(tasks[:2]):
        task.created_at = NOW + timedelta(seconds=number)
        await store.create(task)
    engine = await store._open()
    async with engine.begin() as connection:
        for index in sorted(index.name or "" for index in SCHEDULES.indexes):
            on = " ON scheduled_tasks" if engine.dialect.name in ("mysql", "mariadb") else ""
            await connection.execute(sa.text(f"DROP INDEX {index}{on}"))
        for column in NOT_IN_0_1_8:
            await connection.execute(sa.text(f"ALTER TABLE scheduled_tasks DROP COLUMN {column}"))
        columns = ", ".join(c.name for c in SCHEDULES.columns if c.name not in ("id", *NOT_IN_0_1_8))
        copy = f"INSERT INTO scheduled_tasks (id, {columns}) SELECT 'twin', {columns} FROM scheduled_tasks"
        await connection.execute(sa.text(f"{copy} WHERE id = 'b'"))
        await connection.execute(sa.text("DROP TABLE schedule_runs"))
    await store.close()
    stores = [new_store(url) for _ in range(4)]
    for listed in await asyncio.gather(*(each.list_all() for each in stores)):
        assert {task.id: task.next_run_at for task in listed} == {task.id: task.next_run_at for task in tasks}
    rows = await stores[0]._read(SCHEDULES.select().order_by(SCHEDULES.c.id))
    assert [row["definition"] is not None for row in rows] in ([True, True, False], [True, False, True])
    claims = await stores[0].claim(micros(NOW), LOCAL, "x", 10)
    assert sorted(run.schedule.id for run in claims.runs) == ["a", "b", "twin"]
    await asyncio.gather(*(each.close() for each in stores))


async def test_tables_get_the_indexes_that_they_lack(url: str) -> None:
    def names(connection: sa.Connection) -> set[str | None]:
        return {index["name"] for index in sa.inspect(connection).get_indexes("scheduled_tasks")}

    store = new_store(url)
    engine = await store._open()
    async with engine.begin() as connection:
        made = await connection.run_sync(names)
        for index in SCHEDULES.indexes:
            await connection.run_sync(index.drop)
        assert not made & await connection.run_sync(names)
    await store.close()
    engine = await store._open()
    async with engine.connect() as connection:
        assert await connection.run_sync(names) == made
    await store.close()


@pytest.mark.slow
async def test_tables_of_the_version_before_get_the_columns_that_they_lack(url: str) -> None:
    store = new_store(url)
    await store.create(once("a"))
    engine = await store._open()
    async with engine.begin() as connection:
        for table, column in (
            ("scheduled_tasks", "misfire"),
            ("schedule_runs", "alive"),
            ("schedule_runs", "task_name"),
        ):
            await connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    await store.close()
    assert [run.schedule.misfire for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["latest"]
    await store.close()


@pytest.mark.slow
def test_a_store_is_used_from_one_event_loop_after_the_other_and_from_two_at_once(url: str) -> None:
    store = new_store(url)
    asyncio.run(store.create(once("a")))
    for _ in range(3):
        assert [task.id for task in asyncio.run(store.list_all())] == ["a"]

    async def from_another() -> list[ScheduledTask]:
        await store.list_all()
        return await asyncio.to_thread(lambda: asyncio.run(store.list_all()))

    assert [task.id for task in asyncio.run(from_another())] == ["a"]
    assert not store._engines  # they went with their loops


def test_what_is_in_memory_outlives_a_loop_but_not_its_closing() -> None:
    store = new_store("sqlite:///:memory:")
    asyncio.run(store.create(once("a")))

    async def read_and_close() -> list[ScheduledTask]:
        found = (await asyncio.gather(*(store.list_all() for _ in range(5))))[0]
        await store.close()
        return found

    assert [task.id for task in asyncio.run(read_and_close())] == ["a"]
    assert asyncio.run(read_and_close()) == []


async def test_old_runs_are_removed_in_bounded_steps(store: SqlSchedulerBackend, monkeypatch: Any) -> None:
    for name, value in {"MOST_RUNS": 5, "TRIM_EVERY": 4, "TRIM_BATCH": 3}.items():
        monkeypatch.setattr(f"flowrra.scheduler.backends.sql.{name}", value)
    for number in range(12):
        await store.create(once(f"{number}", 20.0 - number))
    counts = []
    runs = (await store.claim(micros(NOW), LOCAL, "x", 20)).runs
    for first in range(0, 12, 4):
        await store.settle(runs[first : first + 4], micros(NOW), {})
        counts.append(len(await store.list_runs(None, 100)))
    assert counts == [9, 6, 5]
    assert [run["schedule_id"] for run in await store.list_runs(None, 100)] == ["11", "10", "9", "8", "7"]


def test_schedules_are_managed_with_a_loop_for_each_request_whether_the_app_runs_or_not(url: str) -> None:
    app = Flowrra()
    app.create_scheduler(url)

    @app.task(name="note")
    async def note() -> None: ...

    manager = FlowrraManager(app)
    made = asyncio.run(manager.create_schedule_interval("note", 3600))
    asyncio.run(manager.disable_schedule(made))

    def request() -> list[tuple[str, bool]]:
        return [(task["id"], task["enabled"]) for task in asyncio.run(manager.list_schedules())]

    async def while_it_runs() -> list[tuple[str, bool]]:
        async with app:
            return await asyncio.to_thread(request)

    assert request() == asyncio.run(while_it_runs()) == request() == [(made, False)]


async def test_an_error_shows_nothing_of_what_was_written(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    await store._write(sa.text("ALTER TABLE scheduled_tasks RENAME TO elsewhere"))
    with pytest.raises(sa.exc.DBAPIError) as caught:
        await store.create(once("b", kwargs={"password": "hunter2"}))
    assert "scheduled_tasks" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql", "mysql"], indirect=True)
class TestLocks:
    """What one scheduler is changing, another passes over instead of waiting for it."""

    @pytest.mark.slow
    async def test_a_schedule_that_another_is_claiming(self, store: SqlSchedulerBackend) -> None:
        for name in ("taken", "free"):
            await store.create(once(name))
        async with (await store._open()).begin() as another, asyncio.timeout(10):
            await another.execute(SCHEDULES.select().where(SCHEDULES.c.id == "taken").with_for_update())
            assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["free"]
        assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["taken"]

    @pytest.mark.slow
    async def test_a_run_that_another_is_taking_over(self, store: SqlSchedulerBackend) -> None:
        for name in ("taken", "free"):
            await store.create(once(name))
        assert len((await store.claim(micros(NOW), LOCAL, "killed", 10)).runs) == 2
        later = micros(NOW) + LEASE
        async with (await store._open()).begin() as another, asyncio.timeout(10):
            await another.execute(RUNS.select().where(RUNS.c.schedule_id == "taken").with_for_update())
            assert [run.schedule.id for run in (await store.claim(later, LOCAL, "x", 10)).runs] == ["free"]
        assert [run.schedule.id for run in (await store.claim(later, LOCAL, "x", 10)).runs] == ["taken"]

    @pytest.mark.slow
    async def test_an_old_run_that_another_is_removing(self, store: SqlSchedulerBackend, monkeypatch: Any) -> None:
        for name, late in (("taken", 9.0), ("old", 8.0), ("new", 1.0)):
            await store.create(once(name, late))
        runs = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
        await store.settle(runs, micros(NOW), {})
        assert len(await store.list_runs(None, 10)) == 3
        for name in ("MOST_RUNS", "TRIM_EVERY"):
            monkeypatch.setattr(f"flowrra.scheduler.backends.sql.{name}", 1)
        async with (await store._open()).begin() as another, asyncio.timeout(10):
            await another.execute(RUNS.select().where(RUNS.c.schedule_id == "taken").with_for_update())
            await store.settle(runs[-1:], micros(NOW), {})
        assert [run["schedule_id"] for run in await store.list_runs(None, 10)] == ["new", "taken"]


async def test_ids_and_names_that_differ_in_their_case_are_different_ones(store: SqlSchedulerBackend) -> None:
    for name in ("Mail", "mail"):
        await store.create(ScheduledTask(name, name, ScheduleType.INTERVAL, "60", next_run_at=NOW))
    assert await store.count_by_task() == {"Mail": 1, "mail": 1}
    [run] = (await store.claim(micros(NOW), LOCAL, "x", 10, ["mail"])).runs
    assert (run.schedule.id, run.schedule.task_name) == ("mail", "mail")
    [run] = (await store.claim(micros(NOW), LOCAL, "x", 10, ["Mail"])).runs
    assert run.schedule.id == "Mail"
    assert await store.delete("Mail")
    assert [task.id for task in await store.list_all()] == ["mail"]


@pytest.mark.parametrize("url", [pytest.param("mysql", marks=pytest.mark.tools)], indirect=True)
async def test_tables_that_took_small_and_capital_letters_for_the_same_are_upgraded(url: str) -> None:
    store = new_store(url)
    await store.create(once("käse"))
    engine = await store._open()
    async with engine.begin() as connection:
        for table in ("scheduled_tasks", "schedule_runs"):
            change = f"ALTER TABLE {table} CONVERT TO CHARACTER SET latin1 COLLATE latin1_swedish_ci"
            await connection.execute(sa.text(change))
    await store.close()
    await store.create(once("Käse"))
    await store.create(once("\N{CHEESE WEDGE}"))
    assert sorted(task.id for task in await store.list_all()) == ["Käse", "käse", "\N{CHEESE WEDGE}"]
    assert len((await store.claim(micros(NOW), LOCAL, "x", 10)).runs) == 3
    await store.close()


async def test_when_a_schedule_ran_is_the_same_instant_whatever_the_zone_that_it_was_written_in(
    store: SqlSchedulerBackend,
) -> None:
    await store.create(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=NOW))
    assert len((await store.claim(micros(NOW), LOCAL, "x", 10)).runs) == 1
    async with (await store._open()).begin() as connection:  # as a process shows it that is in another zone
        await connection.execute(SCHEDULES.update().values(last_run_at=NOW + timedelta(hours=5)))
    assert [task.last_run_at for task in await store.list_all()] == [NOW]


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_schedule_without_a_due_time_counts_as_broken_until_it_has_one(
    store: SqlSchedulerBackend, is_known: bool
) -> None:
    await store.create(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=NOW if is_known else None))
    await store._write(SCHEDULES.update().values(due=None))
    assert (await store.figures(micros(NOW)))["broken"] == 1
    [task] = await store.list_broken(10)
    assert (task.broken, task.next_run_at) == (None, NOW if is_known else None)
    assert await store.repair("a", NOW)
    assert (await store.figures(micros(NOW)))["broken"] == 0
    assert not await store.repair("a", NOW + timedelta(days=1))
    assert len((await store.claim(micros(NOW), LOCAL, "x", 10)).runs) == 1


async def test_the_columns_of_0_1_8_say_when_a_schedule_is_due_as_well(store: SqlSchedulerBackend) -> None:
    async def is_due_at(at: datetime | None) -> bool:
        [row] = await store._read(SCHEDULES.select())
        return (row["next_run_at"], row["due"]) == (at, None if at is None else micros(at))

    task = ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=NOW)
    later = [NOW + timedelta(seconds=60 * n) for n in range(10)]
    await store.create(task)
    assert await is_due_at(later[0])
    assert len((await store.claim(micros(NOW), LOCAL, "x", 10)).runs) == 1
    assert await is_due_at(later[1])
    await store.update_run_times("a", NOW, later[2])
    assert await is_due_at(later[2])
    task.next_run_at = later[3]
    await store.update(task)
    assert await is_due_at(later[3])
    task.schedule, task.next_run_at = "30", later[4]
    assert await store.replace(task)
    assert await is_due_at(later[4])
    await store.set_enabled("a", False, None)
    assert await is_due_at(later[4])
    await store.set_enabled("a", True, later[5])
    assert await is_due_at(later[5])
    await spoil(store, "a", broken="why")
    assert await store.repair("a", later[6])
    assert await is_due_at(later[6])
    await store.update_run_times("a", NOW, None)
    assert await is_due_at(None)


async def test_a_due_time_that_no_clock_can_show_breaks_its_row_only(store: SqlSchedulerBackend) -> None:
    for name in ("bad", "good"):
        await store.create(once(name))
    await spoil(store, "bad", due=str(2**62))
    broken = {task.id: task.broken for task in await store.list_all()}
    assert broken["good"] is None
    assert f"due {2**62} can't be read" in str(broken["bad"])
    assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["good"]


async def test_no_more_is_claimed_or_taken_over_than_is_asked_for(store: SqlSchedulerBackend) -> None:
    for number in range(3):
        await store.create(once(f"{number}", 10.0 - number))
    claims = [await store.claim(micros(NOW), LOCAL, "x", 2) for _ in range(2)]
    assert [([run.schedule.id for run in claim.runs], claim.more) for claim in claims] == [
        (["0", "1"], True),
        (["2"], False),
    ]
    later = [await store.claim(micros(NOW) + LEASE, LOCAL, "y", 2) for _ in range(3)]
    assert [len(claim.runs) for claim in later] == [2, 1, 0]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(100, [({"0", "1"}, 121, True), ({"2"}, 60, False)]), (61, [({"0"}, 61, True), ({"1", "2"}, 120, False)])],
)
async def test_schedules_that_make_up_for_much_are_claimed_a_few_at_a_time(
    store: SqlSchedulerBackend, limit: int, expected: list[tuple[set[str], int, bool]]
) -> None:
    for number in range(3):
        late = NOW - timedelta(hours=1, seconds=-number)
        await store.create(
            ScheduledTask(f"{number}", "note", ScheduleType.INTERVAL, "60", (number,), next_run_at=late, misfire="all")
        )
    claims = [await store.claim(micros(NOW), LOCAL, "x", limit) for _ in range(2)]
    assert [({run.schedule.id for run in claim.runs}, len(claim.runs), claim.more) for claim in claims] == expected


async def test_a_schedule_that_was_triggered_is_claimed_by_its_owner_and_says_when_it_ran(
    store: SqlSchedulerBackend,
) -> None:
    await store.create(once("a", -3600.0))
    run = await store.begin_run("a", micros(NOW), "x")
    assert run is not None
    assert (run.id, run.due, run.attempts, run.until) == (f"a@{micros(NOW)}", micros(NOW), 1, micros(NOW))
    [row] = await store.list_runs("a", 10)
    assert (row["owner"], row["result"], row["lease"], row["task_name"]) == (
        "x",
        "claimed",
        micros(NOW) + LEASE,
        "note",
    )
    task = await store.get("a")
    assert task is not None
    assert (task.last_run_at, task.next_run_at) == (NOW, NOW + timedelta(hours=1))
    assert await store.begin_run("unknown", micros(NOW), "x") is None


async def test_runs_are_listed_by_schedule_and_result(store: SqlSchedulerBackend) -> None:
    for name, late in (("a", 3.0), ("b", 2.0), ("c", 1.0)):
        await store.create(once(name, late))
    runs = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    await store.settle(runs, micros(NOW), {runs[1].id: "OSError: why"}, {runs[2].id})
    listed = {row["schedule_id"]: (row["result"], row["error"], row["fired"]) for row in await store.list_runs(None, 9)}
    assert listed == {
        "a": ("submitted", None, micros(NOW)),
        "b": ("claimed", "OSError: why", None),
        "c": ("skipped", None, None),
    }
    assert [row["schedule_id"] for row in await store.list_runs(None, 9, ("claimed", "skipped"))] == ["c", "b"]
    assert await store.list_runs("a", 9, ("claimed",)) == []
    # What was skipped is over; what failed is tried again two seconds later.
    assert await store.next_due() == micros(NOW) + 2 * SECOND


async def test_opening_a_store_again_leaves_its_rows_as_they_are(store: SqlSchedulerBackend) -> None:
    await store.create(ScheduledTask("i", "note", ScheduleType.INTERVAL, "300", next_run_at=NOW))
    before = await store._read(SCHEDULES.select())
    await store.close()
    assert await store._read(SCHEDULES.select()) == before
    assert before[0]["definition"] is not None


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_time_with_an_offset_is_read_as_a_local_one(store: SqlSchedulerBackend) -> None:
    await store.create(once("a"))
    await spoil(store, "a", created_at="2026-03-04T05:06:07+00:00", last_run_at="2026-03-04T05:06:07.123456")
    [task] = await store.list_all()
    assert task.created_at == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert task.last_run_at == NOW


async def test_the_latest_hundred_runs_of_a_schedule_that_may_not_overlap_are_kept(
    store: SqlSchedulerBackend, monkeypatch: Any
) -> None:
    for name, most in (("limited", 1), ("free", None)):
        await store.create(once(name, -60.0, max_running=most))
        rows = [
            {"id": f"{name}@{n}", "schedule_id": name, "due": n, "attempts": 1, "result": "submitted"}
            for n in range(103)
        ]
        await store._write(RUNS.insert().values(rows))
    for name in ("MOST_RUNS", "TRIM_EVERY"):
        monkeypatch.setattr(f"flowrra.scheduler.backends.sql.{name}", 1)
    run = await store.begin_run("free", micros(NOW), "x")
    assert run is not None
    await store.settle([run], micros(NOW), {})
    kept = [(row["schedule_id"], row["due"]) for row in await store.list_runs(None, 1000)]
    assert [due for name, due in kept if name == "limited"] == list(range(102, 2, -1))
    assert [due for name, due in kept if name == "free"][:1] == [micros(NOW)]
    assert len(kept) <= 102


FORKED = """
import asyncio, gc, os, signal
from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend
from tests.scheduler.test_stores import once

async def names():
    async with asyncio.timeout(10):
        return [each.id for each in await store.list_all()]

store = SQLiteSchedulerBackend(":memory:")
with asyncio.Runner() as runner:
    runner.run(store.create(once("parents")))
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # should it hang, nobody else would end it
        with asyncio.Runner() as own:
            print(own.run(names()), flush=True)
            own.run(store.create(once("childs")))
            print(own.run(names()), flush=True)
            own.run(store.close())
            gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    print(runner.run(names()))
    runner.run(store.close())
"""


@pytest.mark.slow
def test_what_is_in_memory_is_not_in_a_forked_child() -> None:
    command = [sys.executable, "-W", "error", "-W", FORK_IS_MEANT, "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("[]\n['childs']\n['parents']\n", "")


async def test_what_is_in_memory_is_one_whoever_asks_at_once() -> None:
    store = new_store("sqlite:///:memory:")
    names = [f"s{n}" for n in range(20)]
    await asyncio.gather(*(store.create(once(name)) for name in names))
    found = await asyncio.gather(*(store.get(name) for name in names))
    assert [each.id for each in found if each is not None] == names
    assert {each.id for each in await store.list_all()} == set(names)
    await store.close()


async def test_a_schedule_that_is_replaced_by_what_it_is_was_not_changed(store: SqlSchedulerBackend) -> None:
    task = ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=NOW, created_at=NOW, updated_at=NOW)
    await store.create(task)

    async def changed_by(**options: Any) -> bool:
        before = (await store.list_all())[0].updated_at
        assert await store.replace(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60.0", **options))
        return (await store.list_all())[0].updated_at != before

    assert not await changed_by()
    assert await changed_by(description="figures")
    assert not await changed_by(description="figures")
    assert await changed_by(description="figures", enabled=False)
    assert not await changed_by(description="figures", enabled=False)
    assert not await changed_by(description="figures")  # which leaves it disabled


@pytest.mark.parametrize("number", [1e16, 1.5e300, -0.0, 0.1, 2**70])
async def test_one_that_is_replaced_by_what_it_is_stays_due_when_it_is_whatever_its_numbers(
    store: SqlSchedulerBackend, number: float
) -> None:
    given: dict[str, Any] = {"args": (number,), "kwargs": {"n": [number]}}
    await store.create(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=NOW, **given))
    later = NOW + timedelta(seconds=30)
    assert await store.replace(ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", next_run_at=later, **given))
    found = await store.get("a")
    assert found is not None
    assert found.next_run_at == NOW


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [(2**53, 2**53 + 1), (1, True), (False, 0), (1, 1.0), (10**400, 10**401), (10**16 + 1, 1e16)],
    ids=lambda number: f"{number:.6}" if isinstance(number, float) else f"{number}"[:20],
)
@pytest.mark.parametrize("kind", ["plain", "nested", "named"])
async def test_what_is_to_run_once_runs_with_other_arguments_though_they_are_nearly_the_same(
    store: SqlSchedulerBackend, kind: str, before: float, after: float
) -> None:
    async def ran(later: int = 0) -> list[str]:
        runs = (await store.claim(micros(NOW) + later, LOCAL, "x", 10)).runs
        return [repr((run.schedule.args, run.schedule.kwargs)) for run in runs]

    def call(number: float) -> dict[str, Any]:
        args = {"plain": (number,), "nested": ([{"n": [number]}],), "named": ()}[kind]
        return {"args": args, "kwargs": {"n": number} if kind == "named" else {}}

    wrong, right = (ScheduledTask(**{**vars(once("bill")), **call(number)}) for number in (before, after))
    await store.create(wrong)
    await ran()
    assert await store.replace(right)
    found = await store.find_by_definition("note", right.schedule_type, right.schedule, right.args, right.kwargs)
    assert found is not None
    # PostgreSQL has integers of whole numbers that are written with an exponent.
    shown = repr((right.args, right.kwargs))
    is_whole = after == 1e16 and store._url.get_backend_name() == "postgresql"
    expected = [shown.replace("1e+16", f"{10**16}") if is_whole else shown]
    assert await ran() == expected
    assert await store.replace(right)
    assert await ran() == []
    assert await ran(LEASE) == expected  # neither was submitted, and the first was withdrawn


@pytest.mark.parametrize(("before", "after"), [(1e16, 10**16), (10**16, 1e16)])
async def test_a_schedule_is_found_by_the_arguments_that_it_was_given_last(
    store: SqlSchedulerBackend, before: float, after: float
) -> None:
    for number in (before, after):
        task = ScheduledTask("a", "note", ScheduleType.INTERVAL, "60", (number,))
        if not await store.replace(task):
            await store.create(task)
    assert await store.find_by_definition("note", ScheduleType.INTERVAL, "60", (before,)) is None
    assert await store.find_by_definition("note", ScheduleType.INTERVAL, "60", (after,)) is not None


@pytest.mark.parametrize("replaces", [False, True])
async def test_what_a_store_can_not_keep_is_refused(url: str, replaces: bool) -> None:
    app = Flowrra()
    app.task(name="note")(asyncio.sleep)
    scheduler = app.create_scheduler(url)
    refused: list[dict[str, Any]] = [{"description": "caf\ud800"}]
    if not url.startswith("sqlite"):
        refused += [{"args": (float("nan"),)}, {"args": ("\ud800",)}]
    if url.startswith("postgresql"):
        refused += [{"args": ("a\0b",)}, {"description": "a\0b"}, {"task_id": "a\0b"}]
    if url.startswith("mysql"):
        refused += [{"description": "x" * 70_000}]
    for options in refused:
        with pytest.raises(ValueError, match="can't be kept in this store: "):
            async with asyncio.timeout(5):
                await scheduler.schedule_interval("note", 60, **{"task_id": "a", **options}, replace=replaces)
        with pytest.raises(ValueError, match="can't be kept in this store: "):
            async with asyncio.timeout(5):
                await scheduler.schedule_once("note", NOW, **{"task_id": "a", **options}, replace=replaces)
    assert await scheduler.list_scheduled_tasks() == []
    await scheduler.backend.close()


SHORT_WAIT = {
    "sqlite": "PRAGMA busy_timeout = 50",
    "postgresql": "SET lock_timeout = 50",  # milliseconds
    "mysql": "SET innodb_lock_wait_timeout = 1",  # seconds, the least there is
}


@pytest.mark.parametrize("options", [{"description": r"\u0000"}, {"args": (r"\u0000",)}, {"description": "ordinary"}])
async def test_a_store_that_is_busy_says_so_whatever_it_is_to_keep(url: str, options: dict[str, Any]) -> None:
    store, other = new_store(url), new_store(url)
    await store._write(sa.text(SHORT_WAIT[url.partition(":")[0]]))
    task = ScheduledTask(**{**vars(once("a")), **options})
    async with (await other._open()).begin() as connection:
        await connection.execute(SCHEDULES.insert().values(written(once("a"))))
        with pytest.raises(sa.exc.DBAPIError, match=r"(?i)lock"):
            await store.create(task)
        await connection.rollback()
    await store.create(task)
    assert await store.get("a") == task
    await store.close()
    await other.close()


async def test_nul_is_kept_by_a_store_that_takes_it_and_refused_by_another(url: str) -> None:
    store = new_store(url)
    task = once("a\0b", description="c\0d", kwargs={"e\0f": "g\0h"})
    if url.startswith("postgresql"):
        with pytest.raises(ValueError, match="has a NUL character"):
            await store.create(task)
    else:
        await store.create(task)
        assert await store.get("a\0b") == task
    await store.close()


@pytest.mark.parametrize("schedule_id", ["a\0b", "caf\ud800", "x" * 5_000])
async def test_an_id_that_no_schedule_can_have_is_unknown(url: str, schedule_id: str) -> None:
    scheduler = Flowrra().create_scheduler(url)
    store = scheduler.backend
    assert await store.get(schedule_id) is None
    assert not await store.delete(schedule_id)
    assert await store.list_runs(schedule_id, 10) == []
    for change in (scheduler.enable_task, scheduler.disable_task, scheduler.trigger):
        with pytest.raises(ValueError, match="not found"):
            await change(schedule_id)
    await store.close()


@pytest.mark.parametrize("by", ["replace", "create", "create_once"])
async def test_what_is_to_run_once_runs_though_another_of_its_id_and_time_has(
    store: SqlSchedulerBackend, by: str
) -> None:
    wrong, right = once("bill"), once("bill")
    wrong.args, right.args = ("wrong",), ("right",)
    await store.create(wrong)
    assert [run.schedule.args for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == [("wrong",)]
    if by != "replace":
        assert await store.delete("bill")
    await getattr(store, by)(right)
    [run] = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    assert (run.schedule.args, run.due - micros(wrong.next_run_at or NOW)) == (("right",), 1)
    # The same once more has had its run.
    assert await store.replace(right)
    assert (await store.claim(micros(NOW), LOCAL, "x", 10)).runs == []


async def test_what_is_overdue_or_next_can_be_told_of_some_tasks_alone(store: SqlSchedulerBackend) -> None:
    for name, late in (("known", -60), ("gone", 60)):
        at = NOW - timedelta(seconds=late)
        await store.create(ScheduledTask(name, name, ScheduleType.INTERVAL, "60", next_run_at=at))
    of_all, of_known = [await store.figures(micros(NOW), known) for known in (None, ["known"])]
    assert (of_all["total"], of_all["overdue"], of_all["next"]) == (2, 1, micros(NOW - timedelta(seconds=60)))
    assert (of_known["total"], of_known["overdue"], of_known["next"]) == (2, 0, micros(NOW + timedelta(seconds=60)))


# Tells of one row when a deletion has the schedule and waits for the run.
IS_WAITED_FOR = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "mysql": "SELECT 1 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM scheduled_tasks FOR UPDATE SKIP LOCKED)",
}


# On SQLite writers take turns.
SERVERS = [pytest.param(kind, marks=pytest.mark.tools) for kind in IS_WAITED_FOR]


@pytest.mark.parametrize("url", SERVERS, indirect=True)
async def test_what_deadlocks_with_another_transaction_is_done_after_that(store: SqlSchedulerBackend) -> None:
    kind = store._url.get_backend_name()
    await store.create(once("a"))
    [run] = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    engine = await store._open()
    async with asyncio.timeout(30), engine.begin() as other:
        # MariaDB ends the transaction that has done less.
        await other.execute(RUNS.insert(), [run_row(f"b@{number}", number) for number in range(50)])
        await other.execute(RUNS.update().where(RUNS.c.id == run.id).values(error="other"))
        deletion = asyncio.create_task(store.delete("a"))
        while not await store._read(sa.text(IS_WAITED_FOR[kind])):
            await asyncio.sleep(0.01)
        await other.execute(SCHEDULES.update().values(description="other"))

    assert await deletion
    assert await store.get("a") is None


def run_row(run_id: str, due: int) -> dict[str, Any]:
    return {"id": run_id, "schedule_id": "b", "due": due, "attempts": 1, "result": "submitted"}


@pytest.mark.parametrize("replaces", [False, True])
async def test_one_that_others_make_and_delete_meanwhile_is_made_all_the_same(
    store: SqlSchedulerBackend, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    others = 0

    def meeting_others(create: Any) -> Any:
        async def meet(task: ScheduledTask) -> None:
            nonlocal others
            others += 1
            if others == 1:
                await store._write(SCHEDULES.insert().values(written(once("a"))))
            try:
                await create(task)
            finally:
                if others == 1:
                    await store.delete("a")

        return meet

    monkeypatch.setattr(store, "create", meeting_others(store.create))
    monkeypatch.setattr(store, "create_once", meeting_others(store.create_once))
    make = store.create_or_replace if replaces else store.find_or_create

    assert await make(once("a", description="mine")) == "a"
    found = await store.get("a")
    assert found is not None
    assert found.description == "mine"
