"""Schedules in a PostgreSQL database."""

from __future__ import annotations

from typing import Any

from flowrra.scheduler.backends.database_url import read_url
from flowrra.scheduler.backends.sql import SqlSchedulerBackend


class PostgreSQLSchedulerBackend(SqlSchedulerBackend):
    """Schedules in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host/database``.
    """

    takes_nul = False

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = read_url(url, "postgresql+asyncpg")
        options: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        query = dict(parsed.query)
        if "sslmode" in query:  # as libpq calls it
            query["ssl"] = query.pop("sslmode")
        query.pop("pool_min_size", None)  # connections are opened as they are needed
        if "pool_max_size" in query:
            size = str(query.pop("pool_max_size"))
            if not (size.isascii() and size.isdigit()):
                raise ValueError("The URL of the schedule store has a pool_max_size that is no whole number")
            options |= {"pool_size": int(size), "max_overflow": 0}
        parsed = parsed.set(query=query)
        super().__init__(parsed, "postgresql", **options)
