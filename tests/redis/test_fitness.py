"""Servers that are not fit to keep tasks: said once, and shown for as long as it is so; the unknown is not fit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from flowrra import Flowrra
from flowrra.brokers import fitness, redis_fitness
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from tests.core.apps import memory_app, until
from tests.redis.apps import redis_app, with_tasks
from tests.support.servers import ValkeyServer

FIT = dict.fromkeys(["eviction", "no_persistence", "replica", "old_version", "clock"], False)
LEASE = 20.0


@pytest.fixture(scope="module")
def own() -> Iterator[ValkeyServer]:
    """A server whose settings the tests change."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def admin(own: ValkeyServer) -> Iterator[redis.Redis]:
    """Its administrator; the server is fit at first."""
    with redis.Redis(port=own.port) as admin:
        admin.replicaof("no", "one")
        admin.flushall()
        fit = {"maxmemory": 0, "maxmemory-policy": "noeviction", "save": "", "appendonly": "yes"}
        for name, value in fit.items():
            admin.config_set(name, value)
        yield admin


@pytest.fixture
def url(own: ValkeyServer, admin: redis.Redis) -> str:
    return f"redis://127.0.0.1:{own.port}/0"


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "INTERVAL", 0.02)
    monkeypatch.setattr(fitness, "RETRY_INTERVAL", 0.02)
    monkeypatch.setattr(fitness, "MIN_PAUSE", 0.01)


async def unfit(url: str, lease: float = LEASE) -> dict[str, bool | None]:
    """By reason, whether the server at that address is unfit."""
    broker = RedisBroker(url, lease=lease)
    try:
        return {reason: None if text is None else bool(text) for reason, text in (await broker.unfitness()).items()}
    finally:
        await broker.close()


async def shown(app: Flowrra) -> Any:
    """What the Management API says of the queue's server."""
    figures = (await FlowrraManager(app).get_queue_stats())["io"]
    assert figures is not None
    return figures["unfit"]


async def broker_health(app: Flowrra) -> Any:
    health = await FlowrraManager(app).health_check()
    return health["components"]["broker"]


@asynccontextmanager
async def altering(port: int, changes: dict[bytes, bytes]) -> AsyncIterator[str]:
    """The address of a server whose answers are altered, as one of another version would give them."""
    tasks = set()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, changes: dict[bytes, bytes]) -> None:
        while data := await source.read(1 << 20):
            for before, after in changes.items():
                assert len(before) == len(after)
                data = data.replace(before, after)
            sink.write(data)
        sink.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        for work in (copy(reader, server_writer, {}), copy(server_reader, writer, changes)):
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        for task in tasks:
            task.cancel()


