"""Results on Redis (6.2 or newer) or Valkey, under the names that flowrra 0.1.8 gives them.

``records.lua`` in ``flowrra/lua`` describes the keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, NamedTuple

from flowrra import codec
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.listing import Page, Place, TaskFilter
from flowrra.backends.redis_changes import RedisChanges
from flowrra.backends.redis_completions import Completions
from flowrra.backends.redis_lists import MAX_BATCH, MAX_IDS, Listed, RecordLists, read_page
from flowrra.batcher import Batcher, in_batches
from flowrra.changes import Change
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError, RequestRefusedError, RequestTimeoutError, ServerUnavailableError
from flowrra.ranges import MAX_DELAY, check_wait
from flowrra.redis_client import Client, RedisServer, one_by_one
from flowrra.redis_script import Script, records_key
from flowrra.setting_aside import SetAside
from flowrra.task import TaskResult, TaskStatus

# Seconds that a finished record is kept if nothing else is said: one day, as in memory.
DEFAULT_TTL = 24 * 3600
# Bytes of the records that are read, or stored, in one step.
MAX_BATCH_BYTES = 8 * 1024 * 1024
# Bytes of records that are read in time on any link, without being measured.
SMALL = 1024 * 1024

_STORE = Script("clock", "records", "store")
_FORGET = Script("clock", "records", "forget")
_UNLIST = Script("clock", "records", "unlist")
_RELEASE_RETRY = Script("records", "release_retry")


# What is answered of a record: it was not taken on, or something else is known of its task.
_REFUSED, _KNOWN = 0, 2


class _Storing(NamedTuple):
    """A record that is to be stored; if ``is_new``, unless there is one that says more."""

    task_id: bytes
    record: EncodedRecord
    is_new: bool

    def size(self) -> int:
        """About how many bytes are sent."""
        return len(self.task_id) + len(self.record.text)


class RedisBackend(BaseResultBackend):
    """Records on Redis or Valkey.

    Args:
        url: As in :class:`flowrra.brokers.RedisBroker`.
        ttl: Seconds that a finished record is kept; one day if None. Unfinished ones are kept for as long as they last.
        max_connections, socket_timeout, retry_on_timeout, **options: As in :class:`flowrra.brokers.RedisBroker`.
        namespace: The beginning of the names of all its keys; on a cluster, with a hash tag.

    Attributes:
        lists: Its lists of records.

    Raises:
        BackendError: The URL can't be read, or an option of it contradicts what the app needs.
        ValueError: ``ttl`` or a limit is out of range; or, on a cluster, ``namespace`` has no hash tag.
    """

    def __init__(
        self,
        url: str,
        ttl: float | None = None,
        *,
        max_connections: int = 50,
        socket_timeout: float = 5.0,
        retry_on_timeout: bool = True,
        namespace: str = "flowrra",
        **options: Any,
    ) -> None:
        if ttl is not None and not 0 < ttl <= MAX_DELAY:
            raise ValueError(f"ttl must be positive (seconds), and at most 100 years, not {ttl!r:.100}")
        self.server = RedisServer(
            url,
            max_connections=max_connections,
            socket_timeout=socket_timeout,
            retry_on_timeout=retry_on_timeout,
            slot_of=namespace,
            **options,
        )
        self.namespace = namespace
        self._records_key = records_key(namespace)
        self.ttl_ms = max(1, round(1000 * (DEFAULT_TTL if ttl is None else ttl)))
        self._stores = Batcher(self._store_all, MAX_BATCH, _Storing.size, MAX_BATCH_BYTES)
        self._reads = Batcher(self._read, MAX_BATCH)
        # Whether what was read last was so large that it is to be measured before.
        self._is_measuring = False
        self.unreadable = SetAside("record")
        self.set_aside = (self.unreadable,)
        self._changes = RedisChanges(self.server, namespace)
        self.lists = RecordLists(self.server, namespace)
        self._completions = Completions(self.server, f"{namespace}:complete:", self.get)

    def _key(self, task_id: str) -> str:
        return f"{self.namespace}:task:{task_id}"

    # ── one record ──────────────────────────────────────────────────────────────────────────────────────────

    async def store(self, task_id: str, result: TaskResult) -> None:
        await self._store(_Storing(_wire_id(task_id), codec.encode_record(result), False))

    async def store_new(self, task_id: str, result: TaskResult) -> bool:
        return await self._store(_Storing(_wire_id(task_id), codec.encode_record(result), True)) != _KNOWN

    async def _store(self, storing: _Storing) -> int:
        """Store what was encoded before anything was awaited: the caller goes on changing it."""
        answer = await self._stores.add(storing)
        if answer == _REFUSED:
            raise ServerUnavailableError(
                f"Redis {self.server.name} could not store a new record: it has no memory left"
            )
        return answer

    async def _store_all(self, batch: Sequence[_Storing]) -> list[int]:
        args: list[Any] = [self.ttl_ms]
        for task_id, (text, status, submitted, name), is_new in batch:
            mark = "+" if is_new else ""
            line = f"{mark}{status} {submitted} {label(name)} ".encode(errors="surrogateescape")
            args += (line + task_id, text)
        timeout = self.server.time_for(sum(map(_Storing.size, batch)))
        answer: list[int] = await self.server.run(_STORE, "store records", self._records_key, *args, timeout=timeout)
        return answer

    async def get(self, task_id: str) -> TaskResult | None:
        text = await self._reads.add(_wire_id(task_id))
        return None if text is None else codec.decode_record(text)

    async def _read(self, task_ids: Sequence[bytes]) -> list[bytes | None]:
        prefix = self._key("").encode()
        keys = [prefix + task_id for task_id in task_ids]
        if not self._is_measuring:
            # A link may be slow, and they may be large: that is asked when they have not come in time.
            with suppress(RequestTimeoutError):
                return await self._read_keys(keys, None)
        return await self._read_measured(keys)

    async def _read_measured(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records under these keys, as many at once as a slow link carries, in the time that it needs for them."""
        found = await self.server.call("measure records", partial(_sizes, keys), retry_for=0.0)
        sizes = [0 if isinstance(size, Exception) else int(size) for size in found]
        self._is_measuring = sum(sizes) > SMALL
        texts: list[bytes | None] = []
        for batch in in_batches(list(zip(keys, sizes, strict=True)), itemgetter(1), MAX_BATCH, MAX_BATCH_BYTES):
            timeout = self.server.time_for(sum(size for _, size in batch))
            texts += await self._read_keys([key for key, _ in batch], timeout)
        return texts

    async def _read_keys(self, keys: Sequence[bytes], timeout: float | None) -> list[bytes | None]:
        texts: list[bytes | None] = await self.server.call("read records", partial(_mget, keys), timeout=timeout)
        return texts

    async def wait_for(self, task_id: str, timeout: float | None = 10.0) -> TaskResult:
        async with _time_limit(task_id, timeout):
            return await self._completions.wait_for(task_id)

    async def wait_for_known(self, task_id: str, timeout: float | None) -> TaskResult:
        async with _time_limit(task_id, timeout):
            return await self._completions.wait_for(task_id, must_exist=True)

    async def delete(self, task_id: str) -> bool:
        return bool(await self.server.run(_FORGET, "delete a record", self._records_key, _wire_id(task_id)))

    # ── all records ─────────────────────────────────────────────────────────────────────────────────────────

    async def clear(self) -> int:
        count, cursor = 0, None
        while cursor != 0:
            cursor, keys = await self.server.call("list the records", partial(self._scan, cursor or 0))
            ids = [key[len(self._key("").encode()) :] for key in keys]
            for first in range(0, len(ids), MAX_BATCH):
                count += await self._forget(ids[first : first + MAX_BATCH])
        return count

    async def _scan(self, cursor: int, client: Client) -> Any:
        pattern, guard = _escaped(f"{self.namespace}:task:") + "*", self.server.guard(self.namespace)
        if guard is None:
            return await client.scan(cursor, match=pattern, count=1000)
        # While the slot is being moved, a part of it is elsewhere: then this is refused.
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.exists(guard).scan(cursor, match=pattern, count=1000)
            return (await pipeline.execute())[-1]

    async def _forget(self, task_ids: Sequence[bytes]) -> int:
        return int(await self.server.run(_FORGET, "delete records", self._records_key, *task_ids))

    async def list_by_status(self, status: TaskStatus, limit: int | None = None, offset: int = 0) -> list[TaskResult]:
        """The records with that status, the latest submitted first; takes as long as ``offset + limit`` are many."""
        wanted = None if limit is None else offset + limit
        found: list[TaskResult] = []
        index, start = f"{self.namespace}:status:{TaskStatus(status).value}", 0
        size = MAX_IDS if wanted is None else min(MAX_IDS, wanted)
        while wanted is None or len(found) < wanted:
            ids = await self.server.call("list tasks", partial(_page, index, start, start + size - 1))
            if not ids:
                break
            start += len(ids)
            size = MAX_IDS  # those that come first may all have gone
            # One that has expired, or has moved on since, is not among them.
            found += [record for record in await self._read_listed(ids) if record.status == status]
        return found[offset:wanted]

    async def find(self, wanted: TaskFilter, limit: int, cursor: str | None = None) -> Page:
        async with aclosing(self.lists.behind(wanted.first(cursor), wanted, limit + 1)) as listed:
            return await read_page(listed, self.records_at, wanted, limit)

    async def count(self) -> Mapping[tuple[TaskStatus, str | None], int]:
        return await self.lists.counts()

    async def unlist_expired(self) -> None:
        await self.server.run(_UNLIST, "unlist what has expired", self._records_key, retry_for=0.0)

    # ── changes ─────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        return self._changes.watch(after)

    async def latest_change(self) -> str:
        """The id of the latest change, so that all that comes after it can be watched: it is told from now on.

        Raises:
            BackendError: The server could not be reached.
        """
        return await self._changes.latest()

    @property
    def watchers(self) -> int:
        return self._changes.watchers

    # ── runs anew ───────────────────────────────────────────────────────────────────────────────────────────

    async def claim_retry(self, task_id: str, new_id: str) -> str:
        key = self._retried_key(task_id)

        async def ask(client: Client) -> Any:
            # As long as its record: another task of that id, which is submitted when that has gone, is another matter.
            left = await client.pttl(self._key("").encode() + _wire_id(task_id))
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.set(key, _wire_id(new_id), nx=True, px=left if left > 0 else self.ttl_ms)
                pipeline.get(key)
                return (await pipeline.execute())[-1]

        claimed = await self.server.call("claim a retry", ask)
        return new_id if claimed is None else _text(claimed)

    async def release_retry(self, task_id: str, new_id: str) -> None:
        ids = (_wire_id(task_id), _wire_id(new_id))
        await self.server.run(_RELEASE_RETRY, "take back a retry", self._records_key, *ids)

    async def retried_as(self, task_id: str) -> str | None:
        key = self._retried_key(task_id)
        found = await self.server.call("read a retry", lambda client: client.get(key))
        return None if found is None else _text(found)

    def _retried_key(self, task_id: str) -> bytes:
        return f"{self.namespace}:retried:".encode() + _wire_id(task_id)

    async def records_at(self, listed: Sequence[Listed]) -> list[tuple[Place, TaskResult]]:
        """The records of what its lists have, each with its place; without those that have gone, or can't be read."""
        records = {record.task_id: record for record in await self._read_listed([task_id for _, task_id in listed])}
        return [(place, records[place[1]]) for place, _ in listed if place[1] in records]

    async def _read_listed(self, ids: Sequence[bytes]) -> list[TaskResult]:
        """The records of these tasks. One that can't be read costs itself alone; their sizes are asked first."""
        prefix = self._key("").encode()
        keys = [prefix + task_id for task_id in ids]
        sizes = await self.server.call("measure records", partial(_sizes, keys))
        records: list[TaskResult] = []
        for batch in in_batches(list(zip(keys, sizes, strict=True)), _size_to_read, MAX_BATCH, MAX_BATCH_BYTES):
            readable = [key for key, size in batch if _size_to_read((key, size))]
            timeout = self.server.time_for(sum(map(_size_to_read, batch)))
            texts = await self._read_keys(readable, timeout) if readable else []
            for key, size in batch:
                if isinstance(size, Exception) or size > codec.MAX_SIZE:
                    self.unreadable.add(_text(key[len(prefix) :]), str(size))
            for key, text in zip(readable, texts, strict=True):
                try:
                    records += [] if text is None else [codec.decode_record(text)]
                except BackendError as error:
                    self.unreadable.add(_text(key[len(prefix) :]), str(error))
        return records

    def __len__(self) -> int:
        raise NotImplementedError("RedisBackend has no length: its records are shared, and expire")

    async def ping(self) -> None:
        await self.server.ping()

    async def close(self) -> None:
        """Close the running loop's connections, and fail whoever still waits there."""
        await self._completions.close()
        await self.server.close()


