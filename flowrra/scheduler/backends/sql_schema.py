"""The tables of the schedule store, and the statements on them that don't depend on what is asked.

What is due is found by ``due``, microseconds since 1970, which no change of zone or format can bend; ``last_run`` says
so when a schedule ran. The columns of 0.1.8 stay beside them and say the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from flowrra.scheduler.local_time import local, micros


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
    """JSON in SQLite, which accepts any text for it; it is read with the rest of its row, see ``sql_rows.read_row``."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str:
        return json.dumps(value)


_time = sa.DateTime().with_variant(_IsoText(), "sqlite").with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql").with_variant(_JsonText(), "sqlite")
_flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")
_real = sa.Float().with_variant(sa.Double(), "mysql", "mariadb", "postgresql")
_name = sa.String(255)
MYSQL_CHARSET, MYSQL_COLLATION = "utf8mb4", "utf8mb4_bin"

METADATA = sa.MetaData()
# Ids and names that differ in their case are different ones, also in MySQL.
_TEXTS: dict[str, Any] = {"mysql_charset": MYSQL_CHARSET, "mysql_collate": MYSQL_COLLATION}
SCHEDULES = sa.Table(
    "scheduled_tasks",
    METADATA,
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
    sa.Column("last_run", sa.BigInteger),
    sa.Column("definition", sa.String(64)),
    sa.Index("flowrra_schedules_due", "enabled", "due"),
    sa.Index("flowrra_schedules_definition", "definition", unique=True),
    **_TEXTS,
)
RUNS = sa.Table(
    "schedule_runs",
    METADATA,
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
    **_TEXTS,
)
DEFINED = [column for column in SCHEDULES.columns if column.name not in ("due", "last_run", "definition")]

# When a schedule is due and when it ran, in both ways.
DATED = ("due", "next_run_at", "last_run", "last_run_at")

TRUE = sa.literal(True, _flag)
CLOCKS: dict[str, sa.ColumnElement[Any]] = {
    "postgresql": sa.extract("epoch", sa.func.clock_timestamp()),
    # Whatever the session's time zone is.
    "mysql": sa.func.timestampdiff(sa.text("MICROSECOND"), "1970-01-01", sa.func.utc_timestamp(6)) / 1e6,
}
ADVANCE = (
    SCHEDULES.update()
    .where(SCHEDULES.c.id == sa.bindparam("of"))
    .values({name: sa.bindparam(f"new_{name}") for name in (*DATED, "enabled", "broken")})
)
SETTLE = (
    RUNS.update()
    # What another scheduler has submitted meanwhile stays so.
    .where(
        RUNS.c.id == sa.bindparam("of"), sa.or_(RUNS.c.result == "claimed", sa.bindparam("done", type_=sa.Integer) == 1)
    )
    .values({name: sa.bindparam(f"new_{name}") for name in ("fired", "lease", "alive", "result", "error")})
)
TAKE = (
    RUNS.update()
    .where(RUNS.c.id == sa.bindparam("of"))
    .values(lease=sa.bindparam("new_lease"), owner=sa.bindparam("new_owner"), attempts=RUNS.c.attempts + 1)
)
END = RUNS.update().where(RUNS.c.id == sa.bindparam("of")).values(lease=None, result=sa.bindparam("new_result"))


def withdraw_runs(are_meant: sa.ColumnElement[bool] | None = None) -> sa.Update:
    """Let no scheduler try runs again that aren't submitted yet, those that are meant or all: who claims such a run
    next skips it, as it has no owner. One that is being submitted just now is, and says so."""
    claimed = RUNS.update().where(RUNS.c.result == "claimed").values(owner=None)
    return claimed if are_meant is None else claimed.where(are_meant)


def select_due(now: int) -> sa.Select[Any]:
    """The schedules that are due, the highest priority first, then the longest due."""
    due = SCHEDULES.select().where(SCHEDULES.c.enabled == TRUE, SCHEDULES.c.due <= now)
    return due.order_by(SCHEDULES.c.priority.desc(), SCHEDULES.c.due)


def is_broken() -> sa.ColumnElement[bool]:
    """A schedule that can't run: it is marked so, or is enabled without a due time, as 0.1.8 writes one while it still
    runs elsewhere."""
    return sa.or_(SCHEDULES.c.broken.is_not(None), sa.and_(SCHEDULES.c.enabled == TRUE, SCHEDULES.c.due.is_(None)))


def is_known(known: Collection[str] | None) -> sa.ColumnElement[bool]:
    """A schedule of one of these tasks; None is any."""
    return sa.true() if known is None else SCHEDULES.c.task_name.in_(known)


def is_of_known(known: Collection[str] | None) -> sa.ColumnElement[bool]:
    """A run of one of these tasks, or whose schedule is gone; None is any."""
    if known is None:
        return sa.true()
    return ~sa.exists().where(SCHEDULES.c.id == RUNS.c.schedule_id, SCHEDULES.c.task_name.not_in(known))


def tells_overlap() -> sa.ColumnElement[bool]:
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


def insert_once(dialect: str) -> Any:
    """Insert runs, but for those that have a row already: due times that ran before the schedule was enabled again."""
    if dialect == "postgresql":
        return postgresql.insert(RUNS).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(RUNS).on_conflict_do_nothing()
    return sa.insert(RUNS).prefix_with("IGNORE")
