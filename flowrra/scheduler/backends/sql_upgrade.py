"""Makes the tables of the schedule store, or adds to those of an earlier version what they lack."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from flowrra.scheduler.backends.sql_rows import definition_of, read_row
from flowrra.scheduler.backends.sql_schema import METADATA, MYSQL_CHARSET, MYSQL_COLLATION, RUNS, SCHEDULES
from flowrra.scheduler.local_time import micros

# Whoever upgrades the tables holds a lock of this number, in MySQL one of a name; seconds to wait for it.
UPGRADE_LOCK = 0x666C6F77727261
UPGRADE_WAIT = 60


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
    METADATA.create_all(connection)
    if connection.dialect.name in ("mysql", "mariadb"):
        _tell_cases_apart(connection)
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


def _tell_cases_apart(connection: Connection) -> None:
    """Tables of an earlier version compare text as the database does: mostly without regard to its case."""
    tables = sa.table("tables", sa.column("table_schema"), sa.column("table_name"), sa.column("table_collation"))
    tables.schema = "information_schema"
    query = sa.select(tables.c.table_name).where(
        tables.c.table_schema == sa.func.database(),
        tables.c.table_name.in_([SCHEDULES.name, RUNS.name]),
        tables.c.table_collation != MYSQL_COLLATION,
    )
    for name in list(connection.scalars(query)):
        change = f"ALTER TABLE {name} CONVERT TO CHARACTER SET {MYSQL_CHARSET} COLLATE {MYSQL_COLLATION}"
        connection.execute(sa.text(change))


def _fill(connection: Connection) -> None:
    """Complete the rows that 0.1.8 wrote, before the upgrade or, still running elsewhere, after it."""
    old = connection.execute(
        SCHEDULES.select().where(SCHEDULES.c.definition.is_(None)).order_by(SCHEDULES.c.created_at)
    )
    rows = [(row["id"], *read_row(row)) for row in old.mappings()]
    if not rows:
        return
    seen = set(connection.scalars(sa.select(SCHEDULES.c.definition)))
    changes = []
    for task_id, task, fault in rows:
        key = definition_of(task) if fault is None else None
        # 0.1.8 could write one definition twice; the older one is it.
        times = {"at": _instant(task.next_run_at), "ran": _instant(task.last_run_at)}
        changes.append({"of": task_id, "key": None if key in seen else key, **times, "why": fault})
        seen.add(key)
    change = SCHEDULES.update().where(SCHEDULES.c.id == sa.bindparam("of"))
    broken = sa.func.coalesce(sa.bindparam("why", type_=sa.Text), SCHEDULES.c.broken)
    # A due time that is there already may be moved on by a scheduler just now.
    due_at = sa.func.coalesce(SCHEDULES.c.due, sa.bindparam("at", type_=sa.BigInteger))
    ran_at = sa.func.coalesce(SCHEDULES.c.last_run, sa.bindparam("ran", type_=sa.BigInteger))
    change = change.values(definition=sa.bindparam("key"), due=due_at, last_run=ran_at, broken=broken)
    connection.execute(change, changes)


def _instant(at: datetime | None) -> int | None:
    """None also for a time that no clock can show, of a row that somebody has written by hand."""
    try:
        return None if at is None else micros(at)
    except (ValueError, OverflowError, OSError):
        return None
