"""All dashboards, in the order in which people go through them."""

from __future__ import annotations

from grafana import exporter, overview, queues, scheduler, task, tasks

DASHBOARDS = (overview.FRAME, tasks.FRAME, task.FRAME, queues.FRAME, scheduler.FRAME, exporter.FRAME)
