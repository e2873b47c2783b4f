"""Connections to a Redis or Valkey server, for the broker and the result backend: a client for each event loop that
asks, scripts, and a bounded number of further tries while the server is away.

Needs the redis package; only modules that are loaded for a Redis URL import this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    DataError,
    ExecAbortError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

from flowrra.backoff import Backoff
from flowrra.exceptions import (
    BackendError,
    NotReplicatedError,
    RequestRefusedError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from flowrra.per_loop import PerLoop
from flowrra.redis_address import Address, Place
from flowrra.redis_cluster import ClusterNodes, code_of, guard_of, slot_with
from flowrra.redis_primary import Primary, thread_pool
from flowrra.redis_replicas import HOLD, Replicas
from flowrra.redis_script import Script

if HIREDIS_AVAILABLE:
    from hiredis import pack_command

logger = logging.getLogger(__name__)

# redis-py's annotations describe both of its clients, the one that is awaited and the one that isn't, at once.
Client = Any

# Seconds for which a request is tried again while the server can't be reached.
RETRY_FOR = 2.0
# Seconds that a request may wait for its answer because it waits for something to happen.
MAX_BLOCK = 10.0
# Bytes a second with which a large request is expected to travel at least.
SLOWEST_LINK = 1e6
# Seconds that a request waits for a connection when all of them are in use.
POOL_TIMEOUT = 20.0
# Milliseconds for which the other replicas are waited for as well, once there are enough.
SLOWER_BY_MS = 2
# Seconds after which it is asked again whether a replica that has left is back.
LOOK_AGAIN = 0.1
# How often a request goes at once where a node of a cluster says that its keys are.
MOST_MOVES = 3


class Replication(NamedTuple):
    """How many replicas must have what a script wrote before it counts.

    Attributes:
        replicas: At least 1.
        timeout: Seconds that they may take.
        answers: Those of the script that are waited for, as it has written nothing else that counts; None is all.
    """

    replicas: int
    timeout: float
    answers: tuple[Any, ...] | None = None


class Doubt:
    """Whether a request that failed may have been carried out all the same. To be entered around each sending of it:
    what the server has refused was not carried out.

    Attributes:
        exists: Whether it was sent, and no answer said that it was refused.
    """

    def __init__(self) -> None:
        self.exists = self._existed = False

    def __enter__(self) -> None:
        self._existed, self.exists = self.exists, True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, ResponseError):
            self.exists = self._existed


class TooFewReplicasError(Exception):
    """What a script wrote is written, and may be lost with the server."""


class RedisServer:
    """One database of one server, or of the one that is the primary just now.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and options as redis-py reads them;
            ``redis+sentinel://`` or ``rediss+sentinel://`` for the primary that sentinels name; ``redis+cluster://`` or
            ``rediss+cluster://`` for the primary of one slot of a cluster.
        slot_of: What all keys begin with: on a cluster it must have a hash tag.
        max_connections: Most connections of one event loop; a request that finds all in use waits for one.
        socket_timeout: Seconds to wait for an answer or a connection; 0 or None waits for as long as it takes.
        retry_on_timeout: Whether a request that was not answered in time is tried again.
        **options: Passed on to redis-py's connections.

    Attributes:
        name: Which server and database this is, for comparing and for messages: without user and password.
        database: The number of the database.
        primary: Where the primary was when sentinels, or a cluster, were last asked; None before that, or without them.
        slot: The slot of a cluster in which all keys lie; None elsewhere.

    Raises:
        BackendError: The URL can't be read, or an option of it contradicts what the app needs.
        ValueError: ``max_connections`` or ``socket_timeout`` is out of range, or ``slot_of`` has no hash tag.
    """

    def __init__(
        self,
        url: str,
        *,
        slot_of: str,
        max_connections: int = 50,
        socket_timeout: float | None = 5.0,
        retry_on_timeout: bool = True,
        **options: Any,
    ) -> None:
        if max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {max_connections!r}")
        if not (socket_timeout or 0) >= 0:
            raise ValueError(f"socket_timeout must be non-negative, not {socket_timeout!r}")
        self._max_connections = max_connections
        self._socket_timeout = socket_timeout or None
        self._retry_on_timeout = retry_on_timeout
        limits = {
            "max_connections": max_connections,
            "socket_timeout": socket_timeout,
            "retry_on_timeout": retry_on_timeout,
        }
        self._address = Address(url, options, limits)
        self.name, self.database = self._address.name, self._address.database
        self.primary: Place | None = None
        self._nodes: ClusterNodes | None = None
        self.slot: int | None = None
        if self._address.cluster is not None:
            self.slot = slot_with(slot_of)
            self._nodes = ClusterNodes(self._address, self.slot, guard_of(slot_of))
        self._follows = self._nodes is not None or self._address.sentinels is not None
        self._primaries = PerLoop(lambda: Primary(self._address, self._nodes, self._found), Primary.close)
        self._clients = PerLoop(self._new_client, _close)
        self._replicas = Replicas()
        self._lines: PerLoop[Line] = PerLoop(lambda: Line(self._replicas))

    # ── clients ─────────────────────────────────────────────────────────────────────────────────────────────

    def client(self) -> redis.asyncio.Redis:
        """The client of the running event loop. It is closed with that loop, or by :meth:`close` there."""
        return self._clients.get()

    def _found(self, place: Place) -> None:
        self.primary = place

    def _new_client(self) -> redis.asyncio.Redis:
        options = {
            "max_connections": self._max_connections,
            "timeout": POOL_TIMEOUT,
            # The time limit is on a whole request, see call(): redis-py's own would cost an asyncio task each time.
            **self._connection_options(None),
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        if self._follows:
            return redis.asyncio.Redis.from_pool(self._primaries.get().blocking_pool(**options))
        return redis.asyncio.Redis.from_pool(
            BlockingConnectionPool(connection_class=self._address.connection_class, **options)
        )

    def dedicated_client(self) -> redis.asyncio.Redis:
        """A client of its own, for requests that wait on the server up to ``MAX_BLOCK``. The caller closes it."""
        timeout = None if self._socket_timeout is None else self._socket_timeout + MAX_BLOCK
        options = {**self._connection_options(timeout), "retry": AsyncRetry(NoBackoff(), 0)}
        if self._follows:
            return redis.asyncio.Redis.from_pool(self._primaries.get().pool(**options))
        return redis.asyncio.Redis.from_pool(
            redis.asyncio.ConnectionPool(connection_class=self._address.connection_class, **options)
        )

    def thread_client(self) -> redis.Redis:
        """A client without an event loop, for a thread. The caller closes it."""
        options = {**self._connection_options(self._socket_timeout), "retry": Retry(NoBackoff(), 0)}
        if self._follows:
            return redis.Redis.from_pool(thread_pool(self._address, self._nodes, **options))
        return redis.Redis.from_pool(
            redis.ConnectionPool(connection_class=self._address.thread_connection_class, **options)
        )

    def _connection_options(self, socket_timeout: float | None) -> dict[str, Any]:
        limits = {"socket_timeout": socket_timeout, "socket_connect_timeout": self._socket_timeout}
        return {**limits, **self._address.options}

    async def close(self) -> None:
        """Close the running loop's connections; they are made anew when they are needed."""
        self._lines.pop()
        await self._clients.close()
        await self._primaries.close()

    def is_same_as(self, other: RedisServer) -> bool:
        """Whether one script can touch the keys of both."""
        return (self.name, self.slot) == (other.name, other.slot)

    def guard(self, key: str) -> str | None:
        """The key by which a node of a cluster tells that the slot is being moved, see
        :func:`flowrra.redis_cluster.guard_of`; None elsewhere."""
        return None if self.slot is None else guard_of(key)

    def keys(self, key: str) -> tuple[int | str, ...]:
        """The keys of a script, which uses only the first, and before them how many they are."""
        return (1, key) if self.slot is None else (2, key, guard_of(key))

    def time_for(self, size: int) -> float | None:
        """Seconds to wait for the answer to a request of so many bytes; None waits for as long as it takes."""
        return None if self._socket_timeout is None else self._socket_timeout + size / SLOWEST_LINK

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────

    async def call(
        self,
        what: str,
        request: Callable[[Client], Awaitable[Any]],
        *,
        retry_for: float = RETRY_FOR,
        timeout: float | None = None,
    ) -> Any:
        """What the server answers. A request that may have been carried out is sent again: it must bear that.

        Args:
            what: Names the request in errors.
            request: Sends it.
            retry_for: Seconds for which it is tried again while the server can't be reached.
            timeout: Seconds to wait for the answer; None is ``socket_timeout``.

        Raises:
            RequestTimeoutError: The server did not answer in time.
            RequestRefusedError: The server refused what was in the request.
            BackendError: The server could not be reached, or refused.
        """
        deadline, backoff, primary, moves = time.monotonic() + retry_for, Backoff(), self.primary, MOST_MOVES
        while True:
            try:
                async with asyncio.timeout(timeout or self._socket_timeout):
                    return await request(self.client())
            except Exception as error:  # of a connection that breaks at the wrong moment, the driver raises anything
                if isinstance(error, ReadOnlyError):
                    await self._leave_replica()
                if self.slot is not None and code_of(error) in ("MOVED", "CLUSTERDOWN"):
                    await self._find_primary()
                    if moves and code_of(error) == "MOVED":  # it was not carried out, whatever it was
                        moves -= 1
                        continue
                if self.primary != primary:  # what was tried so far, was tried with the former one
                    deadline, primary = time.monotonic() + retry_for, self.primary
                pause = backoff.next()
                if not self._is_worth_a_retry(error) or time.monotonic() + pause > deadline:
                    raise self.failure(what, error) from error
            await asyncio.sleep(pause)

    async def ping(self) -> None:
        """Return if the server answers; see :meth:`call`."""
        await self.call("answer", lambda client: client.ping(), retry_for=0.0)

    async def run(
        self,
        script: Script,
        what: str,
        key: str,
        *args: Any,
        retry_for: float = RETRY_FOR,
        timeout: float | None = None,
        replication: Replication | None = None,
        doubt: Doubt | None = None,
    ) -> Any:
        """What a script returns; see :meth:`call`.

        Args:
            doubt: Is told what becomes of the request.
            replication: Which replicas must have what it wrote; None waits for none. The time that they may take is not
                a part of ``timeout``. The script must write something each time that it gives an answer that is waited
                for: of one that doesn't, the server knows nothing that it could wait for.

        Raises:
            NotReplicatedError: They didn't have it in time.
        """

        doubt = doubt or Doubt()

        async def request(client: Client) -> Any:
            # It keeps a connection to itself, so there must be another one for all the rest.
            line = None if self._max_connections == 1 else self._lines.get()
            if line is not None and not line.is_busy:
                return await line.run(client, script, self.keys(key), *args, doubt=doubt, replication=replication)
            if replication is None:
                with doubt:
                    return await run_script(client.execute_command, script, self.keys(key), *args)
            line = Line(self._replicas)
            try:
                return await line.run(client, script, self.keys(key), *args, doubt=doubt, replication=replication)
            finally:
                await line.release(client)

        if replication is not None and (timeout := timeout or self._socket_timeout) is not None:
            timeout += replication.timeout + HOLD
        return await self.call(what, request, retry_for=retry_for, timeout=timeout)

    def _is_worth_a_retry(self, error: Exception) -> bool:
        if isinstance(error, AuthenticationError | DataError | UnicodeEncodeError):
            return False
        if isinstance(error, redis.exceptions.TimeoutError | TimeoutError):
            return self._retry_on_timeout
        if isinstance(error, ResponseError):
            code = code_of(error)
            is_passing = isinstance(error, ReadOnlyError) or code in _PASSING
            return is_passing or (self.slot is not None and code in ("ASK", "MOVED"))
        return True  # it is loading its data, or the connection is broken, in whatever way the driver says so

    async def _find_primary(self) -> None:
        """Ask the cluster anew where the slot is, and leave the node that no longer has it."""
        primary = self._primaries.get()
        primary.doubt()
        with contextlib.suppress(Exception):  # whoever makes a connection meets the same error, with its text
            await primary.find()

    async def _leave_replica(self) -> None:
        """Have the running loop's idle connections made anew: those there are lead to what is now a replica."""
        with contextlib.suppress(Exception):  # it raises anything while it closes a broken one
            await self.client().connection_pool.disconnect(inuse_connections=False)

    def failure(self, what: str, error: Exception) -> BackendError:
        """The error that tells users what went wrong where. A server may repeat a password that it doesn't understand:
        it is taken out of ``error`` as well, which is likely to become the cause."""
        error.args = tuple(
            self._address.without_secrets(each) if isinstance(each, str) else each for each in error.args
        )
        kind: type[BackendError] = ServerUnavailableError
        if isinstance(error, TooFewReplicasError):
            kind = NotReplicatedError
        elif isinstance(error, TimeoutError | redis.exceptions.TimeoutError):
            kind = RequestTimeoutError
        elif _is_refusal(error):
            kind = RequestRefusedError
        text = self._address.without_secrets(str(error)) + self._explanation(error)
        told = f"{type(error).__name__}: {text}" if text else type(error).__name__  # a time-out has no text of its own
        return kind(f"Redis {self.name} could not {what}: {told}")

    def _explanation(self, error: Exception) -> str:
        """What is behind an answer about the slots of a cluster, which says no more than numbers."""
        if self.slot is None:
            is_of_cluster = code_of(error) in ("ASK", "MOVED", "CROSSSLOT") or _ELSEWHERE in str(error)
            return "; it is a node of a cluster: begin the URL with redis+cluster://" if is_of_cluster else ""
        is_moving = code_of(error) in ("ASK", "TRYAGAIN")
        return f"; slot {self.slot} is being moved to another node" if is_moving else ""


