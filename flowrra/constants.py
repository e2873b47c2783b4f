"""Names and colours of the task statuses, for user interfaces."""

from __future__ import annotations

TASK_STATUSES: tuple[str, ...] = ("pending", "running", "success", "failed")

STATUS_COLORS: dict[str, str] = {
    "pending": "#f59e0b",
    "running": "#3b82f6",
    "success": "#10b981",
    "failed": "#ef4444",
    "retrying": "#8b5cf6",
    "cancelled": "#6b7280",
}
