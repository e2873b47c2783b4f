"""Results over partitions are those that one namespace would have: the same lists, counts and changes, merged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from flowrra import BackendError, TaskResult, TaskStatus
from flowrra.backends import BaseResultBackend, get_backend
from flowrra.backends.change_ids import MergedPosition, parse_merged_id
from flowrra.backends.listing import MAX_LOOKED_AT, TaskFilter
from flowrra.backends.partitioned import PartitionedBackend
from flowrra.backends.partitioned_changes import _News, _told
from flowrra.backends.redis import RedisBackend
from flowrra.changes import Change
from flowrra.exceptions import RequestRefusedError
from flowrra.partitions import MAX_PARTITIONS, cell_namespace
from tests.core.apps import until
from tests.redis.apps import calls_of, partitioned_backend
from tests.support.servers import ValkeyServer

DAY = datetime(2026, 11, 1, tzinfo=UTC)
NAMES = ["mail", "work", "päckchen: 7"]


def record(number: int, status: TaskStatus = TaskStatus.SUCCESS, name: str = "work", **fields: Any) -> TaskResult:
    """The record of a task that was submitted so many seconds into the day."""
    return TaskResult(f"t{number:06}", status, name, submitted_at=DAY + timedelta(seconds=number), **fields)


@pytest.fixture
async def backend(url: str) -> AsyncIterator[PartitionedBackend]:
    backend = partitioned_backend(url)
    yield backend
    await backend.close()


@pytest.fixture
async def plain(url: str) -> AsyncIterator[RedisBackend]:
    """The same records, all under one namespace."""
    backend = RedisBackend(url, namespace="plain")
    yield backend
    await backend.close()


async def keep(backend: BaseResultBackend, records: list[TaskResult]) -> None:
    await asyncio.gather(*(backend.store(each.task_id, each) for each in records))


def chosen(chance: random.Random, number: int) -> TaskResult:
    # Some in the same moment, and some of which nobody knows when.
    moment = DAY + timedelta(seconds=chance.randrange(60), microseconds=chance.choice([0, 1, 2]))
    return TaskResult(
        f"t{number:06}",
        chance.choice([*TaskStatus]),
        chance.choice(NAMES),
        submitted_at=chance.choice([moment, moment, moment, None]),
        error=chance.choice([None, "ValueError: no", "ConnectionError: away"]),
        worker=chance.choice([None, "host-1", "host-2"]),
        queue=chance.choice(["default", "mail"]),
    )


def some_filter(chance: random.Random) -> TaskFilter:
    choices: dict[str, list[Any]] = {
        "status": [*TaskStatus],
        "name": [*NAMES, "nobody's"],
        "queue": ["mail"],
        "since": [DAY + timedelta(seconds=chance.randrange(40))],
        "until": [DAY + timedelta(seconds=20 + chance.randrange(40))],
        "error": ["ConnectionError"],
        "worker": ["host-1"],
    }
    return TaskFilter(**{key: chance.choice(values) for key, values in choices.items() if chance.random() < 0.25})


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_answers_are_those_of_one_namespace_whatever_is_asked(
    backend: PartitionedBackend, plain: RedisBackend, seed: int
) -> None:
    """Also from page to page while tasks finish, begin, come and go."""
    chance = random.Random(seed)
    records = {each.task_id: each for each in (chosen(chance, number) for number in range(120))}
    for kept in (backend, plain):
        await keep(kept, [*records.values()])
    for _ in range(8):
        wanted, limit, cursor = some_filter(chance), chance.choice([2, 7, 40, 500]), None
        for _ in range(400):
            page, expected = await backend.find(wanted, limit, cursor), await plain.find(wanted, limit, cursor)
            assert [each.to_dict for each in page.records] == [each.to_dict for each in expected.records]
            assert page.cursor == expected.cursor
            if (cursor := page.cursor) is None:
                break
            changed = chosen(chance, chance.randrange(130))
            gone = f"t{chance.randrange(130):06}"
            for kept in (backend, plain):
                await kept.store(changed.task_id, changed.copy())
                await kept.delete(gone)
        assert await backend.count() == await plain.count()
        status, limit, offset = chance.choice([*TaskStatus]), chance.choice([None, 0, 1, 7, 40]), chance.choice([0, 5])
        found = await backend.list_by_status(status, limit, offset)
        assert [each.task_id for each in found] == [
            each.task_id for each in await plain.list_by_status(status, limit, offset)
        ]


async def test_the_records_of_a_task_are_in_one_partition_and_all_partitions_are_used(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    await keep(backend, [record(n) for n in range(100)])
    counts = [look.zcard(f"{cell.namespace}:status:success") for cell in backend.cells]
    assert [cell.namespace for cell in backend.cells] == [cell_namespace("flowrra", n, 4) for n in range(4)]
    assert sum(counts) == 100  # type: ignore[arg-type]
    assert all(10 <= count <= 45 for count in counts)  # type: ignore[operator]


async def test_one_record_is_read_waited_for_run_anew_and_deleted_as_ever(backend: PartitionedBackend) -> None:
    for number in range(8):
        task_id = record(number).task_id
        wait = asyncio.create_task(backend.wait_for(task_id, 5))
        await backend.store(task_id, record(number, TaskStatus.RUNNING))
        await backend.store(task_id, record(number))
        assert (await wait).task_id == (await backend.wait_for_known(task_id, 5)).task_id == task_id
        assert await backend.claim_retry(task_id, "new") == await backend.claim_retry(task_id, "other") == "new"
        assert await backend.retried_as(task_id) == "new"
        assert await backend.delete(task_id) is True
        assert await backend.delete(task_id) is False
        assert await backend.get(task_id) is None
    await keep(backend, [record(n) for n in range(50)])
    assert await backend.clear() == 50
    assert await backend.count() == {}


async def test_an_id_that_is_no_text_is_refused(backend: PartitionedBackend) -> None:
    for ask in (backend.get, backend.delete, backend.retried_as):
        with pytest.raises(RequestRefusedError, match="can't be the id of a task"):
            await ask("\ud800")


@pytest.mark.slow
async def test_no_more_records_are_looked_at_for_a_page_than_in_one_namespace(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    await keep(backend, [record(number) for number in range(2000)])
    look.config_resetstat()
    page = await backend.find(TaskFilter(worker="nobody"), 50)
    assert page.records == []
    assert page.cursor is not None
    assert MAX_LOOKED_AT <= page.looked_at < 1.5 * MAX_LOOKED_AT
    assert calls_of(look)["strlen"] < 1.5 * MAX_LOOKED_AT
    look.config_resetstat()
    assert len((await backend.find(TaskFilter(), 50)).records) == 50
    assert calls_of(look)["strlen"] == 51


async def test_behind_a_page_that_has_looked_at_enough_nothing_is_passed_over(backend: PartitionedBackend) -> None:
    await keep(backend, [record(n, worker="host-7" if n % 20 == 0 else None) for n in range(2400)])
    found, cursor, pages = list[str](), None, 0
    while pages == 0 or cursor is not None:
        page = await backend.find(TaskFilter(worker="host-7"), 900, cursor)
        found, cursor, pages = found + [each.task_id for each in page.records], page.cursor, pages + 1
    assert found == [f"t{number:06}" for number in range(2380, -1, -20)]
    assert pages >= 2


async def test_what_can_not_be_read_is_left_out_and_counted_once(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    await keep(backend, [record(n) for n in range(20)])
    for number in (3, 4, 5):
        task_id = record(number).task_id
        look.set(f"{backend.cell_of(task_id).namespace}:task:{task_id}", "nonsense")
    assert len((await backend.find(TaskFilter(), 50)).records) == 17
    assert sum(kind.count for kind in backend.set_aside) == 3


@pytest.mark.parametrize("count", [0, MAX_PARTITIONS + 1])
def test_there_are_neither_no_partitions_nor_too_many(count: int) -> None:
    with pytest.raises(ValueError, match="cells must be 1 to 64"):
        PartitionedBackend([RedisBackend("redis://localhost")] * count)


@pytest.mark.parametrize("count", [1, MAX_PARTITIONS])
def test_one_partition_will_do_and_as_many_as_there_may_be(count: int) -> None:
    assert len(PartitionedBackend([RedisBackend("redis://localhost")] * count).cells) == count


def test_there_are_none_unless_they_are_asked_for() -> None:
    assert type(get_backend("redis://localhost")) is RedisBackend
    assert type(get_backend("redis://localhost", partitions=2)) is PartitionedBackend


async def test_no_connection_is_left_when_it_is_closed(backend: PartitionedBackend, look: redis.Redis) -> None:
    before = len(look.client_list())  # type: ignore[arg-type]
    await keep(backend, [record(n) for n in range(20)])
    assert len(look.client_list()) > before  # type: ignore[arg-type]
    await backend.close()
    await until(lambda: len(look.client_list()) == before)  # type: ignore[arg-type]


# ── one partition is away ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def lame(url: str) -> Iterator[tuple[PartitionedBackend, ValkeyServer]]:
    """A backend of two cells, and the server of the second one."""
    server = ValkeyServer()
    server.start()
    addresses = (url, f"redis://127.0.0.1:{server.port}/0")
    cells = [
        RedisBackend(each, namespace=cell_namespace("flowrra", n, len(addresses))) for n, each in enumerate(addresses)
    ]
    yield PartitionedBackend(cells), server
    if server.is_running():
        server.stop()


@pytest.mark.slow
async def test_what_concerns_all_fails_as_its_partition_does_and_what_concerns_one_goes_on(
    lame: tuple[PartitionedBackend, ValkeyServer],
) -> None:
    backend, server = lame
    await keep(backend, [record(n) for n in range(20)])
    await backend.ping()
    port = server.port
    server.stop()
    there = next(f"t{n:06}" for n in range(20) if backend.cell_of(f"t{n:06}") is backend.cells[0])
    assert (await backend.get(there)) is not None
    failures = await asyncio.gather(
        backend.ping(), backend.find(TaskFilter(), 50), backend.count(), backend.clear(), return_exceptions=True
    )
    for failure in failures:
        assert isinstance(failure, BackendError)
        assert str(port) in str(failure)
    await backend.close()


# ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Watch:
    """One who watches, in an asyncio task of its own."""

    def __init__(self, backend: PartitionedBackend, after: str | None = None) -> None:
        self.changes: list[Change] = []
        self._backend = backend
        self._watching = backend.watch(after)

    async def _watch(self) -> None:
        async with contextlib.aclosing(self._watching) as changes:
            async for change in changes:
                self.changes.append(change)

    async def __aenter__(self) -> Watch:
        before = self._backend.watchers
        self.task = asyncio.create_task(self._watch())
        await until(lambda: self._backend.watchers > before or self.task.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled(), self.task.exception()

    @property
    def told(self) -> list[tuple[str, str]]:
        """The tasks and their statuses, as they were told."""
        return [(each.record.task_id, each.record.status.value) for each in self.changes if each.record]

    @property
    def missed(self) -> list[int | None]:
        return [each.missed for each in self.changes if each.record is None]


async def run(backend: PartitionedBackend, *numbers: int) -> list[tuple[str, str]]:
    """As many tasks as numbers have their records go from state to state, all at once. Returns what is to be told."""

    async def one(number: int) -> None:
        for status in (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SUCCESS):
            await backend.store(f"t{number:06}", record(number, status))

    await asyncio.gather(*map(one, numbers))
    return [(f"t{number:06}", status) for number in numbers for status in ("pending", "running", "success")]


def by_task(told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sorted by task: the order within each stays."""
    return sorted(told, key=lambda each: each[0])


