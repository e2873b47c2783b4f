"""Spans for tasks: one for each submission, one for each attempt, by the messaging conventions.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. A submission is a "send" span, whose
context travels in the task's headers (by the configured propagators; W3C's ``traceparent`` by default); an attempt
is a "process" span. The first attempt goes on with the sender's trace: that's what the conventions allow for
single messages. A retry may come hours later, and any number of times, so each starts a trace of its own. Every
attempt links to the sender's span, and all spans of a task share messaging.message.id.

Add it to an app by hand, or let the exporter do it (``--otel.traces``)::

    app.add_middleware(Tracing())
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from flowrra.middleware import Middleware
from flowrra.task import Task
from flowrra_exporter._version import __version__
from flowrra_exporter.metrics.exemplars import Exemplar, Exemplars
from flowrra_exporter.otel.names import SYSTEM

_TIME_OUT = "flowrra.exceptions.TaskTimeoutError"
# Seconds: the time limit's own clock was started a little before the span's.
_TIMER_SLACK = 0.01
_NOTHING = Context()


class Tracing(Middleware):
    """A middleware that makes the spans.

    Args:
        tracer_provider: The global one if None, also if that is set later.
        propagator: Likewise.
        exemplars: Gets the run times of sampled attempts.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        propagator: TextMapPropagator | None = None,
        exemplars: Exemplars | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("flowrra_exporter", __version__, tracer_provider)
        self._propagator = propagator
        self._exemplars = exemplars
        self._closed = False

    def close(self) -> None:
        """Makes no spans from now on. A middleware can't be taken from an app."""
        self._closed = True

    def on_submit(self, task: Task) -> None:
        """Makes the "send" span, and puts its context into the task's headers.

        If the caller has put one there, that stays, and the span links to it.
        """
        if self._closed:
            return
        given = _span_in(self._extract(task.headers))
        attributes = _attributes("send", task)
        links = _links(given)
        span = self._tracer.start_span(f"send {task.name}", None, SpanKind.PRODUCER, attributes, links)
        if given is None:
            self._inject(task.headers, trace.set_span_in_context(span))
        span.end()

    def around_attempt(self, task: Task) -> AbstractContextManager[None]:
        """Makes the "process" span, and makes it the current one for the attempt."""
        if self._closed:
            return nullcontext()
        # Not the current context: that's the one in which the app happened to be started.
        received = self._extract(task.headers)
        sender = _span_in(received)
        if task.attempt > 1:
            received = trace.set_span_in_context(trace.INVALID_SPAN, received)
        attributes = _attributes("process", task)
        attributes["messaging.flowrra.attempt"] = task.attempt
        links = _links(sender)
        span = self._tracer.start_span(f"process {task.name}", received, SpanKind.CONSUMER, attributes, links)
        return _Attempt(task, span, trace.set_span_in_context(span, received), self._exemplars)

    def _extract(self, headers: dict[str, str]) -> Context:
        if self._propagator is None:
            return propagate.extract(headers, _NOTHING)
        return self._propagator.extract(headers, _NOTHING)

    def _inject(self, headers: dict[str, str], sent: Context) -> None:
        if self._propagator is None:
            propagate.inject(headers, sent)
        else:
            self._propagator.inject(headers, sent)


class _Attempt:
    """The "process" span of one attempt, while the attempt runs."""

    __slots__ = ("_context", "_exemplars", "_span", "_started", "_task", "_token")

    def __init__(self, task: Task, span: Span, inside: Context, exemplars: Exemplars | None) -> None:
        self._task = task
        self._span = span
        self._context = inside
        self._exemplars = exemplars

    def __enter__(self) -> None:
        self._token = context.attach(self._context)
        self._started = time.monotonic()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        context.detach(self._token)
        outcome = self._outcome(error, seconds)
        self._span.set_attribute("messaging.flowrra.outcome", outcome)
        self._span.end()
        found = self._span.get_span_context()
        # Cancelled attempts are in no histogram.
        if self._exemplars is not None and found.trace_flags.sampled and outcome != "cancelled":
            exemplar = Exemplar(found.trace_id, found.span_id, seconds, time.time())
            self._exemplars.keep((self._task.name, outcome), exemplar)

    def _outcome(self, error: BaseException | None, seconds: float) -> str:
        """How the attempt ended, by what it raised; an error is put down on the span."""
        if error is None:
            return "success"
        limit = self._task.timeout
        kind, text = _class_name(error), str(error)
        if isinstance(error, asyncio.CancelledError) and _was_cancelled():
            if limit is None or seconds < limit - _TIMER_SLACK:
                return "cancelled"
            kind, text = _TIME_OUT, f"ran into its time limit of {limit:g} s"
        self._span.record_exception(error)
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, text))
        return "error"


def _attributes(operation: str, task: Task) -> dict[str, AttributeValue]:
    return {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": task.name,
        "messaging.message.id": task.id,
    }


def _span_in(received: Context) -> trace.SpanContext | None:
    found = trace.get_current_span(received).get_span_context()
    return found if found.is_valid else None


def _links(sender: trace.SpanContext | None) -> list[Link]:
    return [] if sender is None else [Link(sender)]


def _was_cancelled() -> bool:
    """Whether the attempt was cancelled from outside; a task may raise CancelledError on its own account."""
    worker = asyncio.current_task()
    return worker is not None and worker.cancelling() > 0


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
