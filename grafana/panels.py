"""The building blocks of the dashboards: panels with title, description, unit and data source, and the variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model

from grafana.queries import TARGET

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
STAT_HEIGHT = 4


@dataclass(frozen=True)
class Query:
    """A query, and how its series are called in the legend."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Threshold:
    """From this value on, this colour."""

    value: float
    color: str


def figure(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    width: int,
    thresholds: Sequence[Threshold] = (),
    texts: dict[str, tuple[str, str]] | None = None,
    no_value: str = "none",
) -> stat.Panel:
    """One figure as it is now, over its course.

    Args:
        title, description: What it is, and what to make of it.
        query: What is shown.
        unit: One of Grafana's units.
        width: Of 24 columns.
        thresholds: Colours; green below the first.
        texts: Text and colour in place of a value.
        no_value: What is shown if there is nothing to show.
    """
    reduce = build_common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(STAT_HEIGHT)
        .no_value(no_value)
        .thresholds(_steps(thresholds))
        .reduce_options(reduce)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE if texts else common.BigValueGraphMode.AREA)
        .with_target(_target(query, "A"))
    )
    if texts:
        options = {value: model.ValueMappingResult(text=text, color=color) for value, (text, color) in texts.items()}
        panel.mappings([model.ValueMap(options=options)])
    return panel


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    width: int = 8,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
) -> timeseries.Panel:
    """Figures over time.

    Args:
        title, description: What they are, and what to make of them.
        *queries: What is shown.
        unit: One of Grafana's units.
        width: Of 24 columns.
        stacked: Whether they add up to something.
        least, most: Ends of the axis; None leaves them to the values.
    """
    legend = (
        build_common.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(HEIGHT)
        .legend(legend)
        .tooltip(tooltip)
        .line_width(1)
        .fill_opacity(20 if stacked else 5)
        .show_points(common.VisibilityMode.NEVER)
    )
    if stacked:
        panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    for query, letter in zip(queries, "ABCDEFGH", strict=False):
        panel.with_target(_target(query, letter))
    return panel


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(DATASOURCE).expr(query.expression).range().ref_id(letter)
    return target.legend_format(query.legend) if query.legend else target


def _steps(thresholds: Sequence[Threshold]) -> build.ThresholdsConfig:
    steps = [model.Threshold(value=None, color="green")]
    steps += [model.Threshold(value=threshold.value, color=threshold.color) for threshold in thresholds]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def variables() -> list[build.DatasourceVariable | build.QueryVariable]:
    """What can be chosen at the top: the data source, then jobs, instances and tasks, several or all."""
    everything = catalog.EXPORTER_INFO.name
    return [
        build.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        _labels_of("job", "Job", f"label_values({everything}, job)"),
        _labels_of("instance", "Instance", f'label_values({everything}{{job=~"$job"}}, instance)'),
        _labels_of("task", "Task", f"label_values({catalog.TASKS_RUNNING.name}{{{TARGET}}}, task)"),
    ]


def _labels_of(name: str, label: str, query: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
