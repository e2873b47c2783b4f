"""Counts tasks that succeed, with one of three libraries: the same five figures, labelled with the task's name.

    counting.py flowrra|prometheus_client|opentelemetry

Prints nanoseconds a task, the empty loop taken off; and what the clock costs, which is read three times for a task
(when it was submitted, has started, has ended) whichever library counts.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

TASKS = 10_000
REPEATS = 5
NAME = "shop.tasks.send_receipt"
WAIT_SECONDS, RUN_SECONDS = 0.0004, 0.02


def flowrra() -> Callable[[], None]:
    from flowrra import telemetry as counters

    telemetry = counters.Telemetry().register(NAME, "io")

    # The lines that a task passes between `accept` and `_settle` of the executor.
    def count() -> None:
        telemetry.cells[counters.SUBMITTED] += 1
        telemetry.count_start(WAIT_SECONDS)
        telemetry.count_success(RUN_SECONDS)

    return count


def prometheus_client() -> Callable[[], None]:
    from prometheus_client import CollectorRegistry, Counter, Histogram

    from flowrra.telemetry import QUEUE_WAIT_BOUNDS, RUN_DURATION_BOUNDS

    registry = CollectorRegistry()

    def counter(name: str) -> Any:
        return Counter(name, name, ["task"], registry=registry).labels(NAME)

    submitted, started, succeeded = counter("submitted"), counter("started"), counter("succeeded")
    wait = Histogram("wait", "wait", ["task"], registry=registry, buckets=QUEUE_WAIT_BOUNDS).labels(NAME)
    run = Histogram("run", "run", ["task", "outcome"], registry=registry, buckets=RUN_DURATION_BOUNDS)
    success = run.labels(NAME, "success")

    def count() -> None:
        submitted.inc()
        started.inc()
        wait.observe(WAIT_SECONDS)
        succeeded.inc()
        success.observe(RUN_SECONDS)

    return count


def opentelemetry() -> Callable[[], None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from flowrra.telemetry import QUEUE_WAIT_BOUNDS, RUN_DURATION_BOUNDS

    meter = MeterProvider([InMemoryMetricReader()]).get_meter("benchmark")
    submitted, started, succeeded = (meter.create_counter(name) for name in ("submitted", "started", "succeeded"))
    wait = meter.create_histogram("wait", "s", explicit_bucket_boundaries_advisory=QUEUE_WAIT_BOUNDS)
    run = meter.create_histogram("run", "s", explicit_bucket_boundaries_advisory=RUN_DURATION_BOUNDS)
    task, success = {"task": NAME}, {"task": NAME, "outcome": "success"}

    def count() -> None:
        submitted.add(1, task)
        started.add(1, task)
        wait.record(WAIT_SECONDS, task)
        succeeded.add(1, task)
        run.record(RUN_SECONDS, success)

    return count


def read_clock() -> None:
    time.monotonic()
    time.monotonic()
    time.monotonic()


def nothing() -> None:
    pass


def nanoseconds(operation: Callable[[], None]) -> float:
    """Of one call; the median of some repeats."""
    return statistics.median(_repeat(operation) for _ in range(REPEATS))


def _repeat(operation: Callable[[], None]) -> float:
    started = time.perf_counter_ns()
    for _ in range(TASKS):
        operation()
    return (time.perf_counter_ns() - started) / TASKS


LIBRARIES = {"flowrra": flowrra, "prometheus_client": prometheus_client, "opentelemetry": opentelemetry}

if __name__ == "__main__":
    count = LIBRARIES[sys.argv[1]]()
    empty = nanoseconds(nothing)
    print(json.dumps({"counting": nanoseconds(count) - empty, "clock": nanoseconds(read_clock) - empty}))
