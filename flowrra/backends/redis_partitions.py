"""Has all processes agree on the number of partitions: with different ones, each would look for the others' tasks where
they are not, and say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flowrra.exceptions import BackendError
from flowrra.redis_client import Client, RedisServer


async def is_agreed(server: RedisServer, cell: str) -> bool:
    """Whether a number of partitions is known; see :func:`agree`."""
    return await server.call("tell the number of partitions", lambda client: client.get(_key(cell))) is not None


async def cells_ever(server: RedisServer, cell: str) -> list[str]:
    """The namespaces of all partitions that there were for any number of them; see :func:`agree`."""
    found = await server.call("list partitions", lambda client: client.smembers(_ever_key(cell)))
    return sorted(each.decode(errors="surrogateescape") for each in found)


async def agree(server: RedisServer, cells: Sequence[str]) -> None:
    """Return if there are so many partitions. Whoever asks first decides that.

    Args:
        server: Keeps the number.
        cells: The namespaces of this process's partitions; the keys are among those of the first.

    Raises:
        BackendError: Others have another number, or the server could not be reached.
    """
    key, ever, partitions = _key(cells[0]), _ever_key(cells[0]), len(cells)

    async def ask(client: Client) -> Any:
        known = await client.get(key)
        if known is not None:  # an observer may do no more than read
            return known
        # First: whatever is queued, is queued where it can be found.
        await client.sadd(ever, *cells)
        await client.set(key, partitions, nx=True)
        return await client.get(key)

    found = await server.call("tell the number of partitions", ask)
    if found != str(partitions).encode():
        known = "another number of" if found is None else found[:20].decode(errors="replace")
        raise BackendError(
            f"Redis {server.name}: others have {known} partitions, and this process has {partitions}: all must have "
            f"the same. To change it, let the queues drain, stop all processes, and delete the key {key}"
        )
    # An earlier version may have written the number, and not these.
    if not await server.call("look for a partition", lambda client: client.sismember(ever, cells[-1])):
        with suppress(BackendError):  # an observer may do no more than read
            await server.call("note partitions", lambda client: client.sadd(ever, *cells), retry_for=0.0)


def _key(cell: str) -> str:
    return f"{cell}:partitions"


def _ever_key(cell: str) -> str:
    return f"{cell}:partitions:ever"
