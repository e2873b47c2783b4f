"""Pushes the figures of the scrape over OTLP, from a thread of its own, on a period.

A receiver that hangs holds up this thread and nothing else. What became of a push is known by the receiver's own
answers alone, never by a flush that "succeeded".
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from opentelemetry import context

from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.metrics.exemplars import Exemplars
from flowrra_exporter.metrics.samples import AnyFamily
from flowrra_exporter.otel.delivery import Delivery
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.readings import Kind, Reader
from flowrra_exporter.otel.resource import resource, started_at
from flowrra_exporter.otel.sender import MetricSender
from flowrra_exporter.otel.streams import Streams
from flowrra_exporter.otel.transport import metric_sender

logger = logging.getLogger(__name__)

# The longest that a push waits for a source.
_COLLECT_SECONDS = 5.0
# What a busy machine may take beyond that.
_SPARE_SECONDS = 5.0
# Seconds that a receiver may ask to be left alone for.
_MAX_PAUSE = 600.0
# The context key by which instrumentation of HTTP clients leaves our own requests alone.
_NO_INSTRUMENTATION = "suppress_instrumentation"

# Totals that are read rather than recorded are what an asynchronous counter reports; those stay cumulative with
# ``lowmemory``. https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/
_DELTA_KINDS = {
    "cumulative": frozenset[Kind](),
    "delta": frozenset({Kind.COUNTER, Kind.HISTOGRAM}),
    "lowmemory": frozenset({Kind.HISTOGRAM}),
}


class PushStatus(NamedTuple):
    """How the pushes went: how many of each result, and when one last arrived (Unix time in seconds).

    And what became of the points in them.
    """

    succeeded: int = 0
    partial: int = 0
    failed: int = 0
    last_success: float | None = None
    taken: int = 0
    rejected: int = 0
    dropped: int = 0

    def after(self, delivery: Delivery, at: float) -> PushStatus:
        """This and one more push."""
        result = delivery.result
        return PushStatus(
            self.succeeded + (result == "success"),
            self.partial + (result == "partial"),
            self.failed + (result == "failure"),
            self.last_success if result == "failure" else at,
            self.taken + delivery.taken,
            self.rejected + delivery.rejected,
            self.dropped + delivery.dropped,
        )


class MetricsPush:
    """Sends what ``collect`` returns, again and again and when asked to.

    Args:
        collect: Is called in the push's thread, and may wait there. If it raises, that push has failed; if it returns
            nothing, there's none.
        sender: Sends.
        interval: The time between two pushes, in seconds.
    """

    def __init__(
        self,
        collect: Callable[[], Sequence[AnyFamily]],
        sender: MetricSender,
        reader: Reader,
        streams: Streams,
        interval: float,
    ) -> None:
        self.status = PushStatus()
        self._collect = collect
        self._sender = sender
        self._reader = reader
        self._streams = streams
        self._interval = interval
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopping = False
        self._result = "success"
        self._remarked = False
        self._pause = 0.0
        # A daemon: a receiver that hangs doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="flowrra-exporter-otlp", daemon=True)

    def start(self) -> None:
        """Pushes for the first time in ``interval`` seconds."""
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Pushes now; whether the receiver took all of it within ``timeout`` seconds."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._answered >= asked, timeout)
            return in_time and self._result == "success"

    def stop(self, timeout: float) -> bool:
        """Pushes a last time and ends; whether the receiver took all of it within ``timeout`` seconds."""
        if not self._thread.is_alive():
            return False
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        in_time = not self._thread.is_alive()
        if not in_time:
            logger.warning("the last figures may not have arrived: no answer of the OTLP receiver within %g s", timeout)
        self._sender.close()
        return in_time and self._result == "success"

    def _run(self) -> None:
        context.attach(context.set_value(_NO_INSTRUMENTATION, True))
        due = time.monotonic() + self._interval
        stopping = False
        while not stopping:
            with self._changed:
                self._changed.wait_for(self._wanted, max(0.0, due - time.monotonic()))
                asked, stopping = self._asked, self._stopping
            self._push()
            with self._changed:
                self._answered = asked
                self._changed.notify_all()
            now = time.monotonic()
            if now >= due:
                due = max(due + self._interval, now)
            due = max(due, now + self._pause)

    def _wanted(self) -> bool:
        return self._stopping or self._asked > self._answered

    def _push(self) -> None:
        delivery = Delivery()
        try:
            families = self._collect()
            if not families:
                return
            batches = self._streams.batches(self._reader.readings(families), time.time())
            delivery.deliver(batches, self._sender)
        except Exception as error:  # noqa: BLE001 - nothing may end this thread; counted and logged
            delivery.failure = f"no figures to push: {type(error).__name__}: {error}"
        self._pause = min(delivery.retry_after, _MAX_PAUSE)
        self._record(delivery)

    def _record(self, delivery: Delivery) -> None:
        result = delivery.result
        self.status = self.status.after(delivery, time.time())
        if result != self._result:
            self._log(delivery)
        self._result = result
        if delivery.remark and not self._remarked:
            logger.warning("the OTLP receiver takes the metrics, and says: %s", delivery.remark)
        self._remarked = bool(delivery.remark)

    def _log(self, delivery: Delivery) -> None:
        if delivery.result == "failure":
            logger.warning("pushing metrics over OTLP fails: %s", delivery.failure)
            return
        if self._result == "failure":
            logger.info("pushing metrics over OTLP works again")
        lost = delivery.rejected + delivery.dropped
        if lost:
            points = lost + delivery.taken
            logger.warning("the OTLP receiver rejects %d of %d points: %s", lost, points, delivery.complaint)
        elif self._result == "partial":
            logger.info("the OTLP receiver takes all points again")


def metrics_push(
    environment: Environment,
    collections: Collections,
    loop: Callable[[], asyncio.AbstractEventLoop],
    exemplars: Exemplars | None = None,
) -> MetricsPush:
    """A push of what ``collections`` collects on the loop that ``loop`` returns; another thread turns it.

    Raises:
        UsageError: The OTLP exporter can't be made.
    """
    interval = environment.interval()
    timeout = environment.timeout("metrics")
    if timeout > interval:
        logger.warning("an OTLP export may take %g s, not %g s: the next one is due then", interval, timeout)
        timeout = interval
    streams = Streams(resource(), _DELTA_KINDS[environment.temporality()], started_at())
    return MetricsPush(
        lambda: _families(collections, loop()),
        metric_sender(environment, timeout),
        Reader(exemplars),
        streams,
        interval,
    )


def _families(collections: Collections, loop: asyncio.AbstractEventLoop) -> Sequence[AnyFamily]:
    collecting = collections.snapshot(_COLLECT_SECONDS)
    try:
        snapshot = asyncio.run_coroutine_threadsafe(collecting, loop)
    except RuntimeError:  # the loop is closed
        collecting.close()
        raise
    return snapshot.result(_COLLECT_SECONDS + _SPARE_SECONDS).families
