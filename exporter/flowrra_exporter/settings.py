"""Every setting: its flag, its environment variable, its default, and what counts as a valid value.

A flag wins over its variable, a variable over the configuration file, the file over the default. The variable of
``--web.listen-address`` is ``FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS``: dots and dashes become underscores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flowrra_exporter.errors import UsageError
from flowrra_exporter.urls import may_be_url, quoted

ENVIRONMENT_PREFIX = "FLOWRRA_EXPORTER_"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
OTEL_PROTOCOLS = ("http/protobuf", "grpc")
OTEL_TEMPORALITIES = ("cumulative", "delta", "lowmemory")
OTHER_PATHS = (
    *("/", "/livez", "/readyz", "/startupz", "/healthz"),
    *("/api/stats", "/api/health", "/api/tasks", "/api/queues", "/api/workers", "/api/task-stats", "/api/schedules"),
    "/api/failures",
)
_URL_FORM = "a URL such as 'http://collector:4318'"
_GRACE_FORM = "a number of seconds, 0 or more"
_COUNT_FORM = "a whole number above 0"
_PATH_FORM = "a path such as '/metrics' that no other route has"
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


DEFAULT_PORT = 9464


class Address(NamedTuple):
    """Where to listen. An empty host is every interface, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """The exporter's settings; times are in seconds. Raises UsageError for a value that makes no sense.

    The last four have no flag: `loop_deadline` is how long the app's event loop may be silent before a scrape
    goes on without it; `collect_timeout` the longest that a scrape waits for a source; `probe_timeout` the
    longest that a probe waits for the app's health check (the kubelet itself waits 1 s by default);
    `max_concurrent_scrapes` how many scrapes are answered at once, the rest gets 503.

    What is None of OpenTelemetry (`otel_…`) is left to the standard OTEL_* variables.
    """

    observe: bool = False
    web_listen_address: tuple[Address, ...] = (Address("", DEFAULT_PORT),)
    web_telemetry_path: str = "/metrics"
    web_config_file: Path | None = None
    web_api: bool = True
    web_show_task_data: bool = False
    max_series: int = 20_000
    collector_app: bool = True
    collector_executors: bool = True
    collector_queue: bool = True
    collector_workers: bool = True
    collector_registry: bool = True
    collector_tasks: bool = True
    collector_scheduler: bool = True
    collector_health: bool = True
    collector_runtime: bool = True
    collector_python: bool = True
    collector_python_timeout: float = 5.0
    histogram_run_duration_bounds: tuple[float, ...] | None = None
    histogram_queue_wait_bounds: tuple[float, ...] | None = None
    histogram_loop_lag_bounds: tuple[float, ...] | None = None
    log_level: str = "info"
    log_format: str = "text"
    shutdown_timeout: float = 30.0
    loop_block_threshold: float = 5.0
    probe_listen_address: tuple[Address, ...] = ()
    probe_failure_grace: float = 5.0
    probe_max_pending: int | None = None
    probe_max_queue_age: float | None = None
    probe_require_workers: bool = False
    debug: bool = False
    otel_metrics: bool | None = None
    otel_traces: bool = False
    otel_endpoint: str | None = None
    otel_protocol: str | None = None
    otel_interval: float | None = None
    otel_temporality: str | None = None
    loop_deadline: float = 0.1
    collect_timeout: float = 5.0
    probe_timeout: float = 0.8
    max_concurrent_scrapes: int = 40

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.type == "float" and item.name != "probe_failure_grace":
                _check_seconds(item.name, getattr(self, item.name))
        if not self.web_listen_address:
            raise UsageError("web_listen_address is empty; expected at least one address such as ':9464'")
        if self.max_concurrent_scrapes < 1:
            raise UsageError(f"max_concurrent_scrapes is {self.max_concurrent_scrapes}; expected at least 1")
        try:
            parse_path(self.web_telemetry_path)
        except ValueError:
            raise UsageError(f"web_telemetry_path is {self.web_telemetry_path!r}; expected {_PATH_FORM}") from None
        self._check_probes()
        self._check_otel()

    def _check_probes(self) -> None:
        if not (math.isfinite(self.probe_failure_grace) and self.probe_failure_grace >= 0):
            raise UsageError(f"probe_failure_grace is {self.probe_failure_grace!r}; expected {_GRACE_FORM}")
        if self.probe_max_pending is not None and self.probe_max_pending < 1:
            raise UsageError(f"probe_max_pending is {self.probe_max_pending!r}; expected {_COUNT_FORM}")
        if self.probe_max_queue_age is not None:
            _check_seconds("probe_max_queue_age", self.probe_max_queue_age)

    def collects(self, collector: str) -> bool:
        """Whether the collector of this name is switched on; one without a switch always is."""
        return bool(getattr(self, f"collector_{collector}", True))

    def _check_otel(self) -> None:
        if self.otel_interval is not None:
            _check_seconds("otel_interval", self.otel_interval)
        checks = (
            ("otel_endpoint", parse_url, _URL_FORM),
            ("otel_protocol", one_of(*OTEL_PROTOCOLS), f"one of {', '.join(OTEL_PROTOCOLS)}"),
            ("otel_temporality", one_of(*OTEL_TEMPORALITIES), f"one of {', '.join(OTEL_TEMPORALITIES)}"),
        )
        for name, parse, expected in checks:
            value = getattr(self, name)
            try:
                if value is not None:
                    parse(value)
            except ValueError:
                raise UsageError(f"{name} is {quoted(value)}; expected {expected}") from None


