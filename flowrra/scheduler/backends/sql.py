"""The schedule store over SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB.

What is due is found by ``due``, microseconds since 1970, which no change of zone or format can bend. The columns of
0.1.8 stay beside it and say the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import datetime, tzinfo
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from flowrra import codec, tags
from flowrra.scheduler.backends.base import BaseSchedulerBackend, Claims
from flowrra.scheduler.models import (
    Run,
    ScheduledTask,
    ScheduleType,
    check,
    definition_key,
    fire,
    following,
    latest_start,
    local,
    micros,
    retry_at,
)

logger = logging.getLogger(__name__)

# Microseconds: a run that was claimed and not submitted for so long belongs to whoever takes it next.
LEASE = 30_000_000
SECOND = 1_000_000
MOST_RUNS = 10_000
# Runs that a process settles before it removes some of the oldest ones beyond MOST_RUNS, and how many at the most.
MODE_ATTEMPTS = 600
TRIM_EVERY = 500
TRIM_BATCH = 2_000
# Ids of one query.
MOST_IDS = 1_000
# Whoever upgrades the tables holds a lock of this number, in MySQL one of a name; seconds to wait for it.
UPGRADE_LOCK = 0x666C6F77727261
UPGRADE_WAIT = 60


class _IsoText(sa.TypeDecorator[datetime]):
    """A datetime as 0.1.8 wrote it into SQLite."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> str | None:
        return None if value is None else value.isoformat()

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        """Text that can't be read stays text: one such row must not stop the reading of others."""
        try:
            found = None if value is None else datetime.fromisoformat(value)
        except (ValueError, TypeError):
            return value
        return found if found is None or found.tzinfo is None else local(micros(found))


class _JsonText(sa.TypeDecorator[Any]):
    """JSON in SQLite, which accepts any text for it; it is read with the rest of its row, see ``_read_row``."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return json.dumps(value)


_time = sa.DateTime().with_variant(_IsoText(), "sqlite").with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql").with_variant(_JsonText(), "sqlite")
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
    sa.Column("misfire", sa.String(16), nullable=False, server_default="latest"),
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
    sa.Column("task_name", _name),
    sa.Column("alive", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("result", sa.String(16), nullable=False),
    sa.Column("error", sa.Text),
    sa.Index("flowrra_runs_lease", "lease"),
    sa.Index("flowrra_runs_due", "due"),
)
_DEFINED = [column for column in SCHEDULES.columns if column.name not in ("due", "definition")]


class _LoopEngine:
    """The engine of one event loop; ``closer`` is there once the tables are."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.opening = asyncio.Lock()
        self.closer: AsyncGenerator[None, None] | None = None


