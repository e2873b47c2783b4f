"""Results in memory: each reader has its own, and all of them together take no more than they may."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrra import Flowrra, TaskResult, TaskStatus
from flowrra.backends import InMemoryBackend
from flowrra.backends.record_size import record_size, value_size
from flowrra.events import event_bus
from flowrra.management import FlowrraManager
from tests.core.apps import final, in_another_thread, memory_app, record_of, until

MIB = 1024 * 1024
SIZE = 200_000


@dataclasses.dataclass
class Report:
    rows: list[Any]
    title: str = "report"


@dataclasses.dataclass(slots=True)
class Slotted:
    rows: list[Any]


class Plain:
    """An object of no special kind: shared, and held all the same."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows


class Boom(BaseException):
    """Something that nobody expects."""


class Lying:
    """An object that can't be asked for its size."""

    def __init__(self) -> None:
        self.rows = text()

    def __sizeof__(self) -> int:
        raise Boom

    @property
    def nbytes(self) -> int:
        raise Boom


def text() -> str:
    return os.urandom(SIZE // 2).hex()


LARGE: dict[str, Callable[[], Any]] = {
    "text": text,
    "wide text": lambda: "\U0001f600" * (SIZE // 4),
    "bytes": lambda: os.urandom(SIZE),
    "bytearray": lambda: bytearray(SIZE),
    "dict": lambda: {"rows": {"a": text()}},
    "dict of many": lambda: {os.urandom(20).hex(): n for n in range(1500)},
    "list of texts": lambda: [os.urandom(50).hex() for _ in range(1300)],
    "list of numbers": lambda: [n * 1000 for n in range(5000)],
    "rows": lambda: [{"id": n, "name": os.urandom(20).hex(), "price": n / 7} for n in range(500)],
    "tuple": lambda: (1, (2, text())),
    "set": lambda: {os.urandom(50).hex() for _ in range(1000)},
    "deque": lambda: deque([text()], maxlen=1),
    "dataclass": lambda: Report([text()]),
    "slots": lambda: Slotted([text()]),
    "object": lambda: Plain(text()),
    "object that lies": Lying,
    "nested": lambda: [[[[[[[text()]]]]]]],
}


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """How many bytes were allocated since the test began, and are still in use."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()


class TestCopies:
    """What one reader does to a record, its arguments and its result, nobody else sees."""

    @pytest.fixture
    def app(self) -> Flowrra:
        app = memory_app()

        @app.task()
        async def rows(n: int, given: list[int], **more: list[int]) -> dict[str, Any]:
            return {"rows": [[n]], "report": Report([n])}

        return app

    async def test_are_made_for_each_reader(self, app: Flowrra) -> None:
        manager = FlowrraManager(app)

        async def listed() -> TaskResult:
            return (await app.results.list_by_status(TaskStatus.SUCCESS))[0]

        async with app:
            early = asyncio.create_task(app.wait_for_result(task_id := await app.submit("rows", 1, [1], more=[1])))
            await final(app, task_id)
            readers: list[Callable[[], Any]] = [
                lambda: early,
                lambda: final(app, task_id),
                lambda: record_of(app, task_id),
                lambda: app.results.wait_for(task_id, 1),
                lambda: in_another_thread(lambda: record_of(app, task_id)),
                listed,
            ]
            for read in readers:
                record = await read()
                assert record.result == {"rows": [[1]], "report": Report([1])}
                assert (record.args, record.kwargs) == ((1, [1]), {"more": [1]})
                record.result["rows"][0].append("tampered")
                record.result["report"].rows.clear()
                record.args[1].append("tampered")
                record.kwargs["more"].append("tampered")
                record.kwargs["other"] = "tampered"
                shown = await manager.get_task_result(task_id)
                assert shown is not None
                assert shown["result"] == {"rows": [[1]], "report": Report([1])}
                shown["result"]["rows"].append("tampered")
                tasks = await manager.list_completed_tasks()
                tasks[0]["args"][1].append("tampered")

    async def test_are_made_for_those_who_wait_together(self, app: Flowrra) -> None:
        async with app:
            task_id = await app.submit("rows", 1, [1])
            records = await asyncio.gather(*(final(app, task_id) for _ in range(5)))

        assert len({id(record.result["rows"]) for record in records}) == 5
        assert len({id(record.args[1]) for record in records}) == 5

    async def test_are_made_for_each_subscriber(self, app: Flowrra) -> None:
        seen: list[list[Any]] = [[], []]
        tamperers = [lambda event, n=n: (seen[n].append(event), event["task"]["args"][1].append(n)) for n in (0, 1)]
        for tamper in tamperers:
            event_bus.subscribe(tamper)
        try:
            async with app:
                task_id = await app.submit("rows", 1, [1])
                await until(lambda: all(len(events) == 3 for events in seen))
                assert (await final(app, task_id)).args == (1, [1])
        finally:
            for tamper in tamperers:
                await event_bus.unsubscribe(tamper)

        assert [event["task"]["args"][1] for event in seen[0]] == [[1, 0]] * 3
        assert [event["task"]["args"][1] for event in seen[1]] == [[1, 1]] * 3

    async def test_show_what_the_task_returned_and_not_what_it_does_later(self) -> None:
        app = memory_app()
        going_on: list[asyncio.Task[None]] = []
        done = asyncio.Event()

        @app.task()
        async def ongoing() -> dict[str, list[int]]:
            found = {"rows": [1]}

            async def go_on() -> None:
                await done.wait()
                found["rows"].append(2)
                found["more"] = [3]

            going_on.append(asyncio.create_task(go_on()))
            return found

        async with app:
            task_id = await app.submit(ongoing)
            first = await final(app, task_id)
            done.set()
            await asyncio.gather(*going_on)
            again = await final(app, task_id)

        assert first.result == again.result == {"rows": [1]}

    async def test_share_what_stands_for_more_than_its_value(self) -> None:
        app = memory_app()
        event = asyncio.Event()

        @app.task()
        async def given() -> list[asyncio.Event]:
            return [event]

        async with app:
            assert (await final(app, await app.submit(given))).result[0] is event


class TestBytes:
    @pytest.mark.slow
    @pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
    def test_are_estimated(self, make: Callable[[], Any], traced: Callable[[], int]) -> None:
        values = [make() for _ in range(3)]
        really = traced() / len(values)

        assert 0.6 * really < value_size(values[0]) < 1.6 * really

    def test_of_what_occurs_often_count_once(self) -> None:
        row = {"text": text()}
        ring: list[Any] = [row] * 500
        ring.append(ring)

        assert value_size(ring) < 1.2 * SIZE

    @pytest.mark.slow
    def test_of_a_value_of_any_size_are_estimated_in_bounded_time(self) -> None:
        looked_at = 0

        class Counted:
            def __sizeof__(self) -> int:
                nonlocal looked_at
                looked_at += 1
                return 100

        value_size([[[Counted() for _ in range(50)] for _ in range(50)] for _ in range(50)])
        value_size([Counted() for _ in range(100_000)])

        assert 0 < looked_at < 10_000

    def test_of_foreign_things_are_not_counted(self) -> None:
        assert value_size([os, Report, os.path.join, asyncio]) < 5000

    @pytest.mark.slow
    async def test_are_bounded_by_default(self, traced: Callable[[], int]) -> None:
        """3,000 results of 200 kB, which are 600 MB."""
        app = memory_app()

        @app.task()
        async def large(n: int) -> bytes:
            return n.to_bytes(4, "big") * (SIZE // 4)

        async with app:
            for first in range(0, 3000, 500):
                ids = [await app.submit(large, n) for n in range(first, first + 500)]
                await final(app, ids[-1])
            kept = [record for task_id in ids if (record := await app.get_result(task_id)) is not None]
            held = traced()

        assert 100 * MIB < held < 140 * MIB
        assert [record.args[0] for record in kept] == list(range(2500, 3000))

    @pytest.mark.slow
    @pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
    @pytest.mark.parametrize("place", ["result", "args", "kwargs"])
    async def test_are_bounded_whatever_takes_them(
        self, make: Callable[[], Any], place: str, traced: Callable[[], int]
    ) -> None:
        backend = InMemoryBackend(max_bytes=4 * MIB)
        for n in range(60):
            value = make()
            value = {"result": value, "args": (value,), "kwargs": {"a": value}}[place]
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, **{place: value}))

        assert traced() < 7 * MIB
        assert 8 <= len(backend) < 40
        assert await backend.get("t59") is not None

    async def test_are_bounded_for_failures(self, traced: Callable[[], int]) -> None:
        backend = InMemoryBackend(max_bytes=MIB)
        for n in range(100):
            record = TaskResult(f"t{n}", TaskStatus.FAILED, error="x" * 100_000, traceback="y" * 100_000)
            await backend.store(f"t{n}", record)

        assert traced() < 2 * MIB

    async def test_are_bounded_for_small_records(self) -> None:
        backend = InMemoryBackend(max_bytes=MIB)
        for n in range(5000):
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, result=n))

        assert 500 < len(backend) < 1500
        assert await backend.get("t4999") is not None
        assert await backend.get("t0") is None

    @pytest.mark.slow
    async def test_do_not_shorten_the_default_number(self) -> None:
        backend = InMemoryBackend()
        for n in range(100_000):
            backend.keep(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, result="ok", args=(n, "a", None)))

        assert len(backend) == 100_000

    async def test_of_unfinished_tasks_are_not_bounded(self) -> None:
        backend = InMemoryBackend(max_bytes=1)
        for n in range(50):
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.RUNNING, args=(text(),)))
        await backend.store("done", TaskResult("done", TaskStatus.SUCCESS))

        assert len(backend) == 51

    async def test_the_latest_is_kept_however_large_it_is(self) -> None:
        backend = InMemoryBackend(max_bytes=1000)
        for n in range(5):
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, result=text()))
            assert await backend.get(f"t{n}") is not None
            assert len(backend) == 1

    async def test_a_record_stored_again_is_the_latest_and_counts_once(self) -> None:
        backend = InMemoryBackend(max_bytes=MIB)
        await backend.store("again", TaskResult("again", TaskStatus.SUCCESS, result=text()))
        await backend.store("other", TaskResult("other", TaskStatus.SUCCESS, result=text()))
        for _ in range(20):
            await backend.store("again", TaskResult("again", TaskStatus.SUCCESS, result=text()))
        assert await backend.get("other") is not None
        await backend.store("last", TaskResult("last", TaskStatus.SUCCESS, result="x" * 700_000))

        assert await backend.get("other") is None
        assert await backend.get("again") is not None

    async def test_of_what_was_deleted_are_free_again(self) -> None:
        backend = InMemoryBackend(max_bytes=MIB)
        await backend.store("kept", TaskResult("kept", TaskStatus.SUCCESS, result=text()))
        for n in range(50):
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, result=text()))
            await backend.delete(f"t{n}")
        assert await backend.get("kept") is not None
        await backend.clear()
        for n in range(4):
            await backend.store(f"t{n}", TaskResult(f"t{n}", TaskStatus.SUCCESS, result=text()))

        assert len(backend) == 4

    async def test_a_waiter_gets_a_result_that_is_larger_than_all_may_be(self) -> None:
        app = memory_app(io_workers=1, backend=InMemoryBackend(max_bytes=1000))

        @app.task()
        async def large(n: int) -> str:
            return str(n % 10) * SIZE

        async with app:
            ids = [await app.submit(large, n) for n in range(20)]
            records = await asyncio.gather(*(final(app, task_id) for task_id in ids))

        assert [record.result[:1] for record in records] == [str(n % 10) for n in range(20)]
        assert {len(record.result) for record in records} == {SIZE}

    def test_a_record_that_can_not_be_weighed_is_kept(self) -> None:
        class Hostile:
            __slots__ = ()

            @property
            def __class__(self) -> type:
                raise Boom

            @property
            def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
                raise Boom

        assert record_size(TaskResult("t", TaskStatus.SUCCESS, result=[Hostile()], args=(Hostile(),))) > 0

    @pytest.mark.parametrize("max_bytes", [0, -1])
    def test_must_be_positive(self, max_bytes: int) -> None:
        with pytest.raises(ValueError, match="max_bytes"):
            InMemoryBackend(max_bytes=max_bytes)
