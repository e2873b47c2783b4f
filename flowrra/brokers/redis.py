"""Waiting tasks on Redis (6.2 or newer) or Valkey: shared by any number of processes, held by leases, never lost.

Each operation is one script, hence one atomic step, of ``flowrra/lua``; ``queue.lua`` there describes the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import redis
import redis.asyncio
from redis.exceptions import ExecAbortError, OutOfMemoryError, ResponseError

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.redis import RedisBackend, label
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
    Requests,
    ServerFigures,
    Verb,
    Verdict,
    first_refusal,
)
from flowrra.brokers.redis_connections import Connections
from flowrra.brokers.redis_fitness import look
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError
from flowrra.forks import tell_of_forks
from flowrra.per_loop import PerLoop
from flowrra.queue_names import DEFAULT_QUEUE, MAX_QUEUES, is_queue_name
from flowrra.ranges import MAX_DELAY
from flowrra.redis_client import MAX_BLOCK, Client, Doubt, RedisServer, Replication, one_by_one, run_script_in_thread
from flowrra.redis_cluster import code_of, slot_with
from flowrra.redis_script import Script
from flowrra.setting_aside import SetAside
from flowrra.supervision import see_through
from flowrra.task import TaskResult

DEFAULT_QUEUE_KEY = "flowrra:queue"
# A worker of which no connection tells that it is gone is noticed when its leases end: its tasks run again within 30 s,
# also on an idle queue.
DEFAULT_LEASE = 20.0
DEFAULT_MAX_DELIVERIES = 5
DEFAULT_UNKNOWN_TTL = 24 * 3600.0
DEFAULT_REPLICATION_TIMEOUT = 1.0
# Tasks that are read at once, before those that run have their turn.
READ_AT_ONCE = 50
# Ids of one step of the lease keeper.
MAX_RENEWALS = 1000
MAX_REASON = 1000
# Of what others have written, so much is read: workers, and bytes of what one of them says of itself.
MAX_WORKERS = 10_000
MAX_WORKER_SIZE = 8 * 1024
# Digits of the largest number that the server counts to.
COUNTER_LENGTH = 19
# Names of tasks that are paused, of those that are kept.
MAX_NAMES = 10_000
# Orders of operators that wait for a worker, and milliseconds for which they do.
MAX_ORDERS = 100
ORDERS_TTL = 60_000
# What is answered on a connection that may lead to what is no longer the primary: the next one is made anew.
LEFT = ("READONLY", "MOVED", "CLUSTERDOWN")
NO_RECORD = EncodedRecord("", "-", 0, "")
_Entry = TypeVar("_Entry", QueuedTask, Outcome)
_Answer = TypeVar("_Answer")
_VERDICTS = {verdict.value.encode(): verdict for verdict in Verdict}

_SUBMIT = Script("clock", "records", "queue", "submit")
_TAKE = Script("clock", "queue", "take")
_SETTLE = Script("clock", "records", "queue", "settle")
_RENEW = Script("clock", "queue", "renew")
_ANNOUNCE = Script("clock", "records", "queue", "announce")
_WITHDRAW = Script("clock", "queue", "withdraw")
_RECOVER = Script("clock", "queue", "recover")
_WAITING = Script("clock", "queue", "waiting")
_CANCEL = Script("clock", "records", "queue", "cancel")
_REQUEUE = Script("clock", "records", "queue", "requeue")
_CLAIM_DEAD = Script("clock", "queue", "claim_dead")
_RELEASE_DEAD = Script("clock", "queue", "release_dead")
_DELETE_DEAD = Script("clock", "queue", "delete_dead")
_PAUSE = Script("clock", "queue", "pause")


class RedisBroker(LeasingBroker):
    """A queue on Redis or Valkey.

    Nothing is connected before it is used, and a client is made for each event loop that uses it.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``unix://``; ``redis+sentinel://`` and ``rediss+sentinel://`` for the
            primary that sentinels name; or ``redis+cluster://`` and ``rediss+cluster://`` for a cluster, where
            ``queue_key`` and ``namespace`` must have the same hash tag.
        max_connections: Most connections of one event loop.
        socket_timeout: Seconds to wait for the server; 0 waits for as long as it takes.
        retry_on_timeout: Whether to try again when it did not answer in time.
        queue_key: Key of the default queue, and the beginning of all its keys; a queue beside it has this key, ``@``
            and its name.
        namespace: The beginning of the names that the queues of an app share, such as those of its processes.
        lease: Seconds after which a task is given to another worker if its holder is not heard of.
        max_deliveries: How often a task is given to a worker that is not heard of any more before it is put aside as
            dead.
        unknown_ttl: Seconds for which a task whose name no worker that lives knows is kept for one that does.
        min_replicas: Replicas that must have a submission before it is accepted, an outcome before it is settled, and
            what operators ask of a task, a name or a queue before that is answered; 0 waits for none.
        replication_timeout: Seconds that they may take; then a submission, or what operators ask, raises
            NotReplicatedError, and an outcome is told again.
        **options: Passed on to redis-py's connections; ``sentinel_username`` and ``sentinel_password`` to those to
            sentinels.

    Raises:
        BackendError: The URL can't be read, or an option of it contradicts what the app needs.
        ValueError: ``lease``, ``max_deliveries``, ``unknown_ttl``, ``min_replicas``, ``replication_timeout`` or a limit
            is out of range; or, on a cluster, ``queue_key`` and ``namespace`` don't have the same hash tag.
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
        min_replicas: int = 0,
        replication_timeout: float = DEFAULT_REPLICATION_TIMEOUT,
        **options: Any,
    ) -> None:
        if not 0 < lease <= MAX_DELAY:
            raise ValueError(f"lease must be positive (seconds), and at most 100 years, not {lease!r:.100}")
        if max_deliveries < 1:
            raise ValueError(f"max_deliveries must be at least 1, not {max_deliveries!r}")
        if not 0 < unknown_ttl <= MAX_DELAY:
            raise ValueError(f"unknown_ttl must be positive (seconds), and at most 100 years, not {unknown_ttl!r:.100}")
        if min_replicas < 0:
            raise ValueError(f"min_replicas must be non-negative, not {min_replicas!r:.100}")
        if not 0 < replication_timeout <= MAX_DELAY:
            raise ValueError(f"replication_timeout must be positive (seconds), not {replication_timeout!r:.100}")
        self._connection = {
            "url": url,
            "max_connections": max_connections,
            "socket_timeout": socket_timeout,
            "retry_on_timeout": retry_on_timeout,
            **options,
        }
        self.server = RedisServer(**self._connection, slot_of=queue_key)
        if self.server.slot is not None and self.server.slot != slot_with(namespace):
            raise ValueError(
                f"on a cluster queue_key and namespace must have the same hash tag, not {queue_key!r:.100} and "
                f"{namespace!r:.100}"
            )
        self.address = self.server.name
        self.queue_key = queue_key
        self.namespace = namespace
        self.lease = lease
        self.max_deliveries = max_deliveries
        self.unknown_ttl = unknown_ttl
        self.min_replicas = min_replicas
        self.replication_timeout = replication_timeout
        self._replication = Replication(min_replicas, replication_timeout) if min_replicas else None
        self._server_figures = ServerFigures()
        # By it the server knows whose hold a lease is.
        self.forked()
        tell_of_forks(self)
        self._results: RedisBackend | None = None
        self._waiters = PerLoop(self.server.dedicated_client, redis.asyncio.Redis.aclose)
        self._thread_client: redis.Redis | None = None
        self._thread_primary = self.server.primary
        self.unreadable_workers, self.unreadable_dead = SetAside("worker"), SetAside("dead task")
        self.set_aside = (self.unreadable_workers, self.unreadable_dead)

    def forked(self) -> None:
        """Leases are held by this name: not by that of the parent, nor by that of another child."""
        self._token = secrets.token_hex(8)
        self._connections = Connections(self.queue_key, self._key, self.server.keys)

    def with_suffix(self, suffix: str) -> RedisBroker:
        return self.with_keys(self.queue_key + suffix, self.namespace)

    def with_keys(self, queue_key: str, namespace: str) -> RedisBroker:
        """The same broker for the queues with that key, and the processes with that namespace."""
        return RedisBroker(
            **self._connection,
            queue_key=queue_key,
            namespace=namespace,
            lease=self.lease,
            max_deliveries=self.max_deliveries,
            unknown_ttl=self.unknown_ttl,
            min_replicas=self.min_replicas,
            replication_timeout=self.replication_timeout,
        )

    # ── records ─────────────────────────────────────────────────────────────────────────────────────────────

    def keeps_records_of(self, results: BaseResultBackend) -> bool:
        """Whether it can keep the records of that backend in the same step as the tasks: on the same database, and in
        the same slot of a cluster."""
        if type(results) is RedisBackend and results.server.is_same_as(self.server):
            self._results = results
            return True
        return False

    @property
    def _records(self) -> str:
        return "" if self._results is None else self._results.namespace

    @property
    def _ttl(self) -> int:
        return 0 if self._results is None else self._results.ttl_ms

    def _key(self, queue: str) -> str:
        return self.queue_key if queue == DEFAULT_QUEUE else f"{self.queue_key}@{queue}"

    # ── submitting ──────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, entries: Sequence[QueuedTask]) -> list[bool]:
        added: list[bool] = []
        is_sent = False

        async def submit(queue: str, own: list[QueuedTask]) -> list[bool]:
            nonlocal is_sent
            try:
                answer = await self._submit(queue, own)
            except BackendError as error:
                error.may_be_queued = error.may_be_queued or is_sent  # some of them are, in another request
                raise
            is_sent = True
            return answer

        for batch in in_batches(entries, QueuedTask.size, MAX_BATCH, MAX_BATCH_BYTES):
            added += await _for_each_queue(batch, submit)
        return added

    async def _submit(self, queue: str, entries: Sequence[QueuedTask]) -> list[bool]:
        args: list[Any] = [self._records, "" if self._records else _request_id()]
        for task_id, priority, delay, text, record, remember, _, may_have_ended in entries:
            kept, _, submitted, name = NO_RECORD if record is None else record
            # As a float: the text of an enumeration's member, or of True, is no number.
            about = f"{float(priority)!r} {round(delay * 1e6)} {submitted} {round(remember * 1e3)} {may_have_ended:d}"
            line = f"{about} {label(name)} {task_id}"
            args += (_wire(line), _wire(text), kept)
        timeout, key, doubt = self.server.time_for(sum(map(QueuedTask.size, entries))), self._key(queue), Doubt()
        try:
            answer = await self.server.run(
                _SUBMIT, "queue tasks", key, *args, timeout=timeout, replication=self._replication, doubt=doubt
            )
        except BackendError as error:
            error.may_be_queued = doubt.exists
            raise
        return [bool(each) for each in answer]

    # ── taking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def take(
        self,
        limit: int,
        max_bytes: int = MAX_BATCH_BYTES,
        *,
        queue: str = DEFAULT_QUEUE,
        name: str = "",
        timeout: float | None = None,
    ) -> tuple[list[Delivery], float | None]:
        args = (min(limit, MAX_BATCH), max_bytes, self._token, round(self.lease * 1e6), _wire(name))
        # Not tried again: the worker first gives back what a lost answer had taken; see recover().
        key = self._key(queue)
        due_in, paused, number, *found = await self.server.run(
            _TAKE, "give out tasks", key, *args, retry_for=0.0, timeout=timeout
        )
        names = {_text(each) for each in paused}
        deliveries = []
        for first in range(0, len(found), 5):
            deliveries.append(_delivery(queue, names, number, *found[first : first + 5]))
            if len(deliveries) % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return deliveries, None if due_in < 0 else due_in / 1e6

    async def recover(self, held: Sequence[str], queue: str = DEFAULT_QUEUE) -> int:
        key = self._key(queue)
        return int(await self.server.run(_RECOVER, "give tasks back", key, self._token, *map(_wire, held)))

    async def wait(self, seconds: float, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> str | None:
        waiter = self._waiters.get()
        queue_of: dict[bytes | str, str] = {}
        for queue in queues:
            key = self._key(queue)
            queue_of[f"{key}:wake".encode()] = queue_of[f"{key}:wake:{self._token}".encode()] = queue
        try:
            woken = await waiter.blpop(list(queue_of), timeout=max(0.01, min(seconds, MAX_BLOCK)))
            return queue_of[woken[0]] if woken else None
        except Exception as error:  # of a connection that breaks, the driver raises anything
            if code_of(error) in LEFT:
                await self._waiters.close()
            raise self.server.failure("wait for tasks", error) from error

    # ── settling ────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for batch in in_batches(outcomes, Outcome.size, MAX_BATCH, MAX_BATCH_BYTES):
            verdicts += await _for_each_queue(batch, self._settle)
        return verdicts

    async def _settle(self, queue: str, outcomes: Sequence[Outcome]) -> list[Verdict]:
        args: list[Any] = [self._records, self._token, self._ttl]
        for verb, task_id, delay, text, record, priority, ended, _, number in outcomes:
            if verb is Verb.DEAD_LETTER:
                text = " ".join(text.split())[:MAX_REASON]
            kept, status, submitted, name = NO_RECORD if record is None else record
            status = status if ended is None else str(ended)
            line = (
                f"{verb} {number} {round(delay * 1e6)} {status} {submitted} {float(priority)!r} {label(name)} {task_id}"
            )
            args += (_wire(line), _wire(text), kept)
        timeout = self.server.time_for(sum(map(Outcome.size, outcomes)))
        key = self._key(queue)
        answer = await self.server.run(
            _SETTLE, "settle tasks", key, *args, retry_for=0.0, timeout=timeout, replication=self._replication
        )
        return [_VERDICTS[each] for each in answer]

    # ── cancelling ──────────────────────────────────────────────────────────────────────────────────────────

    async def list_waiting(self, queue: str, name: str | None, limit: int) -> list[str]:
        meant = "" if name is None else json.dumps(name)
        found = await self.server.run(_WAITING, "list what waits", self._key(queue), limit, meant)
        return [_text(task_id) for task_id in found]

    async def cancel(self, record: TaskResult, *, is_only_if_waiting: bool = False) -> Cancellation:
        kept = NO_RECORD if self._results is None else codec.encode_record(record)
        text, status, submitted, name = kept
        ttl, control = self._ttl, "" if is_only_if_waiting else self._control
        args = (self._records, _wire(record.task_id), text, status, submitted, _wire(name), ttl, control, _request_id())
        # Of one that runs, its outcome counts, whether the request is lost or not.
        replication = self._replication and self._replication._replace(answers=(b"cancelled",))
        answer = await self.server.run(
            _CANCEL,
            "cancel a task",
            self._key(record.queue),
            *args,
            timeout=self.server.time_for(len(text)),
            replication=replication,
        )
        return Cancellation(answer.decode())

    @property
    def _control(self) -> str:
        """The channel on which holders are told, of all queues; channels know no databases."""
        return f"{self.queue_key}:control:{self.server.database}"

    @property
    def _requested(self) -> str:
        """The channel on which workers are told to look at their requests."""
        return f"{self.queue_key}:requested:{self.server.database}"

    async def _is_to_cancel(self, task_id: bytes, queue: str | None) -> bool:
        if queue is None:
            return False
        asked = f"{self._key(queue)}:cancelled"
        return bool(await self.server.call("read cancellations", lambda client: client.sismember(asked, task_id)))

    async def listen(
        self,
        on_cancel: Callable[[str], None],
        queue_of: Callable[[str], str | None] = lambda _: DEFAULT_QUEUE,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        client = self.server.dedicated_client()
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(self._control, self._requested)
                asked_at: float | None = None
                while True:
                    message = await pubsub.get_message(timeout=MAX_BLOCK)
                    if message is None:
                        asked_at = await _look_after(pubsub, asked_at)
                        continue
                    asked_at = None
                    if message["type"] == "pong":
                        continue
                    # A channel is the whole server's, and anybody may speak there: the queue itself is asked.
                    task_id = message["data"]
                    if message["channel"] == self._requested.encode():
                        on_request()
                    elif await self._is_to_cancel(task_id, queue_of(_text(task_id))):
                        on_cancel(_text(task_id))
        except BackendError:
            raise
        except Exception as error:  # of a connection that breaks, the driver raises anything
            raise self.server.failure("listen for cancellations", error) from error
        finally:
            await see_through(client.aclose())  # whoever is cancelled again while it waits leaves no connection

    # ── figures ─────────────────────────────────────────────────────────────────────────────────────────────

    async def figures(self, queue: str = DEFAULT_QUEUE) -> QueueFigures:
        """A queue's figures: some commands of O(1) or O(log n), in one step. They only read, so that one who may do no
        more can ask."""
        *_, unknown, _, _, _, _, names = found = await self._ask_figures(queue, [])
        if unknown and names:
            # Those of paused names wait where those wait that no worker knows. They are counted in one step with all
            # else: a task that went there between two steps would be counted twice.
            found = await self._ask_figures(queue, names)
        now, ready, left, due, delayed, leased, dead, unknown, taken, since, first, paused, _, *by_name = found
        parked = sum(by_name)
        # What became due and was not moved yet, as workers do that, waits like the rest.
        # A score may be anything that another client wrote.
        moments = [entry[0][1] for entry in (since, first) if entry and 0 <= entry[0][1] <= now]
        oldest = _moment(min(moments)) if moments else None
        pending, unknown = ready + left + due + parked, unknown - parked
        taken = _counter(taken)
        return QueueFigures(pending, delayed - due, leased, dead, oldest, unknown, taken, bool(paused), parked)

    async def _ask_figures(self, queue: str, names: Sequence[bytes]) -> list[Any]:
        """The time, and what the server answers to :meth:`_count`."""

        async def ask(client: Client) -> list[Any]:
            now = round(1e6 * await self._ask_clock(client))
            try:
                return [now, *await self._count(client, queue, names, now, is_one_step=True)]
            # A server without free memory takes no transactions, even to read.
            except (OutOfMemoryError, ExecAbortError):
                return [now, *await self._count(client, queue, names, now, is_one_step=False)]

        found: list[Any] = await self.server.call("count tasks", ask)
        return found

    async def _count(
        self, client: Client, queue: str, names: Sequence[bytes], now: int, *, is_one_step: bool
    ) -> list[Any]:
        """What there is of a queue's tasks, with the names that are paused; then how many of each of these names wait
        for a worker that knows them."""
        key = self._key(queue)
        async with client.pipeline(transaction=is_one_step) as pipeline:
            pipeline.zcard(f"{key}:ready").llen(key).zcount(f"{key}:delayed", "-inf", now)
            pipeline.zcard(f"{key}:delayed").zcard(f"{key}:leases").zcard(f"{key}:dead").hlen(f"{key}:unknown")
            pipeline.getrange(f"{key}:taken", 0, COUNTER_LENGTH)
            pipeline.zrange(f"{key}:since", 0, 0, withscores=True)
            pipeline.zrange(f"{key}:delayed", 0, 0, withscores=True)
            pipeline.exists(f"{key}:paused").srandmember(self._paused_names, MAX_NAMES)
            for name in names:
                pipeline.zcard(f"{key}:unknown:of:".encode() + name)
            return await pipeline.execute()  # type: ignore[no-any-return]

    async def queues(self) -> list[str]:
        registered = f"{self.queue_key}:queues"
        found = await self.server.call("list queues", lambda client: client.zrange(registered, 0, MAX_QUEUES - 1))
        names = {_text(each) for each in found} - {DEFAULT_QUEUE}
        return [DEFAULT_QUEUE, *sorted(filter(is_queue_name, names))]

    async def _ask_clock(self, client: Client) -> float:
        seconds, microseconds = await client.time()
        return float(seconds + microseconds / 1e6)

    async def clock(self) -> float:
        return float(await self.server.call("tell its time", self._ask_clock))

    async def has(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
        tasks = f"{self._key(queue)}:tasks"
        return bool(await self.server.call("look for a task", lambda client: client.hexists(tasks, _wire(task_id))))

    # ── dead tasks ──────────────────────────────────────────────────────────────────────────────────────────

    async def list_dead(self, limit: int | None = None, queue: str = DEFAULT_QUEUE) -> list[dict[str, Any]]:
        last = -1 if limit is None else limit - 1
        if last < -1 or limit == 0:
            return []

        key = self._key(queue)
        texts = f"{key}:dead:tasks"

        async def ask(client: Client) -> list[tuple[bytes, float, int]]:
            found = await client.zrange(f"{key}:dead", 0, last, desc=True, withscores=True)
            async with client.pipeline(transaction=False) as pipeline:
                for task_id, _ in found:
                    pipeline.hstrlen(texts, task_id)
                sizes = await pipeline.execute()
            return [(*each, size) for each, size in zip(found, sizes, strict=True)]

        dead = []
        found = await self.server.call("list dead tasks", ask)
        for batch in in_batches(found, _size_to_read, MAX_BATCH, MAX_BATCH_BYTES):
            ids = [task_id for task_id, _, size in batch if size <= codec.MAX_SIZE]
            timeout, asking = self.server.time_for(sum(map(_size_to_read, batch))), partial(_hmget, texts, ids)
            answers = await self.server.call("read dead tasks", asking, timeout=timeout) if ids else []
            known = dict(zip(ids, answers, strict=True))
            for task_id, since, size in batch:
                text = b"it is too large to be read" if size > codec.MAX_SIZE else known[task_id]
                if text is not None:
                    dead += self._dead_task(task_id, since, text)
        return dead

    async def get_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> dict[str, Any] | None:
        key, wire = f"{self._key(queue)}:dead", _wire(task_id)

        async def ask(client: Client) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.zscore(key, wire).hget(f"{key}:tasks", wire)
                return await pipeline.execute()  # type: ignore[no-any-return]

        size = await self.server.call("measure a dead task", lambda client: client.hstrlen(f"{key}:tasks", wire))
        since, text = await self.server.call("read a dead task", ask, timeout=self.server.time_for(size))
        if since is None or text is None:
            return None
        return next(iter(self._dead_task(_bytes(task_id), since, text)), None)

    def _dead_task(self, task_id: bytes, since: float, text: bytes) -> list[dict[str, Any]]:
        try:
            return [_dead_task(task_id, since, text)]
        except (ValueError, OverflowError) as error:
            self.unreadable_dead.add(_text(task_id), str(error))
            return []

    async def requeue_dead(self, task_id: str, record: TaskResult | None, queue: str = DEFAULT_QUEUE) -> bool:
        kept = NO_RECORD
        if record is not None and self._results is not None:
            kept = codec.encode_record(record)
        args = (self._records, _wire(task_id), kept.text, kept.submitted, _wire(kept.name), _request_id())
        return bool(await self._change("requeue a dead task", _REQUEUE, queue, *args, size=len(kept.text)))

    async def _change(self, what: str, script: Script, queue: str, *args: Any, size: int = 0) -> Any:
        """What a script answers that writes nothing of replicas' concern where it answers 0; ``size`` are the bytes of
        its request."""
        replication = self._replication and self._replication._replace(answers=(1,))
        timeout = self.server.time_for(size)
        return await self.server.run(script, what, self._key(queue), *args, timeout=timeout, replication=replication)

    async def claim_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> str | None:
        ids = (_wire(task_id), _wire(new_id))
        key = self._key(queue)
        answer = await self.server.run(_CLAIM_DEAD, "claim a dead task", key, *ids, replication=self._replication)
        return _text(answer) or None

    async def release_dead(self, task_id: str, new_id: str, queue: str = DEFAULT_QUEUE) -> None:
        ids = (_wire(task_id), _wire(new_id))
        await self._change("release a dead task", _RELEASE_DEAD, queue, *ids)

    async def delete_dead(self, task_id: str, queue: str = DEFAULT_QUEUE) -> bool:
        what = "delete a dead task"
        try:
            wire = _wire(task_id)
        except UnicodeEncodeError as error:
            raise self.server.failure(what, error) from error
        return bool(await self._change(what, _DELETE_DEAD, queue, wire, _request_id()))

    # ── what operators want ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _paused_names(self) -> str:
        return f"{self.queue_key}:paused:names"

    def _orders(self, worker_id: str) -> str:
        return f"{self.queue_key}:orders:{worker_id}"

    async def pause_queue(self, queue: str, is_paused: bool) -> bool:
        return await self._pause("pause a queue" if is_paused else "resume a queue", self._key(queue), is_paused, "")

    async def pause_name(self, name: str, is_paused: bool) -> bool:
        return await self._pause("pause a task" if is_paused else "resume a task", self.queue_key, is_paused, name)

    async def _pause(self, what: str, key: str, is_paused: bool, name: str) -> bool:
        args = (int(is_paused), self._requested, _wire(name), _request_id())
        return bool(await self.server.run(_PAUSE, what, key, *args, replication=self._replication))

    async def order(self, worker_id: str, order: dict[str, Any]) -> None:
        key, channel = self._orders(worker_id), self._requested

        async def ask(client: Client) -> None:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.rpush(key, json.dumps(order)).ltrim(key, -MAX_ORDERS, -1).pexpire(key, ORDERS_TTL)
                pipeline.publish(channel, "")
                await pipeline.execute()

        # Obeyed twice, an order does no harm.
        await self.server.call("leave an order", ask)

    async def requests(self, worker_id: str | None, queues: Sequence[str]) -> Requests:
        async def ask(client: Client) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    pipeline.exists(f"{self._key(queue)}:paused")
                pipeline.srandmember(self._paused_names, MAX_NAMES)
                pipeline.lrange(self._orders(worker_id or ""), 0, -1)
                return await pipeline.execute()  # type: ignore[no-any-return]

        *paused, names, orders = await self.server.call("tell what is wanted", ask)
        if orders:
            key = self._orders(worker_id or "")
            # Not tried again, as that would take off what has come meanwhile. What stays is obeyed twice, without harm.
            with contextlib.suppress(BackendError):
                await self.server.call("take orders", lambda client: client.ltrim(key, len(orders), -1), retry_for=0.0)
        return Requests(
            frozenset(queue for queue, is_paused in zip(queues, paused, strict=True) if is_paused),
            frozenset(map(_text, names)),
            [order for text in orders for order in _order(text)],
        )

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
                except (LookupError, ValueError, ArithmeticError, AttributeError, TypeError, RecursionError) as error:
                    self.unreadable_workers.add(_text(worker_id), str(error))
        return workers

    def _worker_key(self, worker_id: bytes) -> bytes:
        return f"{self.namespace}:worker:".encode() + worker_id

    # ── blocking, for a thread ──────────────────────────────────────────────────────────────────────────────

    def _in_thread(self, what: str, request: Callable[[Client], Any]) -> Any:
        if self._thread_primary != (primary := self.server.primary):  # the loop has found another one
            self._close_thread_client()
            self._thread_primary = primary
        try:
            try:
                return request(self._client_of_thread())
            except ResponseError as error:
                if code_of(error) != "MOVED":
                    raise
                # It was not carried out: the next connection leads where it is.
                self._close_thread_client()
                return request(self._client_of_thread())
        except Exception as error:  # of a connection that breaks, the driver raises anything
            if code_of(error) in LEFT:
                self._close_thread_client()
            raise self.server.failure(what, error) from error

    def _client_of_thread(self) -> redis.Redis:
        if self._thread_client is None:
            self._thread_client = self.server.thread_client()
        return self._thread_client

    def _close_thread_client(self) -> None:
        client, self._thread_client = self._thread_client, None
        if client is not None:
            client.close()

    def _run_in_thread(self, script: Script, what: str, queue: str, *args: Any) -> Any:
        keys = self.server.keys(self._key(queue))
        return self._in_thread(what, lambda client: run_script_in_thread(client, script, keys, *args))

    def renew(self, task_ids: Sequence[str], queue: str = DEFAULT_QUEUE) -> Renewal:
        renewal = Renewal([], [], [])
        for first in range(0, max(1, len(task_ids)), MAX_RENEWALS):
            ids = map(_wire, task_ids[first : first + MAX_RENEWALS])
            answer = self._run_in_thread(_RENEW, "renew leases", queue, self._token, round(self.lease * 1e6), *ids)
            for found, told in zip(renewal, answer, strict=True):
                found += map(_text, told)
        return renewal

    def announce(
        self,
        worker: dict[str, Any] | None,
        names: Sequence[str] | None,
        seconds: float,
        queue: str = DEFAULT_QUEUE,
    ) -> Announcement:
        process, text = "", ""
        if worker is not None:
            process = worker["id"]
            text = json.dumps({key: _as_json(value) for key, value in worker.items()})
        counts, patience = round(seconds * 1e3), round(self.unknown_ttl * 1e6)
        args = (self._token, counts, patience, self.namespace, process, text, *map(_wire, names or ()))
        are_names_known, overdue = self._run_in_thread(_ANNOUNCE, "announce a worker", queue, *args)
        return Announcement(bool(are_names_known) or names == [], [_text(name) for name in overdue])

    def look_for_gone(self) -> float | None:
        return self._in_thread(  # type: ignore[no-any-return]
            "look for workers", lambda client: self._connections.look(client, self._token)
        )

    def withdraw(self, worker_id: str | None, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> None:
        args = (self._token, self.namespace, worker_id or "")
        try:
            refusal = first_refusal(
                queues, lambda queue: self._run_in_thread(_WITHDRAW, "withdraw a worker", queue, *args)
            )
        finally:
            self._close_thread_client()
            self._connections = Connections(self.queue_key, self._key, self.server.keys)
        if refusal is not None:
            raise refusal

    async def has_tasks_at(self, queue_key: str, *, or_dead: bool = False) -> bool:
        """Whether there are tasks, or dead ones if these count, in the default queue with that key, or one beside it.

        Raises:
            BackendError: The server could not be reached.
        """

        async def ask(client: Client) -> bool:
            names = await client.zrange(f"{queue_key}:queues", 0, MAX_QUEUES - 1)
            keys = [queue_key.encode(), *(f"{queue_key}@".encode() + name for name in names)]
            parts = (b":tasks", b":dead:tasks") if or_dead else (b":tasks",)
            return bool(await client.exists(*(key + part for key in keys for part in parts)))

        return bool(await self.server.call("look for tasks", ask))

    async def ping(self) -> None:
        await self.server.ping()

    @property
    def server_figures(self) -> ServerFigures:
        return self._server_figures

    async def unfitness(self) -> dict[str, str | None]:
        figures = ServerFigures()
        try:
            unfitness, figures = await look(self.server, self.lease)
        finally:
            self._server_figures = figures
        return unfitness

    async def close(self) -> None:
        """Close the running loop's connections."""
        await self._waiters.close()
        await self.server.close()


async def _look_after(pubsub: Any, asked_at: float | None) -> float:
    """Ask a server of which nothing was heard whether it is there; when it was asked, on the loop's clock.

    Raises:
        TimeoutError: It has not answered since it was asked before.
    """
    now = asyncio.get_running_loop().time()
    if asked_at is None:
        await pubsub.ping()
        return now
    if now - asked_at >= MAX_BLOCK:
        raise TimeoutError(f"no answer within {MAX_BLOCK:g} s")
    return asked_at


async def _for_each_queue(
    entries: Sequence[_Entry], work: Callable[[str, list[_Entry]], Awaitable[list[_Answer]]]
) -> list[_Answer]:
    """What is answered for each entry, in their order, where one request carries those of one queue."""
    queue = entries[0].queue
    if all(entry.queue == queue for entry in entries):
        return await work(queue, list(entries))
    places: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(entry.queue, []).append(place)
    answers: dict[int, _Answer] = {}
    for queue, of_queue in places.items():
        answers.update(zip(of_queue, await work(queue, [entries[place] for place in of_queue]), strict=True))
    return [answers[place] for place in range(len(entries))]


def _request_id() -> str:
    """By it a request that is tried again is known, and answered as the first time."""
    return secrets.token_hex(8)


def _wire(text: str) -> str | bytes:
    """Text as it is sent; ids that were no text come and go unchanged."""
    return text if text.isascii() else text.encode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _delivery(
    queue: str,
    paused: set[str],
    number: int,
    task_id: bytes,
    deliveries: int,
    waited: int,
    is_cancelled: int,
    payload: bytes,
) -> Delivery:
    name = _text(task_id)
    try:
        if payload.startswith(b"!"):
            raise ValueError(f"it has {int(payload[1:]):,} bytes, at most {codec.MAX_SIZE:,} are read")
        task, submitted_at, call, attempts, retry_of = codec.decode_task(payload)
        if task.id != name:  # what is done under one would never be settled under the other
            raise ValueError(f"its id is {task.id!r:.100}, and it is queued as {name!r:.100}")
    except ValueError as error:
        reason = f"what was queued can't be read: {error}"
        return Delivery(
            name, None, None, "", reason, deliveries, waited / 1e6, bool(is_cancelled), queue=queue, number=number
        )
    task.queue = queue  # where it is, whatever its text says
    return Delivery(
        name,
        task,
        submitted_at,
        call,
        None,
        deliveries,
        waited / 1e6,
        bool(is_cancelled),
        attempts,
        retry_of,
        queue,
        task.name in paused,
        number,
    )


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
        "task_id": _text(task_id),  # as it is: it may be requeued or deleted by it
        "task_name": None if task is None else task.name,
        "reason": reason.decode(errors="replace"),
        "dead_since": _moment(since),
        "deliveries": deliveries,
        "args": None if task is None else task.args,
        "kwargs": None if task is None else task.kwargs,
    }


def _counter(text: bytes) -> int | None:
    """A counter of the server's; None if somebody wrote there what is none."""
    if not text:
        return 0
    return int(text) if text.isdigit() and len(text) <= COUNTER_LENGTH else None


def _moment(microseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def _order(text: bytes) -> list[dict[str, Any]]:
    """What was ordered; nothing if it is of nobody's making."""
    try:
        order = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [order] if isinstance(order, dict) else []


_KINDS = ("io", "cpu")
# A process id, or a number of slots, is smaller.
_MOST_COUNTED = 2**53


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _worker(text: bytes) -> dict[str, Any]:
    """What a process has announced, as ``Flowrra.announcement`` has it.

    Raises:
        Exception: Another program wrote it, as it is unlike that in a place.
    """
    found = json.loads(text)
    started_at = found["started_at"]
    return {
        "id": _checked(found["id"], str),
        "host": _checked(found["host"], str),
        "pid": _number(found["pid"]),
        "started_at": None if started_at is None else _aware(started_at),
        "heartbeat_at": _aware(found["heartbeat_at"]),
        "version": _checked(found["version"], str),
        "executors": {
            kind: {"slots": _number(slots["slots"]), "busy": _number(slots["busy"])}
            for kind, slots in found["executors"].items()
            if kind in _KINDS
        },
        "draining": _checked(found.get("draining", False), bool),
    }


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__}; expected a {kind.__name__}")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST_COUNTED:
        raise ValueError("a number that can't be one; expected a whole one from 0 on")
    return value


def _aware(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("a time without an offset")
    return found.astimezone(UTC)