def _check_seconds(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} is {value!r}; expected a number of seconds above 0")


def parse_address(text: str) -> Address:
    """``:9464``, ``127.0.0.1:0``, ``localhost:9464`` or ``[::1]:9464`` as an Address;

    ValueError otherwise.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    elif ":" in host or "[" in host or "]" in host:
        raise ValueError(text)
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (bracketed and not host):
        raise ValueError(text)
    return Address(host, int(port))


def parse_path(text: str) -> str:
    """A path such as ``/metrics`` that no other route has; ValueError otherwise."""
    if not _PATH.fullmatch(text) or text in OTHER_PATHS:
        raise ValueError(text)
    return text


def parse_url(text: str) -> str:
    """A URL with http or https and a host; ValueError otherwise.

    With an ``@`` in its path, what looks like its host may well be a user, and the path a password.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(text)
    if parts.query or parts.fragment or "@" in parts.path:
        raise ValueError(text)
    _ = parts.port  # raises ValueError for one out of range
    return text


def parse_seconds(text: str) -> float:
    """A finite number above 0; ValueError otherwise."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def parse_grace(text: str) -> float:
    """A finite number, 0 or above; ValueError otherwise."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(text)
    return value


def parse_count(text: str) -> int:
    """A whole number above 0; ValueError otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) > 0):
        raise ValueError(text)
    return int(text)


def parse_bounds(text: str) -> tuple[float, ...]:
    """``0.1,1,10``: ascending, finite, above 0; ValueError otherwise."""
    bounds = tuple(map(float, text.split(",")))
    if not all(math.isfinite(bound) for bound in bounds) or any(b <= a for a, b in pairwise((0.0, *bounds))):
        raise ValueError(text)
    return bounds


def parse_flag(text: str) -> bool:
    """``true``, ``1``, ``yes``, ``on`` or their opposites, in any case; ValueError otherwise."""
    word = text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError(text)


def one_of(*words: str) -> Callable[[str], str]:
    """A parser that accepts these words, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return text.lower()

    return parse


