"""The exporter and the event loop: whether what is shown elsewhere can be relied on, and what holds an app up."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from grafana_foundation_sdk.models import units

from grafana import limits
from grafana import queries as q
from grafana.colors import BAD, WARNING
from grafana.frame import Frame
from grafana.panels import NONE, Column, Panel, Query, Threshold, figure, graph, how_many, runbook, table

BY_PROCESS = ("job", "instance")
PROCESS_LEGEND = "{{job}} {{instance}}"


def now() -> list[Panel]:
    """Whether the figures can be relied on."""
    targets = q.targets()
    stalls = q.of_range(q.increase(catalog.EVENT_LOOP_STALLS, within=q.WHOLE))
    success = q.series(catalog.COLLECTOR_SUCCESS)
    return [
        how_many(
            "Targets up",
            "Exporters that Prometheus could scrape just now.",
            q.n_of_m(f"sum({targets})", f"count({targets})", "none"),
            links=[runbook("FlowrraTargetDown"), runbook("FlowrraTargetsMissing")],
        ),
        figure(
            "Event loops blocked",
            "Apps that don't answer, though their exporter does: something holds their event loop.",
            q.or_none(f"count({q.blocked()})", q.series(catalog.HEALTHY)),
            thresholds=limits.ANY,
            texts=NONE,
            links=[runbook("FlowrraEventLoopBlocked")],
        ),
        figure(
            "Stalls",
            "Times in the range shown that something blocked an event loop for more than a second.",
            stalls,
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            links=[runbook("FlowrraEventLoopStalls")],
        ),
        figure(
            "Collectors failing",
            "Sources that a scrape could not have in time; their figures are absent.",
            q.or_none(f"count({success} == 0)", success),
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            links=[runbook("FlowrraCollectorFailing")],
        ),
        figure(
            "Series left out",
            "Time series that scrapes were without: there are too many, or a registered metric can't be served.",
            q.total(catalog.EXPORTER_SERIES_DROPPED),
            thresholds=[Threshold(1, WARNING)],
            texts=NONE,
            links=[runbook("FlowrraSeriesDropped")],
        ),
        figure(
            "Versions",
            "How many versions of flowrra run. Two of them for longer than a deploy takes is one too many.",
            f"count(count by (version) ({q.series(catalog.BUILD_INFO)}))",
            thresholds=[Threshold(2, WARNING)],
        ),
    ]


def by_process() -> list[Panel]:
    """All exporters, those that are down first."""
    by = ", ".join(BY_PROCESS)
    loop = f"(0 * {q.blocked()} or 0 * {q.series(catalog.HEALTHY)} + 1)"
    return [
        table(
            "Targets",
            "Each exporter: those that are down first. An observer has no app of its own.",
            {"job": "Job", "instance": "Instance", "mode": "Mode"},
            Column("Target", _by_mode(f"max by ({by}) {q.targets()}"), texts=limits.DOWN_OR_UP, width=80),
            Column("App", _by_mode(q.least(catalog.HEALTHY, *BY_PROCESS)), texts=limits.UNHEALTHY_OR_HEALTHY, width=90),
            Column("Event loop", _by_mode(f"min by ({by}) {loop}"), texts=limits.BLOCKED_OR_TURNING, width=90),
            Column(
                "Collectors failing",
                _by_mode(f"sum by ({by}) (1 - {q.series(catalog.COLLECTOR_SUCCESS)})"),
                thresholds=[Threshold(1, WARNING)],
            ),
            Column("Scrape", _by_mode(q.most("scrape_duration_seconds", *BY_PROCESS)), units.Seconds),
            Column("Series", _by_mode(q.total(catalog.EXPORTER_SERIES, *BY_PROCESS))),
            Column("Left out", _by_mode(q.total(catalog.EXPORTER_SERIES_DROPPED, *BY_PROCESS)), thresholds=limits.ANY),
            Column(
                "Started",
                _by_mode(f"time() - max by ({by}) {q.of_exporters('process_start_time_seconds')}"),
                units.Seconds,
            ),
            worst=["Target", "App"],
            ascending=True,
        )
    ]


def _by_mode(figure: str) -> str:
    """With the mode of the exporter, as it is or was last known; without, if it was never reached."""
    mode = f"max by (job, instance, mode) (last_over_time({q.series(catalog.EXPORTER_INFO)}[{q.REMEMBERED}]))"
    known = f"({figure}) * on (job, instance) group_left (mode) topk by (job, instance) (1, {mode})"
    return f"{known} or on (job, instance) ({figure})"


def event_loop() -> list[Panel]:
    """What holds the app up."""
    lag = catalog.EVENT_LOOP_LAG
    return [
        graph(
            "Event loop lag, 99th percentile",
            "How late the app's event loop ran a timer. Above some tens of milliseconds a task blocks the loop: a "
            "call that isn't awaited, or a long computation. Nothing while it is blocked altogether.",
            Query(q.quantile(0.99, lag, by=BY_PROCESS), PROCESS_LEGEND),
            unit=units.Seconds,
            thresholds=limits.LOOP_LAG,
            links=[runbook("FlowrraEventLoopStalls")],
        ),
        graph(
            "Event loop stalls",
            "Times that something blocked the app's event loop for more than a second.",
            Query(q.increase(catalog.EVENT_LOOP_STALLS, *BY_PROCESS), PROCESS_LEGEND),
            links=[runbook("FlowrraEventLoopStalls")],
        ),
        graph(
            "Components",
            "1 while a component is healthy in every process.",
            Query(q.least(catalog.COMPONENT_HEALTHY, "component"), "{{component}}"),
            unit=units.BoolYesNo,
            most=1,
        ),
        graph(
            "CPU",
            "Cores that a process uses. Near 1 its event loop has no room left.",
            Query(f"sum by (job, instance) ({_cpu()})", PROCESS_LEGEND),
        ),
        graph(
            "Memory",
            "Resident memory of a process.",
            Query(f"sum by (job, instance) {q.of_exporters('process_resident_memory_bytes')}", PROCESS_LEGEND),
            unit=units.BytesIEC,
        ),
        graph(
            "Event subscribers, watchers",
            "Events that subscribers failed on or were too slow for, and how many watch tasks change.",
            Query(q.increase(catalog.EVENT_SUBSCRIBER_ERRORS), "failed"),
            Query(q.increase(catalog.EVENT_SUBSCRIBER_DROPPED), "dropped"),
            Query(q.total(catalog.WATCHERS), "watchers"),
            colors={"failed": BAD, "dropped": WARNING},
        ),
    ]


def _cpu() -> str:
    used = f"rate({q.series('process_cpu_seconds_total')}{q.AROUND})"
    return f"{used} and on (job, instance) {q.series(catalog.EXPORTER_INFO)}"


def exporter() -> list[Panel]:
    """The exporter itself."""
    return [
        graph(
            "Collectors",
            "1 while a collector has its figures in every process; otherwise its metrics are absent.",
            Query(q.least(catalog.COLLECTOR_SUCCESS, "collector"), "{{collector}}"),
            unit=units.BoolYesNo,
            most=1,
            links=[runbook("FlowrraCollectorFailing")],
        ),
        graph(
            "Time to collect, by collector",
            "How long the slowest process took to collect.",
            Query(q.most(catalog.COLLECTOR_DURATION, "collector"), "{{collector}}"),
            unit=units.Seconds,
        ),
        graph(
            "Time to scrape",
            "How long Prometheus took to scrape.",
            Query(f"max by (job, instance) {q.of_exporters('scrape_duration_seconds')}", PROCESS_LEGEND),
            unit=units.Seconds,
        ),
        graph(
            "Time series",
            "Time series of a scrape, and those left out of it.",
            Query(q.total(catalog.EXPORTER_SERIES, *BY_PROCESS), f"{PROCESS_LEGEND}: served"),
            Query(q.total(catalog.EXPORTER_SERIES_DROPPED, *BY_PROCESS), f"{PROCESS_LEGEND}: left out"),
            links=[runbook("FlowrraSeriesDropped")],
        ),
        graph(
            "Registered collectors",
            "1 while what your program registered is collected in time; otherwise its metrics are absent.",
            Query(q.least(catalog.REGISTERED_SUCCESS, "collector"), "{{collector}}"),
            unit=units.BoolYesNo,
            most=1,
        ),
        graph(
            "Failures beside serving",
            "What the exporter does beside serving and tries again, log records that nobody took, pushes over OTLP.",
            Query(q.increase(catalog.BACKGROUND_ERRORS, "work"), "{{work}}"),
            Query(q.increase(catalog.LOG_RECORDS_DROPPED), "log records"),
            Query(q.increase(catalog.OTEL_EXPORTS, "result"), "push: {{result}}"),
        ),
    ]


FRAME = Frame(
    "flowrra-exporter",
    "Exporter and event loop",
    "Whether what the other dashboards show can be relied on, and what holds an app up.",
    {"": [*now(), *by_process()], "Event loop and process": event_loop(), "Exporter": exporter()},
)
