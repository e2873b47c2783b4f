"""Schedules in an SQLite file, the default."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from flowrra.scheduler.backends.sql import SqlSchedulerBackend


class SQLiteSchedulerBackend(SqlSchedulerBackend):
    """Schedules in an SQLite file.

    Args:
        database_path: Of the file; ``:memory:`` lasts until :meth:`close`.
    """

    def __init__(self, database_path: str = ".flowrra_schedule.db") -> None:
        self.database_path = database_path
        options: dict[str, Any] = {"poolclass": StaticPool} if database_path == ":memory:" else {}
        super().__init__(sa.URL.create("sqlite+aiosqlite", database=database_path), **options)
