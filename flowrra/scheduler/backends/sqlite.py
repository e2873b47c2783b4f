"""Schedules in an SQLite file, the default."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from socket import gethostname
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from flowrra.forks import leave_to_parent, tell_of_forks
from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from flowrra.scheduler.backends.sql_upgrade import upgrade

MEMORY = ":memory:"


class SQLiteSchedulerBackend(SqlSchedulerBackend):
    """Schedules in an SQLite file.

    Args:
        database_path: Of the file; ``:memory:`` lasts until :meth:`close`.
    """

    def __init__(self, database_path: str | PathLike[str] = ".flowrra_schedule.db") -> None:
        self.database_path = database_path
        self._memory: AsyncEngine | None = None
        # What is in memory belongs to one connection, whose users take turns.
        turns: dict[str, Any] = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 1, "max_overflow": 0}
        options = turns if database_path == MEMORY else {}
        super().__init__(sa.URL.create("sqlite+aiosqlite", database=fspath(database_path)), **options)
        # The same path on two hosts is two files.
        self.address = "" if database_path == MEMORY else f"{gethostname()}:{Path(database_path).absolute()}"
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: what was in memory is the parent's, with the thread that held it."""
        leave_to_parent(self._memory)
        self._memory = None

    async def _open(self) -> AsyncEngine:
        if self.database_path != MEMORY:
            return await super()._open()
        if self._memory is None:
            self._memory = self._new_engine()
            async with self._memory.begin() as connection:  # whoever comes second waits for the connection
                await connection.run_sync(upgrade)
        return self._memory

    async def close(self) -> None:
        engine, self._memory = self._memory, None
        if engine is not None:
            await engine.dispose()
        await super().close()