class TestReasons:
    async def test_a_fit_server_has_none(self, url: str) -> None:
        assert await unfit(url) == FIT

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-lfu"])
    async def test_eviction_is_one(self, url: str, admin: redis.Redis, policy: str) -> None:
        admin.config_set("maxmemory-policy", policy)
        assert await unfit(url) == FIT, "without a limit nothing is ever dropped"
        admin.config_set("maxmemory", "100mb")
        assert await unfit(url) == {**FIT, "eviction": True}
        assert f"maxmemory-policy is {policy}" in str((await text_of(url))["eviction"])

    async def test_a_limit_with_noeviction_is_none(self, url: str, admin: redis.Redis) -> None:
        admin.config_set("maxmemory", "100mb")
        assert await unfit(url) == FIT

    @pytest.mark.parametrize(
        ("save", "appendonly", "expected"),
        [("", "no", True), ("3600 1", "no", False), ("", "yes", False), ("60 1", "yes", False)],
    )
    async def test_no_persistence_is_one(
        self, url: str, admin: redis.Redis, save: str, appendonly: str, expected: bool
    ) -> None:
        admin.config_set("save", save)
        admin.config_set("appendonly", appendonly)
        assert await unfit(url) == {**FIT, "no_persistence": expected}

    async def test_being_a_replica_is_one(self, url: str, admin: redis.Redis, valkey: ValkeyServer) -> None:
        admin.replicaof("127.0.0.1", str(valkey.port))
        assert await unfit(url) == {**FIT, "replica": True}

    @pytest.mark.parametrize(
        ("version", "expected"),
        [(b"6.0.9", True), (b"5.0.0", True), (b"6.2.0", False), (b"7.4.1", False), (b"10.00", False), (b"?????", None)],
    )
    async def test_an_old_version_is_one(self, own: ValkeyServer, admin: Any, version: bytes, expected: bool) -> None:
        told = {b"redis_version:7.2.4": b"redis_version:" + version, b"valkey_version": b"oddkey_version"}
        async with altering(own.port, told) as url:
            assert await unfit(url) == {**FIT, "old_version": expected}

    async def test_what_valkey_calls_its_redis_version_is_none(self, own: ValkeyServer, admin: Any) -> None:
        async with altering(own.port, {b"redis_version:7.2.4": b"redis_version:5.0.4"}) as url:
            assert await unfit(url) == FIT

    @pytest.mark.parametrize(("ahead", "expected"), [(0, False), (4.9, False), (-4.9, False), (5.2, True), (-60, True)])
    async def test_another_clock_is_one(
        self, url: str, monkeypatch: pytest.MonkeyPatch, ahead: float, expected: bool
    ) -> None:
        monkeypatch.setattr(redis_fitness, "host_clock", lambda: time.time() + ahead)
        assert await unfit(url, lease=20.0) == {**FIT, "clock": expected}
        text = (await text_of(url))["clock"]
        assert ("behind" if ahead > 0 else "ahead of") in str(text) or not expected

    async def test_a_clock_that_was_read_too_slowly_is_not_known(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading = iter([time.time(), time.time() + 100])
        monkeypatch.setattr(redis_fitness, "host_clock", lambda: next(reading))
        assert await unfit(url) == {**FIT, "clock": None}


class TestFigures:
    """What the server says of its clock and its memory."""

    async def test_a_limit_is_told_beside_what_is_used(self, url: str, admin: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            _, used, limit = await figures(app)
        assert used == pytest.approx(admin.info("memory")["used_memory"], rel=0.5)
        assert limit is None, "there is none"

        admin.config_set("maxmemory", "100mb")
        async with with_tasks(redis_app(url)) as app:
            assert (await figures(app))[2] == 100 * 2**20

    @pytest.mark.parametrize("behind", [0.0, 90.0, -90.0])
    async def test_the_clock_is_told_as_far_as_it_is_ahead_of_the_hosts(
        self, url: str, monkeypatch: pytest.MonkeyPatch, behind: float
    ) -> None:
        monkeypatch.setattr(redis_fitness, "host_clock", lambda: time.time() - behind)
        async with with_tasks(redis_app(url)) as app:
            assert (await figures(app))[0] == pytest.approx(behind, abs=1.0)

    async def test_a_clock_that_was_read_too_slowly_is_not_known(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading = iter([time.time(), time.time() + 100])
        monkeypatch.setattr(redis_fitness, "host_clock", lambda: next(reading, 0.0))
        broker = RedisBroker(url, lease=LEASE)
        await broker.unfitness()
        assert broker.server_figures.clock_offset is None
        await broker.close()

    async def test_the_lease_is_told_with_a_broker_alone(self, url: str) -> None:
        async with with_tasks(redis_app(url, lease=7.0)) as app:
            with_broker = (await FlowrraManager(app).get_queue_stats())["io"]
        async with with_tasks(memory_app()) as app:
            in_memory = (await FlowrraManager(app).get_queue_stats())["io"]
        assert with_broker is not None
        assert in_memory is not None
        assert with_broker["lease"] == 7.0
        assert not {"lease", "clock_offset", "memory_used", "memory_limit"} & in_memory.keys()


async def figures(app: Flowrra) -> tuple[float | None, int | None, int | None]:
    """What the Management API says of the server's clock and memory."""
    found = (await FlowrraManager(app).get_queue_stats())["io"]
    assert found is not None
    return found["clock_offset"], found["memory_used"], found["memory_limit"]


async def text_of(url: str) -> dict[str, str | None]:
    broker = RedisBroker(url, lease=LEASE)
    try:
        return await broker.unfitness()
    finally:
        await broker.close()


class TestForbidden:
    """What a server doesn't tell is not known, and what it does tell is."""

    @pytest.fixture
    def forbidding(self, url: str, admin: redis.Redis) -> Iterator[Callable[..., str]]:
        def address(*commands: str) -> str:
            rights = ["+@all", *(f"-{command}" for command in commands)]
            admin.acl_setuser("shop", enabled=True, nopass=True, keys="*", channels="*", commands=rights)
            return url.replace("redis://", "redis://shop:any@")

        yield address
        admin.acl_deluser("shop")

    async def test_config(self, forbidding: Callable[..., str], admin: redis.Redis) -> None:
        url = forbidding("config")
        assert await unfit(url) == FIT
        admin.config_set("appendonly", "no")
        admin.config_set("maxmemory", "100mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert await unfit(url) == {**FIT, "eviction": True, "no_persistence": None}

    async def test_info(self, forbidding: Callable[..., str], admin: redis.Redis) -> None:
        url = forbidding("info")
        unknown = dict.fromkeys(["eviction", "replica", "old_version"])
        assert await unfit(url) == {**FIT, **unknown, "no_persistence": None}
        admin.config_set("save", "3600 1")
        assert await unfit(url) == {**FIT, **unknown}

    async def test_both(self, forbidding: Callable[..., str]) -> None:
        assert await unfit(forbidding("info", "config")) == {**dict.fromkeys(FIT), "clock": False}

    async def test_time(self, forbidding: Callable[..., str]) -> None:
        assert await unfit(forbidding("time")) == {**FIT, "clock": None}

    @pytest.mark.usefixtures("looks_often")
    async def test_is_told_once_and_never_as_unfit(
        self, forbidding: Callable[..., str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flowrra.brokers.fitness")
        async with with_tasks(redis_app(forbidding("info", "config"))) as app:
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(0.2)
            assert await shown(app) == {**dict.fromkeys(FIT), "clock": False}
            assert (await broker_health(app)) == {"healthy": True, "message": "answering"}

        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "not known" in caplog.text


@pytest.mark.usefixtures("looks_often")
class TestAnApp:
    async def test_warns_once_and_again_if_it_came_back(
        self, url: str, admin: redis.Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flowrra.brokers.fitness")

        def warnings() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

        admin.config_set("maxmemory-policy", "allkeys-lru")
        admin.config_set("maxmemory", "100mb")
        app = with_tasks(redis_app(url), cpu=True)
        async with app:
            await until(lambda: len(warnings()) == 1)
            await asyncio.sleep(0.2)
            assert len(warnings()) == 1, "not again, and not for each kind of task"
            assert "reason=eviction" in warnings()[0]
            assert "set noeviction" in warnings()[0]
            admin.config_set("maxmemory", 0)
            await until(lambda: "fit again" in caplog.text)
            admin.config_set("maxmemory", "100mb")
            await until(lambda: len(warnings()) == 2)
            admin.config_set("appendonly", "no")
            await until(lambda: len(warnings()) == 3)

        assert "reason=no_persistence" in warnings()[2]

    async def test_is_healthy_and_says_what_to_do(self, url: str, admin: redis.Redis) -> None:
        admin.config_set("appendonly", "no")
        async with with_tasks(redis_app(url)) as app:
            await until(lambda: bool(app.broker_fitness.known))
            broker = await broker_health(app)
            health = await FlowrraManager(app).health_check()

        assert broker["healthy"] is health["healthy"] is True
        assert "unfit" in broker["message"]
        assert "set appendonly yes" in broker["message"]

    async def test_shows_it_with_both_queues_and_the_fit_reasons_too(self, url: str, admin: redis.Redis) -> None:
        admin.config_set("appendonly", "no")
        async with with_tasks(redis_app(url), cpu=True) as app:
            queues = await FlowrraManager(app).get_queue_stats()

        assert queues["io"] is not None
        assert queues["cpu"] is not None
        assert queues["io"]["unfit"] == queues["cpu"]["unfit"] == {**FIT, "no_persistence": True}

    @pytest.mark.parametrize("consume", [True, False])
    async def test_that_only_submits_warns_as_well(
        self, url: str, admin: redis.Redis, consume: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        admin.config_set("appendonly", "no")
        async with with_tasks(redis_app(url, consume=consume)):
            await until(lambda: "reason=no_persistence" in caplog.text)

    async def test_that_does_not_run_can_be_asked(self, url: str, admin: redis.Redis) -> None:
        admin.config_set("appendonly", "no")
        app = with_tasks(redis_app(url))
        assert await shown(app) == {**FIT, "no_persistence": True}
        await app.executors["io"].broker.close()  # type: ignore[union-attr]

    async def test_in_memory_has_no_server(self) -> None:
        async with with_tasks(memory_app()) as app:
            queues = await FlowrraManager(app).get_queue_stats()

        assert queues["io"] is not None
        assert "unfit" not in queues["io"]

    async def test_shows_nothing_of_a_server_that_is_away(
        self, url: str, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "flowrra.brokers.fitness")
        broken = False

        async def inspect(*args: Any) -> Any:
            if broken:
                raise ConnectionError("away")
            return await usual(*args)

        usual = redis_fitness.look
        monkeypatch.setattr("flowrra.brokers.redis.look", inspect)
        async with with_tasks(redis_app(url)) as app:
            await until(lambda: bool(app.broker_fitness.known))
            broken = True
            await until(lambda: not app.broker_fitness.known)
            assert await shown(app) is None
            assert await figures(app) == (None, None, None)
            broken = False
            await until(lambda: bool(app.broker_fitness.known))

        # It is said once; what the server may refuse at the end of the app is another matter.
        assert [record.levelname for record in caplog.records if "away" in record.getMessage()] == ["INFO"]

    async def test_goes_on_looking_whatever_ends_it(self, url: str, admin: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            await until(lambda: bool(app.broker_fitness.known))
            for task in asyncio.all_tasks():
                if task.get_name() == "flowrra-broker-fitness":
                    task.cancel()
            admin.config_set("appendonly", "no")
            await until(lambda: bool(app.broker_fitness.known.get("no_persistence")))


async def test_what_is_known_is_not_asked_for_again_until_it_is_old() -> None:
    looks: list[dict[str, str | None]] = []

    async def look() -> dict[str, str | None]:
        looks.append({"eviction": ""})
        return looks[-1]

    monitor = fitness.FitnessMonitor(look)
    assert [await monitor.reasons() for _ in range(3)] == [{"eviction": ""}] * 3
    assert len(looks) == 1


async def test_looking_does_not_hold_up_the_start_nor_the_stop() -> None:
    """Of a server that takes connections and never answers."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as listening:
        url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        monitor = with_tasks(redis_app(url, socket_timeout=8.0)).broker_fitness
        began = time.monotonic()
        monitor.start()
        await asyncio.sleep(0.1)
        await monitor.stop()

    assert time.monotonic() - began < 8.0 / 2
