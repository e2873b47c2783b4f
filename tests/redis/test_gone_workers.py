"""A worker that was killed is known by its connection, which is gone: its holds end long before its leases."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from flowrra import Flowrra, Task
from flowrra.brokers.redis import RedisBroker
from flowrra.brokers.redis_connections import _end_holds
from tests.core.apps import until
from tests.redis.apps import QUEUE
from tests.redis.worker_process import RUNS, WorkerProcess, app_for
from tests.support.servers import ValkeyServer

CONNECTIONS, MISSING, LOOKED = f"{QUEUE}:connections", f"{QUEUE}:missing", f"{QUEUE}:looked"
LOGGER = "flowrra.brokers.redis_connections"


class Fleet:
    """Workers without tasks to run, of which each looks when it is told to.

    Attributes:
        victim, other: The workers.
    """

    def __init__(self, url: str, look: redis.Redis) -> None:
        self.victim, self.other = (RedisBroker(url, queue_key=QUEUE) for _ in range(2))
        self._look = look
        self.look_for(self.victim, times=3)
        ((token, self.connection),) = look.hgetall(CONNECTIONS).items()  # type: ignore[union-attr]
        self.token: bytes = token
        self.look_for(self.other, times=3)

    def look_for(self, worker: RedisBroker, times: int = 1) -> None:
        """Have a worker look, as if nobody else just had."""
        for _ in range(times):
            self._look.delete(LOOKED)
            worker.look_for_gone()

    def cut(self) -> None:
        """The server closes the victim's connection, as if its process were gone."""
        self._look.client_kill_filter(_id=self.connection.decode().split()[1])

    def pass_time(self, seconds: float) -> None:
        """Let that time have passed since a connection was first missing."""
        since, connection = self._look.hget(MISSING, self.token).split(b" ", 1)  # type: ignore[union-attr]
        self._look.hset(MISSING, self.token, b"%d %b" % (int(since) - seconds * 1e6, connection))  # type: ignore[arg-type]

    async def close(self) -> None:
        for worker in (self.victim, self.other):
            worker.withdraw(None)
            await worker.close()


@pytest.fixture
async def fleet(url: str, look: redis.Redis) -> AsyncIterator[Fleet]:
    fleet = Fleet(url, look)
    yield fleet
    await fleet.close()


async def take(worker: RedisBroker, queue: str = "default") -> list[tuple[str, int]]:
    """The ids of the tasks that a worker is given, and how often each was delivered in vain before."""
    return [(each.task_id, each.deliveries) for each in (await worker.take(10, queue=queue))[0]]


async def test_its_holds_end_after_two_looks(fleet: Fleet, look: redis.Redis) -> None:
    for name in "first", "second":
        await fleet.victim.push(Task(name, "add", (), {}))
    assert await take(fleet.victim) == [("first", 0), ("second", 0)]
    await fleet.victim.push(Task("third", "add", (), {}))
    fleet.cut()
    fleet.look_for(fleet.other)
    fleet.pass_time(3)
    fleet.look_for(fleet.other)
    # As at the end of a lease: in the places that they had, and counted as delivered in vain.
    assert await take(fleet.other) == [("first", 1), ("second", 1), ("third", 0)]
    assert not look.hexists(CONNECTIONS, fleet.token)
    assert look.hlen(MISSING) == 0


async def test_it_is_given_up_as_after_the_end_of_as_many_leases(fleet: Fleet) -> None:
    await fleet.victim.push(Task("deadly", "add", (), {}))
    for deliveries in range(3):
        assert await take(fleet.victim) == [("deadly", deliveries)]
        fleet.cut()
        fleet.look_for(fleet.other)
        fleet.pass_time(3)
        fleet.look_for(fleet.other)
        fleet.look_for(fleet.victim, times=3)
        fleet.connection = fleet._look.hget(CONNECTIONS, fleet.token)  # type: ignore[assignment]
    assert await take(fleet.other) == [("deadly", 3)]


