"""How a primary is found, by whoever knows where it is."""

from __future__ import annotations

from typing import Protocol

from redis.sentinel import MasterNotFoundError

from flowrra.redis_address import Place

# Seconds that who is asked has for an answer.
ANSWER_TIMEOUT = 0.5


class PrimaryDownError(MasterNotFoundError):
    """Those who know say that the primary is down, or about to be replaced, and there is no other one yet.

    Connections to it are left although it may still answer: if it only stood still, it must not go on with our requests
    and have them confirmed by replicas that still follow it.
    """


class Discovery(Protocol):
    """Asks where the primary is, on one event loop.

    Attributes:
        what: Which one, for log lines: ``service=shop``.
    """

    what: str

    async def find(self) -> Place:
        """Where it is.

        Raises:
            PrimaryDownError: It is down.
            redis.RedisError: Nobody told.
        """
        ...

    async def is_still(self, place: Place) -> bool:
        """Whether it is surely where it was found, which costs less to ask; False where it does not."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
