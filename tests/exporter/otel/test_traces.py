"""Spans of tasks: one trace from the submission to the first attempt, links from every attempt, errors put down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from flowrra_exporter.metrics.exemplars import Exemplars
from flowrra_exporter.otel.traces import Tracing
from opentelemetry import baggage, context, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from flowrra import Flowrra, Reject, TaskResult, current_task
from flowrra.management import FlowrraManager
from tests.support.servers import ValkeyServer


class Traced:
    """A user's tracer provider with what it has recorded."""

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._spans = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self.exemplars = Exemplars()
        self.tracing = Tracing(self.provider, exemplars=self.exemplars)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if (span.name or "").startswith(name)]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def app(self) -> Flowrra:
        app = Flowrra()
        app.add_middleware(self.tracing)
        return app


@pytest.fixture
def traced() -> Iterator[Traced]:
    found = Traced()
    yield found
    found.provider.shutdown()


async def final(app: Flowrra, task_id: str) -> TaskResult:
    return await app.wait_for_result(task_id, 5)


def ids(span: ReadableSpan) -> tuple[int, int]:
    found = span.get_span_context()
    assert found is not None
    return found.trace_id, found.span_id


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


async def test_a_submission_and_its_execution_share_a_trace(traced: Traced) -> None:
    app = traced.app()

    @app.task("shop.pay")
    async def pay() -> None:
        with traced.provider.get_tracer("shop").start_as_current_span("charge"):
            pass

    async with app:
        with traced.provider.get_tracer("shop").start_as_current_span("order"):
            task_id = await app.submit(pay)
        await final(app, task_id)

    order, send, process, charge = (traced.span(name) for name in ("order", "send", "process", "charge"))
    assert (send.name, process.name) == ("send shop.pay", "process shop.pay")
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert [parent(span) for span in (order, send, process, charge)] == [None, ids(order), ids(send), ids(process)]
    assert len({ids(span)[0] for span in traced.spans()}) == 1
    assert links(send) == []
    assert links(process) == [ids(send)]


async def test_the_spans_have_the_attributes_of_the_messaging_conventions(traced: Traced) -> None:
    app = traced.app()

    @app.task("shop.pay")
    async def pay() -> None:
        pass

    async with app:
        task_id = await app.submit(pay)
        await final(app, task_id)

    common = {
        "messaging.system": "flowrra",
        "messaging.destination.name": "shop.pay",
        "messaging.message.id": task_id,
    }
    send = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    process = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    own = {"messaging.flowrra.attempt": 1, "messaging.flowrra.outcome": "success"}
    assert traced.span("send").attributes == {**common, **send}
    assert traced.span("process").attributes == {**common, **process, **own}


async def test_a_retry_starts_a_trace_of_its_own_and_links_to_the_submission(traced: Traced) -> None:
    app = traced.app()

    @app.task(max_retries=2, retry_delay=0)
    async def flaky() -> None:
        task = current_task()
        assert task is not None
        if task.attempt < 3:
            raise ValueError("not yet")

    async with app:
        await final(app, await app.submit(flaky))

    send, attempts = traced.span("send"), traced.spans("process")
    assert [span.attributes and span.attributes["messaging.flowrra.attempt"] for span in attempts] == [1, 2, 3]
    assert [parent(span) for span in attempts] == [ids(send), None, None]
    assert len({ids(span)[0] for span in attempts}) == 3
    assert [links(span) for span in attempts] == [[ids(send)]] * 3
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]


class Refused(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no\nmoney"), "ValueError"),
        (Refused("no"), f"{__name__}.Refused"),
        (Reject("no"), "flowrra.exceptions.Reject"),
    ],
)
async def test_an_error_is_put_down_on_the_span(traced: Traced, error: Exception, kind: str) -> None:
    app = traced.app()

    @app.task(max_retries=0)
    async def fails() -> None:
        raise error

    async with app:
        await final(app, await app.submit(fails))

    span = traced.span("process")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(error)
    assert span.attributes is not None
    assert span.attributes["error.type"] == kind
    assert span.attributes["messaging.flowrra.outcome"] == "error"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes is not None
    assert event.attributes["exception.message"] == str(error)
    assert "in fails" in str(event.attributes["exception.stacktrace"])


