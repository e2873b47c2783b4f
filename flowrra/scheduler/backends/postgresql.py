"""Schedules in a PostgreSQL database."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

from flowrra.scheduler.backends.database_url import read_url
from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from flowrra.scheduler.models import ScheduledTask
from flowrra.tags import Writer


def _number(text: str) -> float:
    """A number of JSON that is no integer, as JSONB gives it back, which keeps numbers by their value: 1e16 as an
    integer, and -0.0 as 0.0."""
    return int(Decimal(text)) if "e+" in text else float(text) + 0.0


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

    def _kept(self, task: ScheduledTask) -> ScheduledTask:
        call = json.dumps([task.args, task.kwargs], default=Writer().write)
        args, kwargs = json.loads(call, parse_float=_number)
        return replace(task, args=tuple(args), kwargs=kwargs)
