"""Apps on different databases of one server, or under different names on one database, don't meet: neither do their
messages, which know no databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra, TaskStatus
from tests.core.apps import final, until
from tests.redis.apps import Gate, redis_app, with_tasks


def at(url: str, database: int) -> str:
    return f"{url.rsplit('/', 1)[0]}/{database}"


def app_with_names(url: str, namespace: str, queue_key: str | None) -> Flowrra:
    return Flowrra(
        Config(
            broker=BrokerConfig(url=url, namespace=namespace, queue_key=queue_key),
            backend=BackendConfig(url=url, namespace=namespace),
            executor=ExecutorConfig(io_workers=4),
        )
    )


def pairs(url: str) -> list[Any]:
    return [
        ("other database", redis_app(at(url, 3)), redis_app(at(url, 4))),
        ("other namespace", redis_app(url, namespace="staging"), redis_app(url, namespace="production")),
        ("other queue", app_with_names(url, "one", "queue-a"), app_with_names(url, "other", "queue-b")),
        ("other database, own queue", app_with_names(at(url, 3), "x", "q"), app_with_names(at(url, 4), "x", "q")),
    ]


@pytest.mark.parametrize("which", range(4))
async def test_a_cancellation_stays_where_it_was_asked_for(url: str, which: int) -> None:
    _, one, other = pairs(url)[which]
    gates = Gate(), Gate()
    async with with_tasks(one, gates[0]), with_tasks(other, gates[1]):
        for app in (one, other):
            # As the runs of a schedule have, in staging and in production.
            await app.options(task_id="nightly@1").submit("hold", 1)
        await until(lambda: gates[0].begun and gates[1].begun)
        assert await other.cancel_task("nightly@1") is True
        await asyncio.sleep(0.2)
        gates[0].opened.set()
        assert (await final(one, "nightly@1")).status is TaskStatus.SUCCESS
        assert (await final(other, "nightly@1")).status is TaskStatus.CANCELLED


async def test_a_task_that_ends_in_another_database_is_not_taken_for_one_that_is_waited_for(
    url: str, look: redis.Redis
) -> None:
    one, other = redis_app(at(url, 3)), redis_app(at(url, 4))
    async with with_tasks(one), with_tasks(other):
        waiting = asyncio.create_task(one.executors["io"].wait_for_result("order-7", timeout=30))
        channel = b"flowrra:complete:order-7"
        await until(lambda: dict(look.pubsub_numsub(channel))[channel])  # type: ignore[arg-type]
        await final(other, await other.options(task_id="order-7").submit("add", 1, 1))
        await other.submit("add", 2, 2)
        assert not waiting.done()
        await one.options(task_id="order-7").submit("add", 3, 4)
        assert (await waiting).result == 7


async def test_where_a_queue_is_is_told_without_user_and_password(url: str) -> None:
    place = url.rsplit("/", 1)[0].removeprefix("redis://")
    app = redis_app(f"redis://user:secret@{place}/3?socket_connect_timeout=1")
    assert app.executors == {}
    app.task(name="note")(_nothing)
    assert app.executors["io"].source.server == f"{place}/3"
    unix = BrokerConfig(url="unix:///run/valkey.sock?db=2&password=secret")
    assert unix.create_broker().address == "/run/valkey.sock/2"


async def _nothing() -> None:
    """Do nothing."""


async def test_what_anybody_says_on_the_channel_cancels_nothing(url: str, look: redis.Redis) -> None:
    gate = Gate()
    async with with_tasks(redis_app(url), gate) as app:
        task_id = await app.submit("hold", 1)
        await until(lambda: gate.begun)
        for channel in look.pubsub_channels():  # type: ignore[union-attr]
            look.publish(channel, task_id)
            look.publish(channel, b"\xff\xfe")
        await asyncio.sleep(0.2)
        gate.opened.set()
        assert (await final(app, task_id)).status is TaskStatus.SUCCESS
        # It still listens.
        held = await app.submit("echo")
        await final(app, held)


async def test_a_completion_elsewhere_completes_nothing_here(url: str) -> None:
    one, other, gate = redis_app(at(url, 3)), redis_app(at(url, 4)), Gate()
    async with with_tasks(one, gate), with_tasks(other):
        await one.options(task_id="same").submit("hold", 1)
        waiting = asyncio.create_task(final(one, "same"))
        await until(lambda: gate.begun)
        await other.options(task_id="same").submit("add", 1, 1)
        assert (await final(other, "same")).result == 2
        await asyncio.sleep(0.1)
        assert not waiting.done()
        gate.opened.set()
        assert (await waiting).result == 1
