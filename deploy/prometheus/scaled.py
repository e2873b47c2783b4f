"""The thresholds, with days made shorter: what a test or a demonstration sees in a minute takes an hour in earnest."""

from __future__ import annotations

from typing import Any

from deploy.prometheus import thresholds
from deploy.prometheus.promql import duration

DURATIONS = ("_FOR", "_WINDOW", "_WINDOWS", "_AGE")


class Scaled:
    """The figures of :mod:`deploy.prometheus.thresholds` as attributes, durations divided.

    Args:
        scale: By what they are divided; 60 makes a minute of an hour.
        changes: Figures to take in place of those of the module, by name.
    """

    def __init__(self, scale: float = 1.0, changes: dict[str, Any] | None = None) -> None:
        self.scale = scale
        self._changes = changes or {}

    def __getattr__(self, name: str) -> Any:
        value = self._changes.get(name, getattr(thresholds, name))
        if not name.endswith(DURATIONS):
            return value
        return tuple(each / self.scale for each in value) if isinstance(value, tuple) else value / self.scale

    def text(self, name: str) -> str:
        """A duration as Prometheus writes it."""
        return duration(getattr(self, name))
