"""Names and colours of the task statuses, for user interfaces."""

from __future__ import annotations

TASK_STATUSES: tuple[str, ...] = ("pending", "running", "success", "failed")

STATUS_COLORS: dict[str, str] = {
    "pending": "yellow",
    "running": "blue",
    "success": "success",
    "failed": "error",
    "retrying": "yellow",
    "cancelled": "error",
}
