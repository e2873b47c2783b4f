"""How long a queue takes to be emptied, from what was seen of it in the last minutes."""

from __future__ import annotations

import asyncio

import pytest

from flowrra.management import FlowrraManager
from flowrra.queue_flow import STEP, WINDOW, QueueFlow
from tests.core.apps import memory_app, numbers_of, until


class Watched:
    """A queue in simulated time: tasks arrive and are taken at steady rates, and it is looked at."""

    def __init__(self, pending: int = 0) -> None:
        self.now = 1000.0
        self.pending, self.taken = pending, 50_000
        self.flow = QueueFlow(lambda: self.now)

    def look(self) -> float | None:
        return self.flow.drain_seconds(self.pending, self.taken)

    def pass_time(self, seconds: int, *, arriving: int = 0, taking: int = 0, looking_every: int = 15) -> None:
        for second in range(1, seconds + 1):
            self.now += 1
            self.pending += arriving
            taken = min(taking, self.pending)
            self.pending, self.taken = self.pending - taken, self.taken + taken
            if second % looking_every == 0:
                self.look()


def test_it_is_what_is_pending_by_the_rate_at_which_workers_took_tasks() -> None:
    queue = Watched(pending=10_000)
    assert queue.look() is None, "one look says nothing of a rate"
    queue.pass_time(9, taking=10)
    assert queue.look() is None, "nor do two that are close together"
    queue.pass_time(51, taking=10)
    assert queue.look() == (10_000 - 600) / 10
    queue.pass_time(300, arriving=20, taking=30)
    assert queue.look() == (10_000 - 600 - 3000) / 30


def test_nothing_is_pending() -> None:
    assert Watched().look() == 0.0
    assert QueueFlow().drain_seconds(0, None) == 0.0


def test_nothing_moves() -> None:
    queue = Watched(pending=5)
    queue.look()
    queue.pass_time(60)
    assert queue.look() is None


def test_a_queue_that_grows_is_never_emptied() -> None:
    queue = Watched(pending=1000)
    queue.look()
    queue.pass_time(120, arriving=11, taking=10)
    assert queue.look() is None
    queue.pass_time(120, arriving=5, taking=10)
    assert queue.look() == pytest.approx(queue.pending / 10)


def test_a_few_tasks_more_or_less_are_no_growth() -> None:
    queue = Watched(pending=5)
    queue.look()
    queue.pass_time(60, arriving=100, taking=100)
    queue.pending += 3
    assert queue.look() == pytest.approx(8 / 100)


def test_the_time_in_which_workers_had_nothing_to_do_does_not_count() -> None:
    queue = Watched()
    queue.pass_time(200)
    queue.pending = 6000
    queue.pass_time(90, taking=20, looking_every=10)
    assert queue.look() == pytest.approx((6000 - 90 * 20) / 20, rel=0.15)


def test_what_was_seen_long_ago_does_not_count() -> None:
    queue = Watched(pending=10_000)
    queue.look()
    queue.pass_time(600, taking=10, looking_every=1000)
    assert queue.look() is None
    queue.pass_time(60, taking=2)
    assert queue.look() == queue.pending / 2


def test_a_counter_that_begins_anew_says_nothing_until_it_has_counted() -> None:
    """As after the server lost its data."""
    queue = Watched(pending=1000)
    queue.pass_time(60, taking=1)
    queue.taken = 0
    assert queue.look() is None
    queue.pass_time(320, taking=1)
    assert queue.look() == queue.pending


def test_what_was_counted_before_a_counter_began_anew_is_no_part_of_the_rate() -> None:
    queue = Watched(pending=1000)
    queue.pass_time(60, taking=1)
    queue.pending, queue.taken = 1000, 0
    queue.look()
    queue.pass_time(15, taking=4)
    assert queue.look() == queue.pending / 4
    queue.pass_time(120, taking=4)
    assert queue.look() == queue.pending / 4


def test_a_count_that_is_not_known_once_is_no_count_of_0() -> None:
    queue = Watched(pending=1000)
    queue.look()
    queue.pass_time(30, taking=1)
    assert queue.flow.drain_seconds(queue.pending, None) is None
    queue.pass_time(30, taking=1)
    assert queue.look() == queue.pending


