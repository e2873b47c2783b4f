"""The table of what the JSON API answers: routes and the OpenAPI document are made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from flowrra_exporter.metrics.collectors.scheduler import MOST_LISTED
from flowrra_exporter.paths import API
from flowrra_exporter.web.failures import MOST
from flowrra_exporter.web.parameters import ID, MAX_ID, TEXT, TIME, Kind, Parameter, one_of, whole

# Seconds.
LONGEST_WINDOW = 3600
MOST_TASKS = 200
MOST_DEAD = MOST_RUNS = MOST_RUNNING = 1000
STATUSES = ("pending", "running", "retrying", "success", "failed", "cancelled")
# What tasks were given, returned and raised, by the keys of a record, an attempt and a progress.
_OF_TASKS = frozenset(("args", "kwargs", "result", "error", "traceback", "message"))
# A time in seconds since 1970, as Python writes it, and an id.
_OF_CURSORS = re.compile(r"^-?[0-9]{1,12}(\.[0-9]{1,9})?(e-[0-9]{1,2})?:")
MAX_CURSOR = MAX_ID + 40

How = Literal["ask", "read"]


@dataclass(frozen=True)
class Endpoint:
    """What one path answers.

    Attributes:
        path: The path, with the place of an id in braces.
        method: The method of the Management API that it needs.
        text: What it answers, in a line.
        parameters: What a query may say.
        id_parameter: The parameter of the method that the id in the path is for; empty without one.
        how: ``ask`` on the app's loop, or ``read`` plain numbers in the server's thread, whatever the loop does.
        hidden: Keys of the answer, wherever they stand, that are for clients alone that may see task data.
        hidden_parameters: The parameters that only these may give, as they would tell what is hidden.
    """

    path: str
    method: str
    text: str
    parameters: tuple[Parameter, ...] = ()
    id_parameter: str = ""
    how: How = "ask"
    hidden: frozenset[str] = frozenset()
    hidden_parameters: frozenset[str] = frozenset()


def _limit(most: int, default: int) -> Parameter:
    return Parameter("limit", whole(1, most), "How many at most", default=default)


def _read_cursor(text: str) -> str:
    if len(text) > MAX_CURSOR or not _OF_CURSORS.match(text):
        raise ValueError(text)
    return text


_CURSOR = Kind(
    "the `next` of the page before",
    {"type": "string", "pattern": _OF_CURSORS.pattern, "maxLength": MAX_CURSOR},
    _read_cursor,
)
_WINDOW = whole(1, LONGEST_WINDOW)
_NAME = Parameter("name", TEXT, "Tasks of this name alone")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(f"{API}stats", "get_stats", "Executors, tasks and scheduler"),
    Endpoint(f"{API}health", "health_check", "Health by component"),
    Endpoint(f"{API}tasks", "list_registered_tasks", "Registered tasks"),
    Endpoint(f"{API}queues", "get_queue_stats", "Queues: depth and age"),
    Endpoint(f"{API}all-queues", "list_queues", "The same for all queues by name"),
    Endpoint(f"{API}workers", "list_workers", "The processes that take tasks"),
    Endpoint(
        f"{API}task-stats",
        "get_task_stats",
        "What became of the tasks, by name",
        (Parameter("window", _WINDOW, "Within so many seconds; without it, since the start of the process"),),
        how="read",
    ),
    Endpoint(
        f"{API}throughput",
        "get_throughput",
        "Attempts that ended a second, over time",
        (
            Parameter("window", _WINDOW, "Within so many seconds", default=3600),
            Parameter("points", whole(1, 360), "How many periods at most", default=60),
            Parameter("task_name", TEXT, "Of the tasks registered under this name alone"),
        ),
        how="read",
    ),
    Endpoint(
        f"{API}runtime",
        "get_runtime_stats",
        "The event loop, and what has failed in the app itself",
        how="read",
        hidden=frozenset(("stack",)),
    ),
    Endpoint(
        f"{API}running",
        "list_running_attempts",
        "What runs in this process, the longest first",
        (_limit(MOST_RUNNING, 100),),
        how="read",
    ),
    Endpoint(
        f"{API}task-records",
        "list_tasks",
        "Submitted tasks, the latest first; a page of them",
        (
            Parameter("status", one_of(*STATUSES), "Tasks of this status alone"),
            _NAME,
            Parameter("queue", TEXT, "Tasks of this queue alone"),
            Parameter("since", TIME, "Tasks alone that were submitted then or later"),
            Parameter("until", TIME, "Tasks alone that were submitted before"),
            Parameter("error", TEXT, "Tasks alone whose error contains this text; needs the right to see errors"),
            Parameter("worker", TEXT, "Tasks alone whose latest attempt this worker runs, or ran"),
            _limit(MOST_TASKS, 50),
            Parameter("cursor", _CURSOR, "The `next` of the page before"),
        ),
        hidden=_OF_TASKS,
        hidden_parameters=frozenset(("error",)),
    ),
    Endpoint(
        f"{API}task-records/{{id}}",
        "get_task",
        "One submitted task, with its attempts",
        id_parameter="task_id",
        hidden=_OF_TASKS,
    ),
    Endpoint(
        f"{API}task-counts",
        "count_tasks",
        "How many tasks are known",
        (Parameter("by", one_of("status", "name"), "Of each status, or of each name", default="status"),),
    ),
    Endpoint(
        f"{API}dead-tasks",
        "list_dead_tasks",
        "Tasks that were given up, the latest first",
        (_NAME, Parameter("reason", TEXT, "Tasks alone whose reason contains this text"), _limit(MOST_DEAD, 100)),
        hidden=_OF_TASKS,
    ),
    Endpoint(
        f"{API}failures",
        "list_failed_tasks",
        "The tasks that failed last, as of a few seconds ago at most",
        (_limit(MOST, 20),),
        hidden=frozenset(("error", "arguments")),
    ),
    Endpoint(
        f"{API}schedules",
        "list_schedules",
        f"Schedules: when they run next and ran last. Not while there are more than {MOST_LISTED}",
    ),
    Endpoint(f"{API}schedules/{{id}}", "get_schedule", "One schedule", id_parameter="schedule_id", hidden=_OF_TASKS),
    Endpoint(
        f"{API}schedule-runs",
        "list_schedule_runs",
        "The latest runs of schedules, the latest due first",
        (Parameter("schedule_id", ID, "Of this schedule alone"), _limit(MOST_RUNS, 100)),
        hidden=frozenset(("error",)),
    ),
)