# Said by a node of a cluster of keys that it doesn't have.
_ELSEWHERE = "non local key"
# Refusals that pass, of requests that were not carried out: its slot is being moved, it has no primary just now,
# somebody's script occupies it, or it was promoted just now, and its replicas or its first snapshot are not there yet.
# Of one that was made a replica, READONLY, its address may lead to the new primary.
_PASSING = ("TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "BUSY", "NOREPLICAS", "MISCONF")
# What a server answers for reasons of its own, whatever it was asked: it is full, loads, follows another one, is in
# other hands. A script's error has it anywhere in its text, in which our own scripts repeat nothing that is a user's.
_OWN_REASONS = (
    *("OOM", "MISCONF", "NOREPLICAS", "READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"),
    *("MOVED", "ASK "),
    *("NOAUTH", "NOPERM", "WRONGPASS", "NOSCRIPT", "UNKILLABLE", "max number of clients"),
    *(_ELSEWHERE, "while the cluster is down"),
)


def _is_refusal(error: Exception) -> bool:
    """Whether a server, or its driver, refused a request for what was in it."""
    if type(error) is not ResponseError:  # those derived from it are the server's own reasons
        return isinstance(error, DataError | UnicodeEncodeError)
    return not any(reason in str(error) for reason in _OWN_REASONS)


class Line:
    """A connection for scripts that are sent one after the other: a client and its pool take as much time for a request
    as all the rest of the round trip.

    Args:
        replicas: What is known of those of the server.

    Attributes:
        is_busy: Whether a request is under way, so that no other can be sent.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._connection: AbstractConnection | None = None
        self.is_busy = False

    async def run(
        self,
        client: Client,
        script: Script,
        keys: tuple[int | str, ...],
        *args: Any,
        doubt: Doubt,
        replication: Replication | None = None,
    ) -> Any:
        """What a script returns; see :func:`run_script`.

        Args:
            client: The running loop's client, which gives the connection when there is none.
            keys: As :meth:`RedisServer.keys` has them.
            doubt: Is told what becomes of the request.
            replication: Which replicas must have what it wrote; None waits for none.

        Raises:
            TooFewReplicasError: They didn't have it in time.
        """
        self.is_busy = True
        try:
            if self._connection is None or not self._connection.is_connected:
                await self._connect(client)
            with doubt:
                answer = await run_script(self._send, script, keys, *args)
            if replication is not None and (replication.answers is None or answer in replication.answers):
                await self._wait_for_replicas(replication)
            return answer
        except ReadOnlyError:
            await self._connection.disconnect()  # type: ignore[union-attr]  # it was answered on it
            raise
        finally:
            self.is_busy = False

    async def release(self, client: Client) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await client.connection_pool.release(connection)

    async def _wait_for_replicas(self, replication: Replication) -> None:
        """Return when they have confirmed what was written last on this connection, and none of them seems to have
        become the primary meanwhile."""
        hold = await self._ask_replicas(replication)
        over = time.monotonic() + hold
        while hold:
            if time.monotonic() + hold > over + LOOK_AGAIN:
                raise TooFewReplicasError("it is written, but one replica after the other leaves, as in a failover")
            await asyncio.sleep(min(hold, LOOK_AGAIN))
            hold = await self._ask_replicas(replication)

    async def _ask_replicas(self, replication: Replication) -> float:
        """Seconds for which their confirmation does not count; see :class:`Replicas`."""
        wanted, seconds, _ = replication
        connection = self._connection
        assert connection is not None  # noqa: S101 - the script was sent on it
        # On another connection, perhaps to another server, there would be nothing to wait for.
        if not connection.is_connected:
            raise TooFewReplicasError("the connection was lost before its replicas could confirm it; it may be written")
        wait: list[tuple[Any, ...]] = [("WAIT", wanted, max(1, round(seconds * 1e3)))]
        if self._replicas.count > wanted:  # one that is about to leave must not seem to be there still
            wait.append(("WAIT", self._replicas.count, SLOWER_BY_MS))
        confirmed, *_, said = await self._send_all(*wait, ("INFO", "replication"))
        if isinstance(confirmed, ResponseError):
            if type(confirmed) is not ResponseError:  # those derived from it say what is wrong by themselves
                raise confirmed
            raise TooFewReplicasError(f"no replica has confirmed it: {confirmed}") from confirmed
        if confirmed < wanted:
            raise TooFewReplicasError(
                f"it is written, and {confirmed} of {wanted} replicas have confirmed that within {seconds:g} s"
            )
        return 0.0 if isinstance(said, ResponseError) else self._replicas.hold(said)  # the user may not ask

    async def _connect(self, client: Client) -> None:
        """Have a connection that is connected: whatever went wrong with it before has closed it, so that no answer can
        meet another question."""
        if self._connection is None:
            self._connection = await client.connection_pool.get_connection()
        await self._connection.connect()

    async def _send(self, *command: Any) -> Any:
        connection = self._connection
        assert connection is not None  # noqa: S101 - run() has got it
        await connection.send_packed_command(_packed(connection, command), check_health=False)
        return await connection.read_response()

    async def _send_all(self, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers to commands that are sent at once, errors among them."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - run() has got it
        packed = [part for command in commands for part in _packed(connection, command)]
        await connection.send_packed_command(packed, check_health=False)
        answers: list[Any] = []
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        return answers


def _packed(connection: AbstractConnection, command: tuple[Any, ...]) -> list[bytes]:
    return [pack_command(command)] if HIREDIS_AVAILABLE else connection.pack_command(*command)


def one_by_one(answers: Sequence[Any]) -> Sequence[Any]:
    """The answers of a pipeline, of which some are errors: what is no more than a key of the wrong type stays one.

    Raises:
        ResponseError: The first that is something else.
    """
    for answer in answers:
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    return answers


async def read_at_once(client: Client, fill: Callable[[Client], None]) -> Sequence[Any]:
    """The answers of commands that only read, in one step; see :func:`one_by_one`.

    Args:
        client: Who asks.
        fill: Adds the commands to a pipeline.
    """
    try:
        return await _read(client, fill, is_one_step=True)
    except (OutOfMemoryError, ExecAbortError):  # a server without free memory takes no transactions, even to read
        return await _read(client, fill, is_one_step=False)


async def _read(client: Client, fill: Callable[[Client], None], *, is_one_step: bool) -> Sequence[Any]:
    async with client.pipeline(transaction=is_one_step) as pipeline:
        fill(pipeline)
        return one_by_one(await pipeline.execute(raise_on_error=False))


async def run_script(
    send: Callable[..., Awaitable[Any]], script: Script, keys: tuple[int | str, ...], *args: Any
) -> Any:
    """What a script returns; by digest, and in full if the server has forgotten it.

    Args:
        send: Sends a command, and returns the answer.
        keys: As :meth:`RedisServer.keys` has them.
    """
    try:
        return await send("EVALSHA", script.digest, *keys, *args)
    except NoScriptError:
        return await send("EVAL", script.text, *keys, *args)


def run_script_in_thread(client: Client, script: Script, keys: tuple[int | str, ...], *args: Any) -> Any:
    """:func:`run_script` for a client without an event loop."""
    try:
        return client.execute_command("EVALSHA", script.digest, *keys, *args)
    except NoScriptError:
        return client.execute_command("EVAL", script.text, *keys, *args)


async def _close(client: redis.asyncio.Redis) -> None:
    # The driver raises anything while it closes a broken connection, and closes the others all the same.
    for close in (client.aclose, client.connection_pool.disconnect):
        with contextlib.suppress(Exception):
            await close()
