"""A tracer provider for the command, if the app hasn't brought its own."""

from __future__ import annotations

import logging
import threading
import time

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.otel.resource import resource
from flowrra_exporter.otel.transport import span_exporter

logger = logging.getLogger(__name__)


class OwnProvider:
    """The global tracer provider as the command sets it: spans go to the OTLP receiver in batches.

    Raises:
        UsageError: The exporter can't be made.
    """

    def __init__(self, environment: Environment) -> None:
        exporter = span_exporter(environment, environment.timeout("traces"))
        self._provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._closing = threading.Thread(target=self._provider.shutdown, name="flowrra-exporter-spans", daemon=True)
        trace.set_tracer_provider(self._provider)

    @staticmethod
    def is_needed() -> bool:
        """Whether nobody has set a global tracer provider."""
        return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def start_closing(self) -> None:
        """Begins to send what is left, beside whatever else is to be ended."""
        self._closing_since = time.monotonic()
        self._closing.start()

    def finish_closing(self, until: float) -> None:
        """Waits for that until then, by the monotonic clock."""
        self._closing.join(max(0.0, until - time.monotonic()))
        if self._closing.is_alive():
            waited = time.monotonic() - self._closing_since
            logger.warning("the last spans may not have arrived: no answer of the OTLP receiver within %.1f s", waited)
