"""What an observer can do about tasks of other processes: all that goes by the broker, the results and the store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from flowrra.scheduler.backends import SQLiteSchedulerBackend
from tests.exporter.conftest import Serve, Service
from tests.exporter.web.test_actions import ANNA, config, post, token_of
from tests.exporter.web.test_events import ended, stream
from tests.redis.apps import Gate, redis_app, with_tasks
from tests.redis.conftest import look, url, valkey

__all__ = ["config", "look", "url", "valkey"]  # the fixtures


class Operator:
    def __init__(self, service: Service, token: str) -> None:
        self.service = service
        self._token = token

    async def act(self, name: str, /, **arguments: Any) -> tuple[int, Any]:
        answer = await post(self.service, name, arguments, **ANNA, X_Flowrra_Token=self._token)
        told = json.loads(answer.text)
        return answer.status, told.get("result", told.get("detail"))

    async def read(self, path: str) -> Any:
        answer = await self.service.get(path, **ANNA)
        assert answer.status == 200, (path, answer.text)
        return json.loads(answer.text)


async def operator(serve: Serve, app: Flowrra, config: Path) -> Operator:
    service = await serve(app, observe=True, web_config_file=config, web_actions=True, probe_timeout=10.0)
    return Operator(service, await token_of(service, **ANNA))


async def test_it_finds_retries_and_cancels_tasks(serve: Serve, config: Path, url: str) -> None:
    gate = Gate()
    async with with_tasks(redis_app(url), gate) as worker:
        there = await operator(serve, with_tasks(redis_app(url)), config)
        added = await worker.submit("fail")
        assert (await worker.wait_for_result(added, timeout=10)).status == "failed"
        page = await there.read("/api/task-records?status=failed")
        assert [task["task_id"] for task in page["tasks"]] == [added]
        assert (await there.read(f"/api/task-records/{added}"))["attempts"][-1]["outcome"] == "failed"
        assert (await there.read("/api/task-counts"))["failed"] == 1
        status, new = await there.act("retry-task", task_id=added)
        assert status == 200, new
        assert (await worker.wait_for_result(new, timeout=10)).status == "failed"
        assert (await there.read(f"/api/task-records/{added}"))["retried_as"] == new

        held = await worker.submit("hold", 1)
        while not gate.begun:
            await asyncio.sleep(0.01)
        assert (await there.act("cancel-task", task_id=held))[0] == 200
        assert (await worker.wait_for_result(held, timeout=10)).status == "cancelled"
        assert (await there.act("cancel-task", task_id=held))[0] == 409
        status, told = await there.act("retry-task", task_id="unknown")
        assert (status, "not found" in told) == (404, True)


async def test_it_pauses_and_purges_queues(serve: Serve, config: Path, url: str) -> None:
    async with with_tasks(redis_app(url)) as worker:
        there = await operator(serve, with_tasks(redis_app(url)), config)
        assert await there.act("pause-queue", queue="default") == (200, True)
        assert await there.act("pause-queue", queue="default") == (200, False)
        await asyncio.sleep(0.3)  # a worker hears of it at once as a rule
        ids = [await worker.submit("add", 1, 2) for _ in range(3)]
        status, result = await there.act("purge-queue", queue="default", limit=2)
        assert (status, result) == (200, {"done": 2, "left": 1})
        assert await there.act("resume-queue", queue="default") == (200, True)
        statuses = [(await worker.wait_for_result(task_id, timeout=10)).status for task_id in ids]
        assert sorted(statuses) == ["cancelled", "cancelled", "success"]
        assert await there.act("pause-task", task_name="add") == (200, True)
        assert await there.act("resume-task", task_name="add") == (200, True)
        status, result = await there.act("cancel-tasks", name="add")
        assert (status, result) == (200, {"done": 0, "left": 0})
        assert await there.act("requeue-dead-tasks") == (200, {"done": 0, "left": 0})
        assert await there.read("/api/dead-tasks") == []


async def test_it_steers_workers_by_their_ids_and_no_others(serve: Serve, config: Path, url: str) -> None:
    async with with_tasks(redis_app(url, workers=4)) as worker:
        there = await operator(serve, with_tasks(redis_app(url)), config)
        while not (known := await there.read("/api/workers")):
            await asyncio.sleep(0.05)
        assert [each["id"] for each in known] == [worker.id]
        assert await there.act("resize-workers", executor="io", n=2, worker=worker.id) == (200, 1)
        while (await FlowrraManager(worker).get_stats())["executors"]["io"]["workers"] != 2:  # type: ignore[index]
            await asyncio.sleep(0.05)
        assert await there.act("drain-worker", worker=worker.id) == (200, True)
        for name in ("drain-worker", "resume-worker"):
            assert await there.act(name) == (
                409,
                "this process observes, and runs no tasks; expected the id of a worker",
            )
        assert (await there.act("drain-worker", worker="unknown"))[0] == 409


@pytest.mark.slow
async def test_it_watches(serve: Serve, config: Path, url: str) -> None:
    async with with_tasks(redis_app(url)) as worker:
        there = await operator(serve, with_tasks(redis_app(url)), config)
        async with stream(there.service, **ANNA) as client:
            task_id = await worker.submit("add", 1, 2)
            found = await client.read(ended)
    assert found[-1]["data"]["task"]["task_id"] == task_id


@pytest.mark.parametrize("action", ["enable-schedule", "disable-schedule"])
async def test_it_switches_schedules_and_runs_none(
    serve: Serve, config: Path, url: str, tmp_path: Path, action: str
) -> None:
    def make() -> Flowrra:
        app = with_tasks(redis_app(url))
        app.create_scheduler(SQLiteSchedulerBackend(str(tmp_path / "schedules.db")))
        return app

    async with make() as worker:
        schedules = FlowrraManager(worker)
        await schedules.create_schedule_cron("add", "0 3 * * *", (1, 2), enabled=action[0] == "d", task_id="nightly")
        there = await operator(serve, make(), config)
        assert (await there.act(action, schedule_id="nightly"))[0] == 200
        assert (await there.read("/api/schedules/nightly"))["enabled"] is (action[0] == "e")
        status, told = await there.act("run-schedule", schedule_id="nightly")
        assert (status, told) == (404, "in observer mode there is no trigger_schedule()")