class SqlSchedulerBackend(BaseSchedulerBackend):
    """Schedules in a database.

    Args:
        url: Of SQLAlchemy, with an asyncio driver.
        extra: The extra of flowrra that installs the driver.
        options: For ``create_async_engine``.
    """

    keeps_text = True

    def __init__(self, url: sa.URL, extra: str | None = None, **options: Any) -> None:
        self._url = url
        self._extra = extra
        self._options = options
        self._engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopEngine] = weakref.WeakKeyDictionary()
        self._settled = TRIM_EVERY  # so the first time as well: a process may end before it has settled so many

    async def _open(self) -> AsyncEngine:
        """The engine of the running event loop. It is closed with that loop, or by :meth:`close` there."""
        loop = asyncio.get_running_loop()
        if (found := self._engines.get(loop)) is None:
            found = self._engines[loop] = _LoopEngine(self._new_engine())
        async with found.opening:
            if found.closer is None:
                async with found.engine.begin() as connection:
                    await connection.run_sync(upgrade)
                found.closer = self._close_with_loop(loop)
                await anext(found.closer)  # from now on the loop knows it, and ends it with itself
        return found.engine

    def _new_engine(self) -> AsyncEngine:
        try:
            # Errors go to the log and the health check: without the rows' arguments.
            engine = create_async_engine(self._url, hide_parameters=True, **self._options)
        except ModuleNotFoundError as error:
            raise ImportError(f"{error.name} is missing: pip install 'flowrra[{self._extra}]'") from error
        if self._url.get_backend_name() == "sqlite":
            sa.event.listen(engine.sync_engine, "connect", _set_up_sqlite)
            sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    async def _close_with_loop(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
        """Closes a loop's engine when it is itself closed, as a loop does with all its generators before it ends."""
        found = self._engines[loop]
        try:
            yield
        finally:
            if self._engines.get(loop) is found:
                del self._engines[loop]
            await found.engine.dispose()

    async def close(self) -> None:
        found = self._engines.pop(asyncio.get_running_loop(), None)
        if found is not None and found.closer is not None:
            await found.closer.aclose()
        elif found is not None:
            await found.engine.dispose()

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
            await self._write_defined(SCHEDULES.insert(), _values(task))
        except sa.exc.IntegrityError as error:
            raise ValueError(f"Scheduled task '{task.id}' already exists") from error

    async def create_once(self, task: ScheduledTask) -> None:
        try:
            await self._write(SCHEDULES.insert().values(_values(task)))
        except sa.exc.IntegrityError as error:
            raise ValueError(f"Scheduled task '{task.id}' already exists") from error

    async def update(self, task: ScheduledTask) -> None:
        task.updated_at = datetime.now()  # noqa: DTZ005 - local
        if not await self._write_defined(SCHEDULES.update().where(SCHEDULES.c.id == task.id), _values(task)):
            raise ValueError(f"Scheduled task '{task.id}' not found")

    async def _write_defined(self, statement: sa.Insert | sa.Update, values: dict[str, Any]) -> int:
        """Of schedules that mean the same, the first one has the definition that others are compared with."""
        try:
            return await self._write(statement.values(values))
        except sa.exc.IntegrityError:
            return await self._write(statement.values({**values, "definition": None}))

    async def replace(self, task: ScheduledTask) -> bool:
        if (found := await self.get(task.id)) is None:
            return False
        values = {
            name: value for name, value in _values(task).items() if name not in ("id", "created_at", "last_run_at")
        }
        change = SCHEDULES.update().where(SCHEDULES.c.id == task.id)
        if found.broken is None and _key(found) == _key(task):
            kept = {"next_run_at", "due", "definition", *(["enabled"] if task.enabled else [])}
            values = {name: value for name, value in values.items() if name not in kept}
        return bool(await self._write_defined(change, values))

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

    async def set_enabled(self, task_id: str, enabled: bool, next_run: datetime | None) -> None:
        now = datetime.now()  # noqa: DTZ005 - local
        change, found = SCHEDULES.update().where(SCHEDULES.c.id == task_id), SCHEDULES.c
        if not enabled:
            change = change.values(enabled=False, updated_at=now)
        else:  # one that is enabled and well keeps its due time, which a scheduler may be moving on just now
            due = None if next_run is None else micros(next_run)
            change = change.where((found.enabled != _TRUE) | found.broken.is_not(None))
            change = change.values(enabled=True, updated_at=now, next_run_at=next_run, due=due, broken=None)
        if not await self._write(change) and await self.get(task_id) is None:
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
        timezone: str | None = None,
    ) -> ScheduledTask | None:
        sought = ScheduledTask("", task_name, schedule_type, schedule, args, kwargs or {}, timezone=timezone)
        if (found := await self._first(SCHEDULES.c.definition == (key := definition_key(sought)))) is not None:
            return found
        # One that was kept although there was another of the same meaning, which has gone since.
        others = SCHEDULES.select().where(SCHEDULES.c.definition.is_(None), SCHEDULES.c.task_name == task_name)
        rows = await self._read(others.order_by(SCHEDULES.c.created_at))
        return next((task for task in map(_task, rows) if _key(task) == key), None)

    async def claim(
        self, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None = None
    ) -> Claims:
        engine = await self._open()
        async with engine.begin() as connection:
            return await connection.run_sync(_claim, now, zone, owner, limit, known)

    async def begin_run(self, schedule_id: str, now: int, owner: str) -> Run | None:
        rows = await self._read(SCHEDULES.select().where(SCHEDULES.c.id == schedule_id))
        if not rows:
            return None
        task, fault = _read_row(rows[0])
        if fault is not None:
            raise ValueError(f"Scheduled task '{schedule_id}' is broken: {fault}")
        run = Run(f"{schedule_id}@{now}", task, now, 1, until=now)
        engine = await self._open()
        async with engine.begin() as connection:
            await connection.execute(RUNS.insert().values(_run_row(run, owner, now + LEASE, "claimed")))
            ran = SCHEDULES.update().where(SCHEDULES.c.id == schedule_id)
            await connection.execute(ran.values(last_run_at=local(now)))
        return run

    async def clock(self) -> float | None:
        query = _CLOCKS.get(self._url.get_backend_name())
        return None if query is None else float((await self._read(sa.select(query.label("now"))))[0]["now"])

    async def catch_up_with_clock(self, now: int) -> int:
        waiting = SCHEDULES.select().where(
            SCHEDULES.c.enabled == _TRUE,
            SCHEDULES.c.schedule_type == ScheduleType.INTERVAL.value,
            SCHEDULES.c.due > now + SECOND,
        )
        changed = 0
        for row in await self._read(waiting):
            task, fault = _read_row(row)
            due = None if fault else _due_anew(task, row["due"], now)
            if due is None:
                continue
            change = SCHEDULES.update().where(SCHEDULES.c.id == task.id, SCHEDULES.c.due == row["due"])
            changed += await self._write(change.values(due=due, next_run_at=local(due)))
        await self._write(RUNS.update().where(RUNS.c.lease > now + LEASE).values(lease=now + LEASE))
        return changed

    async def renew(self, claimed: Collection[str], running: Collection[str], owner: str, now: int) -> None:
        own = RUNS.update().where(RUNS.c.owner == owner)
        if claimed:
            await self._write(own.where(RUNS.c.id.in_(claimed), RUNS.c.lease.is_not(None)).values(lease=now + LEASE))
        if running:
            await self._write(own.where(RUNS.c.id.in_(running)).values(alive=now + LEASE))

    async def settle(
        self, runs: Sequence[Run], now: int, errors: dict[str, str], skipped: Collection[str] = frozenset()
    ) -> None:
        engine = await self._open()
        async with engine.begin() as connection:
            await connection.execute(
                _SETTLE, [_settled(run, now, errors.get(run.id), run.id in skipped) for run in runs]
            )
        self._settled += len(runs)
        if self._settled >= TRIM_EVERY:
            self._settled = 0
            await self._trim(engine)

    async def _trim(self, engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            newest = sa.select(RUNS.c.due).order_by(RUNS.c.due.desc()).offset(MOST_RUNS).limit(1)
            if (due := await connection.scalar(newest)) is None:
                return
            beyond = sa.select(RUNS.c.id).where(RUNS.c.due <= due, RUNS.c.lease.is_(None), ~_tells_overlap())
            beyond = beyond.order_by(RUNS.c.due)
            ids = list(await connection.scalars(beyond.limit(TRIM_BATCH).with_for_update(skip_locked=True)))
            if ids:
                await connection.execute(RUNS.delete().where(RUNS.c.id.in_(ids)))

    async def next_due(self, known: Collection[str] | None = None) -> int | None:
        schedule = sa.select(sa.func.min(SCHEDULES.c.due)).where(SCHEDULES.c.enabled == _TRUE, _is_known(known))
        lease = sa.select(sa.func.min(RUNS.c.lease)).where(_is_of_known(known))
        query = sa.select(schedule.scalar_subquery().label("due"), lease.scalar_subquery().label("lease"))
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

    async def list_broken(self, limit: int) -> list[ScheduledTask]:
        marked = SCHEDULES.select().where(SCHEDULES.c.enabled == _TRUE, SCHEDULES.c.broken.is_not(None))
        # The latest changed first: those that nobody mends can't hide the others.
        rows = await self._read(marked.order_by(SCHEDULES.c.updated_at.desc()).limit(limit))
        return [task for row in rows for task, fault in [_read_row(row)] if fault is None]

    async def mend(self, task_id: str, next_run: datetime | None) -> bool:
        due = None if next_run is None else micros(next_run)
        broken = SCHEDULES.update().where(
            SCHEDULES.c.id == task_id, SCHEDULES.c.enabled == _TRUE, SCHEDULES.c.broken.is_not(None)
        )
        return bool(await self._write(broken.values(next_run_at=next_run, due=due, broken=None)))

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
_CLOCKS: dict[str, sa.ColumnElement[Any]] = {
    "postgresql": sa.extract("epoch", sa.func.clock_timestamp()),
    # Whatever the session's time zone is.
    "mysql": sa.func.timestampdiff(sa.text("MICROSECOND"), "1970-01-01", sa.func.utc_timestamp(6)) / 1e6,
}
_ADVANCE = (
    SCHEDULES.update()
    .where(SCHEDULES.c.id == sa.bindparam("of"))
    .values({name: sa.bindparam(f"new_{name}") for name in ("due", "next_run_at", "last_run_at", "enabled", "broken")})
)
_SETTLE = (
    RUNS.update()
    # What another scheduler has submitted meanwhile stays so.
    .where(
        RUNS.c.id == sa.bindparam("of"), sa.or_(RUNS.c.result == "claimed", sa.bindparam("done", type_=sa.Integer) == 1)
    )
    .values({name: sa.bindparam(f"new_{name}") for name in ("fired", "lease", "alive", "result", "error")})
)
_TAKE = (
    RUNS.update()
    .where(RUNS.c.id == sa.bindparam("of"))
    .values(lease=sa.bindparam("new_lease"), owner=sa.bindparam("new_owner"), attempts=RUNS.c.attempts + 1)
)

_END = RUNS.update().where(RUNS.c.id == sa.bindparam("of")).values(lease=None, result=sa.bindparam("new_result"))


def _due(now: int) -> sa.Select[Any]:
    due = SCHEDULES.select().where(SCHEDULES.c.enabled == _TRUE, SCHEDULES.c.due <= now)
    return due.order_by(SCHEDULES.c.priority.desc(), SCHEDULES.c.due)


def _is_known(known: Collection[str] | None) -> sa.ColumnElement[bool]:
    return sa.true() if known is None else SCHEDULES.c.task_name.in_(known)


def _is_of_known(known: Collection[str] | None) -> sa.ColumnElement[bool]:
    """Also a run whose schedule is gone."""
    if known is None:
        return sa.true()
    return ~sa.exists().where(SCHEDULES.c.id == RUNS.c.schedule_id, SCHEDULES.c.task_name.not_in(known))


def _claim(
    connection: Connection, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None
) -> Claims:
    """Claim within a transaction; rows that another scheduler is claiming are passed over."""
    query = _due(now).where(_is_known(known)).limit(limit)
    rows = list(connection.execute(query.with_for_update(skip_locked=True)).mappings())
    claims = Claims([], {}, {}, {}, len(rows) == limit)
    _retake(connection, now, owner, limit, known, claims)
    advances, rows_of_runs, runs = [], [], []
    for row in rows:
        task, fault = _read_row(row)
        try:
            if fault is not None:
                raise ValueError(fault)
            firing = fire(task, row["due"], now, zone)
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            why = fault or f"{type(error).__name__}: {error}"
            logger.error("schedule can't run, set aside until its row is mended schedule=%s error=%s", row["id"], why)
            advances.append(_advance(row, None if fault else task.last_run_at, None, why))
            continue
        last = local(now) if firing.due else task.last_run_at
        advances.append(_advance(row, last, firing.following, None))
        _add(claims.collapsed, task.task_name, firing.collapsed)
        _add(claims.missed, task.task_name, len(firing.missed))
        due = [Run(f"{task.id}@{at}", task, at, 1, latest_start(task, at)) for at in firing.due]
        missed = [Run(f"{task.id}@{at}", task, at, 1, at) for at in firing.missed]
        rows_of_runs += [_run_row(run, owner, now + LEASE, "claimed") for run in due]
        rows_of_runs += [_run_row(run, owner, None, "missed") for run in missed]
        runs += due
    if advances:
        connection.execute(_ADVANCE, advances)
    claims.runs.extend(_first_times(connection, runs))
    if rows_of_runs:
        connection.execute(_insert_once(connection.dialect.name), rows_of_runs)
    return claims


def _first_times(connection: Connection, runs: list[Run]) -> list[Run]:
    """Those of due times that have no row yet. Others were dealt with before the schedule became due there once more,
    as by a clock that was put back."""
    ids = [run.id for run in runs]
    known: set[str] = set()
    for first in range(0, len(ids), MOST_IDS):
        known.update(connection.scalars(sa.select(RUNS.c.id).where(RUNS.c.id.in_(ids[first : first + MOST_IDS]))))
    if known:
        logger.warning("due times were dealt with before, and are left out runs=%s", sorted(known)[:10])
    return [run for run in runs if run.id not in known]


def _retake(
    connection: Connection, now: int, owner: str, limit: int, known: Collection[str] | None, claims: Claims
) -> None:
    """Claim runs that were claimed and not submitted in time: their scheduler is gone, or its submission failed."""
    query = RUNS.select().where(RUNS.c.lease <= now, _is_of_known(known)).limit(limit).with_for_update(skip_locked=True)
    rows = list(connection.execute(query).mappings())
    if not rows:
        return
    ids = {row["schedule_id"] for row in rows}
    found = connection.execute(SCHEDULES.select().where(SCHEDULES.c.id.in_(ids))).mappings()
    schedules = {row["id"]: task for row in found for task, fault in [_read_row(row)] if fault is None}
    taken, ended = [], []
    for row in rows:
        task = schedules.get(row["schedule_id"])
        if task is None:  # it was deleted meanwhile, or spoilt
            ended.append({"of": row["id"], "new_result": "skipped"})
            _add(claims.skipped, row["task_name"])
        elif now > (until := latest_start(task, row["due"])):
            ended.append({"of": row["id"], "new_result": "missed"})
            _add(claims.missed, task.task_name)
        else:
            taken.append({"of": row["id"], "new_lease": now + LEASE, "new_owner": owner})
            claims.runs.append(Run(row["id"], task, row["due"], row["attempts"] + 1, until))
    for change, rows_of_it in ((_TAKE, taken), (_END, ended)):
        if rows_of_it:
            connection.execute(change, rows_of_it)


def _add(counts: dict[str, int], task_name: str | None, count: int = 1) -> None:
    """Runs that were claimed by an earlier version don't say which task they are of."""
    if task_name is not None and count:
        counts[task_name] = counts.get(task_name, 0) + count


def _tells_overlap() -> sa.ColumnElement[bool]:
    """One of the latest runs of a schedule with max_running: its task may not have ended yet."""
    later = RUNS.alias()
    limited = sa.exists().where(SCHEDULES.c.id == RUNS.c.schedule_id, SCHEDULES.c.max_running.is_not(None))
    hundredth = (
        sa.select(later.c.id)
        .where(later.c.schedule_id == RUNS.c.schedule_id, later.c.due > RUNS.c.due, later.c.result == "submitted")
        .limit(1)
        .offset(99)
        .scalar_subquery()
    )
    return sa.and_(RUNS.c.result == "submitted", limited, hundredth.is_(None))


def _due_anew(task: ScheduledTask, due: int, now: int) -> int | None:
    """When an interval that waits for a time that was there before is due; None if it waits as it should."""
    latest_change = max(at for at in (task.last_run_at, task.created_at, task.updated_at) if at is not None)
    if micros(latest_change) <= now + SECOND:
        return None  # whoever has made it wait for long meant to
    try:
        anew = following(task, now)
    except (ValueError, OverflowError):
        return None
    if anew is None or due <= anew + SECOND:
        return None
    # Not on the grid that it had: the due times there have had their runs, by the clock as it was.
    return anew + ((due - anew) % (anew - now) == 0)


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
    return {**row, "task_name": run.schedule.task_name, "attempts": 1, "result": result}


def _settled(run: Run, now: int, error: str | None, skipped: bool) -> dict[str, Any]:
    row = {"of": run.id, "done": 0, "new_fired": None, "new_lease": None, "new_alive": None, "new_error": error}
    if skipped:
        return {**row, "new_result": "skipped"}
    if error is None:
        return {**row, "done": 1, "new_fired": now, "new_alive": now + LEASE, "new_result": "submitted"}
    again = retry_at(run, now)
    return {**row, "new_lease": again, "new_result": "failed" if again is None else "claimed"}


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
    args, kwargs = codec.written_call(task.args, task.kwargs, task.task_name)
    return {
        **values,
        "schedule_type": task.schedule_type.value,
        "args": args,
        "kwargs": kwargs,
        "due": due,
        "definition": _key(task),
    }


def _key(task: ScheduledTask) -> str | None:
    try:
        return definition_key(task)
    except (ValueError, TypeError):  # unreadable; it is kept, and is broken when it becomes due
        return None


def _task(row: Any) -> ScheduledTask:
    return _read_row(row)[0]


def _read_row(row: Any) -> tuple[ScheduledTask, str | None]:
    """A schedule, and what of its row can't be read, for which something empty stands in; ``broken`` says it too."""
    fields, faults = {column.name: row[column.name] for column in _DEFINED}, []
    for name, (read, stand_in) in _READERS.items():
        try:
            fields[name] = read(fields[name])
        except (ValueError, TypeError, RecursionError) as error:
            faults.append(f"{name} {fields[name]!r} can't be read: {error}")
            fields[name] = stand_in
    try:
        if row["due"] is not None:
            fields["next_run_at"] = local(row["due"])
    except (ValueError, TypeError, OverflowError, OSError) as error:
        faults.append(f"due {row['due']!r} can't be read: {error}")
    task = ScheduledTask(**fields)
    try:
        if not faults:
            check(task)
    except (TypeError, ValueError) as error:
        faults.append(str(error))
    fault = "; ".join(faults) or None
    task.broken = fault or task.broken
    return task, fault


def _arguments(kind: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        found = json.loads(value) if isinstance(value, str) else value  # 0.1.8 put text into PostgreSQL's JSON too
        if not isinstance(found, kind):
            raise TypeError(f"it is not a {kind.__name__}")
        return tuple(tags.read(found)) if kind is list else tags.read_values(found)

    return read


def _datetime(value: Any) -> datetime | None:
    if value is not None and not isinstance(value, datetime):
        raise TypeError("it is not a time")
    return value


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local
_READERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "schedule_type": (ScheduleType, ScheduleType.ONE_TIME),
    "args": (_arguments(list), ()),
    "kwargs": (_arguments(dict), {}),
    "enabled": (bool, True),
    "last_run_at": (_datetime, None),
    "next_run_at": (_datetime, None),
    "created_at": (_datetime, _EPOCH),
    "updated_at": (_datetime, _EPOCH),
}


def upgrade(connection: Connection) -> None:
    """Make the tables, or add to those of 0.1.8 what they lack; one process at a time."""
    dialect = connection.dialect.name
    if dialect == "postgresql":  # it is given back with the transaction
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
    if dialect not in ("mysql", "mariadb"):
        _upgrade_alone(connection)
        return
    # Such a name belongs to the whole server.
    name = sa.func.left(sa.func.concat("flowrra:", sa.func.database()), 64)
    connection.execute(sa.select(sa.func.get_lock(name, UPGRADE_WAIT)))
    try:
        _upgrade_alone(connection)
        connection.exec_driver_sql("COMMIT")  # before the next one looks
    finally:
        connection.execute(sa.select(sa.func.release_lock(name)))


def _upgrade_alone(connection: Connection) -> None:
    _metadata.create_all(connection)
    inspector = sa.inspect(connection)
    for table in (SCHEDULES, RUNS):
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                specification = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {specification}"))
    for index in SCHEDULES.indexes:
        index.create(connection, checkfirst=True)
    _fill(connection)


def _fill(connection: Connection) -> None:
    """Complete the rows that 0.1.8 wrote, before the upgrade or, still running elsewhere, after it."""
    old = connection.execute(
        SCHEDULES.select().where(SCHEDULES.c.definition.is_(None)).order_by(SCHEDULES.c.created_at)
    )
    rows = [(row["id"], *_read_row(row)) for row in old.mappings()]
    if not rows:
        return
    seen = set(connection.scalars(sa.select(SCHEDULES.c.definition).where(SCHEDULES.c.definition.is_not(None))))
    changes = []
    for task_id, task, fault in rows:
        key = _key(task) if fault is None else None
        # 0.1.8 could write one definition twice; the older one is it.
        due = None if task.next_run_at is None else micros(task.next_run_at)
        changes.append({"of": task_id, "key": None if key in seen else key, "at": due, "why": fault})
        seen.add(key)
    change = SCHEDULES.update().where(SCHEDULES.c.id == sa.bindparam("of"))
    broken = sa.func.coalesce(sa.bindparam("why", type_=sa.Text), SCHEDULES.c.broken)
    # A due time that is there already may be moved on by a scheduler just now.
    due_at = sa.func.coalesce(SCHEDULES.c.due, sa.bindparam("at", type_=sa.BigInteger))
    change = change.values(definition=sa.bindparam("key"), due=due_at, broken=broken)
    connection.execute(change, changes)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    # Who changes the mode and who commits would wait for each other: the former gives way, and tries again.
    cursor.execute("PRAGMA busy_timeout = 50")
    for attempt in range(MODE_ATTEMPTS, 0, -1):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if attempt == 1:
                raise
    for pragma in ("busy_timeout = 30000", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock first: two that read first and then write would each wait for the other.
    reads = connection.get_execution_options().get("flowrra_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
