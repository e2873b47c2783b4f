"""The app under test: a load of which every attempt's end is planned, so that all counts are known beforehand.

It runs in the exporter's process, and talks to the test through files in the folder ``COUNTED_APP_FOLDER``: it writes
``held`` once its workers are busy and some tasks wait, goes on when ``go`` appears, and writes ``truth`` at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flowrra import Config, ExecutorConfig, Flowrra, Reject, current_task
from flowrra.events import event_bus
from flowrra.management import FlowrraManager

WORKERS = 8
WAITING = 7
ROUNDS = 80
PAUSE = 0.1
ODD_NAME = 'say "hi"\\\n✓ {task}'

folder = Path(os.environ["COUNTED_APP_FOLDER"])
app = Flowrra(Config(executor=ExecutorConfig(io_workers=WORKERS)))
schedules = app.create_scheduler(str(folder / "schedules.db"))
gate = asyncio.Event()
chance = random.Random(20)  # the same load each time
entered: Counter[str] = Counter()
has_entered: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

Plan = tuple[str, ...]


async def follow(plan: Plan) -> None:
    """Does what is planned for this attempt."""
    task = current_task()
    assert task is not None
    entered[task.name] += 1
    has_entered[task.id].set()
    match plan[task.attempt - 1]:
        case "hold":
            await gate.wait()
        case "succeed":
            await asyncio.sleep(chance.uniform(0, 0.03))
        case "succeed at once":
            pass
        case "fail":
            await asyncio.sleep(chance.uniform(0, 0.01))
            raise ConnectionError("as planned")
        case "reject":
            raise Reject("as planned")
        case "take too long" | "be cancelled":
            await asyncio.sleep(3600)


holds = app.task("holds")(follow)


@app.task("works")
async def works(plan: Plan) -> None:
    """Only succeeds."""
    await follow(plan)


@app.task(ODD_NAME, priority=-1)
async def odd(plan: Plan) -> None:
    """Only succeeds, too, under a name that needs escaping."""
    await follow(plan)


@app.task("flaky", max_retries=3, retry_delay=0.3, jitter=0.5)
async def flaky(plan: Plan) -> None:
    """Fails, up to four times."""
    await follow(plan)


@app.task("slow", max_retries=1, retry_delay=0.2, timeout=0.1)
async def slow(plan: Plan) -> None:
    """Runs out of time, up to twice."""
    await follow(plan)


@app.task("picky", max_retries=3)
async def picky(plan: Plan) -> None:
    """Rejects what it gets."""
    await follow(plan)


@app.task("unwanted")
async def unwanted(plan: Plan) -> None:
    """Gets cancelled."""
    await follow(plan)


@app.task("scheduled")
async def scheduled() -> None:
    """Is submitted by the scheduler alone, and counts itself."""
    truth.add("scheduled", ("succeed",))
    entered["scheduled"] += 1


class Truth:
    """What must have been counted, worked out from the plans alone."""

    def __init__(self) -> None:
        self.tasks: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.exceptions: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, name: str, plan: Plan) -> None:
        """One task whose attempts end like this; none, if it is cancelled before."""
        counts = self.tasks[name]
        counts.update(("submitted",) if plan else ("submitted", "cancelled_before_start"))
        for number, step in enumerate(plan, 1):
            counts["started"] += 1
            if step.startswith("succeed") or step == "hold":
                counts["succeeded"] += 1
            elif step == "be cancelled":
                counts["cancelled"] += 1
            else:
                counts["failed" if number == len(plan) else "retried"] += 1
                self._add_exception(name, step)

    def _add_exception(self, name: str, step: str) -> None:
        if step == "take too long":
            self.tasks[name]["timed_out"] += 1
        seen = {"fail": "ConnectionError", "reject": "Reject", "take too long": "TaskTimeoutError"}[step]
        self.exceptions[name][seen] += 1

    def to_json(self) -> dict[str, Any]:
        """As it is written for the test."""
        return {"tasks": self.tasks, "exceptions": self.exceptions, "entered": entered}


truth = Truth()
submitted: list[str] = []


async def submit(func: Any, *plan: str) -> str:
    """Submits a task with a plan."""
    truth.add(func if isinstance(func, str) else func.task_name, plan)
    task_id = await app.submit(func, plan)
    submitted.append(task_id)
    return task_id


async def hold_all_workers() -> None:
    """Leaves a known number of tasks waiting, until the test has looked."""
    held = [await submit("holds", "hold") for _ in range(WORKERS)]
    await asyncio.gather(*(has_entered[task_id].wait() for task_id in held))
    for _ in range(WAITING):
        await submit(works, "succeed")
    stats = await FlowrraManager(app).get_stats()
    write("held", {"waiting": WAITING, "stats": stats})
    while not (folder / "go").exists():
        await asyncio.sleep(0.02)
    gate.set()


async def load() -> None:
    """Some seconds of everything, in bursts that the workers can't take at once."""
    for _ in range(ROUNDS):
        for _ in range(chance.randrange(200)):
            await submit(works, "succeed at once" if chance.random() < 0.9 else "succeed")
        await submit(odd, "succeed")
        failures = chance.randrange(5)
        await submit(flaky, *["fail"] * failures, *(["succeed"] if failures < 4 else []))
        if chance.random() < 0.3:
            timeouts = chance.randrange(3)
            await submit(slow, *["take too long"] * timeouts, *(["succeed at once"] if timeouts < 2 else []))
        if chance.random() < 0.2:
            await submit(picky, chance.choice(("reject", "succeed")))
        if chance.random() < 0.2:
            await cancel_running()
        if chance.random() < 0.2:
            await cancel_waiting()
        await asyncio.sleep(PAUSE)


async def cancel_running() -> None:
    """One that is cancelled while it runs."""
    task_id = await submit(unwanted, "be cancelled")
    await has_entered[task_id].wait()
    assert await app.cancel_task(task_id)


async def cancel_waiting() -> None:
    """One that is cancelled while it waits for its time."""
    truth.add("unwanted", ())
    task_id = await app.options(countdown=3600).submit(unwanted, ("be cancelled",))
    assert await app.cancel_task(task_id)


async def run() -> None:
    """The whole course of it."""
    await hold_all_workers()
    await schedules.schedule_cron("scheduled", "@yearly", enabled=False)
    await schedules.schedule_interval("scheduled", 0.5, task_id="often")
    await load()
    # It stays enabled, and has no more runs while the test looks.
    await schedules.backend.update_run_times("often", datetime.now(), datetime.now() + timedelta(days=1))  # noqa: DTZ005
    submitted.extend(run["task_id"] for run in await schedules.list_runs())
    for task_id in submitted:
        await app.wait_for_result(task_id, timeout=60)
    write("truth", truth.to_json())


def write(name: str, content: Any) -> None:
    """A file that is complete as soon as it is there."""
    unfinished = folder / f"{name}.part"
    unfinished.write_text(json.dumps(content))
    unfinished.rename(folder / name)


async def fail_sometimes(event: dict[str, Any]) -> None:
    """An event subscriber that fails on what failed."""
    if event["task"]["status"] == "failed":
        raise RuntimeError("as planned")


running: set[asyncio.Task[None]] = set()


@app.on_startup
def begin() -> None:
    """Starts the course of it with the app."""
    event_bus.subscribe(fail_sometimes)
    running.add(asyncio.create_task(run()))
