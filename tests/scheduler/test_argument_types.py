"""Schedules keep what their tasks are called with, on every kind of database, and call them with just that."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flowrra import Flowrra, SerializationError

ARGS = (datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.50"), (1, (2, b"\x00")), {"ids": {UUID(int=1)}})
KWARGS = {"since": timedelta(hours=1), "note": "plain"}


class Colour(Enum):
    RED = "red"


@dataclass
class Order:
    id: int
    colour: Colour
    due: datetime


ORDER = Order(1, Colour.RED, datetime(2026, 1, 2, tzinfo=UTC))


def app_with(url: str, calls: asyncio.Queue[Any]) -> Flowrra:
    app = Flowrra()
    app.create_scheduler(url)

    @app.task()
    async def note(*args: Any, **kwargs: Any) -> None:
        calls.put_nowait((args, kwargs))

    @app.task()
    async def ship(order: Order) -> None:
        calls.put_nowait(order)

    return app


async def test_every_type_is_kept_found_again_and_passed_on(url: str) -> None:
    calls: asyncio.Queue[Any] = asyncio.Queue()
    app = app_with(url, calls)
    scheduler = app.scheduler
    assert scheduler is not None
    later = await scheduler.schedule_interval("note", 300, ARGS, KWARGS)
    assert await scheduler.schedule_interval("note", 300, ARGS, KWARGS) == later
    assert await scheduler.schedule_interval("note", 300, (*ARGS[:3], {"ids": {UUID(int=2)}}), KWARGS) != later
    kept = await scheduler.get_scheduled_task(later)
    assert kept is not None
    assert (kept.args, kept.kwargs) == (ARGS, KWARGS)
    async with app:
        await scheduler.schedule_once("note", datetime.now(UTC), ARGS, KWARGS)
        assert await asyncio.wait_for(calls.get(), 10) == (ARGS, KWARGS)
        await scheduler.schedule_once("ship", datetime.now(UTC), (ORDER,))
        assert await asyncio.wait_for(calls.get(), 10) == ORDER
    await scheduler.backend.close()


@pytest.mark.parametrize(
    ("task", "value", "why"),
    [
        ("note", ORDER, "holds an instance of Order"),
        ("note", {1: 2}, "has the key 1"),
        ("note", object(), "is an instance of object"),
        ("ship", Colour.RED, "a dict was expected, not a str"),
    ],
    ids=["no annotation", "key", "object", "other annotation"],
)
async def test_what_could_not_be_passed_on_is_refused(tmp_path: Path, task: str, value: Any, why: str) -> None:
    scheduler = app_with(str(tmp_path / "schedules.db"), asyncio.Queue()).scheduler
    assert scheduler is not None
    with pytest.raises(SerializationError, match=why):
        await scheduler.schedule_interval(task, 300, (value,))
    assert await scheduler.list_scheduled_tasks() == []
    await scheduler.backend.close()


async def test_a_schedule_of_flowrra_0_1_8_with_a_tuple_in_it_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "schedules.db"
    scheduler = app_with(str(path), asyncio.Queue()).scheduler
    assert scheduler is not None
    first = await scheduler.schedule_interval("note", 300, ([1, 2],))
    with closing(sqlite3.connect(path)) as look:
        assert json.loads(look.execute("SELECT args FROM scheduled_tasks").fetchone()[0]) == [[1, 2]]
    assert await scheduler.schedule_interval("note", 300, ((1, 2),)) == first
    await scheduler.backend.close()


@pytest.mark.parametrize("text", ['[{"__flowrra__":"os.system","value":"true"}]', '{"__flowrra__":"set","value":[]}'])
async def test_a_row_that_is_no_value_breaks_its_schedule_alone(tmp_path: Path, text: str) -> None:
    path, calls = tmp_path / "schedules.db", asyncio.Queue[Any]()
    app = app_with(str(path), calls)
    scheduler = app.scheduler
    assert scheduler is not None
    bad = await scheduler.schedule_once("note", datetime.now(UTC), (1,))
    await scheduler.schedule_once("note", datetime.now(UTC), (2,))
    with sqlite3.connect(path) as look:
        look.execute("UPDATE scheduled_tasks SET args = ? WHERE id = ?", (text, bad))
    look.close()
    async with app:
        assert await asyncio.wait_for(calls.get(), 10) == ((2,), {})
        kept = await scheduler.get_scheduled_task(bad)
        assert kept is not None
        assert "args" in (kept.broken or "")
    assert calls.empty()
    await scheduler.backend.close()
