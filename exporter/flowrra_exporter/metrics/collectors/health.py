"""Health, whole and by component: from ``health_check``."""

from __future__ import annotations

from collections.abc import Sequence

from flowrra_exporter.app.loop import LoopUnavailable, LoopWaits
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.collector import Incomplete, ManagementCollector, section
from flowrra_exporter.metrics.samples import Family


class HealthCollector(ManagementCollector):
    """flowrra_healthy, flowrra_component_healthy."""

    name = "health"
    method = "health_check"

    async def collect(self) -> Sequence[Family]:
        try:
            health = await self._management.ask("health_check")
        except LoopWaits:  # that says nothing about its health
            raise
        except LoopUnavailable as unavailable:
            # Known without asking: an app whose loop doesn't answer isn't healthy.
            raise Incomplete(str(unavailable), [Family(catalog.HEALTHY, [((), 0)])]) from unavailable
        components = Family(catalog.COMPONENT_HEALTHY)
        found = section(health, "components") or {}
        for name in found:
            component = section(found, name)
            if component is not None:
                components.points.append(((str(name),), int(bool(component["healthy"]))))
        return [Family(catalog.HEALTHY, [((), int(bool(health["healthy"])))]), components]
