"""The standard OTEL_* variables that are ours to read, and the flags that win over them.

What the OTLP exporters read themselves (headers, compression, certificates) is left to them:
https://opentelemetry.io/docs/specs/otel/protocol/exporter/. A variable with a value that makes no sense is
logged and ignored, as https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ asks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from flowrra_exporter.errors import quoted
from flowrra_exporter.settings import OTEL_PROTOCOLS, OTEL_TEMPORALITIES, Settings

logger = logging.getLogger(__name__)

Signal: TypeAlias = Literal["metrics", "traces"]

DEFAULT_INTERVAL = 60.0
DEFAULT_TIMEOUT = 10.0
_ENDPOINTS = {"http/protobuf": "http://localhost:4318", "grpc": "http://localhost:4317"}


class Environment:
    """The settings' flags over the environment's variables."""

    def __init__(self, settings: Settings, variables: Mapping[str, str]) -> None:
        self._settings = settings
        self._variables = variables
        self._ignored: set[str] = set()

    def metrics_on(self) -> bool:
        """Whether metrics are to be pushed: if the flag says so, or without one OTEL_METRICS_EXPORTER=otlp.

        OTEL_SDK_DISABLED and OTEL_METRICS_EXPORTER=none switch it off.
        """
        exporters = self._exporters("OTEL_METRICS_EXPORTER")
        wanted = self._settings.otel_metrics
        if not ("otlp" in exporters if wanted is None else wanted):
            return False
        if exporters == {"none"}:
            logger.warning("no metrics are pushed: OTEL_METRICS_EXPORTER is none")
            return False
        return not self._disabled("no metrics are pushed")

    def traces_on(self) -> bool:
        """Whether spans are to be made: if the flag says so, unless OTEL_SDK_DISABLED."""
        return self._settings.otel_traces and not self._disabled("no spans are made")

    def sends_spans(self) -> bool:
        """Whether the command may set a tracer provider of its own: unless OTEL_TRACES_EXPORTER is none."""
        return self._exporters("OTEL_TRACES_EXPORTER") != {"none"}

    def _disabled(self, effect: str) -> bool:
        disabled = self._variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        if disabled:
            logger.warning("%s: OTEL_SDK_DISABLED is true", effect)
        return disabled

    def _exporters(self, variable: str) -> frozenset[str]:
        names = self._variables.get(variable, "").lower().split(",")
        return frozenset(name.strip() for name in names if name.strip())

    def protocol(self, signal: Signal) -> str:
        """How to speak to the receiver: one of OTEL_PROTOCOLS."""
        variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        return self._settings.otel_protocol or self._choice(variables, OTEL_PROTOCOLS)

    def endpoint(self, signal: Signal) -> str:
        """The URL that the exporter sends to: with HTTP, the signal's own path."""
        protocol = self.protocol(signal)
        if self._settings.otel_endpoint is None:
            own = self._url(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
            if own:
                return own
        base = self._settings.otel_endpoint or self._url("OTEL_EXPORTER_OTLP_ENDPOINT") or _ENDPOINTS[protocol]
        path = f"/v1/{signal}"
        parts = urlsplit(base)
        if protocol == "grpc" or parts.path.endswith(path):
            return base
        return parts._replace(path=parts.path.rstrip("/") + path).geturl()

    def brings_session(self) -> bool:
        """Whether a plug-in of the SDK makes the HTTP session for metrics: then its answers can't be seen."""
        names = ("", "METRICS_")
        return any(self._variables.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{name}CREDENTIAL_PROVIDER") for name in names)

    def interval(self) -> float:
        """Seconds between two pushes."""
        if self._settings.otel_interval is not None:
            return self._settings.otel_interval
        return self._number("OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_INTERVAL * 1000, "milliseconds") / 1000

    def timeout(self, signal: Signal) -> float:
        """Seconds that one export may take, repeated attempts included.

        The variables are in seconds, as the Python SDK has it.
        """
        general = self._number("OTEL_EXPORTER_OTLP_TIMEOUT", DEFAULT_TIMEOUT, "seconds")
        return self._number(f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT", general, "seconds")

    def temporality(self) -> str:
        """Whether counts are sent as totals or as what was added since: one of OTEL_TEMPORALITIES."""
        variables = ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",)
        return self._settings.otel_temporality or self._choice(variables, OTEL_TEMPORALITIES)

    def _url(self, variable: str) -> str:
        """The variable's value; empty without one, and for what can't be read as a URL."""
        value = self._variables.get(variable, "").strip()
        try:
            urlsplit(value)
        except ValueError:
            self._ignore(variable, quoted(value), "a URL")
            return ""
        return value

    def _choice(self, variables: Sequence[str], choices: Sequence[str]) -> str:
        """The first variable's value that is a choice; else the first choice."""
        for variable in variables:
            value = self._variables.get(variable, "").strip().lower()
            if value in choices:
                return value
            if value:
                self._ignore(variable, f"{value!r:.200}", f"one of {', '.join(choices)}")
        return choices[0]

    def _number(self, variable: str, default: float, unit: str) -> float:
        text = self._variables.get(variable, "").strip()
        try:
            value = float(text or default)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > 0:
            return value
        self._ignore(variable, f"{text!r:.200}", f"a number of {unit} above 0")
        return default

    def _ignore(self, variable: str, got: str, expected: str) -> None:
        if variable not in self._ignored:
            self._ignored.add(variable)
            logger.warning("%s is ignored: got %s; expected %s", variable, got, expected)
