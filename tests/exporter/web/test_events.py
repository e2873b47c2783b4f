"""Changes of tasks as server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flowrra_exporter.app import watch
from flowrra_exporter.web.api import events as module

from flowrra import BackendConfig, Flowrra, current_task
from flowrra.backends.change_ids import MergedPosition
from flowrra.partitions import MAX_PARTITIONS
from tests.core.apps import watchers_of
from tests.exporter.conftest import Serve, Service, until
from tests.exporter.contract import MinimalApp
from tests.exporter.web.test_authentication import basic, hashed
from tests.redis.apps import partitioned_backend, redis_app
from tests.redis.conftest import look, url, valkey

__all__ = ["look", "url", "valkey"]  # the fixtures

SECRET = "card-4711-0815"


class Stream:
    """A client that reads events on the test's own loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.comments = 0
        self.text = ""

    async def begin(self) -> None:
        self.status = int((await self._reader.readline()).split()[1])
        while (line := (await self._reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(": ")
            self.headers[name] = value

    async def lines(self) -> AsyncIterator[str]:
        """The lines of the body, which comes in chunks."""
        rest = ""
        while size := int((await self._reader.readline()) or b"0", 16):
            piece = (await self._reader.readexactly(size + 2))[:-2].decode()
            self.text += piece
            *whole, rest = (rest + piece).split("\n")
            for line in whole:
                yield line

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        fields: dict[str, Any] = {}
        async for line in self.lines():
            if line == "":
                if "data" in fields:
                    yield {**fields, "data": json.loads(fields["data"])}
                fields = {}
            elif line.startswith(":"):
                self.comments += 1
            else:
                name, _, value = line.partition(": ")
                fields[name] = value

    async def read(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """All up to the first for which that holds."""
        found = []
        async with asyncio.timeout(10), aclosing(self.events()) as events:  # type: ignore[type-var]
            async for event in events:
                found.append(event)
                if wanted(event):
                    return found
        raise AssertionError(f"the stream ended: {found}")


@asynccontextmanager
async def stream(service: Service, path: str = "/api/events", **headers: str) -> AsyncIterator[Stream]:
    parts = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{given}\r\n".encode())
    client = Stream(reader, writer)
    async with asyncio.timeout(10):
        await client.begin()
    try:
        yield client
    finally:
        writer.close()


def ended(event: dict[str, Any]) -> bool:
    return (event["data"]["task"] or {}).get("finished_at") is not None


def with_tasks(app: Flowrra) -> Flowrra:
    @app.task(name="charge", max_retries=0)
    async def charge(card: str) -> None:
        current_task().progress(1, 2, f"charging {card}")
        await asyncio.sleep(0.05)
        raise ValueError(f"declined: {card}")

    @app.task(name="add", max_retries=0)
    async def add(a: int) -> int:
        return a

    return app


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "valkey"])
async def test_changes_come_as_they_happen_without_task_data(
    serve: Serve, request: pytest.FixtureRequest, where: str
) -> None:
    app = with_tasks(Flowrra() if where == "memory" else redis_app(request.getfixturevalue("url")))
    async with app:
        service = await serve(app)
        async with stream(service) as client:
            assert (client.status, client.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            task_id = await app.submit("charge", SECRET)
            found = await client.read(ended)
        assert [each["event"] for each in found] == ["change"] * len(found)
        assert {each["data"]["task"]["task_id"] for each in found} == {task_id}
        assert found[-1]["data"]["task"]["status"] == "failed"
        assert found[-1]["id"] == found[-1]["data"]["id"]
        assert SECRET not in client.text
        assert "error" not in found[-1]["data"]["task"]


async def test_who_may_sees_errors(serve: Serve, tmp_path: Path) -> None:
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{anna: {hashed('right')}}}\n")
    async with with_tasks(Flowrra()) as app:
        service = await serve(app, web_config_file=config, web_show_task_data=True)
        async with stream(service, Authorization=basic("anna", "right")) as client:
            await app.submit("charge", SECRET)
            found = await client.read(ended)
        assert found[-1]["data"]["task"]["error"] == f"ValueError: declined: {SECRET}"
        async with stream(service) as client:
            assert client.status == 401


async def test_filters(serve: Serve) -> None:
    async with with_tasks(Flowrra()) as app:
        service = await serve(app)
        async with stream(service, "/api/events?name=add") as client:
            await app.wait_for_result(await app.submit("charge", SECRET), timeout=5)
            added = await app.submit("add", 1)
            found = await client.read(ended)
        assert {each["data"]["task"]["task_id"] for each in found} == {added}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["memory", "valkey"])
