"""Schedules and their runs are in a store, which is asked whether the app has a broker or not."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from flowrra import Flowrra as App
from flowrra.management import FlowrraManager
from tests.command import shop
from tests.command.conftest import Flowrra
from tests.command.test_queries import answered


@pytest.fixture
def schedule_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A schedule of an app in memory that has run once."""
    app = App()
    app.task(name="alone")(shop.alone)
    store = f"sqlite:///{tmp_path}/schedules.db"
    app.create_scheduler(store)

    async def fill() -> str:
        async with app:
            manager = FlowrraManager(app)
            found = await manager.create_schedule_cron("alone", "0 3 * * *")
            await manager.trigger_schedule(found)
        return found

    found = asyncio.run(fill())
    shown = App()
    shown.task(name="alone")(shop.alone)
    shown.create_scheduler(store)
    monkeypatch.setattr(shop, "scheduled", shown, raising=False)
    return found


def test_schedules(flowrra: Flowrra, schedule_id: str) -> None:
    ((found, task, text, enabled, next_run, _, broken),) = flowrra(
        "schedules", "-A", "tests.command.shop:scheduled"
    ).rows
    assert (found, task, text, enabled, broken) == (schedule_id, "alone", "cron 0 3 * * *", "yes", "-")
    assert next_run.endswith("Z")
    (schedule,) = answered(flowrra, "schedules", "-A", "tests.command.shop:scheduled")
    assert datetime.fromisoformat(schedule["next_run_at"]).tzinfo is not None


def test_runs(flowrra: Flowrra, schedule_id: str) -> None:
    ((found, *_, result, task_id, _),) = flowrra("runs", "-A", "tests.command.shop:scheduled").rows
    assert (found, result) == (schedule_id, "submitted")
    (run,) = answered(flowrra, "runs", schedule_id, "-A", "tests.command.shop:scheduled")
    assert run["task_id"] == task_id
    assert answered(flowrra, "runs", "another", "-A", "tests.command.shop:scheduled") == []


def test_an_app_without_a_scheduler(flowrra: Flowrra) -> None:
    assert "The app has no scheduler" in flowrra("schedules").reason
    assert flowrra("runs").status == 2


def test_a_store_that_is_away(flowrra: Flowrra, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App()
    app.create_scheduler("sqlite:////nowhere/schedules.db")
    monkeypatch.setattr(shop, "scheduled", app, raising=False)
    ran = flowrra("schedules", "-A", "tests.command.shop:scheduled")
    assert ran.status == 1
    assert ran.reason.startswith("The schedules could not be read: ")