async def test_it_wakes_who_waits_for_tasks(fleet: Fleet) -> None:
    await fleet.victim.push(Task("one", "add", (), {}))
    await take(fleet.victim)
    while await fleet.other.wait(0.05) is not None:
        pass
    fleet.cut()
    fleet.look_for(fleet.other)
    waiting = asyncio.create_task(fleet.other.wait(5))
    fleet.pass_time(3)
    await asyncio.to_thread(fleet.look_for, fleet.other)
    assert await waiting == "default"


async def test_so_do_those_in_other_queues(fleet: Fleet) -> None:
    for queue in "default", "mail":
        task = Task(queue, "add", (), {})
        task.queue = queue
        await fleet.victim.push(task)
        assert await take(fleet.victim, queue) == [(queue, 0)]
    fleet.cut()
    fleet.look_for(fleet.other)
    fleet.pass_time(3)
    fleet.look_for(fleet.other)
    assert await take(fleet.other, "mail") == [("mail", 1)]
    assert await take(fleet.other) == [("default", 1)]


async def test_what_others_hold_is_left_alone(fleet: Fleet) -> None:
    await fleet.other.push(Task("one", "add", (), {}))
    assert await take(fleet.other) == [("one", 0)]
    fleet.cut()
    fleet.look_for(fleet.other)
    fleet.pass_time(3)
    fleet.look_for(fleet.other)
    assert fleet.other.renew(["one"]) == ([], [], [])
    assert await take(fleet.other) == []


@pytest.mark.slow
async def test_all_of_thousands_of_holds_end(fleet: Fleet) -> None:
    names = {f"task-{number}" for number in range(2500)}
    for name in names:
        await fleet.victim.push(Task(name, "add", (), {}))
    taken = 0
    while found := await take(fleet.victim):
        taken += len(found)
    assert taken == len(names)
    fleet.cut()
    fleet.look_for(fleet.other)
    fleet.pass_time(3)
    fleet.look_for(fleet.other)
    again: set[str] = set()
    while found := await take(fleet.other):
        again |= {task_id for task_id, _ in found}
    assert again == names


class TestAWorkerThatLivesKeepsItsTasks:
    async def test_when_its_connection_was_missed_only_once(self, fleet: Fleet) -> None:
        await fleet.victim.push(Task("one", "add", (), {}))
        await take(fleet.victim)
        fleet.cut()
        fleet.look_for(fleet.other, times=5)  # too soon, all of them
        fleet.pass_time(2.2)
        fleet.look_for(fleet.other)
        assert await take(fleet.other) == []

    async def test_when_it_has_connected_anew_in_between(self, fleet: Fleet, look: redis.Redis) -> None:
        await fleet.victim.push(Task("one", "add", (), {}))
        await take(fleet.victim)
        fleet.cut()
        fleet.look_for(fleet.other)
        fleet.pass_time(3)
        fleet.look_for(fleet.victim)
        fleet.look_for(fleet.other)
        assert await take(fleet.other) == []
        assert not look.hexists(CONNECTIONS, fleet.token), "a new connection has yet to show that it is its own"
        fleet.look_for(fleet.victim, times=2)
        assert look.hget(CONNECTIONS, fleet.token) not in (None, fleet.connection)
        assert look.hlen(MISSING) == 0
        assert fleet.victim.renew(["one"]) == ([], [], [])

    async def test_when_it_tells_of_another_connection_just_before_its_holds_end(
        self, fleet: Fleet, look: redis.Redis
    ) -> None:
        await fleet.victim.push(Task("one", "add", (), {}))
        await take(fleet.victim)
        fleet.cut()
        fleet.look_for(fleet.other)
        fleet.pass_time(3)
        look.hset(CONNECTIONS, fleet.token, fleet.connection + b"1")  # type: ignore[arg-type]
        assert _end_holds(look, (1, QUEUE), fleet.token, fleet.connection) == 0
        look.hset(CONNECTIONS, fleet.token, fleet.connection)  # type: ignore[arg-type]
        assert _end_holds(look, (1, QUEUE), fleet.token, fleet.connection) == 1

    async def test_when_the_server_has_begun_anew_as_ids_do(self, fleet: Fleet, look: redis.Redis) -> None:
        await fleet.victim.push(Task("one", "add", (), {}))
        await take(fleet.victim)
        fleet.cut()
        look.hset(CONNECTIONS, fleet.token, "0" * 40 + " 1")  # type: ignore[arg-type]
        for _ in range(2):
            fleet.look_for(fleet.other)
        assert await take(fleet.other) == []
        assert not look.hexists(CONNECTIONS, fleet.token), "nobody looks for it any more"

    async def test_when_it_is_behind_a_proxy_that_changes_its_connection(self, fleet: Fleet, look: redis.Redis) -> None:
        for _ in range(4):
            fleet.cut()
            fleet.look_for(fleet.victim)
            assert not look.hexists(CONNECTIONS, fleet.token)
            mine = [each for each in look.client_list() if each["cmd"] == "client|list"]
            fleet.connection = f"run {mine[-1]['id']}".encode()

    async def test_when_the_server_has_no_memory_left(self, fleet: Fleet, look: redis.Redis) -> None:
        fleet.cut()
        fleet.look_for(fleet.other)
        look.config_set("maxmemory", 1)
        try:
            fleet.look_for(fleet.victim, times=3)
            assert look.hget(CONNECTIONS, fleet.token) not in (None, fleet.connection)
        finally:
            look.config_set("maxmemory", 0)


