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

import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from flowrra.middleware import AttemptOutcome, Middleware
from flowrra.task import Task
from flowrra_exporter._version import __version__
from flowrra_exporter.metrics.exemplars import Exemplar, Exemplars
from flowrra_exporter.otel.names import SYSTEM

# What the attribute says of an attempt; and which run times' exemplar it becomes, if it is in a histogram at all.
_OUTCOMES = {
    "success": "success",
    "failed": "error",
    "retrying": "error",
    "cancelled": "cancelled",
    "released": "released",
}
_HISTOGRAMS = {"success": "success", "failed": "error", "retrying": "error"}
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
        # By the id of the task: an attempt that its worker was killed over leaves one, until the next attempt.
        self._open: dict[str, _Attempt] = {}

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
        attempt = self._open[task.id] = _Attempt(span, trace.set_span_in_context(span, received))
        return attempt

    def on_outcome(self, task: Task, outcome: AttemptOutcome) -> None:
        """End the "process" span with what became of the attempt."""
        attempt = self._open.pop(task.id, None)
        if attempt is None:
            return
        span = attempt.end(outcome)
        histogram = _HISTOGRAMS.get(outcome.status)
        if self._exemplars is not None and span.trace_flags.sampled and histogram is not None:
            exemplar = Exemplar(span.trace_id, span.span_id, outcome.seconds, time.time())
            self._exemplars.keep((task.name, histogram), exemplar)

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
    """The "process" span of one attempt: open until what became of it is known."""

    __slots__ = ("_context", "_error", "_left_at", "_span", "_token")

    def __init__(self, span: Span, inside: Context) -> None:
        self._span = span
        self._context = inside
        self._error: BaseException | None = None
        self._left_at: int | None = None

    def __enter__(self) -> None:
        self._token = context.attach(self._context)

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        self._error, self._left_at = error, time.time_ns()

    def end(self, outcome: AttemptOutcome) -> trace.SpanContext:
        """Put down what became of the attempt, as everybody is told it."""
        self._span.set_attribute("messaging.flowrra.outcome", _OUTCOMES[outcome.status])
        if outcome.exception is not None:
            if self._error is not None:
                self._span.record_exception(self._error)
            self._span.set_attribute("error.type", self._error_type(outcome.exception))
            self._span.set_status(
                Status(StatusCode.ERROR, (outcome.error or "").removeprefix(f"{outcome.exception}: "))
            )
        self._span.end(self._left_at)
        return self._span.get_span_context()

    def _error_type(self, exception: str) -> str:
        raised = None if self._error is None else type(self._error)
        if raised is None or raised.__name__ != exception:  # flowrra's own judgement: of a time limit, or a result
            return f"flowrra.exceptions.{exception}"
        return raised.__qualname__ if raised.__module__ == "builtins" else f"{raised.__module__}.{raised.__qualname__}"


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
