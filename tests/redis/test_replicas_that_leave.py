"""A replica that leaves its primary may have been made the primary itself: with `min_replicas`, what the others confirm
does not count until it is clear that they stay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import redis

from flowrra.brokers.base import QueuedTask
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import NotReplicatedError
from flowrra.redis_replicas import HOLD, Replicas
from tests.core.apps import until
from tests.support.servers import ValkeyServer


class Trio:
    """A primary and two replicas."""

    def __init__(self, primary: ValkeyServer, replicas: list[ValkeyServer]) -> None:
        self.primary, self.replicas = primary, replicas
        self.look = redis.Redis(port=primary.port)
        self._looks = [redis.Redis(port=each.port) for each in replicas]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.primary.port}/0"

    @property
    def count(self) -> int:
        """How many follow."""
        return int(self.look.info("replication")["connected_slaves"])  # type: ignore[index]

    def promote(self, number: int) -> None:
        """Make a replica a primary, as sentinels do, which tell the others later."""
        self._looks[number].replicaof("NO", "ONE")

    def follow(self, number: int, other: int | None = None) -> None:
        """Have a replica follow the primary, or another one."""
        port = self.primary.port if other is None else self.replicas[other].port
        self._looks[number].replicaof("127.0.0.1", port)

    def close(self) -> None:
        for each in (self.look, *self._looks):
            each.close()


@pytest.fixture
def trio() -> Iterator[Trio]:
    with ValkeyServer(config={"repl-diskless-sync-delay": 0}) as primary:
        follows = {"replicaof": f"127.0.0.1 {primary.port}", "repl-diskless-sync-delay": 0}
        with ValkeyServer(config=follows) as one, ValkeyServer(config=follows) as other:
            trio = Trio(primary, [one, other])
            trio.look.set("any", "thing")
            assert trio.look.wait(2, 10_000) == 2
            yield trio
            trio.close()


def entry(task_id: str) -> QueuedTask:
    return QueuedTask(task_id, 0, 0.0, "text", None)


pytestmark = pytest.mark.slow


async def test_what_is_confirmed_in_a_failover_does_not_count(trio: Trio) -> None:
    broker = RedisBroker(trio.url, min_replicas=1)
    assert await broker.submit([entry("before")]) == [True]
    trio.promote(0)
    submitting = asyncio.create_task(broker.submit([entry("meanwhile")]))
    await until(lambda: trio.look.hexists("flowrra:queue:tasks", "meanwhile"))
    assert trio.look.wait(1, 1000) == 1  # the other one has it
    trio.follow(1, 0)  # and loses it
    with pytest.raises(NotReplicatedError):
        await submitting
    await broker.close()


@pytest.mark.parametrize("max_connections", [1, 50])
async def test_it_counts_as_soon_as_the_replica_is_back(trio: Trio, max_connections: int) -> None:
    broker = RedisBroker(trio.url, min_replicas=1, max_connections=max_connections)
    assert await broker.submit([entry("before")]) == [True]
    trio.promote(0)
    submitting = asyncio.create_task(broker.submit([entry("meanwhile")]))
    await until(lambda: trio.look.hexists("flowrra:queue:tasks", "meanwhile"))
    assert not submitting.done()
    trio.follow(0)
    assert await submitting == [True]
    await broker.close()


async def test_it_counts_once_the_others_have_stayed(trio: Trio) -> None:
    broker = RedisBroker(trio.url, min_replicas=1)
    assert await broker.submit([entry("before")]) == [True]
    trio.replicas[0].freeze()
    trio.look.client_kill_filter(_type="replica")  # the other one connects anew
    started = time.monotonic()
    assert await broker.submit([entry("meanwhile")]) == [True]
    assert time.monotonic() - started >= HOLD * 0.9
    started = time.monotonic()
    assert await broker.submit([entry("then")]) == [True]
    assert time.monotonic() - started < HOLD
    await broker.close()
    trio.replicas[0].resume()


async def test_one_that_leaves_while_another_is_slow_is_no_second_one(trio: Trio) -> None:
    broker = RedisBroker(trio.url, min_replicas=1, replication_timeout=5.0)
    assert await broker.submit([entry("before")]) == [True]
    trio.promote(0)
    await until(lambda: trio.count == 1)
    trio.look.config_resetstat()
    trio.replicas[1].freeze()
    submitting = asyncio.create_task(broker.submit([entry("meanwhile")]))
    await until(lambda: trio.look.hexists("flowrra:queue:tasks", "meanwhile"))
    await asyncio.sleep(0.5)  # it takes its time
    trio.replicas[1].resume()
    assert await submitting == [True]
    stats: dict[str, dict[str, int]] = trio.look.info("commandstats")  # type: ignore[assignment]
    assert stats["cmdstat_evalsha"]["calls"] == 1
    await broker.close()


async def test_a_user_who_may_not_ask_has_what_replicas_confirm(trio: Trio) -> None:
    trio.look.acl_setuser("shop", enabled=True, nopass=True, categories=["+@all"], commands=["-info"], keys=["*"])
    broker = RedisBroker(trio.url.replace("//", "//shop:any@"), min_replicas=1)
    assert await broker.submit([entry("before")]) == [True]
    trio.promote(0)
    await until(lambda: trio.count == 1)
    assert await broker.submit([entry("meanwhile")]) == [True]
    await broker.close()


class TestReplicas:
    """What a primary says of its replicas, and what that means."""

    @staticmethod
    def said(count: int, primary: str = "one") -> bytes:
        return f"# Replication\r\nrole:master\r\nconnected_slaves:{count}\r\nmaster_replid:{primary}\r\n".encode()

    def test_those_that_stay_hold_nothing_up(self) -> None:
        replicas = Replicas()
        assert [replicas.hold(self.said(count)) for count in (2, 2, 3)] == [0.0, 0.0, 0.0]

    def test_each_that_leaves_holds_up_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [100.0]
        monkeypatch.setattr("flowrra.redis_replicas.time.monotonic", lambda: now[0])
        replicas = Replicas()
        replicas.hold(self.said(3))
        assert replicas.hold(self.said(2)) == HOLD
        now[0] += HOLD - 0.5
        assert replicas.hold(self.said(1)) == HOLD
        now[0] += HOLD - 0.5
        assert replicas.hold(self.said(1)) == pytest.approx(0.5)
        now[0] += 0.5
        assert replicas.hold(self.said(1)) == 0.0
        assert replicas.hold(self.said(1)) == 0.0

    def test_another_primary_has_others(self) -> None:
        replicas = Replicas()
        replicas.hold(self.said(2))
        assert replicas.hold(self.said(1, "other")) == 0.0
