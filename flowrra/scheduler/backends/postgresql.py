"""Schedules in a PostgreSQL database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flowrra.scheduler.backends.sql import SqlSchedulerBackend


class PostgreSQLSchedulerBackend(SqlSchedulerBackend):
    """Schedules in a PostgreSQL database.

    Args:
        url: ``postgresql://user:password@host/database``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
        options: dict[str, Any] = {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        query = dict(parsed.query)
        if "sslmode" in query:  # as libpq calls it
            query["ssl"] = query.pop("sslmode")
        query.pop("pool_min_size", None)  # connections are opened as they are needed
        if "pool_max_size" in query:
            options |= {"pool_size": int(str(query.pop("pool_max_size"))), "max_overflow": 0}
        parsed = parsed.set(query=query)
        super().__init__(parsed, "postgresql", **options)
