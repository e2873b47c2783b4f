"""Tasks are listed page by page, the latest submitted first, and counted without looking through them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
import redis

from flowrra import BackendError, TaskResult, TaskStatus, codec
from flowrra.backends import BaseResultBackend, InMemoryBackend
from flowrra.backends.listing import MAX_LOOKED_AT, Place, TaskFilter
from flowrra.backends.memory_lists import LISTED_AT_ONCE
from flowrra.backends.redis import RedisBackend
from flowrra.backends.redis_lists import read_page
from flowrra.backends.submission_order import CHUNK, SubmissionOrder
from flowrra.management import FlowrraManager
from tests.core.apps import final, memory_app, record_of
from tests.history.conftest import Place as AppPlace
from tests.redis.apps import Gate, calls_of, partitioned_backend, redis_app, with_tasks
from tests.support.forks import FORK_IS_MEANT

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def record(number: int, status: TaskStatus = TaskStatus.SUCCESS, name: str = "work", **fields: Any) -> TaskResult:
    """The record of a task that was submitted so many seconds into the day."""
    return TaskResult(f"t{number:06}", status, name, submitted_at=DAY + timedelta(seconds=number), **fields)


MAKE: dict[str, Callable[[str], BaseResultBackend]] = {
    "memory": lambda _: InMemoryBackend(),
    "redis": RedisBackend,
    "partitions": partitioned_backend,
}


@pytest.fixture(params=[*MAKE])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[BaseResultBackend]:
    backend = MAKE[request.param]("" if request.param == "memory" else request.getfixturevalue("url"))
    yield backend
    await backend.close()


async def keep(backend: BaseResultBackend, records: list[TaskResult]) -> None:
    await asyncio.gather(*(backend.store(each.task_id, each) for each in records))


async def pages_of(backend: BaseResultBackend, wanted: TaskFilter, limit: int) -> AsyncIterator[list[str]]:
    """The ids of each page."""
    cursor = None
    while True:
        page = await backend.find(wanted, limit, cursor)
        assert len(page.records) <= limit
        yield [each.task_id for each in page.records]
        if page.cursor is None:
            return
        assert page.cursor != cursor
        cursor = page.cursor


async def all_of(backend: BaseResultBackend, wanted: TaskFilter, limit: int = 7) -> list[str]:
    return [task_id async for page in pages_of(backend, wanted, limit) for task_id in page]


# ── what is listed ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
async def test_each_comes_once_and_the_latest_first(backend: BaseResultBackend) -> None:
    records = [record(number, status) for number, status in enumerate([*TaskStatus] * 10)]
    random.Random(1).shuffle(records)
    await keep(backend, records)

    everything = sorted((each.task_id for each in records), reverse=True)
    for limit in (1, 7, 59, 60, 61):
        assert await all_of(backend, TaskFilter(), limit) == everything
    for status in TaskStatus:
        expected = sorted((each.task_id for each in records if each.status is status), reverse=True)
        assert await all_of(backend, TaskFilter(status), 3) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        {"name": "mail"},
        {"name": "mail", "status": TaskStatus.FAILED},
        {"name": "nobody's"},
        {"since": DAY + timedelta(seconds=50)},
        {"until": DAY + timedelta(seconds=50)},
        {"since": DAY + timedelta(seconds=20), "until": DAY + timedelta(seconds=120), "name": "work"},
        {"error": "ConnectionError"},
        {"worker": "host-1"},
        {"worker": "host-1", "status": TaskStatus.RUNNING, "name": "mail"},
    ],
    ids=lambda wanted: "-".join(wanted),
)
async def test_filters_give_what_looking_through_all_gives(backend: BaseResultBackend, wanted: dict[str, Any]) -> None:
    chance = random.Random(20261129)
    records = [
        record(
            number,
            chance.choice([*TaskStatus]),
            chance.choice(["mail", "work", "päckchen: 7"]),
            error=chance.choice([None, "ValueError: no", "ConnectionError: away"]),
            worker=chance.choice([None, "host-1", "host-2"]),
        )
        for number in range(200)
    ]
    await keep(backend, records)

    meant = TaskFilter(**wanted)
    expected = [
        each.task_id
        for each in reversed(records)
        if meant.matches(each)
        and each.submitted_at is not None
        and (meant.since is None or each.submitted_at >= meant.since)
        and (meant.until is None or each.submitted_at < meant.until)
    ]
    assert await all_of(backend, meant) == expected


async def test_many_that_were_submitted_in_the_same_moment_come_once(backend: BaseResultBackend) -> None:
    records = [TaskResult(f"t{n:04}", TaskStatus.SUCCESS, "work", submitted_at=DAY) for n in range(300)]
    records += [TaskResult(f"u{n:04}", TaskStatus.FAILED, "work") for n in range(50)]  # nobody knows when
    await keep(backend, records)

    expected = [f"t{n:04}" for n in reversed(range(300))] + [f"u{n:04}" for n in reversed(range(50))]
    assert await all_of(backend, TaskFilter(), 9) == expected
    assert await all_of(backend, TaskFilter(name="work"), 100) == expected


@pytest.mark.slow
async def test_a_rare_one_is_found_though_a_page_looks_at_a_bounded_number(backend: BaseResultBackend) -> None:
    records = [record(number) for number in range(3 * MAX_LOOKED_AT)]
    records[5].worker = "host-7"
    await keep(backend, records)

    pages = [page async for page in pages_of(backend, TaskFilter(worker="host-7"), 10)]
    assert [each for page in pages for each in page] == ["t000005"]
    assert len(pages) >= 3


@pytest.mark.slow
async def test_while_tasks_finish_and_come_the_cursor_stays_right(backend: BaseResultBackend) -> None:
    """What was there at the first page, and still is, comes exactly once, though all statuses change meanwhile."""
    chance = random.Random(7)
    records = {each.task_id: each for each in (record(n, TaskStatus.PENDING) for n in range(150))}
    await keep(backend, [*records.values()])
    found: list[str] = []
    gone: set[str] = set()
    later = 1000
    async for page in pages_of(backend, TaskFilter(), 11):
        found += page
        for task_id in chance.sample([*records], 20):
            if task_id not in gone:
                records[task_id].status = chance.choice([TaskStatus.RUNNING, TaskStatus.SUCCESS, TaskStatus.FAILED])
                await backend.store(task_id, records[task_id].copy())
        leaving = chance.choice([*records])
        gone.add(leaving)
        await backend.delete(leaving)
        later += 1
        await backend.store(f"t{later:06}", record(later))

    assert found == sorted(set(found), reverse=True)
    assert set(records) - gone <= set(found) <= set(records)


async def test_a_task_that_is_run_under_its_id_again_is_listed_where_it_is_now(backend: BaseResultBackend) -> None:
    await keep(backend, [record(1), record(2), record(3)])
    await backend.store(
        "t000001", TaskResult("t000001", TaskStatus.FAILED, "mail", submitted_at=DAY + timedelta(days=1))
    )

    assert await all_of(backend, TaskFilter()) == ["t000001", "t000003", "t000002"]
    assert await all_of(backend, TaskFilter(TaskStatus.SUCCESS)) == ["t000003", "t000002"]
    assert await all_of(backend, TaskFilter(name="mail")) == ["t000001"]
    assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 2, (TaskStatus.FAILED, "mail"): 1}


async def test_one_whose_end_is_stored_twice_takes_no_other_off_the_lists(backend: BaseResultBackend) -> None:
    await keep(backend, [record(1)])
    assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 1}
    for _ in range(2):
        await backend.store("t000002", record(2))

    assert await all_of(backend, TaskFilter()) == ["t000002", "t000001"]
    assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 2}


@pytest.mark.slow
async def test_what_expires_is_neither_listed_nor_counted(url: str) -> None:
    for backend in (InMemoryBackend(max_age=1.0), RedisBackend(url, ttl=1.0), partitioned_backend(url, ttl=1.0)):
        await keep(backend, [record(n, name=f"work {n % 2}") for n in range(20)])
        async with asyncio.timeout(10):
            while await backend.get("t000000") or await backend.get("t000019"):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.02)  # what has expired on a server is unlisted 10 ms later
        for n in range(20):  # what is unlisted goes with what comes, to the same partition
            await backend.store(f"t{100 + n:06}", record(100 + n, name="later"))
        assert len(await all_of(backend, TaskFilter(name="later"))) == 20
        assert await all_of(backend, TaskFilter(name="work 0")) == []
        assert await backend.count() == {(TaskStatus.SUCCESS, "later"): 20}
        await backend.close()


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
async def test_what_has_no_name_on_a_list_is_counted_by_its_status(backend: RedisBackend, look: redis.Redis) -> None:
    await keep(backend, [record(1)])
    old = record(2)
    look.set("flowrra:task:t000002", codec.encode_record(old).text)  # as flowrra 0.1.8 does
    look.zadd("flowrra:status:success", {"t000002": 0})

    assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 1, (TaskStatus.SUCCESS, None): 1}
    assert await all_of(backend, TaskFilter(TaskStatus.SUCCESS)) == ["t000001", "t000002"]


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
async def test_what_a_worker_ended_that_knows_no_lists_by_name_is_counted_no_more_once_it_expires(
    backend: RedisBackend, look: redis.Redis
) -> None:
    await keep(backend, [record(1, TaskStatus.PENDING)])
    look.zrem("flowrra:status:pending", "t000001")
    look.zadd("flowrra:status:success", {"t000001": 1})
    look.delete("flowrra:task:t000001")
    look.rpush("flowrra:finished", "1 success t000001")

    # What an earlier version has left is looked at by one in some calls.
    async with asyncio.timeout(10):
        while await backend.count() != {(TaskStatus.SUCCESS, "work"): 1}:
            await keep(backend, [record(2)])


@pytest.mark.parametrize("how", ["expires", "is deleted"])
async def test_of_a_name_whose_last_record_goes_nothing_is_left(url: str, look: redis.Redis, how: str) -> None:
    backend = RedisBackend(url, ttl=0.02)
    await keep(backend, [record(1, name="once")])
    names = {entry.split()[-1] for entry in look.smembers("flowrra:listed")}  # type: ignore[union-attr]
    assert names == {b"once"}
    if how == "is deleted":
        await backend.delete("t000001")
    async with asyncio.timeout(10):
        while names != {b"later"}:  # what has expired is unlisted with what comes
            await keep(backend, [record(2, name="later")])
            names = {entry.split()[-1] for entry in look.smembers("flowrra:listed")}  # type: ignore[union-attr]
            assert how == "expires" or names == {b"later"}
    await backend.close()


@pytest.mark.slow
async def test_a_task_that_is_submitted_under_an_expired_id_is_counted_once(url: str) -> None:
    async with with_tasks(redis_app(url)) as app:
        app.results.ttl_ms = 50  # type: ignore[attr-defined]
        await app.options(task_id="nightly").submit("echo", 1)
        async with asyncio.timeout(10):
            while (found := await app.get_result("nightly")) is None or not found.is_complete:
                await asyncio.sleep(0.001)
            while await app.get_result("nightly") is not None:
                await asyncio.sleep(0.01)
        app.results.ttl_ms = 60_000  # type: ignore[attr-defined]
        await app.options(task_id="nightly").submit("fail")
        await final(app, "nightly")
        await asyncio.sleep(0.02)  # what has expired on a server is unlisted 10 ms later
        await final(app, await app.submit("add", 1, 1))

        manager = FlowrraManager(app)
        async with asyncio.timeout(10):  # a record of another ttl is unlisted with a worker's next sign of life
            while await manager.count_tasks("name") != {"fail": 1, "add": 1}:
                await asyncio.sleep(0.05)
        assert [each["task_name"] for each in (await manager.list_tasks())["tasks"]] == ["add", "fail"]


@pytest.mark.parametrize("cursor", ["", "7", "x:7", "nan:7", "inf:7", "1e305:7", ":"])
async def test_what_is_no_cursor_is_refused(backend: BaseResultBackend, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor must be"):
        await backend.find(TaskFilter(), 10, cursor)


async def test_a_backend_of_ones_own_that_lists_by_status_is_paged_as_well() -> None:
    class Own(InMemoryBackend):
        find = BaseResultBackend.find
        count = BaseResultBackend.count

    backend = Own()
    await keep(backend, [record(n, status) for n, status in enumerate([*TaskStatus] * 5)])
    assert await all_of(backend, TaskFilter()) == [f"t{n:06}" for n in reversed(range(30))]
    assert await backend.count() == Counter({(status, "work"): 5 for status in TaskStatus})


@pytest.mark.slow
async def test_the_first_task_of_a_name_is_counted_by_its_name_however_often_one_looks(
    backend: BaseResultBackend,
) -> None:
    async def keep_one_of_each_name() -> None:
        for number in range(100):
            await backend.store(f"t{number}", record(number, name=f"work-{number}"))
            await asyncio.sleep(0.002)  # for the look to be at any moment of it

    keeping = asyncio.create_task(keep_one_of_each_name())
    seen: set[str | None] = set()
    while not keeping.done():
        seen.update(name for _, name in await backend.count())
        await asyncio.sleep(0)
    await keeping
    seen.update(name for _, name in await backend.count())
    assert seen == {f"work-{number}" for number in range(100)}


# ── through the manager ─────────────────────────────────────────────────────────────────────────────────────────


async def test_an_app_tells_of_all_its_tasks(place: AppPlace) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app:
        manager = FlowrraManager(app)
        held = await app.submit("hold", 1)
        added = [await app.submit("add", n, n) for n in range(5)]
        failed = await app.submit("fail")
        delayed = await app.options(countdown=3600).submit("echo", 1)
        for task_id in (*added, failed):
            await final(app, task_id)
        async with asyncio.timeout(10):
            while (await record_of(app, held)).status is not TaskStatus.RUNNING:
                await asyncio.sleep(0.005)

        assert await manager.count_tasks() == {
            "pending": 1,
            "running": 1,
            "retrying": 0,
            "success": 5,
            "failed": 1,
            "cancelled": 0,
        }
        assert await manager.count_tasks("name") == {"hold": 1, "add": 5, "fail": 1, "echo": 1}
        page = await manager.list_tasks(limit=3)
        assert [each["task_id"] for each in page["tasks"]] == [delayed, failed, added[4]]
        rest = await manager.list_tasks(limit=50, cursor=page["next"])
        assert [each["task_id"] for each in rest["tasks"]] == [*reversed(added[:4]), held]
        assert rest["next"] is None

        (listed,) = (await manager.list_tasks(status="failed", name="fail", error="boom", worker=app.id))["tasks"]
        assert (listed["task_id"], listed["error"], listed["queue"]) == (failed, "ValueError: boom", "default")
        assert (await manager.list_tasks(status="failed", worker="another"))["tasks"] == []
        gate.opened.set()


async def test_nonsense_is_refused(place: AppPlace) -> None:
    manager = FlowrraManager(with_tasks(place()))
    with pytest.raises(ValueError, match="limit must be at least 1"):
        await manager.list_tasks(limit=0)
    with pytest.raises(ValueError, match=r"status must be pending, .*, cancelled or None, not 'done'"):
        await manager.list_tasks(status="done")
    with pytest.raises(ValueError, match="by must be"):
        await manager.count_tasks("queue")  # type: ignore[arg-type]


async def test_a_backend_that_lists_nothing_has_empty_lists_and_one_that_fails_says_so() -> None:
    class Lister(InMemoryBackend):
        async def list_by_status(
            self, status: TaskStatus, limit: int | None = None, offset: int = 0
        ) -> list[TaskResult]:
            raise self.error  # type: ignore[attr-defined]

        find = BaseResultBackend.find
        count = BaseResultBackend.count

    backend = Lister()
    manager = FlowrraManager(memory_app(backend=backend))
    backend.error = NotImplementedError()  # type: ignore[attr-defined]
    assert await manager.list_tasks() == {"tasks": [], "next": None}
    with pytest.raises(BackendError, match="can't be counted with this result backend"):
        await manager.count_tasks()
    backend.error = KeyError("x")  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="could not be listed: KeyError"):
        await manager.list_tasks()
    with pytest.raises(BackendError, match="could not be counted: KeyError"):
        await manager.count_tasks()


# ── what it costs ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", ["redis", "partitions"], indirect=True)
async def test_a_page_asks_as_much_of_a_server_whatever_the_number_of_tasks(
    backend: BaseResultBackend, look: redis.Redis
) -> None:
    await keep(backend, [record(n) for n in range(100)])
    calls = []
    for many in (100, 3000):
        await keep(backend, [record(n) for n in range(many)])
        look.config_resetstat()
        page = await backend.find(TaskFilter(TaskStatus.SUCCESS), 20)
        await backend.find(TaskFilter(), 20, page.cursor)
        await backend.count()
        # How many connections the pool makes has nothing to do with it.
        calls.append({name: count for name, count in calls_of(look).items() if not name.startswith("client")})
    assert calls[0] == calls[1]
    assert sum(calls[0].values()) < 150


@pytest.mark.parametrize("backend", ["redis"], indirect=True)
async def test_one_who_may_only_read_can_list_and_count(
    backend: BaseResultBackend, url: str, look: redis.Redis
) -> None:
    await keep(backend, [record(1), record(2)])
    look.acl_setuser(
        "observer", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"],
        categories=["-@all", "+@read", "+@connection", "+@transaction"], commands=["+time"],
    )  # fmt: skip
    observer = RedisBackend(url.replace("//", "//observer:secret@"))
    assert await all_of(observer, TaskFilter()) == ["t000002", "t000001"]
    assert await observer.count() == {(TaskStatus.SUCCESS, "work"): 2}
    assert await observer.retried_as("t000001") is None
    await observer.close()


async def test_tasks_of_several_names_are_put_in_their_places_together(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []
    add_all = SubmissionOrder.add_all

    def counted(order: SubmissionOrder, places: list[Place]) -> None:
        added.append(len(places))
        add_all(order, places)

    monkeypatch.setattr(SubmissionOrder, "add_all", counted)
    backend = InMemoryBackend()
    for n in range(2 * LISTED_AT_ONCE):
        backend.keep(f"t{n:06}", record(n, name=f"work {n % 4}"))
    assert added == [LISTED_AT_ONCE // 4] * 8
    for name in range(4):
        assert len(await all_of(backend, TaskFilter(name=f"work {name}"), 100)) == LISTED_AT_ONCE // 2


@pytest.mark.slow
async def test_one_name_after_another_leaves_no_places_behind() -> None:
    backend = InMemoryBackend(max_results=2000)
    for n in range(60_000):
        backend.keep(f"t{n:06}", record(n, name=f"job {n // 5000}"))
    assert sum(map(len, backend._lists._orders.values())) < 8000
    assert len(backend._lists._orders) == 1
    assert len(await all_of(backend, TaskFilter(), 500)) == len(backend) <= 2000


@pytest.mark.slow
async def test_ids_that_are_used_again_leave_no_places_behind() -> None:
    backend = InMemoryBackend()
    for n in range(20_000):
        again = record(n)
        again.task_id = f"customer-{n % 100}"
        backend.keep(again.task_id, again)
    assert sum(map(len, backend._lists._orders.values())) < 3000
    assert len(await all_of(backend, TaskFilter())) == 100
    assert await backend.count() == {(TaskStatus.SUCCESS, "work"): 100}


@pytest.mark.filterwarnings(FORK_IS_MEANT)
def test_a_forked_child_lists_although_a_thread_of_its_parent_was_at_it() -> None:
    backend = InMemoryBackend()
    backend.keep("t", record(1))
    with backend._lists._lock:
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            os._exit(backend._lists.counts()[TaskStatus.SUCCESS, "work"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


class TestSubmissionOrder:
    """Places come in any order, and stand in one."""

    @pytest.mark.parametrize("seed", range(5))
    def test_is_as_sorting_all(self, seed: int) -> None:
        chance, order, everything = random.Random(seed), SubmissionOrder(), set[tuple[float, str]]()
        for _ in range(60):
            now = chance.random() * 1000
            places = [(now + chance.gauss(0, chance.choice([0.1, 300])), str(chance.random())) for _ in range(200)]
            everything.update(places)
            order.add_all(places)
        expected = sorted(everything, reverse=True)
        assert list(order.before(None, float("-inf"))) == expected
        assert len(order) == len(expected)
        for place in chance.sample(expected, 20):
            assert list(order.before(place, 100.0)) == [each for each in expected if each < place and each[0] >= 100.0]
        assert all(len(chunk) <= 2 * CHUNK for chunk in order._chunks)

    def test_drops_what_has_gone(self) -> None:
        order = SubmissionOrder()
        order.add_all([(float(n), str(n)) for n in range(5 * CHUNK)])
        left = {str(n) for n in range(5 * CHUNK) if n % 10 == 0 or n > 4 * CHUNK}
        for _ in range(5):
            order.sweep(lambda place: place[1] in left)
        assert {place[1] for place in order.before(None, 0.0)} == left
        for _ in range(5):
            order.sweep(lambda _: False)
        assert len(order) == 0
        order.sweep(lambda _: False)

    async def test_whoever_reads_in_another_thread_misses_nothing(self) -> None:
        order, is_over = SubmissionOrder(), threading.Event()
        order.add_all([(0.0, "0")])

        def read() -> list[float]:
            found = []
            while not is_over.is_set():
                found += [place[0] for place in islice(order.before(None, 0.0), 1)] or [-1.0]
            return found

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            reading = asyncio.get_running_loop().run_in_executor(None, read)
            for n in range(20_000):
                order.add_all([(float(n), str(n))])
            is_over.set()
            found = await reading
        finally:
            is_over.set()
            sys.setswitchinterval(interval)
        assert found == sorted(found)

    @pytest.mark.slow
    async def test_is_bounded_while_records_go(self) -> None:
        backend = InMemoryBackend(max_results=2000)
        for n in range(60_000):
            backend.keep(f"t{n:06}", record(n))
        assert sum(map(len, backend._lists._orders.values())) < 8000
        assert len(await all_of(backend, TaskFilter(), 500)) == len(backend) <= 2000
        assert (await backend.count()) == {(TaskStatus.SUCCESS, "work"): len(backend)}


@pytest.mark.slow
async def test_what_expires_on_a_server_where_nothing_happens_any_more_is_not_counted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.executors.sources.heartbeat.HEARTBEAT", 0.1)
    async with with_tasks(redis_app(url, ttl=1)) as app:
        manager = FlowrraManager(app)
        await final(app, await app.submit("add", 1, 1))
        assert (await manager.count_tasks())["success"] == 1
        async with asyncio.timeout(10):
            while (await manager.count_tasks())["success"]:
                await asyncio.sleep(0.05)
        assert await manager.count_tasks("name") == {}


async def test_no_more_records_are_read_than_a_page_needs() -> None:
    places = [((float(n), f"t{n}"), f"t{n}") for n in range(400, 0, -1)]
    asked: list[str] = []

    async def listed() -> AsyncGenerator[list[tuple[Place, str]], None]:
        for first in range(0, len(places), 100):
            yield places[first : first + 100]

    async def read(some: Sequence[tuple[Place, str]]) -> list[tuple[Place, TaskResult]]:
        asked.extend(task_id for _, task_id in some)
        return [(place, TaskResult(task_id, TaskStatus.SUCCESS, "work")) for place, task_id in some]

    page = await read_page(listed(), read, TaskFilter(), 10)
    assert [record.task_id for record in page.records] == [f"t{n}" for n in range(400, 390, -1)]
    assert (len(asked), page.looked_at) == (11, 10)
    assert page.cursor is not None
    asked.clear()
    page = await read_page(listed(), read, TaskFilter(name="other"), 10)
    assert (page.records, page.cursor, len(asked)) == ([], None, 400)
