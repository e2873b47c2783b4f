"""Each delivery of a task has a number: what is told of one, however late and however often, is not taken for what
becomes of a later one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from flowrra import TaskStatus
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import Delivery, Outcome, QueuedTask, Verb, Verdict
from flowrra.brokers.redis import RedisBroker
from flowrra.codec import encode_record
from flowrra.task import TaskResult
from tests.redis.apps import QUEUE, calls_of, let_lapse

# What ends a hold, and has the task run again or be looked at by somebody.
UNDOABLE = [Verb.RETRY, Verb.RELEASE, Verb.NACK]


@pytest.fixture
async def workers(url: str) -> AsyncIterator[list[RedisBroker]]:
    found = [RedisBroker(url, queue_key=QUEUE) for _ in range(3)]
    yield found
    for each in found:
        await each.close()


@pytest.fixture
async def results(url: str) -> AsyncIterator[RedisBackend]:
    """Keeps records where the tasks are."""
    found = RedisBackend(url)
    yield found
    await found.close()


async def taken(broker: RedisBroker) -> Delivery:
    [delivery], _ = await broker.take(1)
    return delivery


def told(verb: Verb, delivery: Delivery, text: str = "", **what: Any) -> Outcome:
    text = "work" if verb is Verb.NACK else text
    return Outcome(verb, delivery.task_id, text=text, delivery=delivery.number, **what)


def done(delivery: Delivery) -> Outcome:
    return told(Verb.COMPLETE, delivery, status=TaskStatus.SUCCESS)


async def submit(broker: RedisBroker) -> None:
    await broker.submit([QueuedTask("t", 0, 0.0, "attempt 1", None)])


def payload(look: redis.Redis) -> bytes:
    entry = look.hget(f"{QUEUE}:tasks", "t")
    assert isinstance(entry, bytes)
    return entry.rpartition(b"|")[2]


@pytest.mark.parametrize("delay", [0.0, 60.0])
async def test_a_retry_that_is_told_again_leaves_a_later_one_alone(
    workers: list[RedisBroker], look: redis.Redis, delay: float
) -> None:
    one, other, third = workers
    await submit(one)
    first = told(Verb.RETRY, await taken(one), "attempt 2")
    assert await one.settle([first]) == [Verdict.SETTLED]
    second = told(Verb.RETRY, await taken(other), "attempt 3", delay=delay)
    assert await other.settle([second]) == [Verdict.SETTLED]
    await third.take(0)  # what is due is moved
    for _ in range(2):
        assert await one.settle([first]) == [Verdict.LATE]
    assert payload(look) == b"attempt 3"
    assert (await one.figures()).delayed == (delay > 0)


@pytest.mark.parametrize("verb", UNDOABLE)
async def test_an_outcome_is_not_that_of_a_later_hold_that_has_lapsed(
    workers: list[RedisBroker], look: redis.Redis, verb: Verb
) -> None:
    one, other, third = workers
    await submit(one)
    first = told(Verb.RETRY, await taken(one), "attempt 2")
    await one.settle([first])
    second = told(verb, await taken(other), "attempt 3")
    let_lapse(look)
    await third.take(0)
    assert await one.settle([first]) == [Verdict.LATE]
    assert payload(look) == b"attempt 2"
    assert await other.settle([second]) == [Verdict.SETTLED], "nobody has held it since"


@pytest.mark.parametrize("verb", UNDOABLE)
@pytest.mark.parametrize("memory", ["an hour", "a minute"])
async def test_nothing_that_has_ended_runs_again_as_long_as_it_may_be_told_again(
    workers: list[RedisBroker], look: redis.Redis, verb: Verb, memory: str
) -> None:
    """For an hour, wherever records are: the end itself is remembered for a minute."""
    one, other, _ = workers
    await submit(one)
    await asyncio.to_thread(other.announce, None, ["work"], 60.0)
    first = told(verb, await taken(one), "attempt 2")
    await one.settle([first])
    await other.settle([done(await taken(other))])
    if memory == "a minute":
        assert look.delete(f"{QUEUE}:ended:t") == 1
    assert await one.settle([first]) == [Verdict.KNOWN]
    assert (await other.take(1))[0] == []
    assert 3000 < look.ttl(f"{QUEUE}:lapsed:t") <= 3600
    await asyncio.to_thread(other.withdraw, None)


async def test_nothing_that_has_ended_runs_again_when_its_record_has_expired(
    workers: list[RedisBroker], results: RedisBackend, look: redis.Redis
) -> None:
    one, other, _ = workers
    assert one.keeps_records_of(results)
    assert other.keeps_records_of(results)
    record = encode_record(TaskResult("t", TaskStatus.SUCCESS, "work"))
    await submit(one)
    first = told(Verb.RETRY, await taken(one), "attempt 2")
    await one.settle([first])
    await other.settle([done(await taken(other))._replace(record=record)])
    assert look.delete("flowrra:task:t") == 1
    assert await one.settle([first]) == [Verdict.KNOWN]
    assert (await other.take(1))[0] == []


async def test_a_request_that_arrives_late_does_not_end_the_next_hold_of_the_same_worker(
    workers: list[RedisBroker], look: redis.Redis
) -> None:
    one = workers[0]
    await submit(one)
    first = told(Verb.RETRY, await taken(one), "attempt 2")
    await one.settle([first])
    second = await taken(one)
    assert await one.settle([first]) == [Verdict.KNOWN]
    assert look.hlen(f"{QUEUE}:holders") == 1
    assert await one.settle([told(Verb.RETRY, second, "attempt 3")]) == [Verdict.SETTLED]
    assert payload(look) == b"attempt 3"


async def test_a_worker_that_got_its_task_back_tells_of_the_hold_before(
    workers: list[RedisBroker], look: redis.Redis
) -> None:
    one = workers[0]
    await submit(one)
    first = await taken(one)
    let_lapse(look)
    second = await taken(one)
    assert second.number > first.number
    assert await one.settle([told(Verb.RETRY, first, "attempt 2")]) == [Verdict.SETTLED]
    assert payload(look) == b"attempt 2"


async def test_a_dead_task_that_was_requeued_is_not_buried_again(workers: list[RedisBroker]) -> None:
    one = workers[0]
    await submit(one)
    burial = told(Verb.DEAD_LETTER, await taken(one), "as planned")
    await one.settle([burial])
    assert await one.requeue_dead("t", None)
    assert await one.settle([burial]) == [Verdict.KNOWN]
    assert (await one.figures()).pending == 1


async def test_a_late_outcome_takes_back_what_its_lapse_counted_for_once(
    workers: list[RedisBroker], look: redis.Redis
) -> None:
    """Else one worker would hide that others die of the task."""
    one, other, third = workers
    await submit(one)
    for broker in (one, other):
        late = told(Verb.RETRY, await taken(broker), "again")
        let_lapse(look)
    assert (await taken(third)).deliveries == 2
    for verdict in (Verdict.LATE, Verdict.KNOWN, Verdict.KNOWN):
        assert await other.settle([late]) == [verdict]
    let_lapse(look)
    assert (await taken(one)).deliveries == 2, "one that told an outcome, and two that were not heard of"


async def test_what_the_server_lost_is_taken_on_whatever_it_knows_of_an_earlier_delivery(
    workers: list[RedisBroker], look: redis.Redis
) -> None:
    one = workers[0]
    await submit(one)
    await one.settle([told(Verb.RETRY, await taken(one), "attempt 2")])
    second = await taken(one)
    look.delete(f"{QUEUE}:tasks", f"{QUEUE}:holders", f"{QUEUE}:leases")  # as a failover may
    assert (await asyncio.to_thread(one.renew, ["t"])).missing == ["t"]
    again = told(Verb.RETRY, second, "attempt 3")
    assert await one.settle([again]) == [Verdict.LOST]
    assert await one.settle([again]) == [Verdict.KNOWN]
    assert payload(look) == b"attempt 3"


class TestOfAnEarlierVersion:
    """What it wrote is read as it was meant: its deliveries have no numbers."""

    async def test_a_hold_is_its_workers(self, workers: list[RedisBroker], look: redis.Redis) -> None:
        one, other, _ = workers
        await submit(one)
        delivery = await taken(one)
        holder = look.hget(f"{QUEUE}:holders", "t")
        assert isinstance(holder, bytes)
        look.hset(f"{QUEUE}:holders", "t", holder.partition(b".")[0])
        assert await asyncio.to_thread(one.renew, ["t"]) == ([], [], [])
        assert await other.settle([told(Verb.RETRY, delivery, "theirs")]) == [Verdict.LATE]
        assert await one.settle([told(Verb.RETRY, delivery, "attempt 2")]) == [Verdict.SETTLED]

    async def test_a_hold_that_has_lapsed_is_one_of_which_an_outcome_may_be_told(
        self, workers: list[RedisBroker], look: redis.Redis
    ) -> None:
        one, other, _ = workers
        await submit(one)
        delivery = await taken(one)
        let_lapse(look)
        await other.take(0)
        look.set(f"{QUEUE}:lapsed:t", "1")
        assert await one.settle([told(Verb.RETRY, delivery, "attempt 2")]) == [Verdict.SETTLED]

    async def test_an_end_that_nobody_remembers_is_an_end(self, workers: list[RedisBroker], look: redis.Redis) -> None:
        one = workers[0]
        await submit(one)
        delivery = await taken(one)
        await one.settle([done(delivery)])
        look.delete(f"{QUEUE}:ended:t")
        look.set(f"{QUEUE}:lapsed:t", "1")
        assert await one.settle([told(Verb.RETRY, delivery, "attempt 2")]) == [Verdict.OVER]


async def test_numbers_cost_no_command_on_the_way_of_a_task_that_succeeds(
    workers: list[RedisBroker], look: redis.Redis
) -> None:
    one = workers[0]
    look.config_resetstat()
    await submit(one)
    await one.settle([done(await taken(one))])
    calls = calls_of(look)
    # Whether there is a request that was made before.
    assert calls["get"] == 1
    # The task's end, and the request.
    assert calls["set"] == 2
