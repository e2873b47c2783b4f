"""A service that turns the Management API of a Flowrra app into Prometheus metrics and Kubernetes probes.

Importing this package stays cheap and needs no extra: the service itself (and with it aiohttp) is loaded when
``Exporter`` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowrra_exporter._version import __version__

if TYPE_CHECKING:
    from flowrra_exporter.exporter import Exporter

__all__ = ["Exporter", "__version__"]


def __getattr__(name: str) -> object:
    if name != "Exporter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from flowrra_exporter.exporter import Exporter
    except ModuleNotFoundError as error:
        if (error.name or "flowrra").startswith("flowrra"):
            raise
        text = f"{error.name} is not installed; run: pip install 'flowrra[exporter]'"
        raise ModuleNotFoundError(text, name=error.name) from None
    return Exporter
