"""What a rule is, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from deploy.prometheus.names import dashboard_url, runbook_url
from deploy.prometheus.promql import duration

Severity = Literal["critical", "warning"]
Dashboard = Literal["flowrra-overview", "flowrra-tasks", "flowrra-queues", "flowrra-scheduler", "flowrra-exporter"]


@dataclass(frozen=True)
class Links:
    """What the links in alerts begin with.

    Attributes:
        runbooks: The folder of the runbooks.
        dashboards: The path of the dashboards.
    """

    runbooks: str
    dashboards: str


@dataclass(frozen=True)
class Recording:
    """A series that is computed for several readers.

    Attributes:
        record: Its name.
        expr: The query.
    """

    record: str
    expr: str

    def as_rule(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {"record": self.record, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """An alert, which fires once its condition has held for a time.

    A figure that can't be read says nothing of what is wrong. Meanwhile the condition of an alert that fires stays as
    it was, which is why it is recorded; one that has not held for long enough begins anew.

    Attributes:
        name: Its name.
        severity: ``critical`` is for somebody to get up for.
        summary, description: What people read; templates of Prometheus.
        condition: The query; each series that it returns is one alert.
        kept: What keeps a condition that held before, as operators behind its series; empty for what is always known.
        lasting: Seconds for which it has to hold.
        dashboard: Where to look.
        variant: Tells conditions of alerts of one name apart.
    """

    name: str
    severity: Severity
    summary: str
    description: str
    condition: str
    kept: str
    dashboard: Dashboard
    lasting: float = 0.0
    variant: str = field(default="")

    @property
    def record(self) -> str:
        """The name that its condition is recorded by: what Prometheus calls a recording rule."""
        words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return f"flowrra:condition:{words.removeprefix('_flowrra_')}{self.variant}"

    def recording(self) -> Recording:
        """Its condition, kept while it isn't known."""
        if not self.kept:
            return Recording(self.record, self.condition)
        fires = f'ALERTS{{alertname="{self.name}",alertstate="firing",severity="{self.severity}"}}'
        kept = f"{self.record}\nand ignoring (alertname, alertstate, severity) {fires}\n{self.kept}"
        return Recording(self.record, f"(\n{_indented(self.condition)}\n)\nor\n(\n{_indented(kept)}\n)")

    def as_rule(self, links: Links) -> dict[str, Any]:
        """As Prometheus reads it."""
        rule: dict[str, Any] = {"alert": self.name, "expr": self.record}
        if self.lasting:
            rule["for"] = duration(self.lasting)
        return rule | {
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": runbook_url(self.name, links.runbooks),
                "dashboard_url": dashboard_url(self.dashboard, links.dashboards),
            },
        }


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