def test_a_broker_that_does_not_count_gives_no_estimate() -> None:
    queue = Watched(pending=100)
    queue.flow.drain_seconds(100, None)
    queue.pass_time(60, taking=1, looking_every=1000)
    assert queue.flow.drain_seconds(40, None) is None


@pytest.mark.slow
def test_what_is_kept_is_bounded() -> None:
    queue = Watched(pending=1)
    queue.pass_time(24 * 3600, looking_every=1)
    assert len(queue.flow._seen) <= WINDOW / STEP + 1


def test_while_it_is_paused_nobody_knows_and_the_pause_does_not_count() -> None:
    queue = Watched(pending=10_000)
    queue.look()
    queue.pass_time(60, taking=10)
    assert queue.flow.drain_seconds(queue.pending, queue.taken, is_paused=True) is None
    assert queue.flow.drain_seconds(0, queue.taken, is_paused=True) == 0.0
    queue.pass_time(120, looking_every=1000)
    assert queue.look() is None
    queue.pass_time(10, taking=10)
    assert queue.look() == queue.pending / 10


async def test_of_two_queues_in_memory_of_which_one_is_paused() -> None:
    app = memory_app(io_workers=2)
    manager, gates = FlowrraManager(app), asyncio.Semaphore(0)
    now = 0.0
    app.queue_flows.default_factory = lambda: QueueFlow(lambda: now)

    @app.task(name="hold")
    async def hold() -> None:
        await gates.acquire()

    async def estimates() -> dict[str, float | None]:
        found = {each["queue"]: each["drain_seconds"] for each in await manager.list_queues()}
        default = (await manager.get_queue_stats())["io"]
        assert default is not None
        assert default["drain_seconds"] == found["default"]
        return found

    async with app:
        for _ in range(11):
            await app.options(queue="mail").submit(hold)
            await app.submit(hold)
        await until(lambda: numbers_of(app, "hold")["running"] == 2)
        assert await estimates() == {"default": None, "mail": None}
        for _ in range(8):
            gates.release()
        await until(lambda: numbers_of(app, "hold")["started"] == 10)
        now = 10.0
        assert await estimates() == {"default": 6 / (4 / 10), "mail": 6 / (4 / 10)}
        await manager.pause_queue("mail")
        assert await estimates() == {"default": 6 / (4 / 10), "mail": None}
        await app.stop(wait=False)


async def test_what_was_seen_of_queues_that_are_no_more_is_not_kept() -> None:
    app = memory_app()

    @app.task(name="nothing")
    async def nothing() -> None: ...

    async with app:
        manager = FlowrraManager(app)
        for number in range(20):
            await manager.pause_queue(f"user-{number}")
        await manager.list_queues()
        assert len(app.queue_flows) == 21
        for number in range(20):
            await manager.resume_queue(f"user-{number}")
        await manager.list_queues()
        assert set(app.queue_flows) == {"io"}


async def test_of_a_queue_in_memory() -> None:
    app = memory_app(io_workers=1)
    manager, gates = FlowrraManager(app), asyncio.Semaphore(0)
    now = 0.0
    app.queue_flows["io"] = QueueFlow(lambda: now)

    @app.task(name="hold")
    async def hold() -> None:
        await gates.acquire()

    async def estimate() -> float | None:
        queue = (await manager.get_queue_stats())["io"]
        assert queue is not None
        return queue["drain_seconds"]

    async with app:
        found = [await estimate()]
        for _ in range(21):
            await app.submit(hold)
        await until(lambda: numbers_of(app, "hold")["running"] == 1)
        now = 10.0
        found.append(await estimate())
        for _ in range(5):
            gates.release()
        await until(lambda: numbers_of(app, "hold")["started"] == 6)
        now = 70.0
        found.append(await estimate())
        for _ in range(16):
            gates.release()
        await until(lambda: numbers_of(app, "hold")["succeeded"] == 21)
        found.append(await estimate())
    assert found == [0.0, None, pytest.approx(15 / (6 / 70)), 0.0]
