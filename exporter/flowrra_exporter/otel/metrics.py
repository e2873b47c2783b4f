"""Pushes the figures of the scrape over OTLP, from a thread of its own, on a period.

A receiver that hangs holds up this thread and nothing else. What became of a push is known by the exporter's own
answer alone (MetricExportResult), never by a flush that "succeeded".
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from opentelemetry import context
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult

from flowrra_exporter.collection import Collections
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.exemplars import Exemplars
from flowrra_exporter.otel.process import started_at
from flowrra_exporter.otel.readings import Kind, Reader
from flowrra_exporter.otel.resource import resource
from flowrra_exporter.otel.streams import Batch, Streams
from flowrra_exporter.otel.transport import metric_exporter
from flowrra_exporter.samples import AnyFamily

logger = logging.getLogger(__name__)

_COLLECT_SECONDS = 5.0
"""The longest that a push waits for a source."""
_SPARE_SECONDS = 5.0
"""What a busy machine may take beyond that."""
_NO_INSTRUMENTATION = "suppress_instrumentation"
"""The context key by which instrumentation of HTTP clients leaves our own requests alone."""

# Totals that are read rather than recorded are what an asynchronous counter reports; those stay cumulative with
# `lowmemory`. https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/
_DELTA_KINDS = {
    "cumulative": frozenset[Kind](),
    "delta": frozenset({Kind.COUNTER, Kind.HISTOGRAM}),
    "lowmemory": frozenset({Kind.HISTOGRAM}),
}


class PushStatus(NamedTuple):
    """How the pushes went: how many, and when the last good one ended (Unix time in seconds)."""

    succeeded: int = 0
    failed: int = 0
    last_success: float | None = None


class MetricsPush:
    """Sends what `collect` returns through `exporter`, every `interval` seconds and when asked to.

    `collect` is called in the push's thread, and may wait there. If it raises, that push has failed; if it
    returns nothing, there's none.
    """

    def __init__(
        self,
        collect: Callable[[], Sequence[AnyFamily]],
        exporter: MetricExporter,
        reader: Reader,
        streams: Streams,
        interval: float,
    ) -> None:
        self.status = PushStatus()
        self._collect = collect
        self._exporter = exporter
        self._reader = reader
        self._streams = streams
        self._interval = interval
        self._reasons = _Reasons(exporter)
        self._changed = threading.Condition()
        self._asked = 0
        self._answered = 0
        self._stopping = False
        self._succeeded = True
        # A daemon: a receiver that hangs doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="flowrra-exporter-otlp", daemon=True)

    def start(self) -> None:
        """Pushes for the first time in `interval` seconds."""
        self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Pushes now; whether the receiver took it within `timeout` seconds."""
        with self._changed:
            self._asked += 1
            asked = self._asked
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._answered >= asked, timeout)
            return in_time and self._succeeded

    def stop(self, timeout: float) -> bool:
        """Pushes a last time and ends; whether the receiver took it within `timeout` seconds."""
        if not self._thread.is_alive():
            return False
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout)
        in_time = not self._thread.is_alive()
        if not in_time:
            logger.warning("the last figures were not pushed: the OTLP receiver took longer than %g s", timeout)
        self._exporter.shutdown()  # also ends the waiting between its attempts
        return in_time and self._succeeded

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

    def _wanted(self) -> bool:
        return self._stopping or self._asked > self._answered

    def _push(self) -> None:
        try:
            families = self._collect()
            if families:
                self._record(self._send(families))
        except Exception as error:  # noqa: BLE001  # nothing may end this thread; counted and logged
            self._record(f"no figures to push: {type(error).__name__}: {error}")

    def _send(self, families: Sequence[AnyFamily]) -> str:
        """Sends batch after batch until one fails; returns why, or nothing."""
        for batch in self._streams.batches(self._reader.readings(families), time.time()):
            failure = self._export(batch)
            if failure:
                return failure
            batch.sent()
        return ""

    def _export(self, batch: Batch) -> str:
        with self._reasons.kept() as reasons:
            try:
                result = self._exporter.export(batch.data)
            except Exception as error:  # an exporter shouldn't, but nothing may end this thread
                logger.debug("the OTLP exporter raised", exc_info=True)
                return f"{type(error).__name__}: {error}"
        if result is MetricExportResult.SUCCESS:
            return ""
        return "; ".join(reasons[-2:]) or "the OTLP exporter gives no reason"

    def _record(self, failure: str) -> None:
        status = self.status
        if failure:
            self.status = status._replace(failed=status.failed + 1)
            if self._succeeded:
                logger.warning("pushing metrics over OTLP fails: %s", failure)
        else:
            self.status = status._replace(succeeded=status.succeeded + 1, last_success=time.time())
            if not self._succeeded:
                logger.info("pushing metrics over OTLP works again")
        self._succeeded = not failure


class _Reasons(logging.Filter):
    """What an SDK exporter would log in this thread, kept as the reason of a failure:

    The exporters say why only there, and would say it with every push. Other threads' records pass.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__()
        names = {found.__module__ for found in type(exporter).__mro__}
        self._loggers = [logging.getLogger(name) for name in names if name.startswith("opentelemetry.")]
        self._thread = 0
        self._found: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread:
            return True
        self._found.append(record.getMessage())
        return False

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """Keeps the records of the calling thread while it's open."""
        self._thread, self._found = threading.get_ident(), []
        for source in self._loggers:
            source.addFilter(self)
        try:
            yield self._found
        finally:
            for source in self._loggers:
                source.removeFilter(self)


def metrics_push(
    environment: Environment,
    collections: Collections,
    loop: Callable[[], asyncio.AbstractEventLoop],
    exemplars: Exemplars | None = None,
) -> MetricsPush:
    """A push of what `collections` collects on the loop that `loop` returns; another thread turns it.

    Raises UsageError if the OTLP exporter can't be made.
    """
    interval = environment.interval()
    timeout = environment.timeout("metrics")
    if timeout > interval:
        logger.warning("an OTLP export may take %g s, not %g s: the next one is due then", interval, timeout)
        timeout = interval
    streams = Streams(resource(), _DELTA_KINDS[environment.temporality()], started_at())
    return MetricsPush(
        lambda: _families(collections, loop()),
        metric_exporter(environment, timeout),
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
