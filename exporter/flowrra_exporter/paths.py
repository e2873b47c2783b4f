"""Every path that the exporter answers, and what is there. That of the metrics can be chosen, the others can't."""

from __future__ import annotations

# The names of the probes.
LIVEZ, READYZ, STARTUPZ, HEALTHZ = "livez", "readyz", "startupz", "healthz"

PAGE = "/"
METRICS = "/metrics"
API = "/api/"

PROBE_PATHS = {
    f"/{LIVEZ}": "Liveness probe",
    f"/{READYZ}": "Readiness probe",
    f"/{STARTUPZ}": "Startup probe",
    f"/{HEALTHZ}": "The app's health check",
}
API_PATHS = {
    f"{API}stats": "Executors, tasks and scheduler",
    f"{API}health": "Health by component",
    f"{API}tasks": "Registered tasks",
    f"{API}queues": "Queues: depth and age",
    f"{API}workers": "The processes that take tasks",
    f"{API}task-stats": "What became of the tasks, by name",
    f"{API}schedules": "Schedules: when they run next and ran last",
    f"{API}failures": "The tasks that failed last",
}
# All but the path of the metrics, which can be none of these.
OTHER_PATHS = (PAGE, *PROBE_PATHS, *API_PATHS)


def is_probe(path: str) -> bool:
    """Whether a path is a probe's, or that of one of its checks."""
    return f"/{path[1:].partition('/')[0]}" in PROBE_PATHS
