"""The other dashboards, as panels link to them."""

from __future__ import annotations

from grafana.panels import to_dashboard

TO_TASKS = to_dashboard("Tasks", "flowrra-tasks")
TO_QUEUES = to_dashboard("Queues and workers", "flowrra-queues")
TO_SCHEDULER = to_dashboard("Scheduler", "flowrra-scheduler")
TO_EXPORTER = to_dashboard("Exporter and event loop", "flowrra-exporter")
# From a name in a table.
TO_THE_TASK = to_dashboard("This task alone", "flowrra-task", "var-task=${__value.raw}")
