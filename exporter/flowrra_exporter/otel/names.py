"""What the catalog's metrics are called over OTLP: names, units, attributes; and the messaging conventions' own.

Each figure of the catalog keeps its labels as attributes, so that a query written for one path fits the other.
Where the conventions have a name for a figure, it's sent under that name as well, with their attributes:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/. Needs no opentelemetry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.samples import Labels

# Names and values, in a fixed order: equal attributes are equal tuples.
Attributes: TypeAlias = tuple[tuple[str, str], ...]

# messaging.system
SYSTEM = "flowrra"
# How many attributes are kept from one push to the next: made anew, they would be work for the garbage collector.
KEPT = 50_000

_BASE_UNITS = {
    "seconds": "s",
    "bytes": "By",
    "ratio": "1",
    "meters": "m",
    "volts": "V",
    "amperes": "A",
    "joules": "J",
    "grams": "g",
    "celsius": "Cel",
    "tasks": "{task}",
}


def base_unit(unit: str) -> str:
    """A Prometheus base unit in UCUM's notation, https://ucum.org: ``s`` for ``seconds``. Others stay as they are."""
    return _BASE_UNITS.get(unit, unit)


def unit_of(metric: Metric) -> str:
    """A metric's unit in UCUM's notation; what is counted stands in braces.

    Empty for what is 0 or 1: Prometheus would make ``_ratio`` of a ``1``.
    """
    return base_unit(metric.unit) or metric.otel_unit


def attributes_of(metric: Metric, labels: Labels) -> Attributes:
    """A point's attributes: its labels."""
    return _attributes(metric.labels, labels)


@functools.lru_cache(KEPT)
def _attributes(names: tuple[str, ...], labels: Labels) -> Attributes:
    return tuple(zip(names, map(encodable, labels), strict=True))


def encodable(text: str) -> str:
    """``text`` as UTF-8 can carry it: one lone surrogate would cost the whole push."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Convention:
    """A name of the messaging conventions for a metric of the catalog.

    Attributes:
        attributes: Makes a point's attributes from its labels.
    """

    metric: Metric
    name: str
    unit: str
    attributes: Callable[[Labels], Attributes]


def _of_task(operation: str, task: str) -> Attributes:
    return (
        ("messaging.system", SYSTEM),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", operation),
        ("messaging.destination.name", encodable(task)),
    )


@functools.lru_cache(KEPT)
def _sent(labels: Labels) -> Attributes:
    return _of_task("send", labels[0])


@functools.lru_cache(KEPT)
def _consumed(labels: Labels) -> Attributes:
    return _of_task("process", labels[0])


@functools.lru_cache(KEPT)
def _processed(labels: Labels) -> Attributes:
    task, outcome = labels
    # By class they would be histograms without number; flowrra.task.exceptions has the classes.
    error = () if outcome == "success" else (("error.type", "_OTHER"),)
    return (*_of_task("process", task), *error)


CONVENTIONS = (
    Convention(catalog.TASKS_SUBMITTED, "messaging.client.sent.messages", "{message}", _sent),
    Convention(catalog.TASKS_STARTED, "messaging.client.consumed.messages", "{message}", _consumed),
    Convention(catalog.TASK_RUN_DURATION, "messaging.process.duration", "s", _processed),
)


_TYPES = {"gauge": "Gauge", "counter": "Counter", "histogram": "Histogram", "info": "UpDownCounter, always 1"}


def table() -> str:
    """All names as a Markdown table, as docs/opentelemetry.md has it."""
    lines = ["| OpenTelemetry | type | unit | attributes | Prometheus |", "|---|---|---|---|---|"]
    for metric in catalog.CATALOG:
        attributes = ", ".join(f"`{label}`" for label in metric.labels)
        unit = f"`{unit_of(metric)}`" if unit_of(metric) else ""
        lines.append(f"| `{metric.otel_name}` | {_TYPES[metric.type]} | {unit} | {attributes} | `{metric.name}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 - for the documentation
