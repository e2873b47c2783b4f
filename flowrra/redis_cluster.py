"""Finds the primary of a slot by asking the nodes of a Redis or Valkey cluster.

All that one broker or result backend keeps on a cluster lies in one slot, so that a script finds it all on one node.
What the nodes tell may differ for a moment: as among themselves, the one counts whose claim to the slot is the latest,
by its configuration epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from flowrra.redis_address import Address, Place
from flowrra.redis_discovery import ANSWER_TIMEOUT, PrimaryDownError

# Seconds in which a primary says that it still has the slot; if it doesn't, the others are asked.
CONFIRMED_WITHIN = 0.2
# Nodes that are asked at once; the next ones if none of them tells.
ASKED_AT_ONCE = 3
# Nodes whose answers are enough for a thread, which asks one after the other.
ENOUGH_ANSWERS = 2
_CODES = {
    AskError: "ASK",
    ClusterCrossSlotError: "CROSSSLOT",
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    MovedError: "MOVED",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}
# redis-py puts the number of a pipeline's command before it.
_CODE = re.compile(r"(?:.* of pipeline caused error: )?[('\"]*([A-Z]+)\b", re.DOTALL)
_QUESTION = (("CLUSTER", "SLOTS"), ("CLUSTER", "NODES"))


def slot_with(key: str) -> int:
    """The slot of a key that must lie where all that begins with it lies.

    Raises:
        ValueError: It has no hash tag.
    """
    _, _, rest = key.partition("{")
    tag, brace, _ = rest.partition("}")
    if not (tag and brace):
        raise ValueError(
            "on a cluster all keys must lie in one slot: expected a namespace and a queue_key with a hash tag, such as "
            f"'{{flowrra.0}}' and '{{flowrra.0}}:queue', not {key!r:.100}"
        )
    return key_slot(key.encode())


def code_of(error: Exception) -> str:
    """The word by which a server refused a request, such as ``MOVED``; empty if it did not.

    The older ones of the redis-py that are supported leave it in the text, where later ones have classes.
    """
    if not isinstance(error, ResponseError):
        return ""
    found = _CODE.match(str(error))
    return _CODES.get(type(error)) or ("" if found is None else found[1])


def guard_of(key: str) -> str:
    """A key in the same slot that never exists.

    While a slot is moved key by key, a node refuses what names several keys of which one isn't there. So a script that
    names this one as well is never run with half of what it needs here, and half there.
    """
    return f"{key}:moving"


class View(NamedTuple):
    """What a node knows of a slot.

    Attributes:
        primary: Where its primary is.
        epoch: Of the primary's claim to the slot.
        is_down: Whether the nodes agree that the primary is down, so that a replica is about to take its place.
        nodes: Where all nodes are: first those that have the slot.
    """

    primary: Place
    epoch: int
    is_down: bool
    nodes: tuple[Place, ...]


class ClusterNodes:
    """The nodes of a cluster, as far as they are known, for one slot. For any thread.

    Args:
        address: The address, which has a cluster.
        slot: Whose primary is looked for.
        key: A key in that slot that never exists.
    """

    def __init__(self, address: Address, slot: int, key: str) -> None:
        assert address.cluster is not None  # noqa: S101 - what the caller has looked at
        self.address = address
        self.slot = slot
        self.key = key
        self._named = address.cluster
        self._known: tuple[Place, ...] = ()

    def places(self) -> list[Place]:
        """Whom to ask, in that order: those that are likely to know best first."""
        return list(dict.fromkeys((*self._known, *self._named)))

    def options(self, place: Place, retry: Any) -> dict[str, Any]:
        """What a connection to a node is made with that is to answer quickly."""
        limits = {"socket_timeout": ANSWER_TIMEOUT, "socket_connect_timeout": ANSWER_TIMEOUT}
        host, port = place
        return {**self.address.options, **limits, "retry": retry, "host": host, "port": port}

    def primary_of(self, answers: Iterable[View | Exception]) -> Place:
        """Where the primary is by what nodes answer.

        Raises:
            PrimaryDownError: It is down.
            redis.RedisError: None of them told.
        """
        answers = list(answers)
        views = [each for each in answers if isinstance(each, View)]
        if not views:
            errors = [each for each in answers if isinstance(each, Exception)]
            # A wrong password, or what is no cluster: it will be so the next time.
            refusal = next((each for each in errors if isinstance(each, AuthenticationError | ResponseError)), None)
            told = ", ".join(f"{type(each).__name__}: {each}" for each in errors)
            raise refusal or MasterNotFoundError(f"No node tells where slot {self.slot} is: {told}")
        latest = max(views, key=lambda view: view.epoch)
        self._known = latest.nodes
        # The primary itself doesn't think so, if it only stood still.
        if any(view.is_down for view in views if view.epoch == latest.epoch):
            raise PrimaryDownError(f"The primary of slot {self.slot} is down, and no replica in its place yet")
        return latest.primary

    def view(self, answers: Sequence[Any], asked: Place) -> View:
        """What a node's answers say.

        Raises:
            redis.RedisError: It is an error, or nobody has the slot.
        """
        for each in answers:
            if isinstance(each, Exception):
                raise each
        slots, lines = answers
        epochs = {parts[0]: (int(parts[6]), parts[2].split(b",")) for parts in map(bytes.split, lines.splitlines())}
        ours = [nodes for first, last, *nodes in slots if first <= self.slot <= last]
        if not ours:
            raise MasterNotFoundError(f"no node has slot {self.slot}")
        epoch, flags = epochs[ours[0][0][2]]
        nodes = [*ours[0], *(node for _, _, *others in slots for node in others)]
        places = tuple(dict.fromkeys(_place(node, asked) for node in nodes))
        has_replicas = len(ours[0]) > 1
        return View(places[0], epoch, has_replicas and b"fail" in flags, places)


class ClusterDiscovery:
    """Asks the nodes; see :class:`flowrra.redis_discovery.Discovery`.

    Args:
        nodes: Whom to ask.
    """

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes
        self.what = f"slot={nodes.slot}"
        self._asked: tuple[Place, redis.asyncio.Redis] | None = None
        # What is likely to keep silent if it is asked.
        self._doubted: Place | None = None

    async def find(self) -> Place:
        places = sorted(self._nodes.places(), key=lambda place: place == self._doubted)
        answers: list[View | Exception] = []
        for first in range(0, len(places), ASKED_AT_ONCE):
            some = await asyncio.gather(*map(self._ask_one, places[first : first + ASKED_AT_ONCE]))
            answers += some
            if any(isinstance(each, View) for each in some):
                break
        return self._nodes.primary_of(answers)

    async def _ask_one(self, place: Place) -> View | Exception:
        client = self._client(place)
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for command in _QUESTION:
                    pipeline.execute_command(*command)
                return self._nodes.view(await pipeline.execute(raise_on_error=False), place)
        except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
            return error
        finally:
            await _close(client)

    async def is_still(self, place: Place) -> bool:
        if self._asked is None or self._asked[0] != place:
            await self.close()
            self._asked = place, self._client(place)
        try:
            async with asyncio.timeout(CONFIRMED_WITHIN):
                await self._asked[1].exists(self._nodes.key)
        except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
            if code_of(error) == "ASK":
                return True  # the slot is being moved, and is still there
            self._doubted = place
            await self.close()
            return False
        self._doubted = None
        return True

    def _client(self, place: Place) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_pool(
            redis.asyncio.ConnectionPool(
                connection_class=self._nodes.address.connection_class,
                **self._nodes.options(place, AsyncRetry(NoBackoff(), 0)),
            )
        )

    async def close(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            await _close(asked[1])


class ThreadClusterDiscovery:
    """The same for a thread: what a pool of connections, made for sentinels, asks where the primary is.

    Args:
        nodes: Whom to ask.
    """

    def __init__(self, nodes: ClusterNodes) -> None:
        self._nodes = nodes

    def discover_master(self, _: str) -> Place:
        """Where the primary is."""
        answers: list[View | Exception] = []
        for place in self._nodes.places():
            answers.append(self._ask_one(place))
            if sum(isinstance(each, View) for each in answers) == ENOUGH_ANSWERS:
                break
        return self._nodes.primary_of(answers)

    def _ask_one(self, place: Place) -> View | Exception:
        try:
            pool = redis.ConnectionPool(
                connection_class=self._nodes.address.thread_connection_class,
                **self._nodes.options(place, Retry(NoBackoff(), 0)),
            )
            with redis.Redis.from_pool(pool) as client, client.pipeline(transaction=False) as pipeline:
                for command in _QUESTION:
                    pipeline.execute_command(*command)
                return self._nodes.view(pipeline.execute(raise_on_error=False), place)
        except Exception as error:  # noqa: BLE001 - of a connection that breaks, the driver raises anything
            return error


def _place(node: Sequence[Any], asked: Place) -> Place:
    """Where a node is, as CLUSTER SLOTS has it: a host, or none if it is the one that was asked."""
    host, port, _, *more = node
    if host == b"?":  # it is to be called by a name that it doesn't have
        named = dict(zip(more[0][::2], more[0][1::2], strict=True)) if more and isinstance(more[0], list) else {}
        host = named.get(b"ip")
    return host.decode() if host else asked[0], int(port)


async def _close(client: redis.asyncio.Redis) -> None:
    with contextlib.suppress(Exception):  # it raises anything while it closes a broken connection
        await client.aclose()
