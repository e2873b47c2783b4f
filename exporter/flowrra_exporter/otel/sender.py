"""Sends one request of metrics after the other through an OTLP exporter of the SDK, and says what became of each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from flowrra_exporter.otel.answers import Answer, Verdict

logger = logging.getLogger(__name__)


class Answers(Protocol):
    """Where the receiver's last answer is seen; ``latest`` is None if it can't be, or there was none."""

    latest: Answer | None


class MetricSender:
    """Sends metrics.

    Args:
        exporter: The SDK's exporter.
        answers: Sees the receiver's answers.
        explain: Makes a reason out of what a library says: without secrets, and with a hint where there's one.
    """

    def __init__(self, exporter: MetricExporter, answers: Answers, explain: Callable[[str], str]) -> None:
        self._exporter = exporter
        self._answers = answers
        self._explain = explain
        self._reasons = _Reasons(exporter)

    def send(self, data: MetricsData) -> Answer:
        """What became of it."""
        self._answers.latest = None
        raised = ""
        with self._reasons.kept() as reasons:
            try:
                result = self._exporter.export(data)
            except Exception as error:  # an exporter shouldn't, but nothing may end this thread
                logger.debug("the OTLP exporter raised", exc_info=True)
                result, raised = MetricExportResult.FAILURE, f"{type(error).__name__}: {error}"
        answer = self._answers.latest
        if answer is None or (answer.verdict is Verdict.TAKEN and result is not MetricExportResult.SUCCESS):
            if result is MetricExportResult.SUCCESS:
                return Answer(Verdict.TAKEN)
            reason = raised or "; ".join(reasons[-2:]) or "the OTLP exporter gives no reason"
            answer = Answer(Verdict.AWAY, reason)
        return answer._replace(reason=self._explain(answer.reason), message=self._explain(answer.message))

    def close(self) -> None:
        """Sends nothing more; also ends the waiting between attempts."""
        self._exporter.shutdown()


class _Reasons(logging.Filter):
    """What an SDK exporter would log in this thread, kept as the reason of a failure.

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
