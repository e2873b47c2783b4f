"""Schedules in a MySQL database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flowrra.scheduler.backends.sql import SqlSchedulerBackend


class MySQLSchedulerBackend(SqlSchedulerBackend):
    """Schedules in a MySQL database.

    Args:
        url: ``mysql://user:password@host/database``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = sa.make_url(url).set(drivername="mysql+aiomysql")
        options: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        super().__init__(parsed, "mysql", **options)
