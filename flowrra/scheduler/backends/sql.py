"""The schedule store over SQLAlchemy: SQLite, PostgreSQL, MySQL and MariaDB."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from flowrra.per_loop import PerLoop
from flowrra.scheduler.backends.base import BaseSchedulerBackend, Claims
from flowrra.scheduler.backends.own_runs import LEASE
from flowrra.scheduler.backends.sql_rows import dated, definition_of, read_row, read_task, unstorable, written
from flowrra.scheduler.backends.sql_schema import (
    ADVANCE,
    CLOCKS,
    END,
    RUNS,
    SCHEDULES,
    SETTLE,
    TAKE,
    TRUE,
    insert_once,
    is_broken,
    is_known,
    is_of_known,
    select_due,
    tells_overlap,
    withdraw_runs,
)
from flowrra.scheduler.backends.sql_upgrade import upgrade
from flowrra.scheduler.due_times import fire, following, latest_start, retry_at
from flowrra.scheduler.error_text import describe
from flowrra.scheduler.local_time import LOCAL, local, micros
from flowrra.scheduler.models import Run, ScheduledTask, ScheduleType, definition_key, named

logger = logging.getLogger(__name__)

SECOND = 1_000_000
MOST_RUNS = 10_000
# Runs that a process settles before it removes some of the oldest ones beyond MOST_RUNS, and how many at the most.
MODE_ATTEMPTS = 600
TRIM_EVERY = 500
TRIM_BATCH = 2_000
# Ids of one query.
MOST_IDS = 1_000
# What MariaDB and MySQL say of a value of a column of JSON that is none.
NO_JSON = ((4025,), (3140,))
# What they, and PostgreSQL by its SQLSTATE, say of a transaction that waited for another one which waited for it; how
# often such a one is begun anew.
DEADLOCK, DEADLOCK_STATE = (1213,), "40P01"
MOST_DEADLOCKS = 5

T = TypeVar("T")


# What a schedule has besides its definition, and may be given anew.
_OPTIONS = ("description", "max_retries", "retry_delay", "priority", "misfire_grace", "misfire", "max_running")


def _is_unchanged(found: ScheduledTask, task: ScheduledTask) -> bool:
    """Whether a schedule of the same definition asks for nothing else than there is."""
    is_enabled_as_before = task.enabled or not found.enabled
    return is_enabled_as_before and all(getattr(found, name) == getattr(task, name) for name in _OPTIONS)


def _is_refusal(error: sa.exc.DBAPIError | UnicodeError) -> bool:
    """Whether a value was refused, by the server or its driver, rather than that the server is away or busy."""
    if isinstance(error, (UnicodeError, sa.exc.DataError)):
        return True
    # Of asyncpg no class says so, but class 22 of the SQLSTATEs does; PyMySQL has what is no JSON as an outage.
    state = getattr(error.orig, "sqlstate", None) or ""
    return state.startswith("22") or getattr(error.orig, "args", ())[:1] in NO_JSON


def _is_deadlock(error: sa.exc.DBAPIError) -> bool:
    """Whether the server ended a transaction in favour of another one, with nothing of it done."""
    return getattr(error.orig, "args", ())[:1] == DEADLOCK or getattr(error.orig, "sqlstate", None) == DEADLOCK_STATE


class _LoopEngine:
    """The engine of one event loop, and whether it was used to see that the tables are there."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.upgrading = asyncio.Lock()
        self.is_upgraded = False

    async def close(self) -> None:
        await self.engine.dispose()