async def test_a_time_limit_is_an_error_and_a_cancellation_is_none(traced: Traced) -> None:
    app = traced.app()
    started = asyncio.Event()

    @app.task("slow", max_retries=0, timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.task("unwanted", max_retries=0, timeout=60)
    async def unwanted() -> None:
        started.set()
        await asyncio.sleep(60)

    @app.task("cancels itself", max_retries=0)
    async def cancels_itself() -> None:
        raise asyncio.CancelledError

    async with app:
        await final(app, await app.submit(slow))
        await final(app, await app.submit(cancels_itself))
        task_id = await app.submit(unwanted)
        await started.wait()
        assert await FlowrraManager(app).cancel_task(task_id)

    told = {span.name: dict(span.attributes or {}) for span in traced.spans("process")}
    assert told["process slow"]["error.type"] == "flowrra.exceptions.TaskTimeoutError"
    cancelled = traced.span("process unwanted")
    assert told[cancelled.name]["messaging.flowrra.outcome"] == "cancelled"
    assert cancelled.status.status_code is StatusCode.UNSET
    assert "error.type" not in told[cancelled.name]
    outcomes = ("success", "error", "cancelled")
    assert not any(traced.exemplars.of(("unwanted", outcome), (1.0,)) for outcome in outcomes)
    assert told["process cancels itself"]["messaging.flowrra.outcome"] == "error"


async def test_a_cancellation_whose_clean_up_outlasts_the_time_limit_is_one_in_the_span_too(traced: Traced) -> None:
    app, begun = traced.app(), asyncio.Event()

    @app.task("tidy", max_retries=0, timeout=0.2)
    async def tidy() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)

    async with app:
        task_id = await app.submit(tidy)
        await begun.wait()
        assert await app.cancel_task(task_id)

    attributes = traced.span("process").attributes or {}
    assert attributes["messaging.flowrra.outcome"] == "cancelled"
    assert "error.type" not in attributes


async def test_a_result_that_cannot_be_stored_is_a_failure_in_the_span_too(traced: Traced) -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = Flowrra.from_urls(url, url)
        app.add_middleware(traced.tracing)

        @app.task("unwritable", max_retries=0)
        async def unwritable() -> object:
            return object()

        async with app:
            record = await final(app, await app.submit(unwritable))

    span = traced.span("process")
    attributes = span.attributes or {}
    assert record.status == "failed"
    assert attributes["messaging.flowrra.outcome"] == "error"
    assert attributes["error.type"] == "flowrra.exceptions.SerializationError"
    assert span.status.description == (record.error or "").removeprefix("SerializationError: ")
    # The exemplar stands where the run time was counted.
    assert traced.exemplars.of(("unwritable", "success"), (1.0,)) is None
    assert traced.exemplars.of(("unwritable", "error"), (1.0,)) is not None


async def test_a_context_that_the_caller_put_into_the_headers_stays_and_is_linked(traced: Traced) -> None:
    app = traced.app()
    seen: list[dict[str, str]] = []

    @app.task()
    async def job() -> None:
        task = current_task()
        assert task is not None
        seen.append(dict(task.headers))

    given = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01", "tenant": "shop"}
    async with app:
        await final(app, await app.options(headers=given).submit(job))

    assert seen == [given]
    assert links(traced.span("send")) == [(0xABC, 0xDEF)]
    assert parent(traced.span("process")) == (0xABC, 0xDEF)


