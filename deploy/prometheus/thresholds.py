"""Every number that an alert fires at, once: rules, runbooks and dashboards take theirs from here.

Durations are in seconds. Those whose names end in ``_FOR``, ``_WINDOW``, ``_WINDOWS`` or ``_AGE`` are divided by the
generator's ``--scale``; others follow from what Flowrra does at times of its own, such as its heartbeat.
"""

from __future__ import annotations

from typing import Final

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE

# ── targets and the exporter ────────────────────────────────────────────────────────────────────────────────────
# A pod that is replaced in a rolling deploy is away for less than that.
TARGET_DOWN_FOR: Final = 2 * MINUTE
# A job that is taken out of Prometheus' configuration is missed for that long.
TARGETS_MISSED_WINDOW: Final = 24 * HOUR
TARGETS_MISSING_FOR: Final = 5 * MINUTE
COLLECTOR_FAILING_FOR: Final = 5 * MINUTE
SERIES_DROPPED: Final = 0
SERIES_DROPPED_FOR: Final = 15 * MINUTE

# ── the app and its workers ─────────────────────────────────────────────────────────────────────────────────────
APP_NOT_RUNNING_FOR: Final = 2 * MINUTE
# Kubernetes waits for up to five minutes between two starts, so that there are four of them within the window.
PROCESS_RESTARTS: Final = 3
PROCESS_RESTARTS_WINDOW: Final = 30 * MINUTE
WORKERS_DEAD_FOR: Final = 2 * MINUTE
DEPENDENCY_DOWN_FOR: Final = 2 * MINUTE
WORKER_RESTARTS: Final = 3
WORKER_RESTARTS_WINDOW: Final = 15 * MINUTE
NO_WORKERS_FOR: Final = 2 * MINUTE
# What fails liveness is restarted within a minute: what lasts for longer never fires where a pod is.
EXECUTOR_STUCK_FOR: Final = 30.0
# Slots that run a task, as a part of all: a second or so between two tasks is none that is free.
SATURATION_RATIO: Final = 0.95
SATURATION_WINDOW: Final = 5 * MINUTE
SATURATION_FOR: Final = 10 * MINUTE
# Three signs of life are 15 s, and a lease is 20 s by default; the rest is for clocks and scrapes.
HEARTBEAT_LOST: Final = 45.0
HEARTBEAT_LOST_FOR: Final = MINUTE
EVENT_LOOP_BLOCKED_FOR: Final = 30.0
EVENT_LOOP_STALLS: Final = 5
EVENT_LOOP_STALLS_WINDOW: Final = 10 * MINUTE
ABANDONED_TASKS: Final = 0
ABANDONED_WINDOW: Final = HOUR

# ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────────
# Something waits for so long, and nothing is taken in that time.
NO_PROGRESS_WINDOW: Final = 10 * MINUTE
NO_PROGRESS_FOR: Final = 2 * MINUTE
OLDEST_TASK_AGE: Final = 10 * MINUTE
OLDEST_TASK_FOR: Final = 5 * MINUTE
DEAD_TASKS: Final = 0
DEAD_TASKS_FOR: Final = MINUTE
# In a rolling deploy tasks of a new name wait for the first worker that knows it.
UNKNOWN_TASKS: Final = 0
UNKNOWN_TASKS_FOR: Final = 15 * MINUTE

# ── the broker ──────────────────────────────────────────────────────────────────────────────────────────────────
BROKER_MEMORY_RATIO: Final = 0.9
BROKER_FULL_FOR: Final = 5 * MINUTE
BROKER_UNFIT_FOR: Final = 5 * MINUTE
# Clocks differ by more than so many leases.
CLOCK_SKEW_LEASES: Final = 1.0
CLOCK_SKEW_FOR: Final = 5 * MINUTE

# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────────
# Attempts that may fail for good, as a part of those that end: what a month's budget is made of.
FAILURE_BUDGET: Final = 0.01
# How many times as fast as the budget allows, over a long and a short window; see
# https://sre.google/workbook/alerting-on-slos/#6-multiwindow-multi-burn-rate-alerts
FAST_BURN: Final = 14.4
FAST_BURN_WINDOWS: Final = (HOUR, 5 * MINUTE)
SLOW_BURN: Final = 6.0
SLOW_BURN_WINDOWS: Final = (6 * HOUR, 30 * MINUTE)
# One failure of three attempts is no rate: so many have to fail within the long window.
FAILURES_AT_LEAST: Final = 5
RETRY_RATIO: Final = 0.5
RETRIES_AT_LEAST: Final = 20
RETRY_WINDOW: Final = 15 * MINUTE
TASK_HUNG_AGE: Final = 2 * HOUR
TASK_HUNG_FOR: Final = 5 * MINUTE
REDELIVERIES: Final = 0
REDELIVERY_WINDOW: Final = 15 * MINUTE

# ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────────
SCHEDULES_MISSED: Final = 0
SCHEDULES_MISSED_WINDOW: Final = HOUR
# A schedule has not run for so many of its periods.
SCHEDULE_PERIODS: Final = 2.0
SCHEDULE_NOT_RUN_FOR: Final = 2 * MINUTE
# The next schedule has been due for that long.
SCHEDULER_STALLED_AGE: Final = 5 * MINUTE
SCHEDULER_STALLED_FOR: Final = MINUTE
SCHEDULES_BROKEN: Final = 0
SCHEDULES_BROKEN_FOR: Final = 15 * MINUTE
