"""The interface of every collector, and the strict reading of figures that come from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import index
from typing import Any, ClassVar

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics.samples import AnyFamily, Distribution, Number

_PLAIN = frozenset((int, float, type(None)))


class Incomplete(Exception):
    """A source failed, but part of its figures could be had: ``families`` holds them."""

    def __init__(self, reason: str, families: list[AnyFamily]) -> None:
        super().__init__(reason)
        self.families = families


class Collector(ABC):
    """Makes the families of one source. ``name`` is the value of the label ``collector``."""

    name: ClassVar[str]
    # Whether all processes that share a broker see its figures. An observer has no other collectors.
    shared: ClassVar[bool] = False
    # Whether it has several sources, of which none costs the others anything. Then it isn't left alone when some fail,
    # and may be collected anew while an earlier collection waits for one.
    keeps_sources_apart: ClassVar[bool] = False
    # How many time series it left out of its last families.
    dropped: int = 0

    @abstractmethod
    async def collect(self) -> Sequence[AnyFamily]:
        """The source's families as of now.

        Raises:
            Incomplete: A part of them could be had.
            Exception: Whatever goes wrong: then the source is absent from the scrape.
        """

    async def so_far(self) -> Sequence[AnyFamily]:
        """What a collection under way has by now, for a scrape that can't wait for the rest."""
        return ()


class ManagementCollector(Collector):
    """A collector that needs ``method`` of the Management API."""

    method: ClassVar[str]

    def __init__(self, management: Management) -> None:
        self._management = management

    @classmethod
    def available(cls, management: Management) -> bool:
        """Whether this manager has what the collector needs."""
        return management.has(cls.method)


def number(figures: Mapping[str, Any], key: str) -> Number | None:
    """The figure under ``key``, None if there is none.

    Raises:
        TypeError: It is no number.
    """
    value = figures.get(key)
    if value is None or type(value) is int or type(value) is float:
        return value
    if isinstance(value, int | float):  # a bool, or a subclass
        return int(value) if isinstance(value, int) else float(value)
    raise TypeError(f"{key} is {value!r:.100}; expected a number")


def numbers(figures: Mapping[str, Any], keys: Sequence[str]) -> tuple[Number | None, ...]:
    """The figures under ``keys`` as by ``number``, in few steps for many of them."""
    values = tuple(map(figures.get, keys))
    if _PLAIN.issuperset(map(type, values)):
        return values
    return tuple(number(figures, key) for key in keys)


def timestamp(figures: Mapping[str, Any], key: str) -> float | None:
    """The datetime under ``key`` as a Unix time in seconds, None if there is none.

    Raises:
        TypeError: It is no datetime.
    """
    value = figures.get(key)
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError(f"{key} is {value!r:.100}; expected a datetime")
    return value.timestamp()


def section(figures: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The mapping under ``key``, None if there is none.

    Raises:
        TypeError: It is something else.
    """
    value = figures.get(key)
    if value is None or type(value) is dict or isinstance(value, Mapping):  # the first is much faster to tell
        return value
    raise TypeError(f"{key} is {value!r:.100}; expected a mapping")


def distribution(figures: Mapping[str, Any], key: str) -> Distribution | None:
    """The histogram under ``key``, None if there is none. Copied, since the original goes on counting.

    Raises:
        KeyError, TypeError, ValueError: It is no histogram.
    """
    value = section(figures, key)
    if value is None:
        return None
    bounds, counts = tuple(value["bounds"]), tuple(value["counts"])
    if len(counts) != len(bounds) + 1:
        raise ValueError(f"{key} has {len(counts)} counts for {len(bounds)} bounds; expected one more than bounds")
    # What isn't a number, or no whole one, would spoil the whole scrape. Adding up tells it of many in few steps.
    sum(bounds, index(sum(counts)) + value["sum"])
    return Distribution(bounds, counts, value["sum"])
