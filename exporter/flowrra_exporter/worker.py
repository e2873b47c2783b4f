"""Runs a worker and serves it: what `flowrra worker --exporter ADDRESS` finds by its entry point."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from flowrra_exporter.command import Command
from flowrra_exporter.config_file import load_all_settings
from flowrra_exporter.errors import UsageError


def run(load: Callable[[], Any], target: str, address: str, shutdown_timeout: float) -> int:
    """Runs the app until SIGTERM, SIGINT or its own stop, as ``flowrra-exporter`` does. All other settings are its
    variables.

    Args:
        load: Finds the app; is called once the server runs.
        target: What names the app, ``MODULE:APP``.
        address: Where to listen, ``host:port``.
        shutdown_timeout: Seconds that tasks get to finish.

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
        return Command(target, load_all_settings(given, os.environ), load).run()
    except UsageError as error:
        raise ValueError(str(error)) from error
