"""The schedule store over SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB.

What is due is found by ``due``, microseconds since 1970, which no change of zone or format can bend. The columns of
0.1.8 stay beside it and say the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from datetime import datetime, tzinfo
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flowrra.scheduler.backends.base import BaseSchedulerBackend, Claims
from flowrra.scheduler.models import (
    MOST_ATTEMPTS,
    Run,
    ScheduledTask,
    ScheduleType,
    definition_key,
    fire,
    local,
    micros,
)

# Microseconds: a run that was claimed and not submitted for so long belongs to whoever takes it next.
LEASE = 30_000_000
RETRY = 1_000_000
MOST_RUNS = 10_000


class _IsoText(sa.TypeDecorator[datetime]):
    """A datetime as 0.1.8 wrote it into SQLite."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:
        return None if value is None else value.isoformat()

    def process_result_value(self, value: str | None, dialect: Any) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


_time = sa.DateTime().with_variant(_IsoText(), "sqlite").with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")
_real = sa.Float().with_variant(sa.Double(), "mysql", "mariadb", "postgresql")
_name = sa.String(255)

_metadata = sa.MetaData()
SCHEDULES = sa.Table(
    "scheduled_tasks",
    _metadata,
    sa.Column("id", _name, primary_key=True),
    sa.Column("task_name", _name, nullable=False),
    sa.Column("schedule_type", sa.String(50), nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("args", _json, nullable=False),
    sa.Column("kwargs", _json, nullable=False),
    sa.Column("enabled", _flag, nullable=False),
    sa.Column("last_run_at", _time),
    sa.Column("next_run_at", _time),
    sa.Column("created_at", _time, nullable=False),
    sa.Column("updated_at", _time, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("max_retries", sa.Integer, nullable=False),
    sa.Column("retry_delay", _real, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("timezone", sa.String(64)),
    sa.Column("misfire_grace", _real, nullable=False, server_default="86400"),
    sa.Column("max_running", sa.Integer),
    sa.Column("broken", sa.Text),
    sa.Column("due", sa.BigInteger),
    sa.Column("definition", sa.String(64)),
    sa.Index("flowrra_schedules_due", "enabled", "due"),
    sa.Index("flowrra_schedules_definition", "definition", unique=True),
)
RUNS = sa.Table(
    "schedule_runs",
    _metadata,
    sa.Column("id", _name, primary_key=True),
    sa.Column("schedule_id", _name, nullable=False, index=True),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("fired", sa.BigInteger),
    sa.Column("lease", sa.BigInteger),
    sa.Column("owner", _name),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("result", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    sa.Index("flowrra_runs_lease", "lease"),
    sa.Index("flowrra_runs_due", "due"),
)
_DEFINED = [column for column in SCHEDULES.columns if column.name not in ("due", "definition")]


class SqlSchedulerBackend(BaseSchedulerBackend):
    """Schedules in a database.

    Args:
        url: Of SQLAlchemy, with an asyncio driver.
        extra: The extra of flowrra that installs the driver.
        options: For ``create_async_engine``.
    """

    def __init__(self, url: sa.URL, extra: str | None = None, **options: Any) -> None:
        self._url = url
        self._extra = extra
        self._options = options
        self._engine: AsyncEngine | None = None
        self._opening = asyncio.Lock()

    async def _open(self) -> AsyncEngine:
        async with self._opening:
            if self._engine is None:
                engine = self._new_engine()
                async with engine.begin() as connection:
                    await connection.run_sync(_upgrade)
                self._engine = engine
        return self._engine

    def _new_engine(self) -> AsyncEngine:
        try:
            engine = create_async_engine(self._url, **self._options)
        except ModuleNotFoundError as error:
            raise ImportError(f"{error.name} is missing: pip install 'flowrra[{self._extra}]'") from error
        if self._url.get_backend_name() == "sqlite":
            sa.event.listen(engine.sync_engine, "connect", _set_up_sqlite)
            sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    async def _read(self, query: sa.Executable) -> list[Any]:
        engine = await self._open()
        async with engine.connect() as connection:
            connection = await connection.execution_options(flowrra_reads=True)
            return list((await connection.execute(query)).mappings())

    async def _write(self, statement: sa.Executable) -> int:
        engine = await self._open()
        async with engine.begin() as connection:
            return (await connection.execute(statement)).rowcount

    async def create(self, task: ScheduledTask) -> None:
        try:
            await self._write(SCHEDULES.insert().values(_values(task)))
        except sa.exc.IntegrityError as error:
            raise ValueError(f"Scheduled task '{task.id}' already exists") from error

    async def update(self, task: ScheduledTask) -> None:
        task.updated_at = datetime.now()  # noqa: DTZ005 - local
        if not await self._write(SCHEDULES.update().where(SCHEDULES.c.id == task.id).values(_values(task))):
            raise ValueError(f"Scheduled task '{task.id}' not found")

    async def delete(self, task_id: str) -> bool:
        return bool(await self._write(SCHEDULES.delete().where(SCHEDULES.c.id == task_id)))

    async def get(self, task_id: str) -> ScheduledTask | None:
        return await self._first(SCHEDULES.c.id == task_id)

    async def _first(self, condition: sa.ColumnElement[bool]) -> ScheduledTask | None:
        return next((_task(row) for row in await self._read(SCHEDULES.select().where(condition))), None)

    async def list_all(self) -> list[ScheduledTask]:
        return [_task(row) for row in await self._read(SCHEDULES.select().order_by(SCHEDULES.c.created_at))]

    async def list_enabled(self) -> list[ScheduledTask]:
        query = SCHEDULES.select().where(SCHEDULES.c.enabled == _TRUE).order_by(SCHEDULES.c.due)
        return [_task(row) for row in await self._read(query)]

    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]:
        now = datetime.now() if now is None else now  # noqa: DTZ005 - local
        return [_task(row) for row in await self._read(_due(micros(now)))]

    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None:
        due = None if next_run is None else micros(next_run)
        change = SCHEDULES.update().where(SCHEDULES.c.id == task_id)
        if not await self._write(change.values(last_run_at=last_run, next_run_at=next_run, due=due)):
            raise ValueError(f"Scheduled task '{task_id}' not found")

    async def clear(self) -> int:
        return await self._write(SCHEDULES.delete())

    async def find_by_definition(
        self,
        task_name: str,
        schedule_type: ScheduleType,
        schedule: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> ScheduledTask | None:
        sought = ScheduledTask("", task_name, schedule_type, schedule, args, kwargs or {})
        return await self._first(SCHEDULES.c.definition == definition_key(sought))

    async def claim(self, now: int, zone: tzinfo, owner: str, limit: int) -> Claims:
        engine = await self._open()
        async with engine.begin() as connection:
            return await connection.run_sync(_claim, now, zone, owner, limit)

    async def begin_run(self, schedule_id: str, now: int, owner: str) -> Run | None:
        task = await self.get(schedule_id)
        if task is None:
            return None
        run = Run(f"{schedule_id}@{now}", task, now, MOST_ATTEMPTS)
        await self._write(RUNS.insert().values(_run_row(run, owner, now + LEASE, "claimed")))
        return run

    async def settle(
        self, runs: Sequence[Run], now: int, errors: dict[str, str], skipped: Collection[str] = frozenset()
    ) -> None:
        engine = await self._open()
        async with engine.begin() as connection:
            await connection.execute(
                _SETTLE, [_settled(run, now, errors.get(run.id), run.id in skipped) for run in runs]
            )
            oldest = sa.select(RUNS.c.due).order_by(RUNS.c.due.desc()).offset(MOST_RUNS).limit(1)
            if (due := await connection.scalar(oldest)) is not None:
                await connection.execute(RUNS.delete().where(RUNS.c.due <= due, RUNS.c.lease.is_(None)))

    async def next_due(self) -> int | None:
        schedule = sa.select(sa.func.min(SCHEDULES.c.due)).where(SCHEDULES.c.enabled == _TRUE)
        query = sa.select(schedule.scalar_subquery().label("due"), _LEASE.scalar_subquery().label("lease"))
        row = (await self._read(query))[0]
        return min((at for at in row.values() if at is not None), default=None)

    async def figures(self, now: int) -> dict[str, Any]:
        columns, on = SCHEDULES.c, SCHEDULES.c.enabled == _TRUE
        query = sa.select(
            sa.func.count().label("total"),
            sa.func.count(sa.case((on, 1))).label("enabled"),
            sa.func.count(sa.case((on & (columns.due <= now), 1))).label("overdue"),
            sa.func.count(columns.broken).label("broken"),
            sa.func.min(sa.case((on, columns.due))).label("next"),
        ).select_from(SCHEDULES)
        return dict((await self._read(query))[0])

    async def count_by_task(self) -> dict[str, int]:
        columns = SCHEDULES.c
        query = sa.select(columns.task_name, sa.func.count().label("count")).group_by(columns.task_name)
        rows = await self._read(query.where(columns.enabled == _TRUE, columns.broken.is_(None)))
        return {row["task_name"]: row["count"] for row in rows}

    async def list_runs(
        self, schedule_id: str | None, limit: int, results: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        query = RUNS.select().order_by(RUNS.c.due.desc()).limit(limit)
        if schedule_id is not None:
            query = query.where(RUNS.c.schedule_id == schedule_id)
        if results:
            query = query.where(RUNS.c.result.in_(results))
        return [dict(row) for row in await self._read(query)]


_TRUE = sa.literal(True, _flag)
_LEASE = sa.select(sa.func.min(RUNS.c.lease))
_ADVANCE = (
    SCHEDULES.update()
    .where(SCHEDULES.c.id == sa.bindparam("of"))
    .values({name: sa.bindparam(f"new_{name}") for name in ("due", "next_run_at", "last_run_at", "enabled", "broken")})
)
_SETTLE = (
    RUNS.update()
    .where(RUNS.c.id == sa.bindparam("of"))
    .values({name: sa.bindparam(f"new_{name}") for name in ("fired", "lease", "result", "error")})
)
_TAKE = (
    RUNS.update()
    .where(RUNS.c.id == sa.bindparam("of"))
    .values(lease=sa.bindparam("new_lease"), owner=sa.bindparam("new_owner"), attempts=RUNS.c.attempts + 1)
)


def _due(now: int) -> sa.Select[Any]:
    due = SCHEDULES.select().where(SCHEDULES.c.enabled == _TRUE, SCHEDULES.c.due <= now)
    return due.order_by(SCHEDULES.c.priority.desc(), SCHEDULES.c.due)


def _claim(connection: Connection, now: int, zone: tzinfo, owner: str, limit: int) -> Claims:
    """Claim within a transaction; rows that another scheduler is claiming are passed over."""
    rows = list(connection.execute(_due(now).limit(limit).with_for_update(skip_locked=True)).mappings())
    claims = Claims(_retake(connection, now, owner, limit), {}, {}, len(rows) == limit)
    advances, runs = [], []
    for row in rows:
        task = _task(row)
        try:
            firing = fire(task, row["due"], now, zone)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            advances.append(_advance(row, row["last_run_at"], None, f"{type(error).__name__}: {error}"))
            continue
        advances.append(_advance(row, local(now), firing.following, None))
        if firing.collapsed:
            claims.collapsed[task.task_name] = claims.collapsed.get(task.task_name, 0) + firing.collapsed
        if firing.due is None:
            claims.missed[task.task_name] = claims.missed.get(task.task_name, 0) + 1
        due = row["due"] if firing.due is None else firing.due
        run = Run(f"{task.id}@{due}", task, due, 1)
        missed = firing.due is None
        runs.append(_run_row(run, owner, None if missed else now + LEASE, "missed" if missed else "claimed"))
        if not missed:
            claims.runs.append(run)
    if advances:
        connection.execute(_ADVANCE, advances)
    if runs:
        connection.execute(_insert_once(connection.dialect.name), runs)
    return claims


def _retake(connection: Connection, now: int, owner: str, limit: int) -> list[Run]:
    """Runs that were claimed and not submitted in time: their scheduler is gone, or its submission failed."""
    query = RUNS.select().where(RUNS.c.lease <= now).limit(limit).with_for_update(skip_locked=True)
    rows = list(connection.execute(query).mappings())
    if not rows:
        return []
    ids = {row["schedule_id"] for row in rows}
    found = connection.execute(SCHEDULES.select().where(SCHEDULES.c.id.in_(ids))).mappings()
    schedules = {row["id"]: _task(row) for row in found}
    connection.execute(_TAKE, [{"of": row["id"], "new_lease": now + LEASE, "new_owner": owner} for row in rows])
    gone = [row["id"] for row in rows if row["schedule_id"] not in schedules]
    if gone:  # the schedule was deleted meanwhile
        connection.execute(RUNS.update().where(RUNS.c.id.in_(gone)).values(lease=None, result="skipped"))
    kept = [row for row in rows if row["schedule_id"] in schedules]
    return [Run(row["id"], schedules[row["schedule_id"]], row["due"], row["attempts"] + 1) for row in kept]


def _advance(row: Any, last: datetime | None, due: int | None, broken: str | None) -> dict[str, Any]:
    return {
        "of": row["id"],
        "new_due": due,
        "new_next_run_at": None if due is None else local(due),
        "new_last_run_at": last,
        # A one-time schedule has had its run; a broken one stays enabled, and is due again once it is mended.
        "new_enabled": due is not None or broken is not None,
        "new_broken": broken,
    }


def _run_row(run: Run, owner: str, lease: int | None, result: str) -> dict[str, Any]:
    row = {"id": run.id, "schedule_id": run.schedule.id, "due": run.due, "lease": lease, "owner": owner}
    return {**row, "attempts": 1, "result": result}


def _settled(run: Run, now: int, error: str | None, skipped: bool) -> dict[str, Any]:
    row = {"of": run.id, "new_fired": None if error or skipped else now, "new_error": error}
    if skipped:
        return {**row, "new_lease": None, "new_result": "skipped"}
    if error is None:
        return {**row, "new_lease": None, "new_result": "submitted"}
    if run.attempts >= MOST_ATTEMPTS:
        return {**row, "new_lease": None, "new_result": "failed"}
    return {**row, "new_lease": now + RETRY * 2**run.attempts, "new_result": "claimed"}


def _insert_once(dialect: str) -> Any:
    """A due time that ran before, as the schedule was enabled again, has its row."""
    if dialect == "postgresql":
        return postgresql.insert(RUNS).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(RUNS).on_conflict_do_nothing()
    return sa.insert(RUNS).prefix_with("IGNORE")


def _values(task: ScheduledTask) -> dict[str, Any]:
    values = {column.name: getattr(task, column.name) for column in _DEFINED}
    due = None if task.next_run_at is None else micros(task.next_run_at)
    return {
        **values,
        "schedule_type": task.schedule_type.value,
        "args": list(task.args),
        "due": due,
        "definition": _key(task),
    }


def _key(task: ScheduledTask) -> str | None:
    try:
        return definition_key(task)
    except (ValueError, TypeError):  # unreadable; it is kept, and is broken when it becomes due
        return None


def _task(row: Any) -> ScheduledTask:
    fields = {column.name: row[column.name] for column in _DEFINED}
    for name in ("args", "kwargs"):
        if isinstance(fields[name], str):  # 0.1.8 put text into PostgreSQL's JSON
            fields[name] = json.loads(fields[name])
    fields["schedule_type"] = ScheduleType(fields["schedule_type"])
    fields["args"], fields["enabled"] = tuple(fields["args"]), bool(fields["enabled"])
    if row["due"] is not None:
        fields["next_run_at"] = local(row["due"])
    return ScheduledTask(**fields)


def _upgrade(connection: Connection) -> None:
    """Make the tables, or add to those of 0.1.8 what they lack."""
    inspector = sa.inspect(connection)
    if not inspector.has_table(SCHEDULES.name) or not inspector.has_table(RUNS.name):
        _metadata.create_all(connection, tables=[RUNS] if inspector.has_table(SCHEDULES.name) else None)
    present = {column["name"] for column in inspector.get_columns(SCHEDULES.name)}
    missing = [column for column in SCHEDULES.columns if column.name not in present]
    for column in missing:
        specification = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
        connection.execute(sa.text(f"ALTER TABLE {SCHEDULES.name} ADD COLUMN {specification}"))
    if missing:
        for index in SCHEDULES.indexes:
            index.create(connection, checkfirst=True)
        _fill(connection)


def _fill(connection: Connection) -> None:
    seen: set[str] = set()
    rows = []
    for row in connection.execute(SCHEDULES.select().order_by(SCHEDULES.c.created_at)).mappings():
        task = _task(row)
        key = _key(task)
        # 0.1.8 could write one definition twice; the older one is it.
        rows.append({"of": task.id, "key": None if key in seen else key, "at": _values(task)["due"]})
        seen.add(key or "")
    change = SCHEDULES.update().where(SCHEDULES.c.id == sa.bindparam("of"))
    if rows:
        connection.execute(change.values(definition=sa.bindparam("key"), due=sa.bindparam("at")), rows)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock first: two that read first and then write would each wait for the other.
    reads = connection.get_execution_options().get("flowrra_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