async def test_who_watches_is_told_what_goes_wrong_in_a_partition(
    backend: PartitionedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage goes by; what else a partition fails with would be silence."""

    async def fail(_: str | None) -> AsyncIterator[Change]:
        raise ValueError("broken")
        yield

    monkeypatch.setattr(backend.cells[1], "watch", fail)
    with pytest.raises(ValueError, match="broken"):
        async for _ in backend.watch(None):
            pass
    assert backend.watchers == 0


async def test_a_partition_that_is_away_is_asked_again_after_a_pause_that_grows(
    backend: PartitionedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def refuse() -> str:
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0)
        raise BackendError("away")

    monkeypatch.setattr(backend.cells[1], "latest_change", refuse)
    async with Watch(backend):
        await until(lambda: len(asked) >= 4)
    # Whoever begins to watch asks, and then the one who reads it, at once; by chance, pauses are up to half shorter.
    assert asked[3] - asked[1] > 0.1 / 2 + 0.2 / 2 - 0.01


async def test_all_changes_are_told_in_order_for_each_task(backend: PartitionedBackend) -> None:
    async with Watch(backend) as first, Watch(backend) as second:
        expected = await run(backend, *range(100))
        await until(lambda: len(first.changes) == len(second.changes) == 300)
    assert by_task(first.told) == by_task(second.told) == expected
    assert len({each.id for each in first.changes}) == 300
    assert backend.watchers == 0


async def test_from_any_change_on_the_rest_is_told_once(backend: PartitionedBackend) -> None:
    async with Watch(backend) as watch:
        await run(backend, *range(12))
        await until(lambda: len(watch.changes) == 36)
    for read in range(0, 36, 4):
        async with Watch(backend, watch.changes[read].id) as again:
            await until(lambda read=read, again=again: len(again.changes) == 35 - read)  # type: ignore[misc]
        assert again.missed == []
        assert by_task(watch.told[: read + 1] + again.told) == by_task(watch.told)


async def test_one_who_comes_and_goes_all_along_misses_nothing_and_hears_nothing_twice(
    backend: PartitionedBackend,
) -> None:
    chance, told = random.Random(5), list[tuple[str, str]]()
    async with Watch(backend) as watch:
        await run(backend, 0)
        await until(lambda: len(watch.changes) == 3)
    after = watch.changes[-1].id
    running = asyncio.create_task(run(backend, *range(1, 301)))
    while len(told) < 900:
        left = min(chance.randint(1, 120), 900 - len(told))
        async with contextlib.aclosing(backend.watch(after)) as changes:
            async for change in changes:
                assert change.record is not None
                after, left = change.id, left - 1
                told.append((change.record.task_id, change.record.status.value))
                if not left:
                    break
    assert by_task(told) == await running


async def test_what_was_missed_of_several_partitions_is_added_up(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    async with Watch(backend) as watch:
        await run(backend, *range(40))
        await until(lambda: len(watch.changes) == 120)
    for cell in backend.cells[:3]:
        look.xtrim(f"{cell.namespace}:changes", maxlen=2, approximate=False)
    async with Watch(backend, watch.changes[0].id) as again:
        await until(lambda: sum(each or 0 for each in again.missed) + len(again.told) == 119)
    assert sum(each or 0 for each in again.missed) > 50
    # Whoever goes on after that has the rest before it, and has missed no more.
    gap = max(n for n, each in enumerate(again.changes) if each.record is None)
    async with Watch(backend, again.changes[gap].id) as last:
        await until(lambda: len(last.changes) == len(again.changes) - gap - 1)
    assert by_task(last.told) == by_task(again.told[len(again.told) - len(last.told) :])
    assert last.missed == []


def test_what_was_missed_in_the_midst_of_a_partition_is_told_where_it_was_missed() -> None:
    told = record(1)
    came = [
        _News(0, Change("9-0/9", told)),
        _News(0, Change("9-1/12", None, 3)),
        _News(1, Change("5-0/7", None, 2)),
        _News(0, Change("9-2/13", told)),
    ]
    changes = list(_told(came, MergedPosition(["8-0/8", "4-0/4"])))
    assert [each.missed for each in changes] == [2, 0, 3, 0]
    assert [parse_merged_id(each.id, 2)[0] for each in changes] == ["8-0/8", "9-0/9", "9-1/12", "9-2/13"]


async def test_a_slow_reader_holds_up_what_is_read_and_misses_what_the_servers_drop(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    async with contextlib.aclosing(backend.watch(None)) as slow:
        first = asyncio.ensure_future(anext(slow))
        await until(lambda: backend.watchers)
        await run(backend, *range(1000))
        got = [await first]
        for cell in backend.cells:
            look.xtrim(f"{cell.namespace}:changes", maxlen=5, approximate=False)
        while len(got) + sum(each.missed or 0 for each in got) - sum(each.record is None for each in got) < 3000:
            got.append(await anext(slow))
    missed = [each.missed for each in got if each.record is None]
    assert None not in missed
    assert sum(missed) > 1000  # type: ignore[arg-type]


async def test_what_is_cancelled_once_and_once_more_leaves_no_connection_and_no_task(
    backend: PartitionedBackend, look: redis.Redis
) -> None:
    await backend.ping()
    before = asyncio.all_tasks()
    for times in (1, 2, 3):
        async with Watch(backend) as watch:
            await run(backend, 1)
            await until(lambda watch=watch: watch.changes)  # type: ignore[misc]
            for _ in range(times - 1):
                watch.task.cancel()
                await asyncio.sleep(0)
        await until(lambda: asyncio.all_tasks() <= before)
        await until(lambda: not any(each["cmd"] == "xread" for each in look.client_list()))  # type: ignore[union-attr]
        assert backend.watchers == 0


@pytest.mark.slow
async def test_a_partition_that_is_away_holds_up_no_changes_of_the_others(
    lame: tuple[PartitionedBackend, ValkeyServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend, server = lame
    async with Watch(backend) as watch:
        await run(backend, *range(20))
        await until(lambda: len(watch.changes) == 60)
        here = [n for n in range(20, 60) if backend.cell_of(f"t{n:06}") is backend.cells[0]]
        there = [n for n in range(20, 60) if n not in here]
        port = server.port
        server.stop()
        await run(backend, *here)
        await until(lambda: len(watch.told) == 60 + 3 * len(here))
        # One who comes now goes on with those, too, and hears of the others once they are back.
        async with Watch(backend, watch.changes[59].id) as again, Watch(backend) as fresh:
            await until(lambda: len(again.told) == 3 * len(here))
            assert fresh.changes == []
            await until(lambda: "not readable partition=1" in caplog.text)
            with ValkeyServer(port=port):  # with nothing on it
                await until(lambda: watch.missed == again.missed == fresh.missed == [None])
                await run(backend, *there[:3])
                for each in (watch, again, fresh):
                    await until(lambda each=each: each.told[-1:] == [(f"t{there[2]:06}", "success")])  # type: ignore[misc]
                await backend.close()
    assert "over: changes of tasks not readable partition=1" in caplog.text


@pytest.mark.slow
async def test_where_no_server_can_be_reached_watching_fails_at_once() -> None:
    with ValkeyServer() as server:
        backend = partitioned_backend(f"redis://127.0.0.1:{server.port}/0", 2)
    with pytest.raises(BackendError, match="could not watch tasks"):
        await anext(backend.watch(None))
    assert backend.watchers == 0


# ── their ids ───────────────────────────────────────────────────────────────────────────────────────────────────


def id_of(count: int, chance: random.Random) -> str:
    ids: list[str | None] = [
        f"{1790000000000 + chance.randrange(10**9)}-{chance.choice([0, 3])}/{chance.randrange(10**9)}"
        for _ in range(count)
    ]
    position = MergedPosition([None, *ids[1:]])
    assert parse_merged_id(str(position), count) == [None, *ids[1:]]
    assert ids[0] is not None
    text = position.move(0, ids[0])
    assert parse_merged_id(text, count) == ids
    return text


@pytest.mark.parametrize("count", [1, 2, 4, 63, 64])
def test_an_id_says_how_far_each_partition_was_read_and_fits_in_a_header(count: int) -> None:
    chance = random.Random(count)
    for _ in range(50):
        text = id_of(count, chance)
        assert len(text) < 20 * count + 4
        assert text.isascii()
        assert text.replace("-", "").replace("_", "").replace(".", "").isalnum()


async def test_what_is_no_id_is_refused(backend: PartitionedBackend) -> None:
    text = id_of(4, random.Random(1))
    odd = [
        *("", "x", "4", "4.", ".", "0.AAAA", "1790000000000-0/7", "4.A", "4.AAAA", "4.AAAAAAAAAAAAAAAAA"),
        *(
            text[:-1],
            text + "A",
            text + "=",
            text + "\n",
            " " + text,
            "0" + text,
            text.upper(),
            text.replace("4.", "4-"),
        ),
        *("4." + "_" * 4000, "4." + "A" * 4000, "٤" + text[1:], text[:-1] + "ä"),
    ]
    for after in odd:
        with pytest.raises(ValueError, match="after must be the id of a change"):
            await anext(backend.watch(after))
    # The same number, written longer than it needs be, and one that no server has.
    for packed in (b"\x81\x00" + bytes(11), b"\xff" * 10 + b"\x01" + bytes(11)):
        with pytest.raises(ValueError, match="after must be the id of a change, not"):
            await anext(backend.watch("4." + base64.urlsafe_b64encode(packed).decode().rstrip("=")))


@pytest.mark.parametrize("count", [1, 3, 5, 64])
async def test_an_id_of_another_number_of_partitions_is_refused(backend: PartitionedBackend, count: int) -> None:
    with pytest.raises(ValueError, match=f"of 4 partitions, not of {count}"):
        await anext(backend.watch(id_of(count, random.Random(1))))
