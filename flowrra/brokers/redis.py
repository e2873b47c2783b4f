"""Waiting tasks on Redis (6.2 or newer) or Valkey: shared by any number of processes, held by leases, never lost.

Each operation is one script, hence one atomic step, of ``flowrra/lua``; ``queue.lua`` there describes the keys.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import ExecAbortError, OutOfMemoryError, ReadOnlyError

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.redis import RedisBackend
from flowrra.batcher import in_batches
from flowrra.brokers.base import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    Announcement,
    Cancellation,
    Delivery,
    LeasingBroker,
    Outcome,
    QueuedTask,
    QueueFigures,
    Renewal,
    Verb,
    Verdict,
)
from flowrra.brokers.redis_fitness import unfitness
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError
from flowrra.forks import tell_of_forks
from flowrra.per_loop import PerLoop
from flowrra.ranges import MAX_DELAY
from flowrra.redis_client import MAX_BLOCK, Client, RedisServer, Script, one_by_one, run_script_in_thread
from flowrra.setting_aside import SetAside
from flowrra.task import SUCCESS, Task, TaskResult

DEFAULT_QUEUE_KEY = "flowrra:queue"
# A worker that is killed is noticed when its leases end: its tasks run again within 30 s, also on an idle queue.
DEFAULT_LEASE = 20.0
DEFAULT_MAX_DELIVERIES = 5
DEFAULT_UNKNOWN_TTL = 24 * 3600.0
# Ids of one step of the lease keeper.
MAX_RENEWALS = 1000
MAX_REASON = 1000
# Of what others have written, so much is read: workers, and bytes of what one of them says of itself.
MAX_WORKERS = 10_000
MAX_WORKER_SIZE = 8 * 1024
NO_RECORD = EncodedRecord("", "-", 0)
_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}

_SUBMIT = Script("clock", "queue", "submit")
_TAKE = Script("clock", "queue", "take")
_SETTLE = Script("clock", "records", "queue", "settle")
_RENEW = Script("clock", "queue", "renew")
_ANNOUNCE = Script("clock", "queue", "announce")
_WITHDRAW = Script("clock", "queue", "withdraw")
_RECOVER = Script("clock", "queue", "recover")
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
        max_deliveries: How often a task is given to a worker that is not heard of any more before it is put aside as
            dead.
        unknown_ttl: Seconds for which a task whose name no worker that lives knows is kept for one that does.
        **options: Passed on to redis-py's connections.

    Raises:
        BackendError: The URL can't be read, or an option of it contradicts what the app needs.
        ValueError: ``lease``, ``max_deliveries``, ``unknown_ttl`` or a limit is out of range.
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
        unknown_ttl: float = DEFAULT_UNKNOWN_TTL,
        **options: Any,
    ) -> None:
        if not 0 < lease <= MAX_DELAY:
            raise ValueError(f"lease must be positive (seconds), and at most 100 years, not {lease!r:.100}")
        if max_deliveries < 1:
            raise ValueError(f"max_deliveries must be at least 1, not {max_deliveries!r}")
        if not 0 < unknown_ttl <= MAX_DELAY:
            raise ValueError(f"unknown_ttl must be positive (seconds), and at most 100 years, not {unknown_ttl!r:.100}")
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
        self.unknown_ttl = unknown_ttl
        # By it the server knows whose hold a lease is.
        self.forked()
        tell_of_forks(self)
        self._results: RedisBackend | None = None
        self._waiters = PerLoop(self.server.dedicated_client, redis.asyncio.Redis.aclose)
        self._thread_client: redis.Redis | None = None
        self.unreadable_workers, self.unreadable_dead = SetAside("worker"), SetAside("dead task")
        self.set_aside = (self.unreadable_workers, self.unreadable_dead)

    def forked(self) -> None:
        """Leases are held by this name: not by that of the parent, nor by that of another child."""
        self._token = secrets.token_hex(8)

    def with_suffix(self, suffix: str) -> RedisBroker:
        return RedisBroker(
            **self._connection,
            queue_key=self.queue_key + suffix,
            namespace=self.namespace,
            lease=self.lease,
            max_deliveries=self.max_deliveries,
            unknown_ttl=self.unknown_ttl,
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

    async def submit(self, entries: Sequence[QueuedTask]) -> list[bool]:
        added: list[bool] = []
        for batch in in_batches(entries, QueuedTask.size, MAX_BATCH, MAX_BATCH_BYTES):
            added += await self._submit(batch)
        return added

    async def _submit(self, entries: Sequence[QueuedTask]) -> list[bool]:
        args: list[Any] = [self._records]
        for task_id, priority, delay, text, record, remember in entries:
            kept, _, submitted = NO_RECORD if record is None else record
            # As a float: the text of an enumeration's member, or of True, is no number.
            line = f"{float(priority)!r} {round(delay * 1e6)} {submitted} {round(remember * 1e3)} {task_id}"
            args += (_wire(line), _wire(text), kept)
        timeout = self.server.time_for(sum(map(QueuedTask.size, entries)))
        answer = await self.server.run(_SUBMIT, "queue tasks", self.queue_key, *args, timeout=timeout)
        return [bool(each) for each in answer]

    async def push(self, task: Task) -> None:
        """Queue a task. Its record is the caller's business."""
        call = codec.encode_call(task.args, task.kwargs, task.name)
        await self.submit([QueuedTask(task.id, task.priority, 0.0, codec.encode_task(task, None, call), None)])

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def take(
        self, limit: int, max_bytes: int = MAX_BATCH_BYTES, *, name: str = "", timeout: float | None = None
    ) -> tuple[list[Delivery], float | None]:
        args = (min(limit, MAX_BATCH), max_bytes, self._token, round(self.lease * 1e6), _wire(name))
        # Not tried again: the worker first gives back what a lost answer had taken; see recover().
        answer = await self.server.run(_TAKE, "give out tasks", self.queue_key, *args, retry_for=0.0, timeout=timeout)
        deliveries = [_delivery(*answer[i : i + 5]) for i in range(1, len(answer), 5)]
        return deliveries, None if answer[0] < 0 else answer[0] / 1e6

    async def recover(self, held: Sequence[str]) -> int:
        return int(await self.server.run(_RECOVER, "give tasks back", self.queue_key, self._token, *map(_wire, held)))

    async def wait(self, seconds: float) -> None:
        waiter = self._waiters.get()
        try:
            keys = [f"{self.queue_key}:wake", f"{self.queue_key}:wake:{self._token}"]
            await waiter.blpop(keys, timeout=max(0.01, min(seconds, MAX_BLOCK)))
        except Exception as error:  # of a connection that breaks, the driver raises anything
            if isinstance(error, ReadOnlyError):  # its connection leads to what is now a replica
                await self._waiters.close()
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
                await self.settle([Outcome(Verb.COMPLETE, delivery.task_id, status=SUCCESS)])
                if delivery.task is not None:
                    return delivery.task
            left = MAX_BLOCK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            if not deliveries:
                await self.wait(min(left, MAX_BLOCK if due_in is None else due_in))

    # ── settling ────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for batch in in_batches(outcomes, Outcome.size, MAX_BATCH, MAX_BATCH_BYTES):
            verdicts += await self._settle(batch)
        return verdicts

    async def _settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        args: list[Any] = [self._records, self._token, self._ttl]
        for verb, task_id, delay, text, record, priority, ended in outcomes:
            if verb is Verb.DEAD_LETTER:
                text = " ".join(text.split())[:MAX_REASON]
            kept, status, submitted = NO_RECORD if record is None else record
            status = status if ended is None else ended.value
            line = f"{verb.value} {round(delay * 1e6)} {status} {submitted} {float(priority)!r} {task_id}"
            args += (_wire(line), _wire(text), kept)
        timeout = self.server.time_for(sum(map(Outcome.size, outcomes)))
        answer = await self.server.run(_SETTLE, "settle tasks", self.queue_key, *args, retry_for=0.0, timeout=timeout)
        return [_VERDICTS[each] for each in answer]

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def cancel(self, record: TaskResult) -> Cancellation:
        kept = NO_RECORD if self._results is None else codec.encode_record(record)
        args = (self._records, _wire(record.task_id), *kept, self._ttl, self._control)
        answer = await self.server.run(_CANCEL, "cancel a task", self.queue_key, *args)
        return Cancellation(answer.decode())

    @property
    def _control(self) -> str:
        """The channel on which holders are told; channels know no databases."""
        return f"{self.queue_key}:control:{self.server.database}"

    async def _is_to_cancel(self, task_id: bytes) -> bool:
        asked = f"{self.queue_key}:cancelled"
        return bool(await self.server.call("read cancellations", lambda client: client.sismember(asked, task_id)))

    async def listen(self, on_cancel: Callable[[str], None]) -> None:
        client = self.server.dedicated_client()
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(self._control)
                while True:
                    message = await pubsub.get_message(timeout=MAX_BLOCK)
                    # A channel is the whole server's, and anybody may speak there: the queue itself is asked.
                    if message is not None and await self._is_to_cancel(message["data"]):
                        on_cancel(_text(message["data"]))
        except BackendError:
            raise
        except Exception as error:  # of a connection that breaks, the driver raises anything
            raise self.server.failure("listen for cancellations", error) from error
        finally:
            await client.aclose()

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def figures(self) -> QueueFigures:
        """The queue's figures: eight commands of O(1) or O(log n), and two for the oldest, in one step. They only read,
        so that one who may do no more can ask."""
        now, *answers = await self.server.call("count tasks", self._ask_figures)
        ready, left, due, delayed, leased, dead, unknown, since, first = answers
        # What became due and was not moved yet, as workers do that, waits like the rest.
        # A score may be anything that another client wrote.
        moments = [entry[0][1] for entry in (since, first) if entry and 0 <= entry[0][1] <= now]
        oldest = _moment(min(moments)) if moments else None
        return QueueFigures(ready + left + due, delayed - due, leased, dead, oldest, unknown)

    async def _ask_figures(self, client: Client) -> list[Any]:
        now = round(1e6 * await self._ask_clock(client))
        try:
            return [now, *await self._count(client, now, is_one_step=True)]
        except (OutOfMemoryError, ExecAbortError):  # a server without free memory takes no transactions, even to read
            return [now, *await self._count(client, now, is_one_step=False)]

    async def _count(self, client: Client, now: int, *, is_one_step: bool) -> list[Any]:
        key = self.queue_key
        async with client.pipeline(transaction=is_one_step) as pipeline:
            pipeline.zcard(f"{key}:ready").llen(key).zcount(f"{key}:delayed", "-inf", now)
            pipeline.zcard(f"{key}:delayed").zcard(f"{key}:leases").zcard(f"{key}:dead").hlen(f"{key}:unknown")
            pipeline.zrange(f"{key}:since", 0, 0, withscores=True)
            pipeline.zrange(f"{key}:delayed", 0, 0, withscores=True)
            return await pipeline.execute()  # type: ignore[no-any-return]

    async def _ask_clock(self, client: Client) -> float:
        seconds, microseconds = await client.time()
        return float(seconds + microseconds / 1e6)

    async def clock(self) -> float:
        return float(await self.server.call("tell its time", self._ask_clock))

    async def has(self, task_id: str) -> bool:
        tasks = f"{self.queue_key}:tasks"
        return bool(await self.server.call("look for a task", lambda client: client.hexists(tasks, _wire(task_id))))

    async def size(self) -> int:
        return (await self.figures()).pending

    # ── dead tasks ──────────────────────────────────────────────────────────────────────────────────────────

    async def list_dead(self, limit: int | None = None) -> list[dict[str, Any]]:
        last = -1 if limit is None else limit - 1
        if last < -1 or limit == 0:
            return []

        texts = f"{self.queue_key}:dead:tasks"

        async def ask(client: Client) -> list[tuple[bytes, float, int]]:
            found = await client.zrange(f"{self.queue_key}:dead", 0, last, desc=True, withscores=True)
            async with client.pipeline(transaction=False) as pipeline:
                for task_id, _ in found:
                    pipeline.hstrlen(texts, task_id)
                sizes = await pipeline.execute()
            return [(*each, size) for each, size in zip(found, sizes, strict=True)]

        dead = []
        found = await self.server.call("list dead tasks", ask)
        for batch in in_batches(found, _size_to_read, MAX_BATCH, MAX_BATCH_BYTES):
            ids = [task_id for task_id, _, size in batch if size <= codec.MAX_SIZE]
            answers = await self.server.call("read dead tasks", partial(_hmget, texts, ids)) if ids else []
            known = dict(zip(ids, answers, strict=True))
            for task_id, since, size in batch:
                text = b"it is too large to be read" if size > codec.MAX_SIZE else known[task_id]
                if text is not None:
                    dead += self._dead_task(task_id, since, text)
        return dead

    def _dead_task(self, task_id: bytes, since: float, text: bytes) -> list[dict[str, Any]]:
        try:
            return [_dead_task(task_id, since, text)]
        except (ValueError, OverflowError) as error:
            self.unreadable_dead.add(_text(task_id), str(error))
            return []

    async def requeue_dead(self, task_id: str, record: TaskResult | None) -> bool:
        text, submitted = "", 0
        if record is not None and self._results is not None:
            text, _, submitted = codec.encode_record(record)
        args = (self._records, _wire(task_id), text, submitted)
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
        async def ask(client: Client) -> list[tuple[bytes, Any]]:
            # The latest are the ones that live.
            ids = await client.zrange(f"{self.namespace}:workers", -MAX_WORKERS, -1)
            async with client.pipeline(transaction=False) as pipeline:
                for each in ids:
                    pipeline.strlen(self._worker_key(each))
                return list(zip(ids, one_by_one(await pipeline.execute(raise_on_error=False)), strict=True))

        readable = []
        for worker_id, size in await self.server.call("list workers", ask):
            if isinstance(size, Exception) or size > MAX_WORKER_SIZE:
                self.unreadable_workers.add(
                    _text(worker_id), f"{size}; expected a text of at most {MAX_WORKER_SIZE} bytes"
                )
            elif size > 0:  # else it is gone
                readable.append(worker_id)
        workers = []
        for first in range(0, len(readable), MAX_RENEWALS):
            some = readable[first : first + MAX_RENEWALS]
            keys = [self._worker_key(each) for each in some]
            texts = await self.server.call("read workers", partial(_mget, keys))
            for worker_id, text in zip(some, texts, strict=True):
                try:
                    workers += [] if text is None else [_worker(text)]
                except (ValueError, AttributeError, TypeError, RecursionError) as error:
                    self.unreadable_workers.add(_text(worker_id), str(error))
        return workers

    def _worker_key(self, worker_id: bytes) -> bytes:
        return f"{self.namespace}:worker:".encode() + worker_id

    # ── blocking, for a thread ──────────────────────────────────────────────────────────────────────────────

    def _in_thread(self, what: str, request: Callable[[Client], Any]) -> Any:
        if self._thread_client is None:
            self._thread_client = self.server.thread_client()
        try:
            return request(self._thread_client)
        except Exception as error:  # of a connection that breaks, the driver raises anything
            if isinstance(error, ReadOnlyError):  # its connection leads to what is now a replica
                self._thread_client.close()
                self._thread_client = None
            raise self.server.failure(what, error) from error

    def _run_in_thread(self, script: Script, what: str, *args: Any) -> Any:
        return self._in_thread(what, lambda client: run_script_in_thread(client, script, self.queue_key, *args))

    def renew(self, task_ids: Sequence[str]) -> Renewal:
        renewal = Renewal([], [], [])
        for first in range(0, max(1, len(task_ids)), MAX_RENEWALS):
            ids = map(_wire, task_ids[first : first + MAX_RENEWALS])
            answer = self._run_in_thread(_RENEW, "renew leases", self._token, round(self.lease * 1e6), *ids)
            for found, told in zip(renewal, answer, strict=True):
                found += map(_text, told)
        return renewal

    def announce(self, worker: dict[str, Any] | None, names: Sequence[str] | None, seconds: float) -> Announcement:
        process, text = "", ""
        if worker is not None:
            process = worker["id"]
            text = json.dumps({key: _as_json(value) for key, value in worker.items()})
        counts, patience = round(seconds * 1e3), round(self.unknown_ttl * 1e6)
        args = (self._token, counts, patience, self.namespace, process, text, *map(_wire, names or ()))
        are_names_known, overdue = self._run_in_thread(_ANNOUNCE, "announce a worker", *args)
        return Announcement(bool(are_names_known) or names == [], [_text(name) for name in overdue])

    def withdraw(self, worker_id: str | None) -> None:
        try:
            self._run_in_thread(_WITHDRAW, "withdraw a worker", self._token, self.namespace, worker_id or "")
        finally:
            if self._thread_client is not None:
                self._thread_client.close()
                self._thread_client = None

    async def ping(self) -> None:
        await self.server.ping()

    async def unfitness(self) -> dict[str, str | None]:
        return await unfitness(self.server, self.lease)

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._waiters.close()
        await self.server.close()


