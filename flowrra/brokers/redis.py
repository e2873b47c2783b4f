"""Waiting tasks on Redis (6.2 or newer) or Valkey: shared by any number of processes, held by leases, never lost.

Each operation is one script, hence one atomic step, of ``flowrra/lua``; ``queue.lua`` there describes the keys.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import ReadOnlyError, RedisError

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.base import (
    Cancellation,
    Delivery,
    Entry,
    LeasingBroker,
    Outcome,
    QueueFigures,
    Renewal,
    Verb,
)
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError
from flowrra.redis_client import MAX_BLOCK, Client, RedisServer, Script, run_script_in_thread
from flowrra.task import Task, TaskResult

DEFAULT_QUEUE_KEY = "flowrra:queue"
# A worker that is killed is noticed when its leases end: its tasks run again within 30 s, also on an idle queue.
DEFAULT_LEASE = 20.0
DEFAULT_MAX_DELIVERIES = 5
# Tasks of one step, as the server does nothing else meanwhile.
MAX_BATCH = 250
MAX_REASON = 1000
NO_RECORD = EncodedRecord("", "-", 0)

_SUBMIT = Script("clock", "queue", "submit")
_TAKE = Script("clock", "queue", "take")
_SETTLE = Script("clock", "records", "queue", "settle")
_RENEW = Script("clock", "queue", "renew")
_CANCEL = Script("clock", "records", "queue", "cancel")
_REQUEUE = Script("clock", "records", "queue", "requeue")


class RedisBroker(LeasingBroker):
    """A queue on Redis or Valkey.

    Nothing is connected before it is used, and a client is made for each event loop that uses it.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
        max_connections: Most connections of one event loop.
        socket_timeout: Seconds to wait for the server; 0 waits for as long as it takes.
        retry_on_timeout: Whether to try again when it did not answer in time.
        queue_key: Name of the queue, and the beginning of the names of all its keys.
        namespace: The beginning of the names that the queues of an app share, such as those of its processes.
        lease: Seconds after which a task is given to another worker if its holder is not heard of.
        max_deliveries: How often a task is given to a worker without an outcome before it is put aside as dead.
        **options: Passed on to redis-py's connections.

    Raises:
        BackendError: The URL can't be read.
        ValueError: ``lease`` or ``max_deliveries`` is not positive.
    """

    def __init__(
        self,
        url: str,
        max_connections: int = 50,
        socket_timeout: float = 5.0,
        retry_on_timeout: bool = True,
        queue_key: str = DEFAULT_QUEUE_KEY,
        *,
        namespace: str = "flowrra",
        lease: float = DEFAULT_LEASE,
        max_deliveries: int = DEFAULT_MAX_DELIVERIES,
        **options: Any,
    ) -> None:
        if not lease > 0:
            raise ValueError(f"lease must be positive (seconds), not {lease!r}")
        if max_deliveries < 1:
            raise ValueError(f"max_deliveries must be at least 1, not {max_deliveries!r}")
        self._connection = {
            "url": url,
            "max_connections": max_connections,
            "socket_timeout": socket_timeout,
            "retry_on_timeout": retry_on_timeout,
            **options,
        }
        self.server = RedisServer(**self._connection)
        self.queue_key = queue_key
        self.namespace = namespace
        self.lease = lease
        self.max_deliveries = max_deliveries
        # By it the server knows whose hold a lease is.
        self._token = secrets.token_hex(8)
        self._results: RedisBackend | None = None
        self._waiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = (
            weakref.WeakKeyDictionary()
        )
        self._thread_client: redis.Redis | None = None

    def with_suffix(self, suffix: str) -> RedisBroker:
        return RedisBroker(
            **self._connection,
            queue_key=self.queue_key + suffix,
            namespace=self.namespace,
            lease=self.lease,
            max_deliveries=self.max_deliveries,
        )

    # ── records ─────────────────────────────────────────────────────────────────────────────────────────────

    def keeps_records_of(self, results: BaseResultBackend) -> bool:
        """Whether it can keep the records of that backend in the same step as the tasks: on the same database."""
        if type(results) is RedisBackend and results.server.name == self.server.name:
            self._results = results
            return True
        return False

    @property
    def _records(self) -> str:
        return "" if self._results is None else self._results.namespace

    @property
    def _ttl(self) -> int:
        return 0 if self._results is None else self._results.ttl_ms

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, entries: Sequence[Entry]) -> list[bool]:
        added: list[bool] = []
        for first in range(0, len(entries), MAX_BATCH):
            added += await self._submit(entries[first : first + MAX_BATCH])
        return added

    async def _submit(self, entries: Sequence[Entry]) -> list[bool]:
        args: list[Any] = [self._records]
        for task_id, priority, delay, text, record in entries:
            kept, _, submitted = NO_RECORD if record is None else record
            # As a float: the text of an enumeration's member, or of True, is no number.
            args += (f"{float(priority)!r} {round(delay * 1e6)} {submitted} {task_id}", text, kept)
        answer = await self.server.run(_SUBMIT, "queue tasks", self.queue_key, *args)
        return [bool(each) for each in answer]

    async def push(self, task: Task) -> None:
        """Queue a task. Its record is the caller's business."""
        await self.submit([Entry(task.id, task.priority, 0.0, codec.encode_task(task, None), None)])

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, limit: int) -> tuple[list[Delivery], float | None]:
        lease = round(self.lease * 1e6)
        # Not tried again: what a lost answer had taken comes back when its lease ends.
        answer = await self.server.run(
            _TAKE, "give out tasks", self.queue_key, min(limit, MAX_BATCH), self._token, lease, retry_for=0.0
        )
        deliveries = [_delivery(*answer[i : i + 5]) for i in range(1, len(answer), 5)]
        return deliveries, None if answer[0] < 0 else answer[0] / 1e6

    async def wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiters.get(loop)
        if waiter is None:
            waiter = self._waiters[loop] = self.server.dedicated_client()
        try:
            await waiter.blpop([f"{self.queue_key}:wake"], timeout=max(0.01, min(seconds, MAX_BLOCK)))
        except (RedisError, OSError) as error:
            if isinstance(error, ReadOnlyError):  # its connection leads to what is now a replica
                del self._waiters[loop]
                await waiter.aclose()
            raise self.server.failure("wait for tasks", error) from error

    async def pop(self, timeout: float | None = None) -> Task | None:
        """Take the next task for good: if the caller fails, it is lost. An app's workers take leases instead.

        Raises:
            BackendError: The queue could not be read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            deliveries, due_in = await self.take(1)
            for delivery in deliveries:
                await self.settle([Outcome(Verb.DONE, delivery.task_id)])
                if delivery.task is not None:
                    return delivery.task
            left = MAX_BLOCK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            if not deliveries:
                await self.wait(min(left, MAX_BLOCK if due_in is None else due_in))

    # ── settling ────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        settled: list[bool] = []
        for first in range(0, len(outcomes), MAX_BATCH):
            settled += await self._settle(outcomes[first : first + MAX_BATCH])
        return settled

    async def _settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        args: list[Any] = [self._records, self._token, self._ttl]
        for verb, task_id, delay, text, record in outcomes:
            if verb is Verb.BURY:
                text = " ".join(text.split())[:MAX_REASON]
            kept, status, submitted = NO_RECORD if record is None else record
            args += (f"{verb.value} {round(delay * 1e6)} {status} {submitted} {task_id}", text, kept)
        answer = await self.server.run(_SETTLE, "settle tasks", self.queue_key, *args, retry_for=0.0)
        return [bool(each) for each in answer]

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, record: TaskResult) -> Cancellation:
        kept = NO_RECORD if self._results is None else codec.encode_record(record)
        args = (self._records, record.task_id, *kept, self._ttl)
        answer = await self.server.run(_CANCEL, "cancel a task", self.queue_key, *args)
        return Cancellation(answer.decode())

    async def listen(self, on_cancel: Callable[[str], None]) -> None:
        client = self.server.dedicated_client()
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(f"{self.queue_key}:control")
                while True:
                    message = await pubsub.get_message(timeout=MAX_BLOCK)
                    if message is not None:
                        on_cancel(message["data"].decode(errors="replace"))
        except (RedisError, OSError) as error:
            raise self.server.failure("listen for cancellations", error) from error
        finally:
            await client.aclose()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def figures(self) -> QueueFigures:
        """The queue's figures, in one step: seven commands of O(1) or O(log n), and two for the oldest."""
        key = self.queue_key

        async def ask(client: Client) -> list[Any]:
            seconds, microseconds = await client.time()
            now = seconds * 1_000_000 + microseconds
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.zcard(f"{key}:ready").llen(key).zcount(f"{key}:delayed", "-inf", now)
                pipeline.zcard(f"{key}:delayed").zcard(f"{key}:leases").zcard(f"{key}:dead")
                pipeline.zrange(f"{key}:since", 0, 0, withscores=True)
                pipeline.zrange(f"{key}:delayed", 0, 0, withscores=True)
                return [now, *await pipeline.execute()]

        now, ready, left, due, delayed, leased, dead, since, first = await self.server.call("count tasks", ask)
        # What became due and was not moved yet, as workers do that, waits like the rest.
        moments = [entry[0][1] for entry in (since, first) if entry and entry[0][1] <= now]
        oldest = _moment(min(moments)) if moments else None
        return QueueFigures(ready + left + due, delayed - due, leased, dead, oldest)

    async def size(self) -> int:
        return (await self.figures()).pending

    # ── dead tasks ──────────────────────────────────────────────────────────────────────────────────────────

    async def list_dead(self, limit: int | None = None) -> list[dict[str, Any]]:
        last = -1 if limit is None else limit - 1
        if last < -1 or limit == 0:
            return []

        async def ask(client: Client) -> list[tuple[bytes, float, bytes | None]]:
            ids = await client.zrange(f"{self.queue_key}:dead", 0, last, desc=True, withscores=True)
            texts = await client.hmget(f"{self.queue_key}:dead:tasks", [each[0] for each in ids]) if ids else []
            return [(each[0], each[1], text) for each, text in zip(ids, texts, strict=True)]

        dead = await self.server.call("list dead tasks", ask)
        return [_dead_task(task_id, since, text) for task_id, since, text in dead if text is not None]

    async def requeue_dead(self, task_id: str, record: TaskResult | None) -> bool:
        text, submitted = "", 0
        if record is not None and self._results is not None:
            text, _, submitted = codec.encode_record(record)
        args = (self._records, task_id, text, submitted)
        return bool(await self.server.run(_REQUEUE, "requeue a dead task", self.queue_key, *args))

    async def delete_dead(self, task_id: str) -> bool:
        async def ask(client: Client) -> list[Any]:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.zrem(f"{self.queue_key}:dead", task_id).hdel(f"{self.queue_key}:dead:tasks", task_id)
                removed: list[Any] = await pipeline.execute()
                return removed

        return any(await self.server.call("delete a dead task", ask))

    # ── workers ─────────────────────────────────────────────────────────────────────────────────────────────

    async def list_workers(self) -> list[dict[str, Any]]:
        async def ask(client: Client) -> list[bytes | None]:
            ids = await client.zrange(f"{self.namespace}:workers", 0, -1)
            return await client.mget([self._worker_key(each.decode()) for each in ids]) if ids else []

        announced = await self.server.call("list workers", ask)
        return [_worker(text) for text in announced if text is not None]

    def _worker_key(self, worker_id: str) -> str:
        return f"{self.namespace}:worker:{worker_id}"

    # ── blocking, for a thread ──────────────────────────────────────────────────────────────────────────────

    def _in_thread(self, what: str, request: Callable[[Client], Any]) -> Any:
        if self._thread_client is None:
            self._thread_client = self.server.thread_client()
        try:
            return request(self._thread_client)
        except (RedisError, OSError) as error:
            if isinstance(error, ReadOnlyError):  # its connection leads to what is now a replica
                self._thread_client.close()
                self._thread_client = None
            raise self.server.failure(what, error) from error

    def renew(self, task_ids: Sequence[str]) -> Renewal:
        args = (self._token, round(self.lease * 1e6), *task_ids)
        lost, cancelled = self._in_thread(
            "renew leases", lambda client: run_script_in_thread(client, _RENEW, self.queue_key, *args)
        )
        return Renewal([each.decode() for each in lost], [each.decode() for each in cancelled])

    def announce(self, worker: dict[str, Any], seconds: float) -> None:
        now, index = time.time(), f"{self.namespace}:workers"
        # The index is in the order of the last signs of life; what is long gone is taken off it by whoever lives.
        text = json.dumps({key: _as_json(value) for key, value in worker.items()})

        def send(client: Client) -> None:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.set(self._worker_key(worker["id"]), text, px=round(seconds * 1000))
                pipeline.zadd(index, {worker["id"]: now}).zremrangebyscore(index, "-inf", now - 3600)
                pipeline.execute()

        self._in_thread("announce a worker", send)

    def withdraw(self, worker_id: str | None) -> None:
        def send(client: Client) -> None:
            with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(self._worker_key(str(worker_id))).zrem(f"{self.namespace}:workers", str(worker_id))
                pipeline.execute()

        try:
            if worker_id is not None:
                self._in_thread("withdraw a worker", send)
        finally:
            if self._thread_client is not None:
                self._thread_client.close()
                self._thread_client = None

    async def ping(self) -> None:
        await self.server.ping()

    async def close(self) -> None:
        """Close the running loop's connections."""
        waiter = self._waiters.pop(asyncio.get_running_loop(), None)
        if waiter is not None:
            await waiter.aclose()
        await self.server.close()


