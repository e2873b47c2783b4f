"""Acts on tasks: cancels them, runs them anew, and empties what was given up; singly and many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from flowrra.app import Flowrra
from flowrra.arguments import check_id, check_text
from flowrra.backends.listing import TaskFilter
from flowrra.exceptions import BackendError, ResultNotFoundError, ServerUnavailableError
from flowrra.management.answers import BulkResult, DeadTask
from flowrra.management.queues import (
    claim_dead_task,
    dead_tasks,
    delete_dead_task,
    find_dead_task,
    release_dead_task,
    requeue_dead_task,
)
from flowrra.management.tasks import find
from flowrra.queue_names import checked_queue
from flowrra.ranges import COUNT
from flowrra.submission import SubmitOptions
from flowrra.task import COMPLETE_STATUSES, TaskStatus, new_task_id

# Is told how many tasks are done so far.
Progress: TypeAlias = Callable[[int], object]
# Tasks that are acted on at once.
AT_ONCE = 100
# Tasks that one call looks at, at the most.
MOST_LOOKED_AT = 100_000
# What waits first, as cancelling it takes no time.
_UNFINISHED = (TaskStatus.PENDING, TaskStatus.RETRYING, TaskStatus.RUNNING)


async def cancel_tasks(app: Flowrra, wanted: TaskFilter, limit: int, progress: Progress) -> BulkResult:
    """Cancel the unfinished tasks that are meant."""
    COUNT.check("limit", limit)
    if wanted.status in COMPLETE_STATUSES:
        raise ValueError(f"status must be that of an unfinished task, not '{wanted.status}'")
    met: set[str] = set()
    done = looked_at = 0
    for status in _UNFINISHED if wanted.status is None else (wanted.status,):
        cursor: str | None = None
        while looked_at < MOST_LOOKED_AT:
            page = await find(app, replace(wanted, status=status), AT_ONCE, cursor)
            looked_at += page.looked_at
            # One that has begun meanwhile may come twice.
            ids = [record.task_id for record in page.records if record.task_id not in met]
            done += sum(await asyncio.gather(*map(app.cancel_task, ids[: max(0, limit - len(met))])))
            progress(done)
            met.update(ids)
            cursor = page.cursor
            if cursor is None:
                break
            await asyncio.sleep(0)  # in memory nothing else waits
    return {"done": done, "left": len(met) - done}


async def purge_queue(app: Flowrra, queue: str, name: str | None, limit: int, progress: Progress) -> BulkResult:
    """Cancel the tasks that wait in a queue of either kind."""
    COUNT.check("limit", limit)
    checked_queue(queue)
    if name is not None:
        check_text("name", name)
    done = left = 0
    for executor in app.executors.values():
        source = executor.source
        met: set[str] = set()
        cancelled = 0
        while len(met) < limit:
            # Those that could not be cancelled have begun, or stand where the next ones are looked for.
            waiting = partial(source.list_waiting, queue, name, len(met) - cancelled + AT_ONCE)
            found = [task_id for task_id in await app.run_on_app_loop(waiting) if task_id not in met]
            ids = found[: min(AT_ONCE, limit - len(met))]
            if not ids:
                break
            met.update(ids)
            cancelling = [app.run_on_app_loop(partial(source.cancel_waiting, task_id)) for task_id in ids]
            cancelled += sum(await asyncio.gather(*cancelling))
            progress(done + cancelled)
        done += cancelled
        left += len(await app.run_on_app_loop(partial(source.list_waiting, queue, name, MOST_LOOKED_AT)))
    return {"done": done, "left": left}


async def retry_task(app: Flowrra, task_id: str) -> str:
    """Run a task that has finished, or was given up, anew under a new id."""
    check_id("task_id", task_id)
    record, dead = await app.get_result(task_id), await find_dead_task(app, task_id)
    if record is not None:
        name, args, kwargs = record.task_name, record.args, record.kwargs
    elif dead is not None:
        name, args, kwargs = dead["task_name"], dead["args"] or (), dead["kwargs"] or {}
    else:
        raise ResultNotFoundError(task_id)
    is_over = dead is not None or (record is not None and record.is_complete)
    if not is_over and await app.results.retried_as(task_id) is None:
        raise ValueError(f"Task '{task_id}' is {record and record.status}: only one that has finished is run anew")
    if name is None:
        raise ValueError(f"Task '{task_id}' can't be read: nobody knows what it was to run")
    # Nothing is claimed for a task that this app can't submit.
    app.registry.definition(name).signature.check(name, args, kwargs)
    queue = record.queue if record is not None else dead and dead["queue"]
    new_id = await _claim_retry(app, task_id, dead)
    try:
        # Whoever was second, or goes on after a crash, submits the same: an id that is known is not submitted again.
        await app.submit_with(name, args, kwargs, SubmitOptions(task_id=new_id, retry_of=task_id, queue=queue))
    except ServerUnavailableError:
        raise  # it may be queued all the same: whoever asks again goes on with it
    except Exception:
        with suppress(BackendError):
            await _release_retry(app, task_id, dead, new_id)
        raise
    # Last, so that it can't be lost.
    if dead is not None:
        await delete_dead_task(app, task_id, dead)
    return new_id


async def _claim_retry(app: Flowrra, task_id: str, dead: DeadTask | None) -> str:
    """The id under which a task is run anew, by whoever does so.

    Raises:
        ValueError: It was dead, and is no more.
    """
    new_id = new_task_id()
    if dead is None:
        return await app.results.claim_retry(task_id, new_id)
    # At the broker first: in one step, nobody can requeue it as well, whether anything else is known of it or not.
    if (claimed := await claim_dead_task(app, task_id, dead, new_id)) is not None:
        return await app.results.claim_retry(task_id, claimed)
    if (retried_as := await app.results.retried_as(task_id)) is not None:
        return retried_as
    raise ValueError(f"Task '{task_id}' is dead no more: it was requeued or deleted meanwhile")


async def _release_retry(app: Flowrra, task_id: str, dead: DeadTask | None, new_id: str) -> None:
    """Say that a task was not run anew under that id after all, unless another call has submitted it meanwhile."""
    known = await app.results.get(new_id)
    if known is not None and known.status is not TaskStatus.CANCELLED:
        return
    await app.results.release_retry(task_id, new_id)
    if dead is not None:
        await release_dead_task(app, task_id, dead, new_id)


async def requeue_dead_tasks(
    app: Flowrra, name: str | None, reason: str | None, limit: int, progress: Progress
) -> BulkResult:
    """Make the dead tasks that are meant pending again."""
    return await _act_on_dead(app, name, reason, limit, progress, partial(requeue_dead_task, app))


async def delete_dead_tasks(
    app: Flowrra, name: str | None, reason: str | None, limit: int, progress: Progress
) -> BulkResult:
    """Forget the dead tasks that are meant."""
    return await _act_on_dead(app, name, reason, limit, progress, partial(delete_dead_task, app))


async def _act_on_dead(
    app: Flowrra,
    name: str | None,
    reason: str | None,
    limit: int,
    progress: Progress,
    act: Callable[[str, DeadTask], Awaitable[bool]],
) -> BulkResult:
    COUNT.check("limit", limit)
    found = await dead_tasks(app, None, name, reason)
    done = 0
    for first in range(0, min(limit, len(found)), AT_ONCE):
        some = found[first : min(first + AT_ONCE, limit)]
        done += sum(await asyncio.gather(*(act(task["task_id"], task) for task in some)))
        progress(done)
    return {"done": done, "left": len(found) - done}
