"""When tasks are submitted: cron expressions, intervals, and points in time."""

from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.models import ScheduledTask, ScheduleType
from flowrra.scheduler.scheduler import Scheduler

__all__ = ["CronExpression", "ScheduleType", "ScheduledTask", "Scheduler"]