async def test_the_trace_in_which_the_app_was_started_plays_no_part(traced: Traced) -> None:
    app = Flowrra()

    @app.task()
    async def job() -> None:
        pass

    with traced.provider.get_tracer("shop").start_as_current_span("start-up"):
        await app.start()
    untraced = await app.options(countdown=0.01).submit(job)
    app.add_middleware(traced.tracing)
    await final(app, await app.submit(job))
    await final(app, untraced)
    await app.stop()
    send, (first, second) = traced.span("send"), traced.spans("process")
    assert [parent(first), parent(second)] == [ids(send), None]
    assert len({ids(span)[0] for span in (traced.span("start-up"), send, second)}) == 3
    assert links(second) == []


async def test_a_submission_from_another_thread_belongs_to_that_threads_trace(traced: Traced) -> None:
    app = traced.app()

    @app.task()
    async def job() -> None:
        pass

    def request() -> str:
        with traced.provider.get_tracer("shop").start_as_current_span("request"):
            return app.submit_sync(job)

    async with app:
        await final(app, await asyncio.to_thread(request))
    assert parent(traced.span("send")) == ids(traced.span("request"))


async def test_baggage_travels_along_also_to_retries(traced: Traced) -> None:
    app = traced.app()
    seen: list[object] = []

    @app.task(max_retries=1, retry_delay=0)
    async def job() -> None:
        seen.append(baggage.get_baggage("tenant"))
        if len(seen) == 1:
            raise ValueError

    async with app:
        token = context.attach(baggage.set_baggage("tenant", "shop"))
        task_id = await app.submit(job)
        context.detach(token)
        await final(app, task_id)
    assert seen == ["shop", "shop"]


async def test_a_propagator_of_the_users_choice(traced: Traced) -> None:
    class Initials(TextMapPropagator):
        def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
            carrier["x"] = f"{trace.get_current_span(context).get_span_context().trace_id:032x}"

        def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
            return context

        @property
        def fields(self) -> set[str]:
            return {"x"}

    app = Flowrra()
    app.add_middleware(Tracing(traced.provider, Initials()))
    seen: list[set[str]] = []

    @app.task()
    async def job() -> None:
        task = current_task()
        assert task is not None
        seen.append(set(task.headers))

    async with app:
        await final(app, await app.submit(job))
    assert seen == [{"x"}]


async def test_the_run_times_of_sampled_attempts_become_exemplars(traced: Traced) -> None:
    app = traced.app()

    @app.task("job", max_retries=0)
    async def job(seconds: float) -> None:
        await asyncio.sleep(seconds)
        if seconds:
            raise ValueError

    async with app:
        await final(app, await app.submit(job, 0))
        await final(app, await app.submit(job, 0.03))
    bounds = (0.02, 30.0)
    good, bad = traced.spans("process")
    (quick, *none) = traced.exemplars.of(("job", "success"), bounds) or ()
    assert quick is not None
    assert (quick.trace_id, quick.span_id) == ids(good)
    assert none == [None, None]
    _, slow, _ = traced.exemplars.of(("job", "error"), bounds) or ()
    assert slow is not None
    assert (slow.trace_id, slow.span_id) == ids(bad)
    assert 0.03 <= slow.value < 30.0


async def test_attempts_that_are_not_sampled_leave_no_exemplar() -> None:
    exemplars = Exemplars()
    app = Flowrra()
    app.add_middleware(Tracing(TracerProvider(sampler=ALWAYS_OFF), exemplars=exemplars))

    @app.task("job")
    async def job() -> None:
        pass

    async with app:
        await final(app, await app.submit(job))
    assert exemplars.of(("job", "success"), (1.0,)) is None


async def test_closed_it_makes_no_spans_and_tasks_run_on(traced: Traced) -> None:
    app = traced.app()

    @app.task()
    async def job() -> str:
        return "done"

    async with app:
        traced.tracing.close()
        assert (await final(app, await app.submit(job))).result == "done"
    assert not traced.spans()
