"""Has prometheus_client write out the samples of a scrape: only that, in a process that does nothing else.

    generate_latest.py BODY

BODY is a file with a scrape's text. Prints milliseconds, and how many samples there are.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

REPEATS, LEAST_REPEATS, SAMPLES_IN_ALL = 40, 3, 400_000


class Fixed(Collector):
    """A collector for which collecting costs nothing."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def milliseconds(registry: CollectorRegistry) -> float:
    started = time.perf_counter()
    generate_latest(registry)
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    families = list(text_string_to_metric_families(Path(sys.argv[1]).read_text(encoding="utf-8")))
    registry = CollectorRegistry()
    registry.register(Fixed(families))
    samples = sum(len(family.samples) for family in families)
    repeats = max(LEAST_REPEATS, min(REPEATS, SAMPLES_IN_ALL // samples))
    median = statistics.median(milliseconds(registry) for _ in range(repeats))
    figures = {"median": median, "samples": samples}
    print(json.dumps(figures))