@dataclass(frozen=True)
class Option:
    """How a field of Settings is given from outside.

    `expected` completes "expected …" in the error's text. A switch that is `negatable` is on by default; its
    flag has a second form with ``no-``, as in ``--no-web.api``.
    """

    flag: str
    parse: Callable[[str], Any]
    expected: str
    help: str
    metavar: str
    repeatable: bool = False
    switch: bool = False
    negatable: bool = False

    @property
    def name(self) -> str:
        """The field of Settings."""
        return self.flag.removeprefix("--").replace(".", "_").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    def value(self, given: Sequence[str], environment: Mapping[str, str]) -> Any:
        """The field's value from the flag, else from the variable;

        None if neither is given. Raises UsageError.
        """
        values = [self._parse(self.flag, text, text) for text in given] or self._from_variable(environment)
        if not values:
            return None
        return tuple(values) if self.repeatable else values[-1]

    def _from_variable(self, environment: Mapping[str, str]) -> list[Any]:
        whole = environment.get(self.variable, "").strip()
        texts = whole.replace(",", " ").split() if self.repeatable else [whole] if whole else []
        return [self._parse(self.variable, text, whole) for text in texts]

    def _parse(self, source: str, text: str, whole: str) -> Any:
        """The value of `text`, which is a part of what was given or all of it."""
        try:
            return self.parse(text)
        except ValueError:
            # A part of a URL doesn't look like one.
            shown = quoted(whole if may_be_url(whole) else text)
            raise UsageError(f"{source}: got {shown}; expected {self.expected}") from None


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


_ADDRESS_FORM = "host:port, such as ':9464', '127.0.0.1:9464' or '[::]:9464'"
_SECONDS_FORM = "a number of seconds above 0"
_BOUNDS_FORM = "numbers of seconds above 0 in ascending order, such as '0.1,1,10'"

COLLECTORS = {
    "app": "whether the app runs, and its versions",
    "executors": "executors and their slots",
    "queue": "the queues' depth and age",
    "workers": "the processes that take tasks from the broker",
    "registry": "how many tasks are registered, for apps that count nothing more",
    "tasks": "what became of the tasks, by name",
    "scheduler": "the scheduler, its schedules and their runs",
    "health": "the app's health by component",
    "runtime": "the app's event loop and errors",
    "python": "the process, Python, and what the program itself registered with prometheus_client",
}
"""The collectors that can be switched off, and what each serves."""

HISTOGRAMS = {
    "run-duration": "how long attempts ran",
    "queue-wait": "how long tasks waited",
    "loop-lag": "how late the event loop was",
}
"""The histograms whose bounds can be chosen."""

