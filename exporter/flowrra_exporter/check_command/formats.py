"""Whether an answer is what it says: its Content-Type, and what prometheus_client's parsers say to it."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message
from enum import Enum

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from flowrra_exporter.check_command.conventions import broken_conventions
from flowrra_exporter.check_command.exposition import Exposition
from flowrra_exporter.check_command.findings import Finding, error, of_rules, ok, warning


class Asked(Enum):
    """The format that is asked for: its value is the Accept header."""

    TEXT = "text/plain;version=0.0.4"
    OPENMETRICS = "application/openmetrics-text;version=1.0.0"

    @property
    def subject(self) -> str:
        """What a finding about it is about."""
        return "text format" if self is Asked.TEXT else "OpenMetrics"


_VERSIONS = {Asked.TEXT: ("0.0.4",), Asked.OPENMETRICS: ("1.0.0", "0.0.1")}


def content_type(asked: Asked, header: str | None) -> Finding:
    """Whether the Content-Type is that of the format. Prometheus 3 refuses what has none that it knows."""
    if not header:
        return error(asked.subject, f"no Content-Type; expected {asked.value}")
    message = Message()
    message["Content-Type"] = header
    expected = asked.value.partition(";")[0]
    if message.get_content_type() != expected:
        if asked is Asked.OPENMETRICS and message.get_content_type() == "text/plain":
            return warning(asked.subject, f"isn't served: the Content-Type is {header} whatever is asked for")
        return error(asked.subject, f"Content-Type {header}; expected {asked.value}")
    if message.get_param("version") not in _VERSIONS[asked]:
        return warning(asked.subject, f"Content-Type {header}; expected version={_VERSIONS[asked][0]}")
    charset = str(message.get_param("charset", "utf-8")).lower()
    if charset not in ("utf-8", "utf8"):
        return error(asked.subject, f"Content-Type {header}; expected charset=utf-8")
    return ok(asked.subject, f"Content-Type {header}")


def text_findings(exposition: Exposition) -> Iterator[Finding]:
    """What is wrong with the text format: its lines and names."""
    subject = Asked.TEXT.subject
    if not exposition.series and not exposition.broken:
        yield error(subject, "there are no metrics")
        return
    families = exposition.families.values()
    count = sum(bool(family.samples) for family in families)
    well = f"prometheus_client parses it, and each series is there once: {exposition.series} series, {count} metrics"
    yield from of_rules(subject, exposition.broken, well)
    yield from of_rules("names", broken_conventions(families), "names, labels, HELP and TYPE follow the conventions")


def openmetrics_finding(text: str) -> Finding:
    """Whether OpenMetrics parses, which includes that its figures are sound, and has each series once."""
    subject = Asked.OPENMETRICS.subject
    try:
        families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
    except Exception as failure:  # noqa: BLE001 - of hostile lines, the parser raises anything
        return error(subject, f"prometheus_client can't parse it: {str(failure) or type(failure).__name__}")
    lines = sum(not line.startswith("#") for line in text.removesuffix("\n").split("\n"))
    duplicates = lines - sum(len(family.samples) for family in families)
    if duplicates:  # the parser keeps the first of several
        return error(subject, f"series that are there already: {duplicates} of {lines}")
    return ok(subject, f"prometheus_client parses it: {len(families)} metrics")
