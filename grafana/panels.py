"""The building blocks of the dashboards: tiles, graphs, heatmaps and tables, each with title, description and unit.

Tiles and tables tell what is now: their queries are instant ones, and what can't be scraped has no value in them.
Graphs tell what was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap as build_heatmap
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders import table as build_table
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heatmap_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.prometheus.names import DASHBOARDS
from grafana.colors import BAD, GOOD, UNKNOWN, WARNING
from grafana.queries import NOTHING

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
NO_ANSWER = "no answer"
TILE_HEIGHT = 3
# A number of things, in full.
COUNT = units.LocaleFormat
HEIGHT = 7
# Queries of a panel are called by a letter.
LETTERS = "ABCDEFGHIJKLMNOP"

Panel = stat.Panel | timeseries.Panel | build_heatmap.Panel | build_table.Panel


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


@dataclass(frozen=True)
class Text:
    """What stands in place of a value, and its colour."""

    text: str
    color: str


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        expression: An instant query whose labels say in which row a value belongs.
        unit: One of Grafana's units.
        thresholds: Colours; none below the first.
        texts: What stands in place of a value.
        width: In pixels; None leaves it to the table.
    """

    name: str
    expression: str
    unit: str = COUNT
    thresholds: Sequence[Threshold] = ()
    texts: Mapping[str, Text] | None = None
    width: int | None = None


def from_bad(value: float) -> list[Threshold]:
    """Bad from there on."""
    return [Threshold(value, BAD)]


def from_warning_and_bad(warning: float, bad: float) -> list[Threshold]:
    """Worth a look from the first on, bad from the second on."""
    return [Threshold(warning, WARNING), Threshold(bad, BAD)]


NONE: Mapping[str, Text] = {"0": Text("none", GOOD)}


# ── tiles ───────────────────────────────────────────────────────────────────────────────────────────────────────


def figure(
    title: str,
    description: str,
    expression: str,
    *,
    unit: str = units.Short,
    width: int = 4,
    base: str = GOOD,
    thresholds: Sequence[Threshold] = (),
    texts: Mapping[str, Text] | None = None,
    links: Sequence[build.DashboardLink] = (),
) -> stat.Panel:
    """One figure as it is now, on its colour; grey, and saying so, while there is no answer.

    Args:
        title, description: What it is, and what to make of it.
        expression: What is shown.
        unit: One of Grafana's units.
        width: Of 24 columns.
        base: The colour below the first threshold.
        thresholds: Colours from a value on.
        texts: Text and colour in place of a value.
        links: Where a click leads to, and what to do about it.
    """
    panel = _tile(title, description, Query(expression), unit, width, links)
    options = {
        value: model.ValueMappingResult(text=each.text, color=each.color) for value, each in (texts or {}).items()
    }
    nothing = model.ValueMappingResult(text=NO_ANSWER, color=UNKNOWN)
    special = model.DashboardSpecialValueMapOptions(match=model.SpecialValueMatch.NULL_AND_NAN, result=nothing)
    return (
        panel.text_mode(common.BigValueTextMode.VALUE)
        .thresholds(_steps(base, thresholds))
        .mappings([*([model.ValueMap(options=options)] if options else []), model.SpecialValueMap(options=special)])
    )


def how_many(
    title: str, description: str, expression: str, *, width: int = 4, links: Sequence[build.DashboardLink] = ()
) -> stat.Panel:
    """How many of how many are well: bad as soon as one isn't, grey if there are none.

    Args:
        title, description, width, links: As of ``figure``.
        expression: By ``grafana.queries.n_of_m``.
    """
    panel = _tile(title, description, Query(expression, "{{n}} {{m}}"), units.Short, width, links)
    steps = [Threshold(NOTHING / 10, BAD), Threshold(0, GOOD)]
    return panel.text_mode(common.BigValueTextMode.NAME).thresholds(_steps(UNKNOWN, steps))


def _tile(
    title: str, description: str, query: Query, unit: str, width: int, links: Sequence[build.DashboardLink]
) -> stat.Panel:
    reduce = build_common.ReduceDataOptions().calcs(["last"]).fields("").values(False)
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(width)
        .height(TILE_HEIGHT)
        .no_value(NO_ANSWER)
        .reduce_options(reduce)
        .color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
        .graph_mode(common.BigValueGraphMode.NONE)
        .justify_mode(common.BigValueJustifyMode.CENTER)
        .links(list(links))
        .with_target(_target(query, LETTERS[0]).instant())
    )


# ── graphs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = units.Short,
    width: int = 8,
    stacked: bool = False,
    least: float | None = 0,
    most: float | None = None,
    colors: Mapping[str, str] | None = None,
    thresholds: Sequence[Threshold] = (),
    exemplars: bool = False,
    links: Sequence[build.DashboardLink] = (),
) -> timeseries.Panel:
    """Figures over time.

    Args:
        title, description: What they are, and what to make of them.
        *queries: What is shown.
        unit: One of Grafana's units.
        width: Of 24 columns.
        stacked: Whether they add up to something.
        least, most: Ends of the axis; None leaves them to the values.
        colors: Of lines, by their names in the legend.
        thresholds: Lines across, at what is worth a look or bad.
        exemplars: Whether traces are shown as dots, where there are some.
        links: Where more is to be found, and what to do about it.
    """
    legend = (
        build_common.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["last"])
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
        .fill_opacity(40 if stacked else 5)
        .show_points(common.VisibilityMode.AUTO)
        .span_nulls(False)
        .links(list(links))
    )
    if stacked:
        panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if least is not None:
        panel.min(least)
    if most is not None:
        panel.max(most)
    if thresholds:
        panel.thresholds(_steps("transparent", thresholds))
        panel.thresholds_style(build_common.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_fixed(color)])
    for query, letter in zip(queries, LETTERS, strict=False):
        target = _target(query, letter).range()
        panel.with_target(target.exemplar(True) if exemplars else target)
    return panel