def _delivery(task_id: bytes, deliveries: int, waited: int, is_cancelled: int, payload: bytes) -> Delivery:
    text = task_id.decode(errors="replace")
    try:
        task, submitted_at = codec.decode_task(payload)
    except ValueError as error:
        reason = f"what was queued can't be read: {error}"
        return Delivery(text, None, None, reason, deliveries, waited / 1e6, bool(is_cancelled))
    return Delivery(text, task, submitted_at, None, deliveries, waited / 1e6, bool(is_cancelled))


def _dead_task(task_id: bytes, since: float, text: bytes) -> dict[str, Any]:
    reason, _, entry = text.partition(b"\n")
    _, deliveries, _, _, payload = entry.split(b"|", 4)
    try:
        task = codec.decode_task(payload).task
    except ValueError:
        task = None
    return {
        "task_id": task_id.decode(errors="replace"),
        "task_name": None if task is None else task.name,
        "reason": reason.decode(errors="replace"),
        "dead_since": _moment(since),
        "deliveries": int(deliveries),
        "args": None if task is None else task.args,
        "kwargs": None if task is None else task.kwargs,
    }


def _moment(microseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


_TIMES = ("started_at", "heartbeat_at")


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _worker(text: bytes) -> dict[str, Any]:
    try:
        worker: dict[str, Any] = json.loads(text)
        return {key: _from_json(key, value) for key, value in worker.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise BackendError(f"What a worker announced can't be read: {error}") from None


def _from_json(key: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if key in _TIMES and value is not None else value
