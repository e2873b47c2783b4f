"""Every setting, once: its type, its default, what counts as valid, its flag and its help.

A flag wins over its variable, a variable over the configuration file, the file over the default. The variable of
``--web.listen-address`` is ``FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS``: dots and dashes become underscores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flowrra_exporter.errors import UsageError
from flowrra_exporter.options import (
    ADDRESS,
    BOUNDS,
    COUNT,
    FILE,
    GRACE,
    PATH,
    PUBLIC_URL,
    SECONDS,
    SWITCH,
    URL,
    Address,
    Kind,
    Option,
    one_of,
)
from flowrra_exporter.paths import METRICS

__all__ = ["OPTIONS", "Address", "Settings", "load_settings"]

DEFAULT_PORT = 9464
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
OTEL_PROTOCOLS = ("http/protobuf", "grpc")
OTEL_TEMPORALITIES = ("cumulative", "delta", "lowmemory")


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _setting(
    default: Any, kind: Kind, flag: str = "", text: str = "", *, unset: str = "", repeatable: bool = False
) -> Any:
    """A field of Settings with its option. ``unset`` says what holds while the default is no value."""
    return field(default=default, metadata={"option": Option(flag, kind, text, default, unset, repeatable)})


@dataclass(frozen=True)
class Settings:
    """The exporter's settings; times are in seconds.

    What is None of OpenTelemetry (``otel_…``) is left to the standard OTEL_* variables.

    Attributes:
        loop_deadline: How long the app's event loop may be silent before a scrape goes on without it. Has no flag, as
            those that follow.
        collect_timeout: The longest that a scrape waits for a source.
        probe_timeout: The longest that a probe waits for the app's health check (the kubelet waits 1 s by default).
        max_concurrent_scrapes: How many scrapes are answered at once; the rest gets 503.

    Raises:
        UsageError: A value makes no sense.
    """

    observe: bool = _setting(
        False,
        SWITCH,
        "--observe",
        "Don't run the app: serve what its processes share through the broker, beside them.",
    )
    web_listen_address: tuple[Address, ...] = _setting(
        (Address("", DEFAULT_PORT),),
        ADDRESS,
        "--web.listen-address",
        "Address to listen on; may be given several times. Port 0 takes a free one.",
        repeatable=True,
    )
    web_telemetry_path: str = _setting(METRICS, PATH, "--web.telemetry-path", "Path of the metrics.")
    web_config_file: Path | None = _setting(  # noqa: RUF009 - it makes a field
        None,
        FILE,
        "--web.config.file",
        "File with TLS, users, headers and a rate limit; see docs/security.md.",
        unset="none",
    )
    web_console: bool = _setting(True, SWITCH, "--web.console", "Serve the console: pages for people.")
    web_api: bool = _setting(True, SWITCH, "--web.api", "Serve the JSON API below /api.")
    web_show_task_data: bool = _setting(
        False,
        SWITCH,
        "--web.show-task-data",
        "Show arguments and error texts of failed tasks to clients that have authenticated.",
    )
    web_actions: bool = _setting(
        False,
        SWITCH,
        "--web.actions",
        "Let clients that have authenticated cancel, retry, pause and so on: on the page and by the JSON API.",
    )
    web_external_url: str | None = _setting(
        None,
        PUBLIC_URL,
        "--web.external-url",
        "Where browsers find the page, if a proxy gives another Host: actions are taken from there, too.",
        unset="as the Host header says",
    )
    max_series: int = _setting(
        20_000,
        COUNT,
        "--max-series",
        'Most time series of all task names together; names beyond share task="__other__".',
    )
    collector_app: bool = _setting(True, SWITCH, "--collector.app", "Serve whether the app runs, and its versions.")
    collector_executors: bool = _setting(True, SWITCH, "--collector.executors", "Serve executors and their slots.")
    collector_queue: bool = _setting(True, SWITCH, "--collector.queue", "Serve the queues' depth and age.")
    collector_workers: bool = _setting(
        True, SWITCH, "--collector.workers", "Serve the processes that take tasks from the broker."
    )
    collector_registry: bool = _setting(
        True,
        SWITCH,
        "--collector.registry",
        "Serve how many tasks are registered, for apps that count nothing more.",
    )
    collector_tasks: bool = _setting(True, SWITCH, "--collector.tasks", "Serve what became of the tasks, by name.")
    collector_scheduler: bool = _setting(
        True, SWITCH, "--collector.scheduler", "Serve the scheduler, its schedules and their runs."
    )
    collector_health: bool = _setting(True, SWITCH, "--collector.health", "Serve the app's health by component.")
    collector_runtime: bool = _setting(True, SWITCH, "--collector.runtime", "Serve the app's event loop and errors.")
    collector_python: bool = _setting(
        True,
        SWITCH,
        "--collector.python",
        "Serve the process, Python, and what the program itself registered with prometheus_client.",
    )
    collector_python_timeout: float = _setting(
        5.0,
        SECONDS,
        "--collector.python-timeout",
        "Longest that a scrape waits for a collector that the program registered.",
    )
    histogram_run_duration_bounds: tuple[float, ...] | None = _setting(
        None,
        BOUNDS,
        "--histogram.run-duration-bounds",
        "Upper bounds of the buckets of how long attempts ran, in seconds.",
        unset="see docs/metrics.md",
    )
    histogram_queue_wait_bounds: tuple[float, ...] | None = _setting(
        None,
        BOUNDS,
        "--histogram.queue-wait-bounds",
        "Upper bounds of the buckets of how long tasks waited, in seconds.",
        unset="see docs/metrics.md",
    )
    histogram_loop_lag_bounds: tuple[float, ...] | None = _setting(
        None,
        BOUNDS,
        "--histogram.loop-lag-bounds",
        "Upper bounds of the buckets of how late the event loop was, in seconds.",
        unset="see docs/metrics.md",
    )
    log_level: str = _setting(
        "info", one_of(LOG_LEVELS, "LEVEL"), "--log.level", f"Least severity to log: {_either(LOG_LEVELS)}."
    )
    log_format: str = _setting(
        "text", one_of(LOG_FORMATS, "FORMAT"), "--log.format", f"Format of the log: {_either(LOG_FORMATS)}."
    )
    shutdown_timeout: float = _setting(
        30.0, SECONDS, "--shutdown.timeout", "Time for running tasks to finish after SIGTERM."
    )
    loop_block_threshold: float = _setting(
        5.0,
        SECONDS,
        "--loop.block-threshold",
        "/livez fails once the app's event loop has been blocked this long.",
    )
    probe_listen_address: tuple[Address, ...] = _setting(
        (),
        ADDRESS,
        "--probe.listen-address",
        "Serve the probes, and nothing else, on this address too; may be given several times.",
        unset="none",
        repeatable=True,
    )
    probe_failure_grace: float = _setting(
        5.0,
        GRACE,
        "--probe.failure-grace",
        "/readyz fails once a component has failed this long, and recovers likewise.",
    )
    probe_max_pending: int | None = _setting(
        None,
        COUNT._replace(metavar="TASKS"),
        "--probe.max-pending",
        "/readyz fails while more tasks than that wait in a queue.",
        unset="no limit",
    )
    probe_max_queue_age: float | None = _setting(
        None,
        SECONDS,
        "--probe.max-queue-age",
        "/readyz fails while a task has waited longer than that.",
        unset="no limit",
    )
    probe_require_workers: bool = _setting(
        False,
        SWITCH,
        "--probe.require-workers",
        "/readyz fails while no live process takes tasks from the broker.",
    )
    probe_fail_when_stuck: bool = _setting(
        False,
        SWITCH,
        "--probe.fail-when-stuck",
        "/livez fails while an executor is stuck: tasks that hang hold all its slots.",
    )
    otel_metrics: bool | None = _setting(
        None,
        SWITCH,
        "--otel.metrics",
        "Push the metrics over OTLP, too.",
        unset="if OTEL_METRICS_EXPORTER is otlp",
    )
    otel_traces: bool = _setting(False, SWITCH, "--otel.traces", "Make OpenTelemetry spans of tasks.")
    otel_endpoint: str | None = _setting(
        None,
        URL,
        "--otel.endpoint",
        "OTLP receiver.",
        unset="OTEL_EXPORTER_OTLP_ENDPOINT, or port 4318 (gRPC: 4317) of localhost",
    )
    otel_protocol: str | None = _setting(
        None,
        one_of(OTEL_PROTOCOLS, "PROTOCOL"),
        "--otel.protocol",
        f"Protocol of the OTLP receiver: {_either(OTEL_PROTOCOLS)}.",
        unset=f"OTEL_EXPORTER_OTLP_PROTOCOL, or {OTEL_PROTOCOLS[0]}",
    )
    otel_interval: float | None = _setting(
        None,
        SECONDS,
        "--otel.interval",
        "Time between two pushes of the metrics.",
        unset="OTEL_METRIC_EXPORT_INTERVAL, or 60",
    )
    otel_temporality: str | None = _setting(
        None,
        one_of(OTEL_TEMPORALITIES, "KIND"),
        "--otel.temporality",
        f"Push totals, or what was added since the last push: {_either(OTEL_TEMPORALITIES)}.",
        unset=f"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, or {OTEL_TEMPORALITIES[0]}",
    )
    debug: bool = _setting(False, SWITCH, "--debug", "Show tracebacks of errors.")
    loop_deadline: float = _setting(0.1, SECONDS)
    collect_timeout: float = _setting(5.0, SECONDS)
    probe_timeout: float = _setting(0.8, SECONDS)
    max_concurrent_scrapes: int = _setting(40, COUNT)

    def __post_init__(self) -> None:
        for item in fields(self):
            refusal = item.metadata["option"].refusal(getattr(self, item.name))
            if refusal is not None:
                raise UsageError(f"{item.name} {refusal}")
        if not self.web_listen_address:
            raise UsageError("web_listen_address is empty; expected at least one address such as ':9464'")

    def collects(self, collector: str) -> bool:
        """Whether the collector of this name is switched on; one without a switch always is."""
        return bool(getattr(self, f"collector_{collector}", True))


OPTIONS: tuple[Option, ...] = tuple(option for item in fields(Settings) if (option := item.metadata["option"]).flag)


def load_settings(
    given: Mapping[str, Sequence[str]], environment: Mapping[str, str], config_file: Mapping[str, Any] | None = None
) -> Settings:
    """The settings that are in force.

    Args:
        given: The texts of flags, by the option's name.
        environment: The environment variables.
        config_file: The values of a configuration file, by the option's name.

    Raises:
        UsageError: A value makes no sense. The message names the flag or variable.
    """
    values = {option.name: option.value(given.get(option.name, ()), environment) for option in OPTIONS}
    return Settings(**{**(config_file or {}), **{name: value for name, value in values.items() if value is not None}})