class SqlSchedulerBackend(BaseSchedulerBackend):
    """Schedules in a database.

    Args:
        url: Of SQLAlchemy, with an asyncio driver.
        extra: The extra of flowrra that installs the driver.
        options: For ``create_async_engine``.
    """

    keeps_text = True
    # Whether a text may have the character NUL.
    takes_nul = True

    def __init__(self, url: sa.URL, extra: str | None = None, **options: Any) -> None:
        self._url = url
        self.address = f"{url.host or 'localhost'}{f':{url.port}' if url.port else ''}/{url.database or ''}"
        self._extra = extra
        self._options = options
        self._engines = PerLoop(lambda: _LoopEngine(self._new_engine()), _LoopEngine.close)
        self._settled = TRIM_EVERY  # so the first time as well: a process may end before it has settled so many

    async def _open(self) -> AsyncEngine:
        """The engine of the running event loop. It is closed with that loop, or by :meth:`close` there."""
        found = self._engines.get()
        async with found.upgrading:
            if not found.is_upgraded:
                async with found.engine.begin() as connection:
                    await connection.run_sync(upgrade)
                found.is_upgraded = True
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

    async def close(self) -> None:
        await self._engines.close()

    def _of(self, column: sa.Column[str], schedule_id: str) -> sa.ColumnElement[bool]:
        """The rows of a schedule; none of an id that the server or its driver would refuse: no schedule has it."""
        try:
            schedule_id.encode()
        except UnicodeEncodeError:
            return sa.false()
        return sa.false() if "\0" in schedule_id and not self.takes_nul else column == schedule_id

    async def _read(self, query: sa.Executable) -> list[Any]:
        engine = await self._open()
        async with engine.connect() as connection:
            connection = await connection.execution_options(flowrra_reads=True)
            return list((await connection.execute(query)).mappings())

    async def _write(self, statement: sa.Executable, *more: sa.Executable) -> int:
        """How many rows the first statement changed; those after it are in the same transaction."""

        async def write(connection: AsyncConnection) -> int:
            changed = (await connection.execute(statement)).rowcount
            for each in more:
                await connection.execute(each)
            return changed

        return await self._transact(write)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do something in a transaction; anew if it deadlocks: in which order rows are locked is up to the server."""
        engine, begun = await self._open(), 0
        while True:
            begun += 1
            try:
                async with engine.begin() as connection:
                    return await work(connection)
            except sa.exc.DBAPIError as error:
                if begun > MOST_DEADLOCKS or not _is_deadlock(error):
                    raise

    async def create(self, task: ScheduledTask) -> None:
        await self._keep_from_known_runs(task)
        try:
            await self._write_defined(SCHEDULES.insert(), written(task))
        except sa.exc.IntegrityError as error:
            raise ValueError(f"Scheduled task '{task.id}' already exists") from error

    async def create_once(self, task: ScheduledTask) -> None:
        await self._keep_from_known_runs(task)
        try:
            await self._write_values(SCHEDULES.insert(), written(task))
        except sa.exc.IntegrityError as error:
            raise ValueError(f"Scheduled task '{task.id}' already exists") from error

    async def _keep_from_known_runs(self, task: ScheduledTask) -> None:
        """Let what is to run once be due by a microsecond later, if another schedule of its id has had a run then: that
        run has the id that this one's would have."""
        if task.schedule_type is not ScheduleType.ONE_TIME or task.next_run_at is None:
            return
        due = micros(task.next_run_at)
        query = sa.select(RUNS.c.due).where(self._of(RUNS.c.schedule_id, task.id), RUNS.c.due >= due)
        known = {row["due"] for row in await self._read(query)}
        while due in known:
            due += 1
        task.next_run_at = local(due)

    async def update(self, task: ScheduledTask) -> None:
        task.updated_at = datetime.now()  # noqa: DTZ005 - local
        if not await self._write_defined(SCHEDULES.update().where(SCHEDULES.c.id == task.id), written(task)):
            raise ValueError(f"Scheduled task '{task.id}' not found")

    async def _write_values(
        self, statement: sa.Insert | sa.Update, values: dict[str, Any], *more: sa.Executable
    ) -> int:
        try:
            return await self._write(statement.values(values), *more)
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.DBAPIError, UnicodeError) as error:
            is_long = isinstance(error, sa.exc.DataError)
            reason = unstorable(values, takes_nul=self.takes_nul) or ("a value is too long" if is_long else None)
            if reason is None or not _is_refusal(error):
                raise
            raise ValueError(f"The schedule can't be kept in this store: {reason}") from error

    async def _write_defined(
        self, statement: sa.Insert | sa.Update, values: dict[str, Any], *more: sa.Executable
    ) -> int:
        """Of schedules that mean the same, the first one has the definition that others are compared with."""
        try:
            return await self._write_values(statement, values, *more)
        except sa.exc.IntegrityError:
            return await self._write_values(statement, {**values, "definition": None}, *more)

    def _kept(self, task: ScheduledTask) -> ScheduledTask:
        """The schedule as the store would give it back, as far as that has another definition."""
        return task

    async def replace(self, task: ScheduledTask) -> bool:
        if (found := await self.get(task.id)) is None:
            return False
        change = SCHEDULES.update().where(SCHEDULES.c.id == task.id)
        same = (definition_of(task), definition_of(self._kept(task)))
        is_same = found.broken is None and definition_of(found) in same
        if not is_same:
            await self._keep_from_known_runs(task)
        own = ("id", "created_at", "last_run_at", "last_run")
        values = {name: value for name, value in written(task).items() if name not in own}
        if is_same:
            # Not the definition: the arguments are written as they are now, though they may be kept as they were.
            kept = {"next_run_at", "due", *(["enabled"] if task.enabled else [])}
            if _is_unchanged(found, task):  # as by each start of a program that says what it wants
                kept.add("updated_at")
            values = {name: value for name, value in values.items() if name not in kept}
        withdrawals = [] if is_same and task.enabled else [withdraw_runs(self._of(RUNS.c.schedule_id, task.id))]
        return bool(await self._write_defined(change, values, *withdrawals))

    async def delete(self, task_id: str) -> bool:
        deletion = SCHEDULES.delete().where(self._of(SCHEDULES.c.id, task_id))
        return bool(await self._write(deletion, withdraw_runs(self._of(RUNS.c.schedule_id, task_id))))

    async def get(self, task_id: str) -> ScheduledTask | None:
        return await self._first(self._of(SCHEDULES.c.id, task_id))

    async def _first(self, condition: sa.ColumnElement[bool]) -> ScheduledTask | None:
        return next((read_task(row) for row in await self._read(SCHEDULES.select().where(condition))), None)

    async def list_all(self) -> list[ScheduledTask]:
        return [read_task(row) for row in await self._read(SCHEDULES.select().order_by(SCHEDULES.c.created_at))]

    async def list_enabled(self) -> list[ScheduledTask]:
        query = SCHEDULES.select().where(SCHEDULES.c.enabled == TRUE).order_by(SCHEDULES.c.due)
        return [read_task(row) for row in await self._read(query)]

    async def list_due(self, now: datetime | None = None) -> list[ScheduledTask]:
        now = datetime.now() if now is None else now  # noqa: DTZ005 - local
        return [read_task(row) for row in await self._read(select_due(micros(now)))]

    async def update_run_times(self, task_id: str, last_run: datetime | None, next_run: datetime | None) -> None:
        change = SCHEDULES.update().where(self._of(SCHEDULES.c.id, task_id))
        if not await self._write(change.values(dated(last_run, next_run))):
            raise ValueError(f"Scheduled task '{task_id}' not found")

    async def set_enabled(self, task_id: str, enabled: bool, next_run: datetime | None) -> None:
        now = datetime.now()  # noqa: DTZ005 - local
        change, found = SCHEDULES.update().where(self._of(SCHEDULES.c.id, task_id)), SCHEDULES.c
        if not enabled:
            change = change.values(enabled=False, updated_at=now)
        else:  # one that is enabled and well keeps its due time, which a scheduler may be moving on just now
            due = None if next_run is None else micros(next_run)
            change = change.where((found.enabled != TRUE) | is_broken())
            change = change.values(enabled=True, updated_at=now, next_run_at=next_run, due=due, broken=None)
        withdrawals = [] if enabled else [withdraw_runs(self._of(RUNS.c.schedule_id, task_id))]
        if not await self._write(change, *withdrawals) and await self.get(task_id) is None:
            raise ValueError(f"Scheduled task '{task_id}' not found")

    async def clear(self) -> int:
        return await self._write(SCHEDULES.delete(), withdraw_runs())

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
        return next((task for task in map(read_task, rows) if definition_of(task) == key), None)

    async def claim(
        self, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None = None
    ) -> Claims:
        return await self._transact(lambda connection: connection.run_sync(_claim, now, zone, owner, limit, known))

    async def begin_run(self, schedule_id: str, now: int, owner: str) -> Run | None:
        rows = await self._read(SCHEDULES.select().where(self._of(SCHEDULES.c.id, schedule_id)))
        if not rows:
            return None
        task, fault = read_row(rows[0])
        if fault is not None:
            raise ValueError(f"Scheduled task '{schedule_id}' is broken: {fault}")
        run = Run(f"{schedule_id}@{now}", task, now, 1, until=now)
        # The schedule first, as whoever withdraws its runs does: else the two would each wait for the other.
        ran = SCHEDULES.update().where(SCHEDULES.c.id == schedule_id)
        begun = RUNS.insert().values(_run_row(run, owner, now + LEASE, "claimed"))
        await self._write(ran.values(last_run_at=local(now), last_run=now), begun)
        return run

    async def clock(self) -> float | None:
        query = CLOCKS.get(self._url.get_backend_name())
        return None if query is None else float((await self._read(sa.select(query.label("now"))))[0]["now"])

    async def catch_up_with_clock(self, now: int, zone: tzinfo = LOCAL) -> int:
        waiting = SCHEDULES.select().where(
            SCHEDULES.c.enabled == TRUE,
            SCHEDULES.c.schedule_type != ScheduleType.ONE_TIME.value,
            SCHEDULES.c.due > now + SECOND,
        )
        changed = 0
        for row in await self._read(waiting):
            task, fault = read_row(row)
            if fault or not _is_of_later_clock(task, now):
                continue
            dealt_with = sa.select(RUNS.c.due).where(RUNS.c.schedule_id == task.id, RUNS.c.due > now)
            due = _due_anew(task, row["due"], now, zone, {run["due"] for run in await self._read(dealt_with)})
            if due is None:
                continue
            change = SCHEDULES.update().where(SCHEDULES.c.id == task.id, SCHEDULES.c.due == row["due"])
            changed += await self._write(change.values(due=due, next_run_at=local(due)))
        await self._write(RUNS.update().where(RUNS.c.lease > now + LEASE).values(lease=now + LEASE))
        return changed

    async def renew(self, claimed: Collection[str], running: Collection[str], owner: str, now: int) -> None:
        own = RUNS.update().where(RUNS.c.owner == owner)
        for ids in _batches(claimed):
            await self._write(own.where(RUNS.c.id.in_(ids), RUNS.c.lease.is_not(None)).values(lease=now + LEASE))
        for ids in _batches(running):
            await self._write(own.where(RUNS.c.id.in_(ids)).values(alive=now + LEASE))

    async def settle(
        self, runs: Sequence[Run], now: int, errors: dict[str, str], skipped: Collection[str] = frozenset()
    ) -> None:
        rows = [_settled(run, now, errors.get(run.id), run.id in skipped) for run in runs]
        await self._transact(lambda connection: connection.execute(SETTLE, rows))
        self._settled += len(runs)
        if self._settled >= TRIM_EVERY:
            self._settled = 0
            await self._transact(_trim)

    async def next_due(self, known: Collection[str] | None = None) -> int | None:
        schedule = sa.select(sa.func.min(SCHEDULES.c.due)).where(SCHEDULES.c.enabled == TRUE, is_known(known))
        lease = sa.select(sa.func.min(RUNS.c.lease)).where(is_of_known(known))
        query = sa.select(schedule.scalar_subquery().label("due"), lease.scalar_subquery().label("lease"))
        row = (await self._read(query))[0]
        return min((at for at in row.values() if at is not None), default=None)

    async def figures(self, now: int, known: Collection[str] | None = None) -> dict[str, Any]:
        columns, on = SCHEDULES.c, SCHEDULES.c.enabled == TRUE
        taken = on & is_known(known)
        query = sa.select(
            sa.func.count().label("total"),
            sa.func.count(sa.case((on, 1))).label("enabled"),
            sa.func.count(sa.case((taken & (columns.due <= now), 1))).label("overdue"),
            sa.func.count(sa.case((is_broken(), 1))).label("broken"),
            sa.func.min(sa.case((taken, columns.due))).label("next"),
        ).select_from(SCHEDULES)
        return dict((await self._read(query))[0])

    async def count_by_task(self) -> dict[str, int]:
        columns = SCHEDULES.c
        query = sa.select(columns.task_name, sa.func.count().label("count")).group_by(columns.task_name)
        rows = await self._read(query.where(columns.enabled == TRUE, columns.broken.is_(None)))
        return {row["task_name"]: row["count"] for row in rows}

    async def list_broken(self, limit: int) -> list[ScheduledTask]:
        marked = SCHEDULES.select().where(SCHEDULES.c.enabled == TRUE, is_broken())
        # The latest changed first: those that nobody repairs can't hide the others.
        rows = await self._read(marked.order_by(SCHEDULES.c.updated_at.desc()).limit(limit))
        return [task for row in rows for task, fault in [read_row(row)] if fault is None]

    async def repair(self, task_id: str, next_run: datetime | None) -> bool:
        due = None if next_run is None else micros(next_run)
        broken = SCHEDULES.update().where(SCHEDULES.c.id == task_id, SCHEDULES.c.enabled == TRUE, is_broken())
        return bool(await self._write(broken.values(next_run_at=next_run, due=due, broken=None)))

    async def list_runs(
        self, schedule_id: str | None, limit: int, results: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        query = RUNS.select().order_by(RUNS.c.due.desc()).limit(limit)
        if schedule_id is not None:
            query = query.where(self._of(RUNS.c.schedule_id, schedule_id))
        if results:
            query = query.where(RUNS.c.result.in_(results))
        return [dict(row) for row in await self._read(query)]


def _claim(
    connection: Connection, now: int, zone: tzinfo, owner: str, limit: int, known: Collection[str] | None
) -> Claims:
    """Claim within a transaction; rows that another scheduler is claiming are passed over."""
    query = select_due(now).where(is_known(known)).limit(limit)
    rows = list(connection.execute(query.with_for_update(skip_locked=True)).mappings())
    claims = Claims([], {}, {}, {}, len(rows) == limit)
    _retake(connection, now, owner, limit, known, claims)
    advances, rows_of_runs = [], []
    runs: list[Run] = []
    for row in rows:
        if len(runs) >= limit:  # of schedules that make up for all that they missed
            claims = claims._replace(more=True)
            break
        task, fault = read_row(row)
        try:
            if fault is not None:
                raise ValueError(fault)
            firing = fire(task, row["due"], now, zone)
        except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
            why = fault or describe(error)
            logger.error("schedule can't run, set aside until its row is repaired %s error=%s", named(task), why)
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
        connection.execute(ADVANCE, advances)
    claims.runs.extend(_first_times(connection, runs))
    if rows_of_runs:
        connection.execute(insert_once(connection.dialect.name), rows_of_runs)
    return claims


async def _trim(connection: AsyncConnection) -> None:
    """Remove some of the oldest runs beyond the latest ones."""
    newest = sa.select(RUNS.c.due).order_by(RUNS.c.due.desc()).offset(MOST_RUNS).limit(1)
    if (due := await connection.scalar(newest)) is None:
        return
    beyond = sa.select(RUNS.c.id).where(RUNS.c.due <= due, RUNS.c.lease.is_(None), ~tells_overlap())
    beyond = beyond.order_by(RUNS.c.due)
    ids = list(await connection.scalars(beyond.limit(TRIM_BATCH).with_for_update(skip_locked=True)))
    if ids:
        await connection.execute(RUNS.delete().where(RUNS.c.id.in_(ids)))


def _first_times(connection: Connection, runs: list[Run]) -> list[Run]:
    """Those of due times that have no row yet. Others were dealt with before the schedule became due there once more,
    as by a clock that was put back."""
    known: set[str] = set()
    for ids in _batches([run.id for run in runs]):
        known.update(connection.scalars(sa.select(RUNS.c.id).where(RUNS.c.id.in_(ids))))
    if known:
        logger.warning("due times were dealt with before, and are left out runs=%s", sorted(known)[:10])
    return [run for run in runs if run.id not in known]


def _retake(
    connection: Connection, now: int, owner: str, limit: int, known: Collection[str] | None, claims: Claims
) -> None:
    """Claim runs that were claimed and not submitted in time: their scheduler is gone, or its submission failed."""
    query = RUNS.select().where(RUNS.c.lease <= now, is_of_known(known)).limit(limit).with_for_update(skip_locked=True)
    rows = list(connection.execute(query).mappings())
    if not rows:
        return
    ids = {row["schedule_id"] for row in rows}
    found = connection.execute(SCHEDULES.select().where(SCHEDULES.c.id.in_(ids))).mappings()
    schedules = {row["id"]: task for row in found for task, fault in [read_row(row)] if fault is None}
    taken, ended = [], []
    for row in rows:
        task = schedules.get(row["schedule_id"])
        if task is None or row["owner"] is None:  # it was deleted, replaced or disabled meanwhile, or spoilt
            ended.append({"of": row["id"], "new_result": "skipped"})
            _add(claims.skipped, row["task_name"])
        elif now > (until := latest_start(task, row["due"])):
            ended.append({"of": row["id"], "new_result": "missed"})
            _add(claims.missed, task.task_name)
        else:
            taken.append({"of": row["id"], "new_lease": now + LEASE, "new_owner": owner})
            claims.runs.append(Run(row["id"], task, row["due"], row["attempts"] + 1, until))
    for change, rows_of_it in ((TAKE, taken), (END, ended)):
        if rows_of_it:
            connection.execute(change, rows_of_it)


def _batches(ids: Collection[str]) -> Iterator[list[str]]:
    """As many ids at a time as a query may have parameters."""
    listed = list(ids)
    return (listed[first : first + MOST_IDS] for first in range(0, len(listed), MOST_IDS))


def _add(counts: dict[str, int], task_name: str | None, count: int = 1) -> None:
    """Runs that were claimed by an earlier version don't say which task they are of."""
    if task_name is not None and count:
        counts[task_name] = counts.get(task_name, 0) + count


def _is_of_later_clock(task: ScheduledTask, now: int) -> bool:
    """Whether a schedule got its due time at a time that is yet to come; else whoever has made it wait meant to."""
    latest_change = max(at for at in (task.last_run_at, task.created_at, task.updated_at) if at is not None)
    return micros(latest_change) > now + SECOND


def _due_anew(task: ScheduledTask, due: int, now: int, zone: tzinfo, dealt_with: Collection[int]) -> int | None:
    """When a schedule that waits for a time that was there before is due, whose due times from now on have partly been
    dealt with by the clock as it was; None if it waits as it should."""
    try:
        anew = following(task, now, zone)
        while task.schedule_type is ScheduleType.CRON and anew is not None and anew in dealt_with:
            anew = following(task, anew, zone)
    except (ValueError, OverflowError, OSError):
        return None
    if anew is None or due <= anew + SECOND:
        return None
    if task.schedule_type is ScheduleType.CRON:
        return anew
    # Not on the grid that it had, whose due times will be dealt with already.
    return anew + ((due - anew) % (anew - now) == 0)


def _advance(row: Any, last: datetime | None, due: int | None, broken: str | None) -> dict[str, Any]:
    times = dated(last, None if due is None else local(due))
    return {
        "of": row["id"],
        **{f"new_{name}": value for name, value in times.items()},
        # A one-time schedule has had its run; a broken one stays enabled, and is due again once it is repaired.
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
