"""What metrics say about the exporter itself, sources that fail and series that were left out, and about the broker."""

from __future__ import annotations

from collections.abc import Iterator

from flowrra_exporter.check_command.exposition import Exposition
from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.metrics import catalog


def exporter_findings(exposition: Exposition) -> Iterator[Finding]:
    """Whether all collectors succeed, and no series was dropped."""
    collectors = list(exposition.samples(catalog.COLLECTOR_SUCCESS.name))
    if not collectors:
        yield warning("collectors", f"there is no {catalog.COLLECTOR_SUCCESS.name}: is this the Flowrra exporter?")
        return
    failing = [sample.labels.get("collector") or "" for sample in collectors if sample.value != 1]
    for name in failing:
        yield error("collectors", f"{name} fails: its metrics are absent, or only a part of them is there")
    if not failing:
        yield ok("collectors", f"all {len(collectors)} succeed")
    registered = [sample for sample in exposition.samples(catalog.REGISTERED_SUCCESS.name) if sample.value != 1]
    for sample in registered:
        yield error(
            "collectors", f"the registered {sample.labels.get('collector')} fails: what it hasn't yielded is absent"
        )
    for sample in exposition.samples(catalog.REGISTERED_DROPPED.name):
        if sample.value:
            whose, reason = sample.labels.get("collector"), sample.labels.get("reason")
            yield warning("collectors", f"{sample.value:g} series of the registered {whose} are left out: {reason}")
    dropped = sum(sample.value for sample in exposition.samples(catalog.EXPORTER_SERIES_DROPPED.name))
    if dropped:
        yield warning(
            "collectors", f"{dropped:g} series are left out: --max-series is reached, or they can't be served"
        )


def broker_findings(exposition: Exposition) -> Iterator[Finding]:
    """Whether the broker's server is fit to keep tasks; nothing where it isn't known."""
    reasons = list(exposition.samples(catalog.BROKER_UNFIT.name))
    unfit = sorted(sample.labels.get("reason") or "" for sample in reasons if sample.value)
    if unfit:
        yield warning("broker", f"its server is unfit to keep tasks: {', '.join(unfit)}; see /healthz for what to do")
    elif reasons:
        yield ok("broker", "its server is fit to keep tasks")
