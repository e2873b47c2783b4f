"""Every path that the exporter answers, and what is there. That of the metrics can be chosen, the others can't."""

from __future__ import annotations

# The names of the probes.
LIVEZ, READYZ, STARTUPZ, HEALTHZ = "livez", "readyz", "startupz", "healthz"

PAGE = "/"
METRICS = "/metrics"
API = "/api/"
EVENTS = f"{API}events"
# Where the forms of the page lead.
ACTIONS = "/actions/"

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
    f"{API}all-queues": "The same for all queues by name",
    f"{API}workers": "The processes that take tasks",
    f"{API}task-stats": "What became of the tasks, by name",
    f"{API}schedules": "Schedules: when they run next and ran last",
    f"{API}failures": "The tasks that failed last",
    f"{API}throughput": "Attempts that ended a second, over time",
    f"{API}runtime": "The event loop, and what has failed in the app itself",
    f"{API}running": "What runs in this process, the longest first",
    f"{API}task-records": "Submitted tasks, the latest first; a page of them",
    f"{API}task-counts": "How many tasks are known, by status or name",
    f"{API}dead-tasks": "Tasks that were given up",
    f"{API}schedule-runs": "The latest runs of schedules",
    f"{API}openapi.json": "The JSON API, described in OpenAPI 3.1",
}
CONSOLE_PATHS = ("/names", "/tasks", "/running", "/queues", "/dead", "/workers", "/schedules", "/actions")
# All but the path of the metrics, which can be none of these.
OTHER_PATHS = (PAGE, *CONSOLE_PATHS, *PROBE_PATHS, *API_PATHS, EVENTS)


def is_taken(path: str) -> bool:
    """Whether a path is another route's, or could be: below those of probes, API and console are names of all kinds."""
    below = (*PROBE_PATHS, *CONSOLE_PATHS, API.rstrip("/"), "/confirm")
    return path in OTHER_PATHS or any(f"{path}/".startswith(f"{each}/") for each in below)


def is_probe(path: str) -> bool:
    """Whether a path is a probe's, or that of one of its checks."""
    return f"/{path[1:].partition('/')[0]}" in PROBE_PATHS


def for_router(path: str) -> str:
    """A path with the place of an id in braces, as the router has it: an id may have braces of its own."""
    return path.replace("{id}", "{id:[^/]+}")
