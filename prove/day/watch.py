"""Sees which alerts fire, which are held back, and what reached the webhook."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from prove.day.fleet import Fleet

GLANCE = 0.3


class Seen(NamedTuple):
    """Alerts at a time."""

    at: float
    firing: frozenset[str]
    held_back: frozenset[str]


class Watch:
    """Looks on for as long as the block lasts.

    Args:
        fleet: What it asks.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.seen: list[Seen] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look_on)
        self.failures: list[str] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._ends.wait(GLANCE):
            try:
                firing = frozenset(self._fleet.prometheus.firing())
                held_back = frozenset(self._fleet.alertmanager.held_back())
            except OSError as error:
                self.failures.append(repr(error))
                continue
            self.seen.append(Seen(time.time(), firing, held_back))

    def firing(self) -> frozenset[str]:
        """Those that fire now."""
        return self.seen[-1].firing if self.seen else frozenset()

    def fired(self, since: float, until: float | None = None) -> dict[str, float]:
        """When each alert was first seen to fire within a span of time."""
        first: dict[str, float] = {}
        for each in self._within(since, until):
            for name in each.firing:
                first.setdefault(name, each.at)
        return first

    def held_back(self, since: float) -> set[str]:
        """Those that another one held back within a span of time."""
        return {name for each in self._within(since, None) for name in each.held_back}

    def _within(self, since: float, until: float | None) -> Iterable[Seen]:
        return (each for each in self.seen if since <= each.at and (until is None or each.at < until))

    def told(self, since: float) -> dict[str, tuple[float, float | None]]:
        """When the webhook was first told that an alert fires, and last that it is over."""
        found: dict[str, tuple[float, float | None]] = {}
        for at, name, fires in self._fleet.receiver.told.copy():
            if at >= since:
                first, _ = found.get(name, (at, None))
                found[name] = (first, None if fires else at)
        return found

    def is_calm(self) -> bool | None:
        """Whether nothing fires, and the webhook was told that everything is over."""
        over = {name: fires for _, name, fires in self._fleet.receiver.told.copy()}
        return not (self.firing() or any(over.values())) or None
