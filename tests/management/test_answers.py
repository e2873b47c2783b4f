"""Each answer is of the type that its method declares, key by key, whatever the app has been through."""

from __future__ import annotations

import asyncio
import re
import typing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra
from flowrra.brokers import BaseBroker
from flowrra.management import FlowrraManager, answers
from flowrra.task import Task
from tests.core.apps import final, numbers_of, until
from tests.management.described import METHODS, answer_types, meanings_of, mismatch, type_of
from tests.support.servers import ValkeyServer

CHANGES = {
    "set_histogram_bounds", "cancel_task", "requeue_dead_task", "delete_dead_task", "create_schedule_cron",
    "create_schedule_interval", "create_schedule_once", "trigger_schedule", "enable_schedule", "disable_schedule",
    "delete_schedule", "pause_queue", "resume_queue", "pause_task", "resume_task", "resize_workers", "drain_worker",
    "resume_worker", "cancel_tasks", "purge_queue", "retry_task", "requeue_dead_tasks", "delete_dead_tasks",
}  # fmt: skip
# What goes on and on is looked at elsewhere.
QUERIES = [name for name in METHODS if name not in CHANGES and name != "watch"]


class Polled(BaseBroker):
    """A user's own broker, which only pushes and pops."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Task] = asyncio.Queue()

    async def push(self, task: Task) -> None:
        self._queue.put_nowait(task)

    async def pop(self, timeout: float | None = None) -> Task | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def size(self) -> int:
        return self._queue.qsize()


class Well:
    """An app whose tasks have come to every end that a task can come to, and that has schedules."""

    def __init__(self, app: Flowrra, folder: Path) -> None:
        self.app, self.manager = app, FlowrraManager(app)
        self.gate = asyncio.Event()
        app.create_scheduler(str(folder / "schedules.db"))

        @app.task(name="hold")
        async def hold() -> None:
            await self.gate.wait()

        @app.task(name="note", max_retries=0)
        async def note(value: object) -> object:
            if value is None:
                raise ValueError("nothing to note")
            return value

        @app.task(name="again", max_retries=1, retry_delay=3600.0, timeout=60.0)
        async def again() -> None:
            """Fail, and wait for long."""
            raise ConnectionError("as planned")

    async def go_through_it(self) -> dict[str, tuple[Any, ...]]:
        """Use all that there is; the arguments of queries that need some."""
        app, manager = self.app, self.manager
        noted = await app.submit("note", 1)
        await final(app, noted)
        failed = await app.submit("note", None)
        await final(app, failed)
        await app.submit("again")
        await until(lambda: numbers_of(app, "again")["retried"] == 1)
        cancelled = await app.options(countdown=3600).submit("note", 2)
        assert await manager.cancel_task(cancelled)
        await app.options(countdown=3600).submit("note", 3)
        await app.submit("hold")
        await until(lambda: numbers_of(app, "hold")["running"] == 1)
        schedule = await manager.create_schedule_cron("note", "@yearly", ("yearly",))
        await manager.trigger_schedule(schedule)
        return {
            "get_task_info": ("again",),
            "get_task_result": (noted,),
            "get_task": (failed,),
            "get_schedule": (schedule,),
            "get_dead_task": ("whole",),
        }

    async def check(self, arguments: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        found = {name: await getattr(self.manager, name)(*arguments.get(name, ())) for name in QUERIES}
        assert {name: mismatch(answer, type_of(name)) for name, answer in found.items()} == dict.fromkeys(found)
        return found

    async def let_go(self) -> None:
        self.gate.set()
        await self.app.stop(timeout=0.5)


async def test_of_an_app_in_memory(tmp_path: Path) -> None:
    well = Well(Flowrra(), tmp_path)
    nothing = {
        "get_task_info": ("unknown",),
        "get_task_result": ("unknown",),
        "get_task": ("unknown",),
        "get_schedule": ("unknown",),
        "get_dead_task": ("unknown",),
    }
    await well.check(nothing)
    async with well.app:
        found = await well.check(await well.go_through_it())
        await well.let_go()
    await well.check(nothing)
    empty = {name for name, answer in found.items() if not answer}
    assert empty == {"list_dead_tasks", "get_dead_task"}, "else it was not shown that what is in them is of its type"


async def test_of_an_app_on_a_server(tmp_path: Path) -> None:
    with ValkeyServer() as server, redis.Redis(port=server.port) as look:
        url = f"redis://127.0.0.1:{server.port}/0"
        well = Well(Flowrra(Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url))), tmp_path)
        async with well.app:
            arguments = await well.go_through_it()
            for name, text in (("whole", b"why\n0|3|0|0|{}"), ("large", b"why")):
                look.hset("flowrra:queue:io:dead:tasks", name, text)  # type: ignore[arg-type]
                look.zadd("flowrra:queue:io:dead", {name: 1})
            found = await well.check(arguments)
            await well.let_go()
        assert len(found["list_dead_tasks"]) == 2
        assert found["get_dead_task"]["reason"] == "why"
        assert len(found["list_workers"]) == 1
        assert set(found["get_queue_stats"]["io"]["unfit"]) >= {"eviction", "no_persistence"}
        assert found["get_queue_stats"]["io"]["shared"] is True
        assert {"broker", "backend"} <= set(found["health_check"]["components"])


@pytest.mark.slow
async def test_of_an_app_on_a_broker_of_the_users_own(tmp_path: Path) -> None:
    well = Well(Flowrra(Config(broker=Polled())), tmp_path)  # type: ignore[arg-type]
    async with well.app:
        arguments = await well.go_through_it()
        found = await well.check(arguments)
        await well.let_go()
    queue = found["get_queue_stats"]["io"]
    assert (queue["broker"], queue["shared"], queue["pending"], queue["delayed"]) == ("Polled", True, 0, None)


@pytest.mark.parametrize(
    ("value", "hint", "problem"),
    [
        (True, int, "is True"),
        (1, bool, "is 1"),
        (None, str, "is None"),
        ([1, "2"], list[int], r"\[1\] is '2'"),
        ({"a": 1.5}, dict[str, int], r"\['a'\] is 1.5"),
        (
            {"running": True, "workers": 1, "waiting": 0, "stuck": False, "draining": False, "queues": None},
            answers.ExecutorStats,
            r"has no \['busy'\]",
        ),
        (
            {
                "running": True,
                "workers": 1,
                "busy": 0,
                "waiting": 0,
                "stuck": False,
                "draining": False,
                "queues": ["default"],
                "idle": 1,
            },
            answers.ExecutorStats,
            "which ExecutorStats has not",
        ),
        (datetime(2026, 1, 1), datetime, "naive"),  # noqa: DTZ001
    ],
)
def test_a_wrong_answer_would_be_noticed(value: Any, hint: Any, problem: str) -> None:
    assert re.search(problem, mismatch(value, hint) or "")


@pytest.mark.parametrize("answer", answer_types(), ids=lambda answer: answer.__name__)
def test_each_key_has_a_meaning_and_what_is_told_is_there(answer: Any) -> None:
    meanings = meanings_of(answer)
    assert set(meanings) == set(typing.get_type_hints(answer))
    assert [key for key, meaning in meanings.items() if not meaning] == []
