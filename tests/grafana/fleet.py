"""Exporters that say what a test writes, and tiles as Grafana shows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from tests.end_to_end.processes import Prometheus
from tests.grafana.dashboards import Panel, fill_in, panels

RATE_INTERVAL = "5s"
COLLECTORS = ("app", "executors", "queue", "workers", "tasks", "scheduler", "health", "runtime")
OBSERVING = ("app", "queue", "workers", "scheduler")
BOUNDS = ("0.1", "1.0", "+Inf")

Labels = tuple[tuple[str, str], ...]
# Values by metric and labels; a counter has its value at the start and what it grows by in a second.
Samples = dict[tuple[str, Labels], float | tuple[float, float]]


def labelled(name: str, **labels: str) -> tuple[str, Labels]:
    """A series."""
    return name, tuple(labels.items())


class Target:
    """An exporter that says what it is told to.

    Args:
        *parts: What it says.
    """

    def __init__(self, *parts: Samples) -> None:
        self.samples: Samples = {series: value for part in parts for series, value in part.items()}
        self._started = time.time()
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = target._text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "{}:{}".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _text(self) -> str:
        elapsed = time.time() - self._started
        lines = []
        for (name, labels), value in self.samples.items():
            now = value[0] + value[1] * elapsed if isinstance(value, tuple) else value
            written = ",".join(f'{label}="{text}"' for label, text in labels)
            lines.append(f"{name}{{{written}}} {now}\n")
        return "".join(lines)

    def kill(self) -> None:
        """Nobody answers there any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


# ── what exporters say ──────────────────────────────────────────────────────────────────────────────────────────


def exporter(mode: str = "command", collectors: Iterable[str] = COLLECTORS, failing: Iterable[str] = ()) -> Samples:
    """Of the exporter itself."""
    success = {labelled("flowrra_collector_success", collector=each): float(each not in failing) for each in collectors}
    return {
        labelled("flowrra_exporter_info", version="0.2.0", mode=mode): 1,
        labelled("flowrra_build_info", version="0.2.0", python_version="3.11.7"): 1,
        labelled("flowrra_exporter_series"): 100,
        labelled("flowrra_exporter_series_dropped"): 0,
        labelled("process_cpu_seconds_total"): (1, 0.1),
        labelled("process_resident_memory_bytes"): 5e7,
        labelled("process_start_time_seconds"): time.time(),
        **success,
    }


def app(healthy: bool = True) -> Samples:
    """Of an app that answers."""
    return {
        labelled("flowrra_app_running"): 1,
        labelled("flowrra_healthy"): float(healthy),
        labelled("flowrra_component_healthy", component="app"): 1,
        labelled("flowrra_executor_stuck", executor="io"): 0,
        labelled("flowrra_executor_workers", executor="io"): 4,
        labelled("flowrra_executor_busy_workers", executor="io"): 1,
        labelled("flowrra_event_loop_stalls_total"): (0, 0),
    }


def task(name: str, *, succeeds: float = 1.0, fails: float = 0.0) -> Samples:
    """Of one name: how many attempts succeed and fail in a second."""
    ends = {"started": succeeds + fails, "succeeded": succeeds, "failed": fails, "submitted": succeeds + fails}
    counters = {
        labelled(f"flowrra_tasks_{end}_total", task=name): (0.0, ends.get(end, 0.0))
        for end in ("started", "submitted", "succeeded", "failed", "retried", "cancelled", "released", "redelivered")
    }
    run = {
        labelled("flowrra_task_run_duration_seconds_bucket", task=name, outcome="success", le=bound): (0.0, succeeds)
        for bound in BOUNDS
    }
    return {
        **counters,
        **run,
        labelled("flowrra_task_run_duration_seconds_sum", task=name, outcome="success"): (0.0, succeeds * 0.05),
        labelled("flowrra_tasks_running", task=name): 1,
    }


def queue(server: str, pending: float, *, name: str = "default", namespace: str = "flowrra", dead: float = 0,
          oldest: float | None = None, broker: str = "") -> Samples:  # fmt: skip
    """Of a queue: at a server, or in memory if it is empty; or at a broker of that class."""
    at = {"executor": "io", "queue": name}
    broker = broker or ("RedisBroker" if server else "memory")
    samples: Samples = {
        labelled("flowrra_queue_info", **at, broker=broker, namespace=namespace, server=server): 1,
        labelled("flowrra_queue_pending_tasks", **at): pending,
        labelled("flowrra_queue_dead_tasks", **at): dead,
        labelled("flowrra_queue_paused", **at): 0,
    }
    if oldest is not None:
        samples[labelled("flowrra_queue_oldest_pending_timestamp_seconds", **at)] = time.time() - oldest
    return samples


