"""Asks a Redis or Valkey server whether it is fit to keep tasks, what time it is there and how full it is: by ``TIME``,
``INFO`` and perhaps ``CONFIG GET``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from flowrra.brokers.base import ServerFigures
from flowrra.redis_client import Client, RedisServer

MIN_REDIS = (6, 2)
# With channels of a shard.
MIN_REDIS_IN_CLUSTER = (7, 0)
# The part of a lease by which the clocks may differ.
MAX_CLOCK_DIFFERENCE = 1 / 4
_VERSION = re.compile(r"(\d+)\.(\d+)")

Info = Mapping[str, Any]

# This host's clock, in seconds.
host_clock = time.time


async def look(server: RedisServer, lease: float) -> tuple[dict[str, str | None], ServerFigures]:
    """What makes a server unfit, by reason, as :mod:`flowrra.brokers.fitness` has it; and its figures.

    Raises:
        BackendError: The server could not be reached.
    """

    async def ask(client: Client) -> tuple[dict[str, str | None], ServerFigures]:
        before = host_clock()
        moment = await _unless_forbidden(client, "TIME")
        after = host_clock()
        info = await _unless_forbidden(client, "INFO") or {}
        clock = None if moment is None else _clock(moment, before, after, MAX_CLOCK_DIFFERENCE * lease)
        unfitness = {
            "eviction": _eviction(info),
            "no_persistence": "" if info.get("aof_enabled") == 1 else await _persistence(info, client),
            "replica": _replica(info),
            "old_version": _version(info, MIN_REDIS if server.slot is None else MIN_REDIS_IN_CLUSTER),
            "clock": clock,
        }
        offset = None if moment is None or clock is None else _ahead(moment, before, after)
        return unfitness, ServerFigures(offset, _bytes(info, "used_memory"), _bytes(info, "maxmemory") or None)

    answer: tuple[dict[str, str | None], ServerFigures] = await server.call("tell of itself", ask, retry_for=0.0)
    return answer


async def _unless_forbidden(client: Client, *command: str) -> Any:
    """What a command returns; None if this user may not send it, or the server doesn't have it."""
    try:
        return await client.execute_command(*command)
    except ResponseError:
        return None


def _eviction(info: Info) -> str | None:
    limit, policy = info.get("maxmemory"), info.get("maxmemory_policy")
    if limit is None or policy is None:
        return None
    if limit == 0 or policy == "noeviction":
        return ""
    return f"its maxmemory-policy is {policy}, so it drops tasks or results when its memory is full: set noeviction"


async def _persistence(info: Info, client: Client) -> str | None:
    """Of a server that has no append-only file, or doesn't tell. Whether it writes snapshots, only its settings say."""
    settings = await _unless_forbidden(client, "CONFIG GET", "save")
    snapshots = None if settings is None else settings.get("save")
    if snapshots:
        return ""
    if snapshots is None or "aof_enabled" not in info:
        return None
    return "it keeps nothing on disk, so its restart loses every task: set appendonly yes"


def _replica(info: Info) -> str | None:
    role = info.get("role")
    if role is None:
        return None
    return "" if role == "master" else "it is a replica, and follows another server: give the address of the primary"


def _version(info: Info, least: tuple[int, int]) -> str | None:
    if "valkey_version" in info:  # each of them is newer; as redis_version they give 7.2.4
        return ""
    found = _VERSION.match(str(info.get("redis_version", "")))
    if found is None:
        return None
    if tuple(map(int, found.groups())) >= least:
        return ""
    return f"it is Redis {info['redis_version']}: use Redis {'.'.join(map(str, least))} or newer, or Valkey"


def _bytes(info: Info, name: str) -> int | None:
    found = info.get(name)
    return found if isinstance(found, int) else None


def _ahead(moment: tuple[int, int], before: float, after: float) -> float:
    """Seconds by which the server's clock is ahead, if it was read half way between the two."""
    return moment[0] + moment[1] / 1e6 - (before + after) / 2


def _clock(moment: tuple[int, int], before: float, after: float, limit: float) -> str | None:
    # It was read at some time between the two.
    uncertain = (after - before) / 2
    ahead = _ahead(moment, before, after)
    if not 0 <= uncertain <= limit:
        return None
    if abs(ahead) - uncertain <= limit:
        return ""
    order = "ahead of" if ahead > 0 else "behind"
    return f"its clock is {abs(ahead):.1f} s {order} this host's: have both follow one source of time, such as NTP"
