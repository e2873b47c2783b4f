"""The settings: every flag, variable and key of the configuration file, not just the first that is wrong."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flowrra_exporter.check_command.findings import Finding, error, ok, warning
from flowrra_exporter.config_file import CONFIG_FILE, VARIABLES, ConfigFile, read_config_file
from flowrra_exporter.errors import UsageError
from flowrra_exporter.options import unknown_variable, unknown_variables
from flowrra_exporter.otel.environment import Environment
from flowrra_exporter.settings import OPTIONS, Address, Settings
from flowrra_exporter.web.access.sockets import bind
from flowrra_exporter.web.access.web_config import WebConfig, flags_without_authentication, load_web_config

_SUBJECT = "configuration"
_OTLP_MODULES = {
    "http/protobuf": ("opentelemetry.exporter.otlp.proto.http", "exporter"),
    "grpc": ("opentelemetry.exporter.otlp.proto.grpc", "otel-grpc"),
}


class ConfigurationCheck:
    """Checks the settings.

    Args:
        given: The texts of each flag.
        environment: The environment variables.
        binds: Whether the addresses can be listened on is checked, too.

    Attributes:
        settings: Those in force after ``findings``; a wrong one has its default.
    """

    def __init__(self, given: Mapping[str, Sequence[str]], environment: Mapping[str, str], binds: bool) -> None:
        self._given = given
        self._environment = environment
        self._binds = binds
        self.settings = Settings()

    def findings(self) -> Iterator[Finding]:
        """What is right and wrong with the settings."""
        path = CONFIG_FILE.value(self._given[CONFIG_FILE.name], self._environment)
        file = read_config_file(path) if path else None
        values = dict(file.values) if file else {}
        mistakes = list(file.mistakes) if file else []
        for option in OPTIONS:
            try:
                value = option.value(self._given.get(option.name, ()), self._environment)
            except UsageError as mistake:
                mistakes.append(str(mistake))
            else:
                values.update({} if value is None else {option.name: value})
        yield from (error(_SUBJECT, mistake) for mistake in mistakes)
        yield from self._unknown_variables()
        yield from self._together(values, file, not mistakes)

    def _unknown_variables(self) -> Iterator[Finding]:
        for name in unknown_variables(self._environment, VARIABLES):
            yield error(_SUBJECT, unknown_variable(name, VARIABLES))

    def _together(self, values: Mapping[str, Any], file: ConfigFile | None, valid: bool) -> Iterator[Finding]:
        try:
            self.settings = Settings(**values)
        except UsageError as mistake:
            yield error(_SUBJECT, str(mistake))
            return
        if file is not None and not file.mistakes:
            yield ok(_SUBJECT, f"{file.path} is read: settings in it: {len(file.values)}")
        if valid:
            yield ok(_SUBJECT, f"settings given, all valid: {len(values)}; the others have their defaults")
        yield from _web_config(self.settings)
        if self._binds:
            for address in self.settings.web_listen_address:
                yield _listening(address, "--web.listen-address")
            for address in self.settings.probe_listen_address:
                yield _listening(address, "--probe.listen-address")
        yield from self._otlp(self.settings)

    def _otlp(self, settings: Settings) -> Iterator[Finding]:
        environment = Environment(settings, self._environment)
        signals = [("metrics", environment.metrics_on()), ("traces", environment.traces_on())]
        for protocol in sorted({environment.protocol(signal) for signal, on in signals if on}):  # type: ignore[arg-type]
            module, extra = _OTLP_MODULES[protocol]
            if _is_installed(module):
                yield ok(_SUBJECT, f"OTLP over {protocol} is installed")
            else:
                yield error(_SUBJECT, f"OTLP over {protocol} needs: pip install 'flowrra[{extra}]'")


def _web_config(settings: Settings) -> Iterator[Finding]:
    config = WebConfig()
    if settings.web_config_file is not None:
        try:
            config = load_web_config(settings.web_config_file)
        except UsageError as mistake:
            yield error(_SUBJECT, str(mistake))
            return
        yield ok(_SUBJECT, f"{settings.web_config_file} is in order, and so is what it names")
    for flag in flags_without_authentication(settings, config):
        yield error(_SUBJECT, f"{flag} is for clients that have authenticated")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _listening(address: Address, flag: str) -> Finding:
    """Whether the address could be listened on. One in use may well be that of the exporter that is running."""
    try:
        socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as failure:
        return error(_SUBJECT, f"cannot listen on {address}: {getattr(failure, 'strerror', None) or failure}")
    try:
        for bound in bind([address], flag):
            bound.close()
    except UsageError as failure:
        return warning(_SUBJECT, f"{failure} (at the moment)")
    return ok(_SUBJECT, f"{address} can be listened on")
