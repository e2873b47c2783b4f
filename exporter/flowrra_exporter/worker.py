"""Runs a worker and serves it: what `flowrra worker --exporter ADDRESS` finds by its entry point."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flowrra_exporter.command import Command
from flowrra_exporter.config_file import load_all_settings
from flowrra_exporter.errors import UsageError
from flowrra_exporter.options import Address

_HIGHEST_PORT = 65535


def run(load: Callable[[], Any], target: str, address: str, shutdown_timeout: float, number: int = 0) -> int:
    """Runs the app until SIGTERM, SIGINT or its own stop, as ``flowrra-exporter`` does. All other settings are its
    variables.

    Args:
        load: Finds the app; is called once the server runs.
        target: What names the app, ``MODULE:APP``.
        address: Where to listen, ``host:port``.
        shutdown_timeout: Seconds that tasks get to finish.
        number: Of this process among several, from 0. The ports of probes count up by it, as that of ``address`` has
            done, as two processes can't answer at one.

    Returns:
        The exit status: 0, or 1 if tasks were lost or the app's event loop ended by itself.

    Raises:
        ValueError: The app doesn't start, or can't be served like this. One line says why.
    """
    given = {
        "observe": ("false",),  # it is a worker
        "web_listen_address": (address,),
        "shutdown_timeout": (f"{shutdown_timeout:g}",),
    }
    try:
        settings = load_all_settings(given, os.environ)
        probes = tuple(_counted_up(each, number) for each in settings.probe_listen_address)
        return Command(target, replace(settings, probe_listen_address=probes), load).run()
    except UsageError as error:
        raise ValueError(str(error)) from error


def _counted_up(probes: Address, number: int) -> Address:
    """Where a process answers probes; at port 0 each takes a free one.

    Raises:
        UsageError: There is no such port.
    """
    if probes.port + number > _HIGHEST_PORT:
        raise UsageError(f"--probe.listen-address: got {probes}; expected {number + 1} ports from there on")
    return probes._replace(port=probes.port + number) if probes.port else probes