async def test_each_of_many_gets_what_it_wants_of_one_watch(
    serve: Serve, request: pytest.FixtureRequest, where: str
) -> None:
    app = with_tasks(Flowrra() if where == "memory" else redis_app(request.getfixturevalue("url")))
    async with app:
        service = await serve(app)
        async with stream(service) as everything, stream(service, "/api/events?name=add") as additions:
            await until(lambda: watchers_of(app) == 1)
            charged, added = await app.submit("charge", SECRET), await app.submit("add", 1)
            first = await everything.read(lambda event: ended(event) and event["data"]["task"]["task_id"] == charged)
            assert {each["data"]["task"]["task_id"] for each in await additions.read(ended)} == {added}
            last = first[-1]["id"]
            await app.wait_for_result(added, timeout=5)
            async with stream(service, Last_Event_ID=last) as later:
                assert watchers_of(app) == 1
                again = await app.submit("add", 2)
                found = await later.read(lambda event: ended(event) and event["data"]["task"]["task_id"] == again)
            assert last not in {each["id"] for each in found}
        await until(lambda: watchers_of(app) == 0)


async def test_one_who_comes_back_when_too_many_have_is_told_that_it_missed_something(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_OWN_WATCHES", 0)
    path = "/api/events?last_event_id=7@elsewhere"
    async with with_tasks(Flowrra()) as app, stream(await serve(app), path) as client:
        await app.submit("add", 1)
        missed, *found = await client.read(ended)
    assert (missed["event"], missed["data"]["missed"]) == ("missed", None)
    assert [each["data"]["task"]["status"] for each in found][-1] == "success"


@pytest.mark.slow
@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize("where", ["memory", "valkey", "most partitions"])
async def test_one_who_comes_back_goes_on_where_it_was(
    serve: Serve, request: pytest.FixtureRequest, where: str, by_header: bool
) -> None:
    address = "" if where == "memory" else request.getfixturevalue("url")
    places = {
        "memory": Flowrra,
        "valkey": lambda: redis_app(address),
        "most partitions": lambda: redis_app(address, backend=partitioned_backend(address, MAX_PARTITIONS)),
    }
    async with with_tasks(places[where]()) as app:
        service = await serve(app)
        async with stream(service) as client:
            await app.submit("add", 1)
            last = (await client.read(ended))[-1]["id"]
        second = await app.submit("add", 2)
        await app.wait_for_result(second, timeout=5)
        path, headers = (
            ("/api/events?last_event_id=1@elsewhere", {"Last-Event-ID": last})
            if by_header
            else (f"/api/events?last_event_id={last}", {})
        )
        async with stream(service, path, **headers) as client:
            found = await client.read(ended)
        assert {each["data"]["task"]["task_id"] for each in found} == {second}


async def test_one_who_comes_back_to_partitions_gets_what_it_missed_whatever_another_was_sent_by_that_id(
    serve: Serve, url: str
) -> None:
    """The id of a change over partitions is how far each is read: for one who reads them otherwise, of another one."""
    config = BackendConfig(url=url, partitions=2)
    async with with_tasks(redis_app(url, backend=config, partitions=2, consume=False)) as app:
        service = await serve(app)
        backend = partitioned_backend(url, partitions=2)
        ids: tuple[list[str], list[str]] = ([], [])
        for task_id in map(str, range(100)):
            ids[backend.cells.index(backend.cell_of(task_id))].append(task_id)
        async with stream(service) as one:
            await until(lambda: watchers_of(app) == 1)

            async def sent(cell: int) -> tuple[str, str]:
                """The id of what another client was sent, and how far the cell is read by then."""
                await app.options(task_id=ids[cell].pop()).submit("add", 1)
                return (await one.read(lambda _: True))[-1]["id"], await backend.cells[cell].latest_change()

            _, read = await sent(1)
            missed = ids[1][-1]
            await sent(1)
            last, other = await sent(0)
            async with stream(service, Last_Event_ID=str(MergedPosition([other, read]))) as client:
                found = (await client.read(lambda _: True))[-1]
        await backend.close()
        assert (found["id"], found["data"]["task"]["task_id"]) == (last, missed)


async def test_one_to_whom_nothing_was_sent_yet_comes_back_to_where_it_was(serve: Serve) -> None:
    async with with_tasks(Flowrra()) as app:
        service = await serve(app)
        async with stream(service, "/api/events?name=add") as client, aclosing(client.lines()) as lines:  # type: ignore[type-var]
            position = await anext(line async for line in lines if line.startswith("id: "))
            await until(lambda: watchers_of(app))
        task_id = await app.submit("add", 1)
        await app.wait_for_result(task_id, timeout=10)
        async with stream(service, "/api/events?name=add", Last_Event_ID=position.removeprefix("id: ")) as client:
            found = await client.read(ended)
        assert {each["event"] for each in found} == {"change"}
        assert {each["data"]["task"]["task_id"] for each in found} == {task_id}


async def test_one_who_comes_back_too_late_is_told_though_nothing_was_sent_before(serve: Serve) -> None:
    async with with_tasks(Flowrra()) as app:
        service = await serve(app)
        async with stream(service, "/api/events", Last_Event_ID="before-the-first-of-another-run") as client:
            (event,) = await client.read(lambda event: event["event"] == "missed")
        assert event["data"]["missed"] is None


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/events?last_event_id=nonsense", 400),
        ("/api/events?nam=x", 400),
        ("/api/events?name=", 400),
    ],
)
async def test_what_makes_no_sense_is_refused(serve: Serve, path: str, status: int) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get(path)
    assert (answer.status, json.loads(answer.text)["status"]) == (status, status)


