"""The reference of all metrics, docs/metrics.md, made from the catalog: ``make reference`` writes it."""

from __future__ import annotations

from flowrra_exporter.metrics.catalog import CATALOG, Metric
from flowrra_exporter.otel.names import CONVENTIONS, unit_of

_INTRODUCTION = """\
# Metrics

Made from `flowrra_exporter/metrics/catalog.py` by `make reference`; don't edit it here.

- **Type**: an info is a gauge that is always 1 and tells something by its labels. A histogram `NAME` is stored as
  `NAME_bucket` (with the label `le`), `NAME_sum` and `NAME_count`.
- **Scope**: a figure of the *process* is each process's own: add them up. A *shared* one is read from what processes
  share, such as a broker: all of them say the same, so take the maximum. A queue in memory is each process's own all
  the same: the label `broker` of `flowrra_queue_info` tells which it is. One of the *exporter* is about the exporter
  itself. With `--observe` those of the process are absent.
- **Bounds**: the defaults; those of tasks and of the event loop can be chosen by `--histogram.NAME-bounds`. A bucket
  holds what is less than or equal to its bound, and there is always one more, `+Inf`.
- A figure that can't be read is absent, and its collector has `flowrra_collector_success` 0. Counters and histograms
  whose labels are known are there from the start, at 0.

Besides these, the process's own (`process_*`, `python_*`) and those that your program registered with prometheus_client
are served, as [own_metrics.md](own_metrics.md) says: `--no-collector.python` leaves them out.
"""


def reference() -> str:
    """The whole page as Markdown: a section for each metric, in the catalog's order."""
    return "\n".join([_INTRODUCTION, *map(section, CATALOG)])


def section(metric: Metric) -> str:
    """What there is to say about one metric, under its name."""
    conventional = [f"`{convention.name}`" for convention in CONVENTIONS if convention.metric == metric]
    unit = unit_of(metric)
    facts = {
        "Type": metric.type,
        "Unit": metric.unit or "none",
        "Labels": ", ".join(f"`{label}`" for label in metric.labels) or "none",
        "Scope": metric.scope,
        "OpenTelemetry": ", ".join([f"`{metric.otel_name}`", *conventional]) + (f", in `{unit}`" if unit else ""),
    }
    if metric.bounds is not None:
        facts["Bounds"] = ", ".join(f"{bound:g}" for bound in metric.bounds)
    lines = (f"- {name}: {fact}" for name, fact in facts.items())
    return "\n".join([f"## {metric.name}", "", metric.help, "", *lines, ""])


if __name__ == "__main__":
    print(reference(), end="")  # noqa: T201 - for the documentation
