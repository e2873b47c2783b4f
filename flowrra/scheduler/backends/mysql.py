"""Schedules in a MySQL database."""

from __future__ import annotations

from typing import Any

from flowrra.scheduler.backends.database_url import read_url
from flowrra.scheduler.backends.sql import SqlSchedulerBackend


class MySQLSchedulerBackend(SqlSchedulerBackend):
    """Schedules in a MySQL database.

    Args:
        url: ``mysql://user:password@host/database``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = read_url(url, "mysql+aiomysql")
        options: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        super().__init__(parsed, "mysql", **options)