def pool(name: str, *, busy: float) -> Samples:
    """Of a process with four slots that takes from one queue alone."""
    return {
        labelled("flowrra_executor_queue_info", executor="io", queue=name): 1,
        labelled("flowrra_executor_busy_workers", executor="io"): busy,
    }


def workers(count: float) -> Samples:
    """Of the processes that take tasks from the broker."""
    return {labelled("flowrra_worker_processes"): count}


def scheduler(store: str, *schedules: str, overdue: float = 0, enabled: float | None = None, running: float = 1,
              next_run: float = 60) -> Samples:  # fmt: skip
    """Of a store of schedules, each of which is due in a minute, or in so many seconds."""
    samples: Samples = {
        labelled("flowrra_scheduler_info", store=store): 1,
        labelled("flowrra_scheduler_running"): running,
        labelled("flowrra_scheduler_next_run_timestamp_seconds"): time.time() + next_run,
        labelled("flowrra_scheduler_overdue_schedules"): overdue,
        labelled("flowrra_scheduler_broken_schedules"): 0,
        labelled("flowrra_scheduler_schedules", state="enabled"): len(schedules) if enabled is None else enabled,
    }
    for each in schedules:
        at = {"schedule": each, "task": "report"}
        samples[labelled("flowrra_schedule_info", **at, description="nightly figures", runs="cron 0 3 * * *")] = 1
        samples[labelled("flowrra_schedule_next_run_timestamp_seconds", **at)] = time.time() + next_run
    return samples


# ── what Grafana shows ──────────────────────────────────────────────────────────────────────────────────────────


class Shown(NamedTuple):
    """A tile: its text as the panel words a value, or the value itself, and its colour."""

    text: str
    color: str


class Dashboard:
    """A dashboard as Grafana shows it of what is stored now.

    Args:
        prometheus: Where it is asked for.
        name: The name of its file, without the ending.
        **chosen: Regular expressions for variables; what isn't chosen is everything.
    """

    def __init__(self, prometheus: Prometheus, name: str, **chosen: str) -> None:
        self._prometheus = prometheus
        self._chosen = chosen
        self.panels = {
            panel.json["title"]: panel for panel in panels() if panel.where.startswith(f"flowrra-{name}.json:")
        }

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of a query as of now."""
        return self._prometheus.query(fill_in(query, rate_interval=RATE_INTERVAL, **self._chosen))

    def tile(self, title: str) -> Shown:
        """A tile."""
        panel = self.panels[title]
        assert panel.json["type"] == "stat"
        found = self.ask(panel.queries[0])
        defaults = panel.json["fieldConfig"]["defaults"]
        if not found:
            return Shown(defaults["noValue"], _special(defaults["mappings"]).get("color", ""))
        ((labels, value),) = found
        text, color = _worded(defaults, value)
        if panel.json["options"]["textMode"] == "name":
            legend: str = panel.json["targets"][0]["legendFormat"]
            for label in ("n", "m"):
                legend = legend.replace(f"{{{{{label}}}}}", labels.get(label, ""))
            text = legend.strip()
        return Shown(text, color)

    def tiles(self) -> dict[str, Shown]:
        """All tiles."""
        return {title: self.tile(title) for title, panel in self.panels.items() if panel.json["type"] == "stat"}

    def table(self, title: str, column: str) -> dict[tuple[str, ...], float]:
        """A column of a table, by the values of the labels that tell its rows apart."""
        panel = self.panels[title]
        names = panel.json["transformations"][1]["options"]["renameByName"]
        keys = [label for label in names if not label.startswith("Value #")]
        (letter,) = (label.removeprefix("Value #") for label, name in names.items() if name == column)
        (query,) = (target["expr"] for target in panel.json["targets"] if target["refId"] == letter)
        found = self.ask(query)
        rows = {tuple(labels.get(key, "") for key in keys): value for labels, value in found}
        assert len(rows) == len(found), "two rows that nothing tells apart"
        return rows

    def lines(self, title: str) -> list[tuple[dict[str, str], float]]:
        """The lines of a graph, where they end."""
        return [line for query in self.panels[title].queries for line in self.ask(query)]


def _worded(defaults: Mapping[str, Any], value: float) -> tuple[str, str]:
    for mapping in defaults.get("mappings", []):
        if mapping["type"] == "value" and (found := mapping["options"].get(f"{value:g}")):
            return found["text"], found["color"]
    steps = defaults["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return f"{value:g}", reached[-1]


def _special(mappings: list[dict[str, Any]]) -> Mapping[str, str]:
    found = [mapping["options"]["result"] for mapping in mappings if mapping["type"] == "special"]
    return found[0] if found else {}


def all_queries_of(panel: Panel) -> list[str]:
    """The queries of a panel as Prometheus gets them, with everything chosen."""
    return [fill_in(query, rate_interval=RATE_INTERVAL) for query in panel.queries]
