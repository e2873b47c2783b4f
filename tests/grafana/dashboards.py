"""Reads the shipped dashboards: their panels, queries, and the selectors within the queries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser

FOLDER = Path(__file__).parents[2] / "grafana" / "dashboards"
RATE_INTERVAL, RANGE = "$__rate_interval", "$__range"
# Placeholders while a query is parsed, which no query has by itself.
_PARSED = {RATE_INTERVAL: "297s", RANGE: "299s"}


class Panel(NamedTuple):
    """A panel of a dashboard, and where to find it."""

    where: str
    json: dict[str, Any]

    @property
    def queries(self) -> list[str]:
        """The panel's queries, with Grafana's variables in them."""
        return [target["expr"] for target in self.json["targets"]]

    @property
    def is_of_now(self) -> bool:
        """Whether it tells what is now, rather than what was."""
        return self.json["type"] in ("stat", "table")


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by its file's name."""
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> list[Panel]:
    """All panels that show something, of all dashboards."""
    return [
        Panel(f"{name}: {panel['title']}", panel)
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    ]


def queries() -> list[tuple[str, str]]:
    """All queries: where they are, and their text."""
    return [(panel.where, query) for panel in panels() for query in panel.queries]


def fill_in(query: str, *, rate_interval: str, range: str = "60s", **chosen: str) -> str:
    """A query with values in place of Grafana's variables; what isn't chosen is everything."""
    query = query.replace(RATE_INTERVAL, rate_interval).replace(RANGE, range)
    return re.sub(r"\$([a-z_]\w*)", lambda variable: chosen.get(variable[1], ".+"), query)


class Selector(NamedTuple):
    """A selector within a query.

    Attributes:
        name: The metric's.
        matchers: By label, with their operators.
        functions: Those around it, the outermost first.
        range: How far it looks back, as Grafana's variable or as it is written; None unless it does.
    """

    name: str
    matchers: dict[str, str]
    functions: tuple[str, ...]
    range: str | None


def selectors(query: str) -> list[Selector]:
    """The selectors of a query. Grafana's variables stay as they are within strings."""
    for variable, seconds in _PARSED.items():
        query = query.replace(variable, seconds)
    return list(_selectors(promql_parser.parse(query), (), None))


def _selectors(node: Any, functions: tuple[str, ...], looks_back: str | None) -> Iterator[Selector]:
    if isinstance(node, promql_parser.VectorSelector):
        matchers = {matcher.name: f"{_OPERATORS[str(matcher.op)]}{matcher.value}" for matcher in node.matchers.matchers}
        yield Selector(node.name, matchers, functions, looks_back)
        return
    if isinstance(node, promql_parser.MatrixSelector):
        written = f"{int(node.range.total_seconds())}s"
        looks_back = {seconds: variable for variable, seconds in _PARSED.items()}.get(written, written)
    if isinstance(node, promql_parser.Call):
        functions = (*functions, node.func.name)
        for argument in node.args:
            yield from _selectors(argument, functions, looks_back)
        return
    for child in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, child, None)
        if inner is not None:
            yield from _selectors(inner, functions, looks_back)


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