OPTIONS = (
    Option(
        "--observe",
        parse_flag,
        "true or false",
        "Don't run the app: serve what its processes share through the broker, beside them.",
        "",
        switch=True,
    ),
    Option(
        "--web.listen-address",
        parse_address,
        _ADDRESS_FORM,
        "Address to listen on; may be given several times. Port 0 takes a free one. [default: :9464]",
        "ADDRESS",
        repeatable=True,
    ),
    Option(
        "--web.telemetry-path",
        parse_path,
        _PATH_FORM,
        "Path of the metrics. [default: /metrics]",
        "PATH",
    ),
    Option(
        "--web.config.file",
        Path,
        "a path",
        "File with TLS, users, headers and a rate limit; see docs/security.md. [default: none]",
        "FILE",
    ),
    Option(
        "--web.api",
        parse_flag,
        "true or false",
        "Serve the read-only JSON API below /api. [default: yes]",
        "",
        switch=True,
        negatable=True,
    ),
    Option(
        "--web.show-task-data",
        parse_flag,
        "true or false",
        "Show arguments and error texts of failed tasks to clients that have authenticated.",
        "",
        switch=True,
    ),
    Option(
        "--max-series",
        parse_count,
        "a whole number above 0",
        'Most time series of all task names together; names beyond share task="__other__". [default: 20000]',
        "NUMBER",
    ),
    *(
        Option(
            f"--collector.{name}",
            parse_flag,
            "true or false",
            f"Serve {what}. [default: yes]",
            "",
            switch=True,
            negatable=True,
        )
        for name, what in COLLECTORS.items()
    ),
    Option(
        "--collector.python-timeout",
        parse_seconds,
        _SECONDS_FORM,
        "Longest that a scrape waits for a collector that the program registered. [default: 5]",
        "SECONDS",
    ),
    *(
        Option(
            f"--histogram.{name}-bounds",
            parse_bounds,
            _BOUNDS_FORM,
            f"Upper bounds of the buckets of {what}, in seconds. [default: see docs/metrics.md]",
            "SECONDS,…",
        )
        for name, what in HISTOGRAMS.items()
    ),
    Option(
        "--log.level",
        one_of(*LOG_LEVELS),
        f"one of {', '.join(LOG_LEVELS)}",
        f"Least severity to log: {_either(LOG_LEVELS)}. [default: info]",
        "LEVEL",
    ),
    Option(
        "--log.format",
        one_of(*LOG_FORMATS),
        "'text' or 'json'",
        f"Format of the log: {_either(LOG_FORMATS)}. [default: text]",
        "FORMAT",
    ),
    Option(
        "--shutdown.timeout",
        parse_seconds,
        _SECONDS_FORM,
        "Time for running tasks to finish after SIGTERM. [default: 30]",
        "SECONDS",
    ),
    Option(
        "--loop.block-threshold",
        parse_seconds,
        _SECONDS_FORM,
        "/livez fails once the app's event loop has been blocked this long. [default: 5]",
        "SECONDS",
    ),
    Option(
        "--probe.listen-address",
        parse_address,
        _ADDRESS_FORM,
        "Serve the probes, and nothing else, on this address too; may be given several times. [default: none]",
        "ADDRESS",
        repeatable=True,
    ),
    Option(
        "--probe.failure-grace",
        parse_grace,
        _GRACE_FORM,
        "/readyz fails once a component has failed this long, and recovers likewise. [default: 5]",
        "SECONDS",
    ),
    Option(
        "--probe.max-pending",
        parse_count,
        _COUNT_FORM,
        "/readyz fails while more tasks than that wait in a queue. [default: no limit]",
        "TASKS",
    ),
    Option(
        "--probe.max-queue-age",
        parse_seconds,
        _SECONDS_FORM,
        "/readyz fails while a task has waited longer than that. [default: no limit]",
        "SECONDS",
    ),
    Option(
        "--probe.require-workers",
        parse_flag,
        "true or false",
        "/readyz fails while no live process takes tasks from the broker.",
        "",
        switch=True,
    ),
    Option(
        "--otel.metrics",
        parse_flag,
        "true or false",
        "Push the metrics over OTLP, too. [default: if OTEL_METRICS_EXPORTER is otlp]",
        "",
        switch=True,
    ),
    Option("--otel.traces", parse_flag, "true or false", "Make OpenTelemetry spans of tasks.", "", switch=True),
    Option(
        "--otel.endpoint",
        parse_url,
        _URL_FORM,
        "OTLP receiver. [default: OTEL_EXPORTER_OTLP_ENDPOINT, or port 4318 (gRPC: 4317) of localhost]",
        "URL",
    ),
    Option(
        "--otel.protocol",
        one_of(*OTEL_PROTOCOLS),
        "'http/protobuf' or 'grpc'",
        f"Protocol of the OTLP receiver: {_either(OTEL_PROTOCOLS)}. [default: OTEL_EXPORTER_OTLP_PROTOCOL, or "
        "http/protobuf]",
        "PROTOCOL",
    ),
    Option(
        "--otel.interval",
        parse_seconds,
        _SECONDS_FORM,
        "Time between two pushes of the metrics. [default: OTEL_METRIC_EXPORT_INTERVAL, or 60]",
        "SECONDS",
    ),
    Option(
        "--otel.temporality",
        one_of(*OTEL_TEMPORALITIES),
        f"one of {', '.join(OTEL_TEMPORALITIES)}",
        f"Push totals, or what was added since the last push: {_either(OTEL_TEMPORALITIES)}. "
        "[default: OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, or cumulative]",
        "KIND",
    ),
    Option("--debug", parse_flag, "true or false", "Show tracebacks of errors.", "", switch=True),
)


def load_settings(
    given: Mapping[str, Sequence[str]], environment: Mapping[str, str], config_file: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from flags (`given`: an option's name to its texts), else environment, else `config_file` (its values
    by an option's name). Raises UsageError.
    """
    values = {option.name: option.value(given.get(option.name, ()), environment) for option in OPTIONS}
    return Settings(**{**(config_file or {}), **{name: value for name, value in values.items() if value is not None}})