async def test_an_app_that_nobody_can_watch(serve: Serve) -> None:
    answer = await (await serve(MinimalApp())).get("/api/events")
    assert (answer.status, json.loads(answer.text)["detail"]) == (404, "this app has no watch()")
    assert (await (await serve(MinimalApp())).get("/api/events", "HEAD")).status == 405


@pytest.mark.slow
async def test_there_are_only_so_many_and_the_rest_is_answered_all_the_same(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra_exporter.web.access.limits.MAX_STREAMS", 2)
    async with Flowrra() as app:
        service = await serve(app)
        async with stream(service) as first, stream(service) as second:
            assert (first.status, second.status) == (200, 200)
            answer = await service.get("/api/events")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
            assert (await service.get("/livez")).status == 200
        await until(lambda: app.events.watchers.watchers == 0)
        async with stream(service) as third:
            assert third.status == 200


@pytest.mark.slow
async def test_those_who_watch_do_not_slow_the_tasks_down(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """All share one watch, whose loop is told of a burst once and not of each change, and a change is written once for
    all: anybody may watch, and fifty who did took all but a hundredth of what the app got through."""
    written: list[Any] = []
    render = module.render

    async def counted(event: Any, hidden: frozenset[str]) -> str:
        written.append(event["id"])
        return await render(event, hidden)

    monkeypatch.setattr(module, "render", counted)
    async with Flowrra() as app, AsyncExitStack() as stack:

        @app.task()
        async def work() -> None: ...

        service = await serve(app)
        clients = [await stack.enter_async_context(stream(service)) for _ in range(5)]
        await until(lambda: app.events.watchers.watchers == 1)
        loop, told = asyncio.get_running_loop(), 0
        call_soon_threadsafe = loop.call_soon_threadsafe

        def tell(callback: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal told
            told += callback.__qualname__ == "Event.set"
            return call_soon_threadsafe(callback, *arguments, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", tell)
        ids = [await app.submit(work) for _ in range(100)]
        for task_id in ids:
            await app.wait_for_result(task_id, timeout=5)
        last = await app.submit(work)
        read = await asyncio.gather(
            *(each.read(lambda event: ended(event) and event["data"]["task"]["task_id"] == last) for each in clients)
        )
    assert [len(each) for each in read] == [303] * 5
    assert len(set(written)) == 303
    assert len(written) < 2 * 303  # two that begin at once each write an event or so
    assert told < 101


@pytest.mark.slow
async def test_nobody_watches_on_once_the_client_is_gone(serve: Serve) -> None:
    """Be it without a word, as when it's killed."""
    import struct

    async with Flowrra() as app:
        service = await serve(app)
        async with stream(service) as client:
            await until(lambda: app.events.watchers.watchers == 1)
            connection = client.writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await until(lambda: app.events.watchers.watchers == 0)


@pytest.mark.slow
async def test_it_lives_through_a_blocked_loop(serve: Serve) -> None:
    async with with_tasks(Flowrra()) as app:
        service = await serve(app, loop_block_threshold=0.5)
        async with stream(service) as client:
            time.sleep(1.5)
            task_id = await app.submit("add", 1)
            found = await client.read(ended)
        assert found[-1]["data"]["task"]["task_id"] == task_id


async def test_a_slow_reader_is_told_how_much_it_has_missed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_WAITING", 10)

    class Chatty(MinimalApp):
        def __init__(self) -> None:
            super().__init__()
            self.go = asyncio.Event()

        async def watch(self) -> AsyncIterator[dict[str, Any]]:
            await self.go.wait()
            # In one turn of the loop, which nobody can follow.
            for number in range(100):
                yield {"id": str(number), "type": "change", "task": None, "missed": 0}
            await asyncio.Event().wait()

    app = Chatty()
    service = await serve(app)
    async with stream(service) as client:
        app.go.set()
        found = await client.read(lambda event: event["id"] == "99")
    told = sum(each["data"]["missed"] for each in found if each["event"] == "missed")
    assert told + sum(each["event"] == "change" for each in found) == 100
    assert told > 0
    assert [int(each["id"]) for each in found] == sorted(int(each["id"]) for each in found)


async def test_comments_show_that_it_lives(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
    async with with_tasks(Flowrra()) as app:
        service = await serve(app)
        async with stream(service) as client:
            lines = client.lines()
            assert await anext(lines) == "retry: 3000"
            async with asyncio.timeout(5):
                while await anext(lines) != ":":
                    pass


async def test_it_ends_when_the_exporter_does(serve: Serve) -> None:
    async with Flowrra() as app:
        service = await serve(app)
        async with stream(service) as client:
            started = time.monotonic()
            await service.exporter.__aexit__(None, None, None)
            async with asyncio.timeout(5):
                assert [line async for line in client.lines()][:2] == ["retry: 3000", ""]
            assert time.monotonic() - started < 0.9  # not only once the server's patience is over
        await until(lambda: app.events.watchers.watchers == 0)


async def test_each_event_is_as_the_document_says(serve: Serve) -> None:
    from jsonschema import Draft202012Validator

    async with with_tasks(Flowrra()) as app:
        service = await serve(app)
        spec = json.loads((await service.get("/api/openapi.json")).text)
        assert "TaskEvent" in spec["paths"]["/api/events"]["get"]["summary"]
        schema = {"$ref": "#/components/schemas/TaskEvent", "components": spec["components"]}
        async with stream(service) as client:
            await app.submit("charge", SECRET)
            for event in await client.read(ended):
                assert list(Draft202012Validator(schema).iter_errors(event["data"])) == []
