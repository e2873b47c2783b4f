"""Whoever watches sees every change of every task, in order for each, and knows what it missed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import Flowrra, current_task
from flowrra.backends.redis import RedisBackend
from flowrra.changes import MOST_CHANGES
from flowrra.events import event_bus
from flowrra.management import FlowrraManager
from flowrra.management.answers import TaskEvent
from tests.core.apps import LoopThread, comes_true, final, memory_app, until, watchers_of
from tests.history.conftest import Place
from tests.redis.apps import Gate, calls_of, redis_app, refused, with_tasks
from tests.redis_faults.conftest import LEASE, Spawn
from tests.redis_faults.test_server_away import pid_of
from tests.redis_faults.worker import make_app
from tests.support.servers import ValkeyServer


class Watch:
    """One who watches, in an asyncio task of its own."""

    def __init__(self, app: Flowrra, **wanted: Any) -> None:
        self.events: list[TaskEvent] = []
        self._watching = FlowrraManager(app).watch(**wanted)
        self._is_watching = asyncio.Event()

    async def _watch(self) -> None:
        async with contextlib.aclosing(self._watching) as events:
            async for event in events:
                self.events.append(event)

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        assert self._task.cancelled() or self._task.exception() is None

    def of(self, task_id: str) -> list[str]:
        """The statuses that a task was seen in."""
        return [
            event["task"]["status"] for event in self.events if event["task"] and event["task"]["task_id"] == task_id
        ]

    @property
    def missed(self) -> list[int | None]:
        return [event["missed"] for event in self.events if event["type"] == "missed"]


@contextlib.asynccontextmanager
async def watching(app: Flowrra, **wanted: Any) -> AsyncIterator[Watch]:
    """With one who watches, from when it does so for certain."""
    before = watchers_of(app)
    async with Watch(app, **wanted) as watch:
        await until(lambda: watchers_of(app) > before)
        yield watch


@pytest.mark.slow
async def test_every_change_is_seen_in_order(place: Place) -> None:
    gate = Gate()
    async with with_tasks(place(), gate) as app, watching(app) as watch:

        @app.task(name="again", max_retries=1, retry_delay=0.05)
        async def again() -> None:
            task = current_task()
            assert task is not None
            task.progress(1, 2, "half")
            await asyncio.sleep(0.05)  # long enough for its running state to be written
            raise ValueError("boom")

        held = await app.submit("hold")
        failed = await app.submit("again")
        await final(app, failed)
        delayed = await app.options(countdown=60).submit("add", 1, 1)
        assert await app.cancel_task(delayed)
        await until(lambda: "running" in watch.of(held))
        gate.opened.set()
        await final(app, held)
        await until(lambda: watch.of(held)[-1] == "success" and watch.of(delayed)[-1:] == ["cancelled"])

        assert watch.of(held) == ["pending", "running", "success"]
        assert watch.of(delayed) == ["pending", "cancelled"]
        seen = [status for n, status in enumerate(watch.of(failed)) if [*watch.of(failed), ""][n + 1] != status]
        assert seen == ["pending", "running", "retrying", "running", "failed"]
        last = next(
            event["task"] for event in reversed(watch.events) if event["task"] and event["task"]["task_id"] == failed
        )
        assert (last["error"], last["retries"], last["worker"], last["queue"]) == (
            "ValueError: boom",
            1,
            app.id,
            "default",
        )
        assert last["finished_at"] is not None
        assert any((event["task"] or {}).get("progress") for event in watch.events)
        assert watch.missed == []
        assert len({event["id"] for event in watch.events}) == len(watch.events)


async def test_only_what_is_meant_is_told(place: Place) -> None:
    async with with_tasks(place()) as app, watching(app, name="add") as by_name, watching(app, task="mine") as by_id:
        await final(app, await app.submit("echo", 1))
        await final(app, await app.submit("add", 1, 1))
        await final(app, await app.options(task_id="mine").submit("echo", 1))
        await until(lambda: by_id.of("mine")[-1:] == ["success"])
        await until(lambda: by_name.events and (by_name.events[-1]["task"] or {})["status"] == "success")
        assert {(event["task"] or {})["task_name"] for event in by_name.events} == {"add"}
        assert {(event["task"] or {})["task_id"] for event in by_id.events} == {"mine"}


async def test_tasks_are_watched_by_their_queue(place: Place) -> None:
    async with with_tasks(place()) as app, watching(app, queue="mail") as watch, watching(app) as every:
        other = await app.submit("add", 1, 1)
        mail = await app.options(queue="mail", countdown=3600).submit("add", 1, 1)
        await until(lambda: every.of(other)[-1:] == ["success"] and watch.of(mail))
        assert {(event["task"] or {})["queue"] for event in watch.events} == {"mail"}
        assert watch.of(other) == []


async def test_one_who_comes_back_goes_on_where_it_was(place: Place) -> None:
    async with with_tasks(place()) as app:
        async with watching(app) as watch:
            first = await app.submit("add", 1, 1)
            await final(app, first)
            await until(lambda: watch.of(first)[-1:] == ["success"])
            last = watch.events[-1]["id"]
        meanwhile = await app.submit("add", 2, 2)
        await final(app, meanwhile)
        async with watching(app, after=last) as again:
            await until(lambda: again.of(meanwhile)[-1:] == ["success"])
            assert again.of(first) == []
            assert again.of(meanwhile)[0] == "pending"
            assert again.missed == []


@pytest.mark.slow
async def test_what_happened_while_nobody_watched_is_said_to_be_missed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra.events.WATCH_LINGER", 0.0)
    monkeypatch.setattr("flowrra.backends.redis_changes.SIGN_COUNTS", 0.5)
    async with with_tasks(place()) as app:
        async with watching(app) as watch:
            task_id = await app.submit("add", 1, 1)
            await final(app, task_id)
            await until(lambda: watch.events)
        await asyncio.sleep(0.6)  # until the sign of watching counts no more
        for _ in range(3):
            await final(app, await app.submit("add", 1, 1))
        async with watching(app, after=watch.events[-1]["id"]) as again:
            await until(lambda: again.missed)
            later = await app.submit("add", 2, 2)
            await until(lambda: again.of(later)[-1:] == ["success"])
            assert None in again.missed


# Each partition remembers as many, so that with them it takes far more tasks: tests/redis/test_partitioned_backend.py.
@pytest.mark.slow
@pytest.mark.parametrize("place", ["memory", "server", "two servers"], indirect=True)
async def test_a_slow_reader_misses_the_oldest_and_is_told_how_many(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_tasks(place())
    async with app:
        slow = FlowrraManager(app).watch()
        first = asyncio.ensure_future(anext(slow))
        await until(lambda: watchers_of(app))
        count = MOST_CHANGES + 500
        ids = [await app.submit("add", n, n) for n in range(10)]
        assert (await first)["task"] is not None
        for _ in range(count // 250):
            ids += await app.submit_many([("add", (1, 1), {})] * 250)
        for task_id in ids:
            await final(app, task_id, within=60)
        got = [await anext(slow) for _ in range(2000)]
        await slow.aclose()

    missed = [event["missed"] for event in got if event["type"] == "missed"]
    assert sum(missed[:1]) > 500  # type: ignore[arg-type]
    assert None not in missed


async def test_every_watcher_sees_it_on_whichever_loop(place: Place) -> None:
    with LoopThread() as elsewhere:
        async with with_tasks(place()) as app, watching(app) as here:
            there = FlowrraManager(app).watch()

            async def first_of(task_id: str) -> TaskEvent:
                async for event in there:
                    if event["task"] and event["task"]["task_id"] == task_id:
                        await there.aclose()
                        return event
                raise AssertionError

            seen = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(first_of("mine"), elsewhere.loop))
            await until(lambda: watchers_of(app) == 2)
            await app.options(task_id="mine").submit("add", 1, 1)
            assert ((await seen)["task"] or {})["status"] == "pending"
            await until(lambda: here.of("mine")[-1:] == ["success"])


async def test_one_whose_loop_was_closed_watches_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.events.WATCH_LINGER", 0.0)
    async with with_tasks(memory_app()) as app:
        watch = FlowrraManager(app).watch()

        def watch_one() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(anext(watch))  # type: ignore[arg-type]
            loop.close()

        watched = asyncio.ensure_future(asyncio.to_thread(watch_one))
        await until(lambda: watchers_of(app))
        await final(app, await app.submit("add", 1, 1))
        await watched
        for _ in range(2):
            await final(app, await app.submit("add", 1, 1))
        assert watchers_of(app) == 0
        assert app.events.watchers not in event_bus.subscribers


async def test_after_a_loop_that_watched_for_a_while_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowrra.events.WATCH_LINGER", 0.05)
    async with with_tasks(memory_app()) as app:

        async def watch_briefly() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await anext(FlowrraManager(app).watch())

        await asyncio.to_thread(asyncio.run, watch_briefly())
        await asyncio.sleep(0.06)
        await final(app, await app.submit("add", 1, 1))
        assert app.events.watchers not in event_bus.subscribers


async def test_one_who_watches_beyond_the_end_of_the_app_leaves_nothing_behind() -> None:
    app = memory_app()
    async with with_tasks(app):
        watch = FlowrraManager(app).watch()
        first = asyncio.ensure_future(anext(watch))
        await until(lambda: watchers_of(app))
    assert app.events.watchers in event_bus.subscribers
    first.cancel()
    await asyncio.wait([first])
    assert app.events.watchers not in event_bus.subscribers


@pytest.mark.slow
async def test_one_who_comes_just_when_the_last_one_is_given_up_hears_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowrra.events.WATCH_LINGER", 0.0)
    with LoopThread() as elsewhere:
        async with with_tasks(memory_app()) as app:
            async with watching(app):
                pass
            watchers, seen = app.events.watchers, threading.Event()
            really_forget, watching_there = watchers.forget, []

            async def watch() -> None:
                async with contextlib.aclosing(FlowrraManager(app).watch()) as events:
                    async for _ in events:
                        seen.set()

            def forget() -> None:  # the app's thread has seen that nobody watches
                monkeypatch.setattr(watchers, "forget", really_forget)
                watching_there.append(asyncio.run_coroutine_threadsafe(watch(), elsewhere.loop))
                for _ in range(100):
                    if watchers.watchers:
                        break
                    time.sleep(0.005)
                really_forget()

            monkeypatch.setattr(watchers, "forget", forget)
            await final(app, await app.submit("add", 1, 1))
            await until(lambda: watchers.watchers)
            await app.submit("add", 1, 1)
            await until(seen.is_set)
            watching_there[0].cancel()
            await until(lambda: not watchers.watchers)


async def test_one_who_goes_on_after_it_was_told_what_it_missed_misses_no_more(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url)) as app:
        async with watching(app) as watch:
            for n in range(5):
                await final(app, await app.submit("add", n, n))
            await until(lambda: [each["task"] for each in watch.events if each["task"]][9:])
        look.xtrim("flowrra:changes", maxlen=3, approximate=False)
        async with watching(app, after=watch.events[0]["id"]) as again:
            await until(lambda: len(again.events) == 4)
        async with watching(app, after=again.events[0]["id"]) as last:
            await until(lambda: len(last.events) == 3)
        assert again.missed == [len(watch.events) - 1 - 3]
        assert last.events == again.events[1:] == watch.events[-3:]


async def test_changes_that_were_evicted_are_said_to_be_missed(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url)) as app:
        async with watching(app) as watch:
            await app.submit("add", 1, 1)
            await until(lambda: watch.events)
        look.delete("flowrra:changes")
        async with watching(app, after=watch.events[-1]["id"]) as again:
            await until(lambda: again.missed)
            later = await app.submit("add", 2, 2)
            await until(lambda: again.of(later)[-1:] == ["success"])


@pytest.mark.slow
@pytest.mark.parametrize("after", ["", "x", "1-1", "1-1/x", "x@y"])
async def test_what_is_no_id_of_an_event_is_refused(place: Place, after: str) -> None:
    async with with_tasks(place()) as app:
        with pytest.raises(ValueError, match="after must be the id"):
            async with asyncio.timeout(10):
                await anext(FlowrraManager(app).watch(after=after))


async def test_a_server_that_refuses_to_tell_is_asked_again_after_a_pause_that_grows(
    url: str, look: redis.Redis
) -> None:
    look.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-xread")
    look.config_resetstat()
    backend = RedisBackend(url.replace("redis://", "redis://blind:secret@"))
    watch, began = asyncio.create_task(anext(backend.watch(None))), time.monotonic()  # type: ignore[arg-type]
    await until(lambda: refused(look, "xread") >= 3)
    # By chance, pauses are up to half shorter.
    assert time.monotonic() - began > 0.1 / 2 + 0.2 / 2 - 0.01
    watch.cancel()
    await asyncio.wait([watch])
    await backend.close()
    look.execute_command("ACL", "DELUSER", "blind")


async def test_nobody_watching_nothing_is_told(url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url)) as app:
        await final(app, await app.submit("add", 1, 1))
        assert not look.exists("flowrra:changes")
        assert app.events.watchers not in event_bus.subscribers
        look.config_resetstat()
        await final(app, await app.submit("add", 1, 1))
        assert "xadd" not in calls_of(look)


async def test_large_and_hostile_records_are_told_without_what_can_not_be_read(url: str) -> None:
    app = with_tasks(redis_app(url))

    @app.task(name="deep")
    async def deep(value: object) -> object:
        raise ValueError("ü" * 3000)

    nested: object = "core"
    for _ in range(900):
        nested = [nested]
    async with app, watching(app) as watch:
        for argument in (nested, "x" * 400_000, "\ud800"):
            task_id = await app.options().submit("deep", argument)
            await until(lambda task_id=task_id: watch.of(task_id)[:1] == ["pending"])
            await app.cancel_task(task_id)
        assert watch.missed == []


@pytest.mark.slow
async def test_of_all_processes_and_over_a_restart_of_the_server(tmp_path: Path, spawn: Spawn) -> None:
    with ValkeyServer(data_dir=tmp_path, persist=True, appendonly="yes", appendfsync="always") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        async with make_app(url, LEASE, consume=False) as app, watching(app) as watch:
            for _ in range(2):
                spawn(url)

            async def both_are_there() -> bool:
                return len(await FlowrraManager(app).list_workers()) == 2

            await comes_true(both_are_there, within=20)
            before = [await app.submit("note", n, 0.2) for n in range(40)]
            await until(lambda: all(watch.of(task_id)[-1:] == ["success"] for task_id in before), within=20)
            os.kill(pid_of(url), signal.SIGKILL)
            await asyncio.sleep(2)  # an outage
            with ValkeyServer(
                port=server.port, data_dir=tmp_path, persist=True, appendonly="yes", appendfsync="always"
            ):
                after = [await app.submit("note", n, 0.05) for n in range(20)]
                await until(lambda: all(watch.of(task_id)[-1:] == ["success"] for task_id in after), within=30)
                await app.stop()

    workers = {(event["task"] or {}).get("worker") for event in watch.events} - {None}
    assert len(workers) == 2
    assert watch.missed == []
    for task_id in (*before, *after):
        assert watch.of(task_id)[0] == "pending"
    for task_id in before:
        statuses = watch.of(task_id)
        assert statuses == sorted(statuses, key=["pending", "running", "success"].index)


@pytest.mark.slow
async def test_a_server_that_has_forgotten_everything_is_noticed() -> None:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        async with with_tasks(redis_app(url)) as app, watching(app) as watch:
            task_id = await app.submit("add", 1, 1)
            await until(lambda: watch.of(task_id)[-1:] == ["success"])
            os.kill(pid_of(url), signal.SIGKILL)
            await asyncio.sleep(2)  # an outage
            with ValkeyServer(port=server.port):
                await until(lambda: watch.missed, within=30)
                assert watch.missed == [None]
                later = await app.submit("add", 2, 2)
                await until(lambda: watch.of(later)[-1:] == ["success"], within=30)
                await app.stop()
