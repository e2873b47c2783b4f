"""Has all processes agree on the number of partitions: with different ones, each would look for the others' tasks where
they are not, and say nothing."""

from __future__ import annotations

from typing import Any

from flowrra.exceptions import BackendError
from flowrra.redis_client import Client, RedisServer


async def is_agreed(server: RedisServer, cell: str) -> bool:
    """Whether a number of partitions is known; see :func:`agree`."""
    return await server.call("tell the number of partitions", lambda client: client.get(_key(cell))) is not None


async def agree(server: RedisServer, cell: str, partitions: int) -> None:
    """Return if there are so many partitions. Whoever asks first decides that.

    Args:
        server: Keeps the number.
        cell: The namespace of the first partition, whose keys it is among.
        partitions: How many this process has.

    Raises:
        BackendError: Others have another number, or the server could not be reached.
    """

    async def ask(client: Client) -> Any:
        known = await client.get(_key(cell))
        if known is not None:  # an observer may do no more than read
            return known
        await client.set(_key(cell), partitions, nx=True)
        return await client.get(_key(cell))

    found = await server.call("tell the number of partitions", ask)
    if found != str(partitions).encode():
        known = "another number of" if found is None else found[:20].decode(errors="replace")
        raise BackendError(
            f"Redis {server.name}: others have {known} partitions, and this process has {partitions}: all must have "
            f"the same. To change it, let the queues drain, stop all processes, and delete the key {_key(cell)}"
        )


def _key(cell: str) -> str:
    return f"{cell}:partitions"
