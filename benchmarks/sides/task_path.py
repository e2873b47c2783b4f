"""Runs no-op tasks with telemetry and tracing off and on, batch by batch in turns, and compares what a task costs.

    task_path.py

Each way is an app of its own in this process. Telemetry off means that counting a start and a success does nothing.
Prints nanoseconds of processor time a task: of the plain app, and what each other way adds to it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable

from flowrra_exporter.otel.traces import Tracing
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from flowrra.telemetry import QUEUE_WAIT_BOUNDS, RUN_DURATION_BOUNDS, TaskTelemetry

NAME = "shop.tasks.no_op"
BATCH, BATCHES = 1_000, 60


class Uncounted(TaskTelemetry):
    """Counts neither starts nor successes."""

    __slots__ = ()

    def count_start(self, waited: float) -> None: ...

    def count_success(self, seconds: float) -> None: ...


class Discarded(SpanExporter):
    """Takes spans, and forgets them."""

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        return SpanExportResult.SUCCESS


def make_app() -> Flowrra:
    return Flowrra(Config(backend=InMemoryBackend(max_results=BATCH), executor=ExecutorConfig(io_workers=4)))


def uncounted() -> Flowrra:
    app = make_app()
    app.telemetry.tasks[NAME] = Uncounted("io", RUN_DURATION_BOUNDS, QUEUE_WAIT_BOUNDS)
    return app


def traced(sampler: Sampler) -> Flowrra:
    app, provider = make_app(), TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(Discarded()))
    app.add_middleware(Tracing(provider))
    return app


WAYS: dict[str, Callable[[], Flowrra]] = {
    "plain": make_app,
    "telemetry off": uncounted,
    "tracing on, no trace sampled": lambda: traced(ALWAYS_OFF),
    "tracing on, each trace sampled": lambda: traced(ALWAYS_ON),
}


async def batch(app: Flowrra, function: Callable[[], Awaitable[None]]) -> float:
    """Nanoseconds a task."""
    gc.collect()
    started = time.process_time_ns()
    for task_id in [await app.submit(function) for _ in range(BATCH)]:
        await app.wait_for_result(task_id)
    return (time.process_time_ns() - started) / BATCH


async def measure() -> dict[str, float]:
    apps = {way: make() for way, make in WAYS.items()}
    functions = {}
    for way, app in apps.items():

        @app.task(name=NAME)
        async def no_op() -> None:
            """Nothing."""

        functions[way] = no_op
    for app in apps.values():
        await app.start()
    # The plain app once more, as its own peer: what it seems to add is the measurement's error.
    turns = [*WAYS, "plain"]
    rounds = []
    for number in range(BATCHES + 2):
        order = turns if number % 2 else turns[::-1]
        figures = [(way, await batch(apps[way], functions[way])) for way in order]
        rounds.append(figures if number % 2 else figures[::-1])
    for app in apps.values():
        await app.stop()
    del rounds[:2]  # warming up
    costs = [[cost for _, cost in each] for each in rounds]
    names = [*WAYS, "plain again"]
    added = {name: statistics.median(each[place] - each[0] for each in costs) for place, name in enumerate(names)}
    return added | {"plain": statistics.median(each[0] for each in costs)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
