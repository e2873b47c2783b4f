"""One run of the check: what it looks at, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from flowrra_exporter import logs
from flowrra_exporter.check_command.app import AppCheck
from flowrra_exporter.check_command.configuration import ConfigurationCheck
from flowrra_exporter.check_command.endpoint import EndpointCheck
from flowrra_exporter.check_command.findings import Report, warning
from flowrra_exporter.config_file import CONFIG_FILE
from flowrra_exporter.errors import UsageError, quoted
from flowrra_exporter.options import URL
from flowrra_exporter.settings import Settings

# How long an app's threads may keep the process after the last line.
_LINGER_SECONDS = 2.0


class CheckCommand:
    """Checks settings, app and endpoint. ``given`` has each flag's texts, ``timeout`` is in seconds for each answer."""

    def __init__(
        self, given: Mapping[str, Sequence[str]], environment: Mapping[str, str], timeout: float, strict: bool
    ) -> None:
        self._given = given
        self._environment = environment
        self._has_config_file = bool(CONFIG_FILE.value(given[CONFIG_FILE.name], environment))
        self._timeout = timeout
        self._report = Report(strict)

    def run(self, target: str | None, url: str | None) -> int:
        """Checks what there is to check; returns 0 if nothing is wrong, 1 if something is.

        Args:
            target: The app, as ``module:attribute``.
            url: Where metrics are served.

        Raises:
            UsageError: There is nothing to check, or ``url`` is no URL.
        """
        if target is None and url is None and not self._has_config_file:
            raise UsageError(f"nothing to check; expected MODULE:APP, --url=URL or {CONFIG_FILE.flag}=FILE")
        if url is not None:
            _check_url(url)
        # What fails is told by the findings; the exporter's log would say it a second time.
        logs.configure("error", "text", sys.stderr)
        logging.getLogger("flowrra_exporter").setLevel(logging.CRITICAL)
        # Where something is served already, the exporter may well have its addresses.
        configuration = ConfigurationCheck(self._given, self._environment, binds=url is None)
        self._report.add(configuration.findings())
        if target is not None:
            self._check_app(target, configuration.settings)
        if url is not None:
            asyncio.run(self._check_endpoint(url))
        return self._report.close()

    def _check_app(self, target: str, settings: Settings) -> None:
        before = set(threading.enumerate())
        found = AppCheck(target, settings, self._timeout)
        self._report.add(found.import_it())
        if found.imported:
            asyncio.run(self._ask_app(found))
        lingering = [each.name for each in threading.enumerate() if each not in before and not each.daemon]
        if lingering:
            names = ", ".join(lingering[:5])
            self._report.add([warning("app", f"leaves threads that keep the process from ending: {names}")])
            threading.Thread(target=self._leave, name="flowrra-exporter-leave", daemon=True).start()

    async def _ask_app(self, found: AppCheck) -> None:
        async for finding in found.findings():
            self._report.add([finding])

    async def _check_endpoint(self, url: str) -> None:
        async for finding in EndpointCheck(url, self._timeout).findings():
            self._report.add([finding])

    def _leave(self) -> None:
        """Ends the process although threads of the app's are still there."""
        threading.main_thread().join()
        time.sleep(_LINGER_SECONDS)
        sys.stdout.flush()
        os._exit(self._report.status)


def _check_url(url: str) -> None:
    path, _, query = url.partition("?")
    try:
        URL.parse(path)
        valid = "@" not in query
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"--url: got {quoted(url)}; expected a URL such as 'http://localhost:9464/metrics', and in a password "
            "%2F for /, %3F for ?, %23 for # and %40 for @"
        )
