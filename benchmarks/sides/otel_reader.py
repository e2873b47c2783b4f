"""Has OpenTelemetry's Prometheus reader collect and write out as many figures as a scrape has, from its instruments.

    otel_reader.py NAMES

The instruments are those that a task queue would have: twelve figures and three histograms for each name. Between two
scrapes every name's figures change. Prints milliseconds, and how many series there are.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

RUN_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600, 3600)
WAIT_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600)
FIGURES = 12
MOST_REPEATS, LEAST_REPEATS, SERIES_IN_ALL = 20, 3, 100_000


def instruments(names: int) -> Callable[[], None]:
    """Counts a task of each name whenever it's called."""
    meter = MeterProvider([PrometheusMetricReader(disable_target_info=True)]).get_meter("benchmark")
    figures = [meter.create_counter(f"figure_{number}") for number in range(FIGURES)]
    wait = meter.create_histogram("wait", explicit_bucket_boundaries_advisory=WAIT_BOUNDS)
    # One for each outcome: the SDK folds the attributes of an instrument past 2,000 sets into one.
    runs = [
        meter.create_histogram(f"run_{outcome}", explicit_bucket_boundaries_advisory=RUN_BOUNDS)
        for outcome in ("success", "error")
    ]
    tasks = [{"task": f"shop.tasks.task_{number}"} for number in range(names)]

    def count() -> None:
        for task in tasks:
            for figure in figures:
                figure.add(1, task)
            wait.record(0.0004, task)
            for run in runs:
                run.record(0.013, task)

    return count


def scrape() -> tuple[float, bytes]:
    """Milliseconds, and the text."""
    started = time.perf_counter()
    text = generate_latest(REGISTRY)
    return 1000 * (time.perf_counter() - started), text


if __name__ == "__main__":
    for collector in list(REGISTRY._collector_to_names):
        REGISTRY.unregister(collector)  # those of the process: only the reader's figures are measured
    count = instruments(int(sys.argv[1]))
    count()
    series = sum(not line.startswith(b"#") for line in scrape()[1].splitlines())
    times = []
    for _ in range(max(LEAST_REPEATS, min(MOST_REPEATS, SERIES_IN_ALL // series))):
        count()
        times.append(scrape()[0])
    print(json.dumps({"median": statistics.median(times), "series": series}))
