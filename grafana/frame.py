"""What all dashboards have: variables, links, annotations, and the way in which they are laid out and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from deploy.prometheus.names import RUNBOOKS
from grafana.panels import DATASOURCE, Panel
from grafana.queries import TARGET, series

TAG = "flowrra"
VARIABLES = {
    "job": ("Job", f"label_values({catalog.EXPORTER_INFO.name}, job)"),
    "instance": ("Instance", f'label_values({catalog.EXPORTER_INFO.name}{{job=~"$job"}}, instance)'),
    "queue": ("Queue", f"label_values({catalog.QUEUE_INFO.name}{{{TARGET}}}, queue)"),
    "task": ("Task", f"label_values({catalog.TASKS_RUNNING.name}{{{TARGET}}}, task)"),
}
ALWAYS = ("job", "instance")


@dataclass(frozen=True)
class Frame:
    """A dashboard, before it is laid out.

    Attributes:
        uid: By which Grafana and its links know it.
        title, description: What it is about.
        rows: Its panels, by the titles of their rows; those under an empty title come first, without a row.
        single: Variables of which one value is chosen, rather than several or all.
    """

    uid: str
    title: str
    description: str
    rows: Mapping[str, Sequence[Panel]]
    single: Sequence[str] = field(default=())


def render(frame: Frame, runbooks: str = RUNBOOKS) -> str:
    """The dashboard as Grafana reads it.

    Args:
        frame: The dashboard.
        runbooks: What the addresses of runbooks begin with.
    """
    dashboard = (
        build.Dashboard(f"Flowrra / {frame.title}")
        .uid(frame.uid)
        .description(frame.description)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_others())
    )
    for annotation in ANNOTATIONS:
        dashboard.annotation(_annotation(annotation))
    for variable in _variables(frame, runbooks):
        dashboard.with_variable(variable)
    number = 0
    for title, panels in frame.rows.items():
        if title:
            number += 1
            dashboard.with_row(build.Row(title).id(number))
        for panel in panels:
            number += 1
            dashboard.with_panel(panel.id(number))
    document = _exactly(frame.single, json.loads(json.dumps(dashboard.build(), cls=JSONEncoder)))
    for annotation, written in zip(ANNOTATIONS, document["annotations"]["list"], strict=True):
        written |= annotation.formats
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _exactly(single: Sequence[str], document: dict[str, Any]) -> dict[str, Any]:
    """A dashboard in which a variable of one value is compared as it is. Grafana takes what is no letter of a regular
    expression for one there: it escapes only the values of variables that may have several."""
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            for name in single:
                target["expr"] = target["expr"].replace(f'{name}=~"${name}"', f'{name}="${name}"')
    return document


# ── variables and links ─────────────────────────────────────────────────────────────────────────────────────────


Variable = build.DatasourceVariable | build.QueryVariable | build.ConstantVariable


def _variables(frame: Frame, runbooks: str) -> list[Variable]:
    """The data source, jobs and instances, and what else the queries of this dashboard choose by."""
    asked = " ".join(
        str(target.expr) for panels in frame.rows.values() for panel in panels for target in _targets(panel)
    )
    used = [name for name in VARIABLES if name in ALWAYS or f'"${name}"' in asked]
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        *(_labels(name, is_single=name in frame.single) for name in used),
        build.ConstantVariable("runbooks").value(runbooks),
    ]


def _targets(panel: Panel) -> Sequence[Any]:
    return panel.build().targets or []


def _labels(name: str, *, is_single: bool) -> build.QueryVariable:
    label, query = VARIABLES[name]
    variable = (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    if is_single:
        return variable.multi(False).include_all(False)
    everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
    return variable.multi(True).include_all(True).all_value(".+").current(everything)


def _others() -> build.DashboardLink:
    """The other dashboards, with what is chosen here."""
    return (
        build.DashboardLink("Flowrra")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )


# ── annotations ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Annotation:
    """What happened when, across all graphs.

    Attributes:
        name: What it is called at the top.
        color: Of its lines.
        expression: It happened where this has a value.
        formats: How Grafana's Prometheus data source words it.
    """

    name: str
    color: str
    expression: str
    formats: Mapping[str, Any]


_START = f"process_start_time_seconds{{{TARGET}}} and on (job, instance) {series(catalog.EXPORTER_INFO)}"
_VERSIONS = f"count by (version) ({series(catalog.BUILD_INFO)})"
_VERSIONS_BEFORE = f"count by (version) ({series(catalog.BUILD_INFO)} offset 5m)"

ANNOTATIONS = (
    Annotation(
        "Restarts",
        "yellow",
        f"({_START}) * 1000",
        # Its value is when it happened.
        {"titleFormat": "{{instance}} started", "tagKeys": "job", "useValueForTime": "on"},
    ),
    Annotation(
        "Deploys",
        "blue",
        f"{_VERSIONS} unless {_VERSIONS_BEFORE}",
        {"titleFormat": "flowrra {{version}} deployed", "tagKeys": "version"},
    ),
    Annotation(
        "Firing alerts",
        "red",
        'ALERTS{alertstate="firing",alertname=~"Flowrra.+"}',
        {
            "titleFormat": "{{alertname}}",
            "textFormat": "{{job}} {{instance}} {{executor}} {{queue}} {{task}}",
            "tagKeys": "alertname,severity",
        },
    ),
)


def _annotation(annotation: Annotation) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(annotation.name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(annotation.color)
        .expr(annotation.expression)
    )
