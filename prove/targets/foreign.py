"""An app with 10 good metrics beside 40 registered collectors that do what none should, and others that come and go.

`GOOD` names the good metrics: each is the number that its name ends in.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import REGISTRY, Gauge, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.samples import Exemplar, Sample

from flowrra import Flowrra

GOOD = [f"good_{number}" for number in range(10)]
OF_EACH_KIND = 5
COME_AND_GO_SECONDS = 0.2
MOST_THAT_COME_AND_HANG = 4

app = Flowrra()


@app.task(name="work")
async def work() -> None:
    await asyncio.sleep(0)


class Bad:
    """A collector that runs what it's given. Not to be asked what it yields when it's registered."""

    def __init__(self, number: int, collect: Callable[[int], Any]) -> None:
        self._number = number
        self._collect = collect

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Any]:
        return self._collect(self._number)  # type: ignore[no-any-return]  # what it yields is the point


def raises(number: int) -> Any:
    raise (RuntimeError("gone"), SystemExit(1), asyncio.CancelledError(), KeyboardInterrupt(), MemoryError())[
        number % 5
    ]


def breaks_off(number: int) -> Iterator[Any]:
    yield GaugeMetricFamily(f"half_{number}", "Before it fails.", value=1)
    raise RuntimeError("closed")


def hangs(_number: int) -> Any:
    threading.Event().wait()


def dawdles(number: int) -> Iterator[Any]:
    time.sleep(0.2 + number * 0.3)
    yield GaugeMetricFamily(f"slow_{number}", "Late.", value=1)


def never_ends(number: int) -> Iterator[Any]:
    while True:
        yield GaugeMetricFamily(f"endless_{number}", "Again.", value=1)


def is_nonsense(number: int) -> Iterator[Any]:
    yield from (None, 17, "text", object(), GaugeMetricFamily(GOOD[number], "Mine.", value=math.nan))
    family = Metric("placeholder", "", "gauge")
    family.name, family.type, family.documentation = f"odd.{number}", "histogram", None  # type: ignore[assignment]
    family.samples = [
        Sample(f"odd.{number}", {"http:code": "1", "a.b": "2", "a-b": "\ud800\0"}, 1),
        Sample(f"odd.{number}_bucket", {"le": "many"}, math.nan),
        Sample("flowrra_healthy", {}, 0),
        Sample("none", {}, None),  # type: ignore[arg-type]
        Sample("timed", {"n": str(number)}, 1, "noon"),  # type: ignore[arg-type]
        Sample(f"odd.{number}_total", {}, 1, None, Exemplar({"trace.id": "x" * 500}, 1)),
    ]
    yield family


_turns = itertools.count()


def changes(number: int) -> Iterator[Any]:
    turn = next(_turns)
    labels = ["town", "shop", "kind"][: turn % 4]
    family = CounterMetricFamily(f"changing_{number}", f"Turn {turn}.", labels=labels)
    for value in range(20):
        family.add_metric([f"{label}-{turn}-{value}" for label in labels], turn)
    yield family if turn % 3 else GaugeMetricFamily(f"changing_{number}", "Now a gauge.", value=turn)


def shares(number: int) -> Iterator[Any]:
    family = GaugeMetricFamily("shared", f"Of {number}.", labels=["shop"])
    family.add_metric([str(number // 2)], number)
    yield family


KINDS = (raises, breaks_off, hangs, dawdles, never_ends, is_nonsense, changes, shares)


def come_and_go() -> None:
    """Collectors of all kinds, each registered for a moment; only so many of those that hang for good."""
    chosen, hanging = random.Random(1), 0
    for number in itertools.count(100):
        kind = chosen.choice(KINDS)
        if kind is hangs and (hanging := hanging + 1) > MOST_THAT_COME_AND_HANG:
            continue
        bad = Bad(number % 10, kind)
        REGISTRY.register(bad)
        time.sleep(COME_AND_GO_SECONDS)
        REGISTRY.unregister(bad)


async def make() -> Flowrra:
    bad = [Bad(number, kind) for kind in KINDS for number in range(OF_EACH_KIND)]
    for number, name in enumerate(GOOD):
        for each in bad[number * 4 : number * 4 + 4]:
            REGISTRY.register(each)
        Gauge(name, "A good one.").set(number)
    threading.Thread(target=come_and_go, daemon=True).start()
    return app
