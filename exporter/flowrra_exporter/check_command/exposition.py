"""What an answer in the text format holds, as prometheus_client's parser reads it.

The parser is laxer than Prometheus', and stops at the first line that it can't read: ``promtool check metrics`` is the
tool for a lint of the format itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_fd_to_metric_families
from prometheus_client.samples import Sample

from flowrra_exporter.check_command.findings import Level, Rule


class Exposition:
    """The metrics of an answer, up to a line that can't be read.

    Attributes:
        families: The metrics, each once, in the order in which they begin.
        series: How many samples they have.
        broken: The rules of the format that are broken.
    """

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {}
        self.series = 0
        self.broken: list[Rule] = []
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self._current = ""
        lines = _Lines(text)
        try:
            for family in text_fd_to_metric_families(lines):  # type: ignore[arg-type]  # it only iterates over them
                self._add(family)
        except Exception as failure:  # noqa: BLE001 - of hostile lines, the parser raises anything
            reason = str(failure) or type(failure).__name__
            self._break("malformed line", f"prometheus_client can't parse it, up to line {lines.number}: {reason:.200}")
        if text and not text.endswith("\n"):
            self._break("last line", "the last line doesn't end with a line feed")

    def samples(self, name: str) -> Iterator[Sample]:
        """The samples of this name."""
        return (sample for family in self.families.values() for sample in family.samples if sample.name == name)

    def _break(self, rule: str, message: str) -> None:
        self.broken.append(Rule(rule, Level.ERROR, message))

    def _add(self, family: Metric) -> None:
        known = self.families.setdefault(family.name, family)
        if known is not family:
            if family.name != self._current:
                self._break("split metric", f"{family.name} goes on after other metrics")
            known.samples.extend(family.samples)
        self._current = family.name
        for sample in family.samples:
            self.series += 1
            series = (sample.name, frozenset(sample.labels.items()))
            if series in self._seen:
                self._break("duplicate series", f"{_series_name(sample)} is there more than once")
            self._seen.add(series)


class _Lines:
    """The lines of a text as a file has them; ``number`` is that of the last one that was read."""

    def __init__(self, text: str) -> None:
        self.number = 0
        self._lines = text.split("\n")

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            yield line


def _series_name(sample: Sample) -> str:
    """The series as one would write it in a query."""
    labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}}" if labels else sample.name
