"""The tables are those of the stores that exist: who changes them writes an upgrade, and the text in `tables/` anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from flowrra.scheduler.backends.sql_schema import RUNS, SCHEDULES

DIALECTS: dict[str, sa.Dialect] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),
    "mysql": mysql.dialect(),
}
TEXTS = Path(__file__).with_name("tables")


def statements_for(dialect: sa.Dialect) -> str:
    """What makes the tables there, a statement after the other."""
    made: list[sa.schema.ExecutableDDLElement] = []
    for table in (SCHEDULES, RUNS):
        made += [sa.schema.CreateTable(table)]
        made += [sa.schema.CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    lines = [line.rstrip() for each in made for line in f"{each.compile(dialect=dialect)};".strip().splitlines()]
    return "\n".join(line for line in lines if line) + "\n"


@pytest.mark.parametrize("name", DIALECTS)
def test_they_are_made_as_they_were(name: str) -> None:
    assert statements_for(DIALECTS[name]) == (TEXTS / f"{name}.sql").read_text(encoding="utf-8")
