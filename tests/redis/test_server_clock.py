"""A server's clock that jumps: what workers hold they keep, and what a dead one held is run soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from tests.core.apps import final, numbers_of, until
from tests.redis.apps import QUEUE, Gate, redis_app, with_tasks
from tests.support.clocks import Clock, server_with_clock

pytestmark = pytest.mark.tools

HOUR = 3600.0
LEASE = 2.0


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    with server_with_clock(tmp_path) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("jump", [HOUR, -HOUR, 3.0, -3.0])
async def test_running_tasks_are_run_once(clock: Clock, jump: float) -> None:
    gate = Gate()
    async with (
        with_tasks(redis_app(clock.url, lease=LEASE, workers=6), gate) as one,
        with_tasks(redis_app(clock.url, lease=LEASE, workers=6), gate) as other,
    ):
        ids = await one.submit_many([("hold", (n,), {}) for n in range(12)])
        await until(lambda: len(gate.begun) == 12)
        for n in range(1, 4):
            clock.put_forward(n * jump)
            await asyncio.sleep(LEASE)
        gate.opened.set()
        for task_id in ids:
            assert (await final(one, task_id)).is_success
        redelivered = [numbers_of(app, "hold")["redelivered"] for app in (one, other)]
        dead = await FlowrraManager(one).list_dead_tasks()
    assert sorted(gate.begun) == list(range(12))
    assert (redelivered, dead) == ([0, 0], [])


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_what_a_dead_worker_held_is_run_soon(clock: Clock, jump: float) -> None:
    async with with_tasks(redis_app(clock.url, lease=LEASE)) as app:
        await app.stop()
        async with with_tasks(redis_app(clock.url, lease=LEASE, consume=False)) as producer:
            task_id = await producer.submit("add", 1, 2)
        dead = RedisBroker(clock.url, queue_key=QUEUE, lease=LEASE)
        assert len((await dead.take(1))[0]) == 1
        await dead.close()
        clock.put_forward(jump)
        await app.start()
        began = time.monotonic()
        assert (await final(app, task_id, within=6 * LEASE)).result == 3
        # A lease, and the time that an idle worker waits.
        assert time.monotonic() - began < LEASE + 6


async def test_what_remains(clock: Clock) -> None:
    """A delay is until a time of the server's clock: it shortens and lengthens with that."""
    async with with_tasks(redis_app(clock.url)) as app:
        task_id = await app.options(countdown=HOUR).submit("add", 1, 2)
        clock.put_forward(HOUR)
        assert (await final(app, task_id, within=10)).result == 3
