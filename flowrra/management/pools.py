"""Steers what begins tasks: pauses of queues and of names, the slots of workers, and workers that take no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from flowrra.app import Flowrra
from flowrra.arguments import check_text
from flowrra.executors.base import BaseTaskExecutor
from flowrra.management.answers import Worker
from flowrra.management.queues import leasing_brokers, workers
from flowrra.queue_names import checked_queue
from flowrra.ranges import COUNT

# In place of a worker's id.
ALL_WORKERS = "all"


async def pause_queue(app: Flowrra, queue: str, is_paused: bool) -> bool:
    """Pause a queue of both kinds of task, or resume it; whether that changed anything."""
    checked_queue(queue)
    return await _pause(app, _executors(app), lambda executor: executor.source.pause_queue(queue, is_paused))


async def pause_task(app: Flowrra, name: str, is_paused: bool) -> bool:
    """Pause the tasks of a name, or resume them; whether that changed anything."""
    check_text("task_name", name)
    if not name:
        raise ValueError("A task's name must not be empty")
    return await _pause(app, _executors(app), lambda executor: executor.source.pause_name(name, is_paused))


def _executors(app: Flowrra) -> list[BaseTaskExecutor]:
    if not app.executors:
        raise ValueError("The app has no tasks, and so no queues")
    return list(app.executors.values())


async def _pause(
    app: Flowrra, executors: list[BaseTaskExecutor], pause: Callable[[BaseTaskExecutor], Awaitable[bool]]
) -> bool:
    async def pause_all() -> bool:
        return any([await pause(executor) for executor in executors])

    # A server can be asked from any loop, also while the app's is blocked; what waits in memory is the app's loop's.
    return await (pause_all() if leasing_brokers(app) else app.run_on_app_loop(pause_all))


async def resize_workers(app: Flowrra, kind: str, slots: int, worker: str | None) -> int:
    """Give workers so many slots; how many were told."""
    COUNT.check("n", slots)
    executor = _executor(app, kind)
    if _is_this_process(app, worker):
        _check_takes_tasks(app, executor)
        await app.run_on_app_loop(lambda: executor.resize(slots))
        return 1
    told = await _others(app, worker, kind)
    for each in told:
        await leasing_brokers(app)[kind].order(each["id"], {"slots": slots})
    return len(told)


async def drain_worker(app: Flowrra, worker: str | None, is_draining: bool) -> bool:
    """Have a worker begin nothing more, or go on with tasks; whether that changes anything."""
    if worker == ALL_WORKERS:
        raise ValueError(f"worker must be the id of one worker, as list_workers() has it, not {ALL_WORKERS!r}")
    executors = _executors(app)
    if not _is_this_process(app, worker):
        found = await _others(app, worker, "io", "cpu")
        # Also one that does so already: what it last told may be from before the latest order.
        for each in found:
            for broker in leasing_brokers(app).values():
                await broker.order(each["id"], {"draining": is_draining})
        return any(each["draining"] is not is_draining for each in found)
    _check_takes_tasks(app, *executors)
    if not app.is_running:
        raise ValueError("The app does not run")

    async def drain_all() -> bool:
        changing = [executor for executor in executors if executor.is_draining is not is_draining]
        for executor in changing:
            await executor.drain(is_draining)
        return bool(changing)

    return await app.run_on_app_loop(drain_all)


def _executor(app: Flowrra, kind: str) -> BaseTaskExecutor:
    if kind not in ("io", "cpu"):
        raise ValueError(f"An executor is 'io' or 'cpu', not {kind!r:.100}")
    if kind not in app.executors:
        raise ValueError(f"The app has no {kind} tasks, and so no workers for them")
    return app.executors[kind]


def _is_this_process(app: Flowrra, worker: str | None) -> bool:
    if worker is not None:
        check_text("worker", worker)
    return worker is None or worker == app.id or (worker == ALL_WORKERS and not leasing_brokers(app))


def _check_takes_tasks(app: Flowrra, *executors: BaseTaskExecutor) -> None:
    if not any(executor.takes_tasks for executor in executors):
        raise ValueError(f"This process ({app.id}) takes no tasks: name the worker by its id, as list_workers() has it")


async def _others(app: Flowrra, worker: str | None, *kinds: str) -> list[Worker]:
    """The workers that are meant, as they last told of themselves, if they run tasks of one of these kinds."""
    if not leasing_brokers(app):
        raise ValueError(
            f"Without a broker on Redis no worker is known but this process ({app.id}), no {worker!r:.100}"
        )
    meant = [each for each in await workers(app) if worker in (ALL_WORKERS, each["id"])]
    if not meant and worker != ALL_WORKERS:
        raise ValueError(f"No worker that lives has the id {worker!r:.100}: list_workers() has those that do")
    found = [each for each in meant if not each["executors"].keys().isdisjoint(kinds)]
    if meant and not found:
        raise ValueError(f"Worker {worker!r:.100} runs no {' or '.join(kinds)} tasks")
    return found
