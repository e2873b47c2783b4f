"""OpenTelemetry as a part of the exporter: what is switched on is started with the app and ended with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from flowrra_exporter.metrics.catalog import OTEL_EXPORTS, OTEL_LAST_EXPORT, OTEL_POINTS
from flowrra_exporter.metrics.collection import Collections
from flowrra_exporter.metrics.collector import Collector
from flowrra_exporter.metrics.exemplars import Exemplars
from flowrra_exporter.metrics.samples import Family
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.metrics import MetricsPush, metrics_push
from flowrra_exporter.otel.provider import OwnProvider

logger = logging.getLogger(__name__)


class OpenTelemetry:
    """The push of metrics and the tracing of one app.

    Args:
        environment: The settings and the OTEL_* variables.
        metrics: Whether metrics are pushed.
        traces: Whether spans are made.
        collections: What is pushed.
        loop: Returns the server's loop, on which ``collections`` collects.
        mode: The exporter's mode: the command sets a global tracer provider if the app has none; inside a program that
            is the program's business.

    Raises:
        UsageError: An exporter can't be made.
    """

    def __init__(
        self,
        environment: Environment,
        metrics: bool,
        traces: bool,
        collections: Collections,
        loop: Callable[[], asyncio.AbstractEventLoop],
        mode: str,
    ) -> None:
        self.exemplars = Exemplars() if traces else None
        self._environment = environment
        self._push = metrics_push(environment, collections, loop, self.exemplars) if metrics else None
        self._provides = mode == "command" and environment.sends_spans()
        self._provider: OwnProvider | None = None
        self._stop_tracing: Callable[[], None] | None = None

    def attach(self, app: Any, bounds: tuple[float, ...] | None = None) -> Sequence[Collector]:
        """Starts to push, and to trace ``app``; returns the collectors of what it knows about itself.

        Args:
            app: The app.
            bounds: Those of the run durations, in seconds, where the app counts with others than by default.
        """
        if self.exemplars is not None and bounds is not None:
            self.exemplars.use_bounds(bounds)
        if self.exemplars is not None and self._stop_tracing is None:
            self._trace(app, self.exemplars)
        if self._push is None:
            return []
        self._push.start()
        return [PushCollector(self._push)]

    def flush(self, timeout: float) -> bool:
        """Pushes the metrics now; whether the receiver took them within ``timeout`` seconds."""
        return self._push is not None and self._push.flush(timeout)

    def close(self, timeout: float) -> None:
        """Sends what is left, within ``timeout`` seconds, and ends."""
        until = time.monotonic() + timeout
        if self._stop_tracing is not None:
            self._stop_tracing()
        # At once: metrics that hang must not use up the time of the spans.
        if self._provider is not None:
            self._provider.start_closing()
        if self._push is not None:
            self._push.stop(timeout)
        if self._provider is not None:
            self._provider.finish_closing(until)

    def _trace(self, app: Any, exemplars: Exemplars) -> None:
        if not hasattr(app, "add_middleware"):
            logger.warning("no spans are made: this app has no add_middleware()")
            return
        from flowrra_exporter.otel.traces import Tracing

        if self._provides and OwnProvider.is_needed():
            self._provider = OwnProvider(self._environment)
        tracing = Tracing(exemplars=exemplars)
        app.add_middleware(tracing)
        self._stop_tracing = tracing.close


class PushCollector(Collector):
    """flowrra_otel_*: how the pushes went."""

    name = "otel"

    def __init__(self, push: MetricsPush) -> None:
        self._push = push

    async def collect(self) -> Sequence[Family]:
        status = self._push.status
        results = {"success": status.succeeded, "partial": status.partial, "failure": status.failed}
        points = {"accepted": status.taken, "rejected": status.rejected, "dropped": status.dropped}
        exports = Family(OTEL_EXPORTS, [((result,), count) for result, count in results.items()])
        sent = Family(OTEL_POINTS, [((result,), count) for result, count in points.items()])
        last = Family(OTEL_LAST_EXPORT)
        if status.last_success is not None:
            last.points.append(((), status.last_success))
        return [exports, sent, last]
