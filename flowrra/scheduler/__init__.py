"""When tasks are submitted: cron expressions, intervals, and points in time."""

from flowrra.scheduler.cron import CronExpression

__all__ = ["CronExpression"]
