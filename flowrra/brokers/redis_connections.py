"""Knows by their connections which workers were killed, as those end with their process: seconds later their tasks run
again, and not only when their leases end.

Each worker announces the connection of its heartbeat by the ``CLIENT ID`` that the server gives it, and looks whether
those of others are there. One that is missing in two looks, some time apart, is gone, unless its worker has told of
another one in between.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from flowrra.redis_client import Client, run_script_in_thread
from flowrra.redis_script import Script

logger = logging.getLogger(__name__)

_LOOK = Script("clock", "connections", "look")
_GONE = Script("clock", "connections", "gone")
_END_HOLDS = Script("clock", "queue", "connections", "end_holds")
_CLIENT_ID = re.compile(r"^id=(\d+) ", re.MULTILINE | re.ASCII)


class Connections:
    """One worker's view of the connections of all. For the thread of its heartbeat alone.

    Args:
        queue_key: Key of the default queue.
        key_of: Returns the key of a queue by its name.
        keys: Returns the keys of a script, as :meth:`flowrra.redis_client.RedisServer.keys`.
    """

    def __init__(
        self, queue_key: str, key_of: Callable[[str], str], keys: Callable[[str], tuple[int | str, ...]]
    ) -> None:
        self._queue_key = queue_key
        self._key_of = key_of
        self._keys = keys
        self._client_id: int | None = None
        self._run = ""
        # What others may judge this worker by, once two looks have found the same id: behind a proxy that shares its
        # connections it changes, and says nothing about this process.
        self._connection = ""
        self._is_announced = False
        self._is_forbidden = False

    def look(self, client: Client, token: str) -> float | None:
        """Announce this worker's connection, and end the holds of workers whose connections are gone.

        Args:
            client: Asks, over a single connection that only this thread uses.
            token: This worker's.

        Returns:
            Seconds until the next look; None if this user may not look.
        """
        if self._is_forbidden and not self._is_announced:
            return None
        try:
            return self._look(client, token)
        except ResponseError as error:
            if not _is_forbidden(error):
                raise
            if not self._is_forbidden:
                logger.info("connections not looked at, killed workers are known by their leases error=%s", error)
            self._is_forbidden, self._connection = True, ""
            self._withdraw(client, token)
            return None

    def _look(self, client: Client, token: str) -> float:
        client_id, pause, *found = self._announce(client, token)
        if client_id != self._client_id:
            self._connection = ""
            self._withdraw(client, token)
            self._run, _ = self._ask(client, [client_id])  # also whether that is permitted
            self._client_id = client_id
        elif not self._connection:
            self._connection = f"{self._run} {client_id}"
        others = [(found[i], found[i + 1]) for i in range(0, len(found), 2)]
        if others:
            self._look_for(client, others)
        return float(pause) / 1e6

    def _announce(self, client: Client, token: str) -> list[Any]:
        """The id of the connection, and what ``look.lua`` returns, in one round trip."""
        self._is_announced = self._is_announced or bool(self._connection)
        with client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("CLIENT", "ID")
            pipeline.execute_command("EVALSHA", _LOOK.digest, *self._keys(self._queue_key), token, self._connection)
            client_id, answer = pipeline.execute(raise_on_error=False)
        if isinstance(answer, NoScriptError):
            answer = run_script_in_thread(client, _LOOK, self._keys(self._queue_key), token, self._connection)
        for each in (client_id, answer):
            if isinstance(each, Exception):
                raise each
        return [client_id, *answer]

    def _withdraw(self, client: Client, token: str) -> None:
        if self._is_announced:
            run_script_in_thread(client, _LOOK, self._keys(self._queue_key), token, "")
            self._is_announced = False

    def _ask(self, client: Client, client_ids: Sequence[int]) -> tuple[str, set[int]]:
        """The run of the server, and which of these connections it has."""
        with client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("INFO", "server")
            pipeline.execute_command("CLIENT", "LIST", "ID", *client_ids)
            info, listed = pipeline.execute()
        if "run_id" not in info:  # a service may hide it, and ids of connections begin anew with each run
            raise NoPermissionError("INFO tells no run_id")
        return str(info["run_id"]), {int(each) for each in _CLIENT_ID.findall(listed.decode(errors="replace"))}

    def _look_for(self, client: Client, others: Sequence[tuple[bytes, bytes]]) -> None:
        ids = [int(connection.split()[1]) for _, connection in others]
        run, present = self._ask(client, ids)
        if run != self._run:
            self._client_id = None  # a server that has begun anew gave this worker the id that it had before
        missing = [other for other, client_id in zip(others, ids, strict=True) if client_id not in present]
        if not missing:
            return
        flat = [part for other in missing for part in other]
        gone, names = run_script_in_thread(client, _GONE, self._keys(self._queue_key), run, *flat)
        queues = [*(self._key_of(name.decode(errors="surrogateescape")) for name in names), self._queue_key]
        for i in range(0, len(gone), 2):
            count = sum(_end_holds(client, self._keys(queue), gone[i], gone[i + 1]) for queue in queues)
            if count:
                logger.warning("a worker is gone, its tasks run again queue=%s count=%d", self._queue_key, count)


def _end_holds(client: Client, queue: tuple[int | str, ...], token: bytes, connection: bytes) -> int:
    """How many tasks of a queue, by the keys of a script for it, were given back."""
    cursor, count = b"0", 0
    while True:
        some: int
        cursor, some = run_script_in_thread(client, _END_HOLDS, queue, token, connection, cursor)
        count += some
        if cursor == b"0":
            return count


def _is_forbidden(error: ResponseError) -> bool:
    """Whether this user may not ask, or the server, or a proxy before it, doesn't know how to answer."""
    return isinstance(error, NoPermissionError) or "unknown" in str(error).lower()