def heatmap(title: str, description: str, expression: str, *, width: int = 12) -> build_heatmap.Panel:
    """How the observations of a histogram lie, over time; traces are shown as dots, where there are some.

    Args:
        title, description: What they are, and what to make of them.
        expression: How many fell into each bucket, by ``le``.
        width: Of 24 columns.
    """
    color = (
        build_heatmap.HeatmapColorOptions()
        .mode(heatmap_model.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heatmap_model.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    target = _target(Query(expression, "{{le}}"), LETTERS[0]).range().format(PromQueryFormat.HEATMAP).exemplar(True)
    return (
        build_heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(units.Seconds)
        .span(width)
        .height(HEIGHT + 1)
        .calculate(False)
        .color(color)
        .y_axis(build_heatmap.YAxisConfig().unit(units.Seconds))
        .filter_values(build_heatmap.FilterValueRange().le(1e-9))
        .with_target(target)
    )


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def table(
    title: str,
    description: str,
    keys: Mapping[str, str],
    *columns: Column,
    worst: Sequence[str],
    ascending: bool = False,
    width: int = 24,
    height: int = HEIGHT + 1,
    hidden: Sequence[str] = (),
    key_links: Mapping[str, build.DashboardLink] | None = None,
    links: Sequence[build.DashboardLink] = (),
) -> build_table.Panel:
    """What there is now, row by row, the worst first.

    Args:
        title, description: What it is, and what to make of it.
        keys: Labels by which rows are told apart, and their headings.
        *columns: The figures.
        worst: The headings of the columns that the rows are sorted by.
        ascending: Whether the least of them is the worst.
        width: Of 24 columns.
        height: In rows of the grid.
        hidden: Labels that tell rows apart and say nothing to people.
        key_links: Where a click on a key leads to, by heading.
        links: What to do about it.
    """
    values = {f"Value #{letter}": column.name for column, letter in zip(columns, LETTERS, strict=False)}
    order = {name: index for index, name in enumerate([*keys, *values])}
    excluded = dict.fromkeys(["Time", *hidden], True)
    organize = {"excludeByName": excluded, "indexByName": order, "renameByName": {**keys, **values}}
    panel = (
        build_table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(units.Short)
        .span(width)
        .height(height)
        .no_value("")
        .min_width(70)
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(model.DataTransformerConfig(id_val="organize", options=organize))
        .sort_by([build_common.TableSortByFieldState().display_name(name).desc(not ascending) for name in worst])
        .links(list(links))
    )
    for column, letter in zip(columns, LETTERS, strict=False):
        panel.with_target(_target(Query(column.expression), letter).instant().format(PromQueryFormat.TABLE))
        panel.override_by_name(column.name, _of_column(column))
    for heading, link in (key_links or {}).items():
        panel.override_by_name(heading, [model.DynamicConfigValue("links", [link.build()])])
    return panel


def _of_column(column: Column) -> list[model.DynamicConfigValue]:
    found = [model.DynamicConfigValue("unit", column.unit)]
    if column.unit == COUNT:
        found.append(model.DynamicConfigValue("decimals", 0))
    if column.thresholds or column.texts:
        found.append(model.DynamicConfigValue("thresholds", _steps("transparent", column.thresholds).build()))
        found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
    if column.texts:
        options = {
            value: model.ValueMappingResult(text=each.text, color=each.color) for value, each in column.texts.items()
        }
        found.append(model.DynamicConfigValue("mappings", [model.ValueMap(options=options)]))
    if column.width is not None:
        found.append(model.DynamicConfigValue("custom.width", column.width))
    return found


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────


def runbook(alert: str) -> build.DashboardLink:
    """What to do about it."""
    return build.DashboardLink(f"Runbook: {alert}").type(model.DashboardLinkType.LINK).url(f"${{runbooks}}/{alert}.md")


def to_dashboard(title: str, uid: str, *chosen: str) -> build.DashboardLink:
    """Another dashboard with the same targets and time, and with values of what is clicked at.

    Args:
        title: Of the link.
        uid: Of the dashboard.
        *chosen: Such as ``var-task=${__value.raw}``.
    """
    kept = ["${datasource:queryparam}", "${job:queryparam}", "${instance:queryparam}", "${__url_time_range}"]
    url = f"{DASHBOARDS}/{uid}?{'&'.join([*kept, *chosen])}"
    return build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url)


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().datasource(DATASOURCE).expr(query.expression).ref_id(letter)
    return target.legend_format(query.legend) if query.legend else target


def _steps(base: str, thresholds: Sequence[Threshold]) -> build.ThresholdsConfig:
    steps = [model.Threshold(value=None, color=base)]
    steps += [model.Threshold(value=threshold.value, color=threshold.color) for threshold in thresholds]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _fixed(color: str) -> model.DynamicConfigValue:
    return model.DynamicConfigValue("color", model.FieldColor(mode=model.FieldColorModeId.FIXED, fixed_color=color))
