"""Schedules, as they are listed and summed up."""

from __future__ import annotations

from datetime import tzinfo

from flowrra.app import Flowrra
from flowrra.management.answers import Schedule, ScheduleDetails, SchedulerSummary
from flowrra.management.health import in_time
from flowrra.scheduler.due_times import period
from flowrra.scheduler.models import ScheduledTask


def schedule(task: ScheduledTask, zone: tzinfo) -> Schedule:
    """A schedule in a list; ``zone`` is the scheduler's."""
    return {
        "id": task.id,
        "task_name": task.task_name,
        "schedule_type": task.schedule_type.value,
        "schedule": task.schedule,
        "enabled": task.enabled,
        "next_run_at": task.next_run_at,
        "last_run_at": task.last_run_at,
        "priority": task.priority,
        "description": task.description,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "broken": task.broken,
        "timezone": task.timezone,
        "period": period(task, zone),
    }


def schedule_details(task: ScheduledTask, zone: tzinfo) -> ScheduleDetails:
    """All about a schedule; ``zone`` is the scheduler's."""
    return {
        **schedule(task, zone),
        "args": task.args,
        "kwargs": task.kwargs,
        "max_retries": task.max_retries,
        "retry_delay": task.retry_delay,
        "misfire_grace": task.misfire_grace,
        "misfire": task.misfire,
        "max_running": task.max_running,
    }


async def scheduler_summary(app: Flowrra) -> SchedulerSummary | None:
    """The scheduler and its schedules, in short; what the store doesn't tell in time is None."""
    if (scheduler := app.scheduler) is None:
        return None
    stats, error = await in_time(app.run_on_app_loop(scheduler.stats))
    total = None if stats is None else stats["total_schedules"]
    summary: SchedulerSummary = {
        "enabled": True,
        "running": scheduler.is_running,
        "schedules": total,
        "total_schedules": total,
        "enabled_schedules": None if stats is None else stats["enabled_schedules"],
    }
    if error:
        summary["error"] = error
    return summary
