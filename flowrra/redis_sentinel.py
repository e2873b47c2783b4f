"""Finds the primary that sentinels name, by redis-py's clients for them: it asks all, where redis-py asks one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from flowrra.redis_address import Address, Place, Sentinels
from flowrra.redis_discovery import ANSWER_TIMEOUT, PrimaryDownError


class _ThreadSentinel(redis.sentinel.Sentinel):
    def check_master_state(self, state: dict[str, Any], service_name: str) -> bool:
        # The one that leads a failover names the former primary until the last replica follows the new one; the others
        # know the new one at once.
        is_usable = bool(super().check_master_state(state, service_name))  # type: ignore[no-untyped-call]
        return is_usable and "failover_in_progress" not in state["flags"]


def thread_sentinel(address: Address) -> redis.sentinel.Sentinel:
    """What a pool of connections for a thread asks where the primary is."""
    sentinels = _sentinels_of(address)
    return _ThreadSentinel(  # type: ignore[no-untyped-call]
        sentinels.places, sentinel_kwargs=_options(sentinels, Retry(NoBackoff(), 0))
    )


class SentinelDiscovery:
    """Asks all sentinels; see :class:`flowrra.redis_discovery.Discovery`.

    Args:
        address: The address, which has sentinels.
    """

    def __init__(self, address: Address) -> None:
        sentinels = _sentinels_of(address)
        self._service = sentinels.service
        self.what = f"service={sentinels.service}"
        self._sentinels = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            sentinels.places, sentinel_kwargs=_options(sentinels, AsyncRetry(NoBackoff(), 0))
        ).sentinels

    async def find(self) -> Place:
        answers = await asyncio.gather(*map(self._ask_one, self._sentinels))
        states = [answer for answer in answers if isinstance(answer, dict)]
        if not states:
            raise MasterNotFoundError(
                f"No sentinel names a primary of '{self._service}': {', '.join(map(str, answers))}"
            )
        place = _primary_of(states)
        if place is None:
            raise PrimaryDownError(f"The primary of '{self._service}' is down, and no replica in its place yet")
        return place

    async def is_still(self, place: Place) -> bool:
        return False  # one question tells it all

    async def _ask_one(self, sentinel: redis.asyncio.Redis) -> dict[str, Any] | str:
        """What a sentinel knows of the primary; or why it tells nothing."""
        try:
            states: Any = await sentinel.sentinel_masters()
            state: dict[str, Any] | str | None = states.get(self._service)
        except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
            state = f"{type(error).__name__}: {error}"
        return state or "it knows no such service"

    async def close(self) -> None:
        for sentinel in self._sentinels:
            with contextlib.suppress(Exception):  # it raises anything while it closes a broken connection
                await sentinel.aclose()


def _primary_of(states: Sequence[dict[str, Any]]) -> Place | None:
    """Where the primary is by what sentinels say of it; None if it is down, or about to be replaced.

    Such a one is left although some still name it: if it only stood still, it must not go on with our requests and have
    them confirmed by replicas that still follow it.
    """
    latest = max(state["config-epoch"] for state in states)
    states = [state for state in states if state["config-epoch"] == latest]
    given_up = {_place(state) for state in states if state["is_odown"] or "failover_in_progress" in state["flags"]}
    named = [_place(state) for state in states if state["is_master"] and not state["is_sdown"]]
    return next((place for place in named if place not in given_up), None)


def _place(state: dict[str, Any]) -> Place:
    return state["ip"], state["port"]


def _sentinels_of(address: Address) -> Sentinels:
    assert address.sentinels is not None  # noqa: S101 - what the caller has looked at
    return address.sentinels


def _options(sentinels: Sentinels, retry: Any) -> dict[str, Any]:
    limits = {"socket_timeout": ANSWER_TIMEOUT, "socket_connect_timeout": ANSWER_TIMEOUT}
    # The next one is asked rather than the same one again.
    return {**limits, "retry": retry, **sentinels.options}