def _wire(text: str) -> str | bytes:
    """Text as it is sent; ids that were no text come and go unchanged."""
    return text if text.isascii() else text.encode(errors="surrogateescape")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _delivery(task_id: bytes, deliveries: int, waited: int, is_cancelled: int, payload: bytes) -> Delivery:
    name = _text(task_id)
    try:
        if payload.startswith(b"!"):
            raise ValueError(f"it has {int(payload[1:]):,} bytes, at most {codec.MAX_SIZE:,} are read")
        task, submitted_at, call = codec.decode_task(payload)
        if task.id != name:  # what is done under one would never be settled under the other
            raise ValueError(f"its id is {task.id!r:.100}, and it is queued as {name!r:.100}")
    except ValueError as error:
        reason = f"what was queued can't be read: {error}"
        return Delivery(name, None, None, "", reason, deliveries, waited / 1e6, bool(is_cancelled))
    return Delivery(name, task, submitted_at, call, None, deliveries, waited / 1e6, bool(is_cancelled))


def _size_to_read(found: tuple[bytes, float, int]) -> int:
    return 0 if found[2] > codec.MAX_SIZE else found[2]


async def _mget(keys: Sequence[bytes], client: Client) -> Any:
    return await client.mget(keys)


async def _hmget(key: str, fields: Sequence[bytes], client: Client) -> Any:
    return await client.hmget(key, fields)


def _dead_task(task_id: bytes, since: float, text: bytes) -> dict[str, Any]:
    reason, _, entry = text.partition(b"\n")
    deliveries, task = None, None
    if entry:  # not of one that is too large
        _, count, _, _, payload = entry.split(b"|", 4)
        deliveries = int(count)
        with contextlib.suppress(ValueError):
            task = codec.decode_task(payload).task
    return {
        "task_id": task_id.decode(errors="replace"),
        "task_name": None if task is None else task.name,
        "reason": reason.decode(errors="replace"),
        "dead_since": _moment(since),
        "deliveries": deliveries,
        "args": None if task is None else task.args,
        "kwargs": None if task is None else task.kwargs,
    }


def _moment(microseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


_TIMES = ("started_at", "heartbeat_at")


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _worker(text: bytes) -> dict[str, Any]:
    worker: dict[str, Any] = json.loads(text)
    return {key: _from_json(key, value) for key, value in worker.items()}


def _from_json(key: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if key in _TIMES and value is not None else value