async def test_a_worker_that_has_ended_is_not_looked_for(fleet: Fleet, look: redis.Redis) -> None:
    fleet.victim.withdraw(None)
    assert not look.hexists(CONNECTIONS, fleet.token)


async def test_a_fleet_looks_no_oftener_than_one_worker(fleet: Fleet, look: redis.Redis) -> None:
    look.delete(LOOKED)
    look.config_resetstat()
    for _ in range(50):
        fleet.victim.look_for_gone()
        fleet.other.look_for_gone()
    stats = look.info("commandstats")
    assert stats["cmdstat_client|id"]["calls"] == 100  # type: ignore[index]
    assert stats["cmdstat_client|list"]["calls"] <= 2  # type: ignore[index]


async def test_a_user_who_may_not_look_has_leases_alone(
    url: str, valkey: ValkeyServer, look: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    rules = ["on", "nopass", "~*", "&*", "+@all", "-client|list"]
    look.execute_command("ACL", "SETUSER", "shop", *rules)
    broker = RedisBroker(f"redis://shop:any@127.0.0.1:{valkey.port}/0", queue_key=QUEUE)
    try:
        assert [broker.look_for_gone() for _ in range(4)] == [None] * 4
        assert look.hlen(CONNECTIONS) == 0
        (line,) = [each for each in caplog.records if each.name == LOGGER]
        assert "client|list" in line.getMessage()
        assert "leases" in line.getMessage()
    finally:
        broker.withdraw(None)
        look.execute_command("ACL", "DELUSER", "shop")


async def test_a_service_that_hides_its_run_has_leases_alone(
    url: str, look: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """By a connection's id alone, workers of before its restart would be taken for others."""
    caplog.set_level(logging.INFO, LOGGER)
    broker = RedisBroker(url, queue_key=QUEUE)
    broker._client_of_thread().set_response_callback("INFO", lambda _: {"redis_version": "7.0.0"})
    try:
        assert [broker.look_for_gone() for _ in range(4)] == [None] * 4
        assert look.hlen(CONNECTIONS) == 0
        (line,) = [each for each in caplog.records if each.name == LOGGER]
        assert "INFO tells no run_id" in line.getMessage()
    finally:
        broker.withdraw(None)


async def test_one_who_may_not_any_more_is_not_judged(
    url: str, valkey: ValkeyServer, look: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    look.execute_command("ACL", "SETUSER", "shop", *["on", "nopass", "~*", "&*", "+@all"])
    broker = RedisBroker(f"redis://shop:any@127.0.0.1:{valkey.port}/0", queue_key=QUEUE)
    try:
        for _ in range(3):
            assert broker.look_for_gone() == 1.0
        assert look.hlen(CONNECTIONS) == 1
        look.execute_command("ACL", "SETUSER", "shop", "-client|id")
        assert broker.look_for_gone() is None
        assert look.hlen(CONNECTIONS) == 0
    finally:
        broker.withdraw(None)
        look.execute_command("ACL", "DELUSER", "shop")


async def test_what_another_program_wrote_there_is_taken_away(fleet: Fleet, look: redis.Redis) -> None:
    strange = {"": "", "x" * 16: "no connection", "y" * 16: "0 1" * 99, "z" * 99: "0 1", "\xff" * 8: "ff 99999999999"}
    look.hset(CONNECTIONS, mapping=strange)
    fleet.look_for(fleet.other)
    fleet.look_for(fleet.other)
    assert look.hlen(CONNECTIONS) == 2
    look.set(LOOKED, "no time")
    fleet.other.look_for_gone()
    look.set(LOOKED, f"{int(time.time() + 1e6) * 1_000_000} 0")  # a clock that was put back
    fleet.other.look_for_gone()
    assert int(look.get(LOOKED).split()[0]) < (time.time() + 1000) * 1e6  # type: ignore[union-attr]


async def test_one_that_has_the_same_id_at_a_server_that_has_begun_anew_is_known_by_that_run(tmp_path: Path) -> None:
    """Ids begin anew then. By the former run nobody would know it to be gone."""
    with ValkeyServer(data_dir=tmp_path, persist=True, appendonly="yes", appendfsync="always") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        look = redis.Redis(port=server.port)
        _use_up_ids(server.port, 50)
        fleet = Fleet(url, look)
        client_id = fleet.connection.split()[1]
        server.kill()
        assert server._process is not None
        server._process.wait()
        server._process = None
        server.start()
        _use_up_ids(server.port, int(client_id) - 2)
        look.ping()  # it needs one, too
        for worker in (fleet.victim, fleet.other) * 4:
            fleet.look_for(worker)
        run = look.info("server")["run_id"].encode()  # type: ignore[index]
        assert look.hget(CONNECTIONS, fleet.token) == run + b" " + client_id
        await fleet.close()
        look.close()


def _use_up_ids(port: int, last: int) -> None:
    """Connect until a connection has that id."""
    client_id = 0
    while client_id < last:
        with redis.Redis(port=port) as client:
            client_id = client.client_id()  # type: ignore[assignment]


@pytest.mark.slow
class TestProcesses:
    @pytest.fixture
    async def app(self, url: str) -> AsyncIterator[Flowrra]:
        async with app_for(url, consume=False, lease=20.0) as app:
            yield app

    async def test_the_task_of_a_killed_worker_runs_again_in_seconds(
        self, url: str, app: Flowrra, look: redis.Redis
    ) -> None:
        with WorkerProcess(url, "victim", lease=20.0) as victim:
            for number in range(4):
                await app.submit("note", number, 30.0)
            await self._until(lambda: look.llen(RUNS) == 4)
            with WorkerProcess(url, "other", lease=20.0):
                await self._until(lambda: look.hlen(CONNECTIONS) == 2)
                victim.kill()
                killed = time.monotonic()
                await self._until(lambda: look.llen(RUNS) == 8)
                assert time.monotonic() - killed < 10, "half a lease, however busy the machine"

    async def test_a_worker_whose_connections_are_cut_for_a_second_keeps_its_tasks(
        self, url: str, app: Flowrra, look: redis.Redis
    ) -> None:
        with WorkerProcess(url, "one", lease=20.0), WorkerProcess(url, "other", lease=20.0):
            await self._until(lambda: look.hlen(CONNECTIONS) == 2)
            ids = [await app.submit("note", number, 8.0) for number in range(8)]
            await self._until(lambda: look.llen(RUNS) == 8)
            ends = time.monotonic() + 1.0
            while time.monotonic() < ends:
                for kind in "normal", "pubsub":
                    look.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                await asyncio.sleep(0.05)
            assert {(await app.wait_for_result(each, timeout=20)).status for each in ids} == {"success"}
            assert look.llen(RUNS) == 8

    @staticmethod
    async def _until(condition: Callable[[], object]) -> None:
        await until(condition, within=30)