@lru_cache(maxsize=1024)
def label(name: str) -> str:
    """A task's name as the scripts read it, with the number of its bytes before it."""
    return f"{len(name.encode(errors='surrogateescape'))}:{name}"


def _size_to_read(found: tuple[bytes, Any]) -> int:
    """The bytes that there are to read; 0 for what is no record, or too large for one."""
    _, size = found
    return 0 if isinstance(size, Exception) or size > codec.MAX_SIZE else int(size)


async def _sizes(keys: Sequence[bytes], client: Client) -> Sequence[Any]:
    async with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.strlen(key)
        return one_by_one(await pipeline.execute(raise_on_error=False))


async def _mget(keys: Sequence[bytes], client: Client) -> Any:
    return await client.mget(keys)


def _wire_id(task_id: str) -> bytes:
    """An id as it is sent; one that came as no text goes back unchanged.

    Raises:
        RequestRefusedError: It can't be sent.
    """
    try:
        return task_id.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise RequestRefusedError(
            f"{task_id!r:.100} can't be the id of a task: it is no text ({error.reason})"
        ) from None


def _time_limit(task_id: str, timeout: float | None) -> asyncio.Timeout:
    """The limit of a wait for a task.

    Raises:
        RequestRefusedError: The id can't be sent.
        TypeError, ValueError: The timeout is no number of seconds.
    """
    _wire_id(task_id)
    check_wait("timeout", timeout)
    return asyncio.timeout(timeout)


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


async def _page(index: str, first: int, last: int, client: Client) -> Any:
    return await client.zrange(index, first, last, desc=True)


def _escaped(text: str) -> str:
    """Text as it stands in a pattern."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in text)
