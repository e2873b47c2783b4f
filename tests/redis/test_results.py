"""Results on a server: their names and text, how long they are kept, who is told of them, and how they are listed."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import json
import logging
import math
import time
from typing import Any
from uuid import UUID

import pytest
import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection

from flowrra import BackendError, ResultNotFoundError, TaskResult, TaskStatus
from flowrra.backends import get_backend, redis_completions
from flowrra.backends.redis import DEFAULT_TTL, RedisBackend
from flowrra.backends.redis_completions import RECHECK
from flowrra.brokers.redis import RedisBroker
from flowrra.exceptions import RequestRefusedError
from flowrra.management import FlowrraManager
from tests.core.apps import final, record_of, until
from tests.redis.apps import Gate, calls_of, redis_app, with_tasks
from tests.redis_faults.proxy import Proxy
from tests.support.servers import ValkeyServer, free_port


def at(second: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)


def finished(task_id: str, second: int = 0, status: TaskStatus = TaskStatus.SUCCESS) -> TaskResult:
    return TaskResult(task_id, status, "work", submitted_at=at(second), finished_at=at(second + 1))


def pubsub_connections(look: redis.Redis) -> int:
    return sum(int(each["sub"]) > 0 for each in look.client_list())  # type: ignore[union-attr]


def listening_now(look: redis.Redis) -> set[str]:
    """The ids of the connections that listen."""
    return {each["id"] for each in look.client_list(_type="pubsub")}  # type: ignore[union-attr]


def connections_in_memory() -> list[AbstractConnection]:
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), AbstractConnection)]


class TestNames:
    @pytest.mark.slow
    async def test_of_flowrra_0_1_8(self, url: str, look: redis.Redis) -> None:
        with look.pubsub() as told:
            told.psubscribe("flowrra:complete:*")
            async with with_tasks(redis_app(url)) as app:
                task_id = await app.submit("echo", 1, "two", key=[3])
                await final(app, task_id)
            messages = [told.get_message(timeout=1) for _ in range(2)]

        assert messages[1] is not None
        assert (messages[1]["channel"], messages[1]["data"]) == (f"flowrra:complete:{task_id}".encode(), b"done")
        text = json.loads(look.get(f"flowrra:task:{task_id}"))  # type: ignore[arg-type]
        assert (text["task_id"], text["status"], text["task_name"]) == (task_id, "success", "echo")
        assert (text["result"], text["args"], text["kwargs"]) == ([[1, "two"], {"key": [3]}], [1, "two"], {"key": [3]})
        assert dt.datetime.fromisoformat(text["finished_at"]).tzinfo is not None

    async def test_a_record_of_0_1_8_is_read(self, url: str, look: redis.Redis) -> None:
        text = {
            "task_id": "t1",
            "status": "success",
            "task_name": None,
            "submitted_at": None,
            "started_at": "2025-01-02T03:04:05.678901",
            "finished_at": "2025-01-02T03:04:06",
            "result": {"a": 1},
            "error": None,
            "retries": 1,
            "args": [],
            "kwargs": {},
        }
        look.set("flowrra:task:t1", json.dumps(text))
        app = with_tasks(redis_app(url))
        record = await final(app, "t1")

        assert (record.status, record.result, record.retries) == (TaskStatus.SUCCESS, {"a": 1}, 1)
        await app.results.close()  # type: ignore[attr-defined]

    async def test_what_is_no_record_is_an_error(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        for text in (b"nonsense", b"[]", b"{}", b'{"task_id": 1, "status": "odd"}', b"\xff"):
            look.set("flowrra:task:t1", text)
            with pytest.raises(BackendError, match="can't be read"):
                await backend.get("t1")
        await backend.close()

    async def test_what_can_not_be_read_of_a_record_costs_no_record(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            task_id = await app.submit("echo", dt.date(2026, 1, 2), 1)
            await final(app, task_id)
            text = look.get(f"flowrra:task:{task_id}").replace(b'"date"', b'"day"')  # type: ignore[union-attr]
            look.set(f"flowrra:task:{task_id}", text)
            day = {"__flowrra__": "day", "value": "2026-01-02"}

            assert (await final(app, task_id)).result == [[day, 1], {}]
            (listed,) = await FlowrraManager(app).list_completed_tasks()
            assert (listed["task_id"], listed["args"]) == (task_id, (day, 1))


class TestTimeToLive:
    async def test_is_for_finished_ones_only(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, ttl=100), gate) as app:
            running = await app.submit("hold")
            delayed = await app.options(countdown=60).submit("hold")
            done = await app.submit("add", 1, 1)
            await final(app, done)
            await asyncio.sleep(0.05)

            assert look.ttl(f"flowrra:task:{running}") == look.ttl(f"flowrra:task:{delayed}") == -1
            assert 98 <= look.ttl(f"flowrra:task:{done}") <= 100  # type: ignore[operator]
            gate.opened.set()

    async def test_is_a_day_if_nothing_else_is_said(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(url)) as app:
            done = await app.submit("add", 1, 1)
            await final(app, done)

        assert DEFAULT_TTL - 5 <= look.ttl(f"flowrra:task:{done}") <= DEFAULT_TTL  # type: ignore[operator]


class TestWaiting:
    @pytest.mark.parametrize("timeout", [math.nan, True, "1"], ids=repr)
    async def test_is_for_a_number_of_seconds(self, url: str, timeout: Any) -> None:
        backend, broker = RedisBackend(url), RedisBroker(url)
        for wait in (
            lambda: backend.wait_for("t1", timeout),
            lambda: backend.wait_for_known("t1", timeout),
            lambda: broker.pop(timeout),
        ):
            with pytest.raises((TypeError, ValueError), match=r"^timeout must be "):
                await wait()
        await backend.close()
        await broker.close()

    @pytest.mark.slow
    async def test_no_wake_up_is_lost(self, url: str) -> None:
        """Of as many waits as there are, each ends when its task does."""
        async with with_tasks(redis_app(url, workers=50)) as app:

            async def pair(n: int) -> None:
                record = await app.wait_for_result(await app.submit("add", n, 1), timeout=3)
                assert record.result == n + 1

            for _ in range(10):
                await asyncio.gather(*(pair(n) for n in range(100)))

    async def test_all_waiters_are_woken_over_one_connection(self, url: str, look: redis.Redis) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, workers=10), gate) as app:
            ids = await app.submit_many([("hold", (n,), {}) for n in range(10)])
            waits = [asyncio.create_task(final(app, task_id)) for task_id in ids for _ in range(20)]
            await until(lambda: len(gate.begun) == 10)
            await asyncio.sleep(0.1)
            # One for those who wait, one to listen for cancellations.
            assert pubsub_connections(look) == 2
            began = time.monotonic()
            gate.opened.set()
            records = await asyncio.gather(*waits)

        assert time.monotonic() - began < RECHECK / 2
        assert sorted(record.result for record in records) == sorted(list(range(10)) * 20)

    async def test_asks_nothing_again_and_again(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        wait = asyncio.create_task(backend.wait_for("later", 5))
        await until(lambda: pubsub_connections(look) == 1)
        await asyncio.sleep(0.05)
        look.config_resetstat()
        await asyncio.sleep(0.3)
        assert sum(calls_of(look).values()) <= 3
        await backend.store("later", finished("later"))
        await wait
        await backend.close()

    async def test_again_after_nobody_has_waited_for_long(
        self, url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_completions, "LINGER", 0.0)
        monkeypatch.setattr(redis_completions, "MAX_BLOCK", 0.01)
        backend = RedisBackend(url)
        for task_id in ("one", "two"):
            wait = asyncio.create_task(backend.wait_for(task_id, RECHECK / 2))
            await until(lambda: pubsub_connections(look) == 1)
            await backend.store(task_id, finished(task_id))
            assert (await wait).task_id == task_id
            await until(lambda: pubsub_connections(look) == 0)
        await backend.close()

    async def test_for_an_id_that_comes_later(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            wait = asyncio.create_task(app.results.wait_for("later", 5))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await app.options(task_id="later").submit("add", 1, 2)
            record = await wait

        assert record.result == 3
        assert time.monotonic() - began < RECHECK / 2

    async def test_that_is_told_while_it_looks_looks_again(self, url: str) -> None:
        """What it has read by then may be older than what it is told."""
        backend = RedisBackend(url)
        usual = backend.get
        late: list[bool] = []

        async def reading_late(task_id: str) -> TaskResult | None:
            record = await usual(task_id)
            if len(late) < 2:  # before it listens, and when it does
                late.append(True)
                if len(late) == 2:
                    await backend.store("t1", finished("t1"))
                    await asyncio.sleep(0.1)
            return record

        backend._completions._read = reading_late  # type: ignore[method-assign]
        record = await backend.wait_for("t1", 3)
        await backend.close()

        assert record.status is TaskStatus.SUCCESS

    async def test_for_what_is_gone_when_it_is_told_is_an_error(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        await backend.store("t1", TaskResult("t1", TaskStatus.PENDING))
        wait = asyncio.create_task(backend.wait_for("t1", 10))
        await until(lambda: dict(look.pubsub_numsub("flowrra:complete:t1"))[b"flowrra:complete:t1"])  # type: ignore[arg-type]
        # As if its record had expired before anybody could read it.
        look.delete("flowrra:task:t1")
        look.publish("flowrra:complete:t1", "done")
        with pytest.raises(ValueError, match="not found"):
            await wait
        await backend.close()

    @pytest.mark.parametrize("comes_back", [False, True])
    async def test_for_what_went_while_nobody_listened_is_an_error_unless_it_comes_back_soon(
        self, url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch, comes_back: bool
    ) -> None:
        """It may have been complete, and have expired: nobody heard of it."""
        monkeypatch.setattr(redis_completions, "GRACE", 10.0 if comes_back else 0.3)
        backend = RedisBackend(url)
        await backend.store("t1", TaskResult("t1", TaskStatus.PENDING))
        look.config_resetstat()
        wait = asyncio.create_task(backend.wait_for("t1", 20))
        await until(lambda: calls_of(look).get("mget", 0) >= 2)  # when it begins, and when it is listened for
        look.delete("flowrra:task:t1")
        look.client_kill_filter(_type="pubsub")
        if comes_back:
            await until(lambda: pubsub_connections(look) == 1)
            await backend.store("t1", finished("t1"))
            assert (await wait).is_success
        else:
            with pytest.raises(ValueError, match="not found"):
                await wait
        await backend.close()

    async def test_for_what_is_gone_goes_on_while_its_end_would_be_heard(
        self, url: str, look: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As after it was deleted: it runs, and has not ended."""
        monkeypatch.setattr(redis_completions, "GRACE", 0.0)
        monkeypatch.setattr(redis_completions, "RECHECK", 0.05)
        backend = RedisBackend(url)
        await backend.store("t1", TaskResult("t1", TaskStatus.RUNNING))
        look.config_resetstat()
        wait = asyncio.create_task(backend.wait_for("t1", 20))
        await until(lambda: calls_of(look).get("mget", 0) >= 2)
        look.delete("flowrra:task:t1")
        look.config_resetstat()
        await until(lambda: calls_of(look).get("mget", 0) > 3)
        assert not wait.done()
        await backend.store("t1", finished("t1"))
        assert (await wait).is_success
        await backend.close()

    @pytest.mark.slow
    async def test_goes_on_while_the_server_takes_no_connection_to_listen(
        self, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As one that has as many clients as it takes."""
        monkeypatch.setattr(redis_completions, "RECHECK", 0.2)
        backend = RedisBackend(url)
        await backend.store("t1", TaskResult("t1", TaskStatus.PENDING))
        nowhere = free_port()
        monkeypatch.setattr(backend.server, "dedicated_client", lambda: redis.asyncio.Redis(port=nowhere))
        wait = asyncio.create_task(backend.wait_for("t1", 20))
        await until(lambda: "not listening for results" in caplog.text)
        await backend.store("t1", finished("t1"))
        assert (await wait).status is TaskStatus.SUCCESS
        await backend.close()

    async def test_keeps_no_connection_that_was_cut(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        wait = asyncio.create_task(backend.wait_for("later", 10))
        await until(lambda: pubsub_connections(look) == 1)
        before = len(connections_in_memory())
        for _ in range(3):
            cut = listening_now(look)
            look.client_kill_filter(_type="pubsub")
            await until(lambda cut=cut: listening_now(look) - cut)  # type: ignore[misc]
        assert len(connections_in_memory()) == before
        await backend.store("later", finished("later"))
        await wait
        await backend.close()

    async def test_tells_that_records_can_not_be_read_and_that_they_can_again(
        self, valkey: ValkeyServer, look: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(redis_completions, "RECHECK", 0.02)
        async with Proxy(valkey.port) as proxy:
            backend = RedisBackend(proxy.url)
            look.config_resetstat()
            wait = asyncio.create_task(backend.wait_for("later", 10))
            await until(lambda: calls_of(look).get("mget", 0) >= 3)
            proxy.refusal = b"NOPERM you may not"
            await until(lambda: "results not readable, still waited for" in caplog.text)
            proxy.refusal = None
            await until(lambda: "over: results not readable, still waited for" in caplog.text)
            await backend.store("later", finished("later"))
            assert (await wait).is_success
            await backend.close()

    async def test_for_an_id_that_can_not_be_sent_changes_nothing_for_others(self, url: str, look: redis.Redis) -> None:
        """The server is told at once that one is waited for no more, and of all that came meanwhile."""
        backend = RedisBackend(url)
        first, second = (asyncio.create_task(backend.wait_for(task_id, 10)) for task_id in ("first", "second"))
        await until(lambda: len(look.pubsub_channels("flowrra:complete:?*")) == 2)
        first.cancel()
        with pytest.raises(RequestRefusedError, match="can't be the id of a task"):
            await backend.wait_for("\ud800", 10)
        await until(lambda: look.pubsub_channels("flowrra:complete:?*") == [b"flowrra:complete:second"])
        await backend.store("second", finished("second"))
        assert (await second).is_success
        await backend.close()

    async def test_ends_in_time(self, url: str) -> None:
        async with with_tasks(redis_app(url, consume=False)) as app:
            task_id = await app.submit("add", 1, 1)
            with pytest.raises(TimeoutError):
                await app.wait_for_result(task_id, timeout=0.2)
            with pytest.raises(ValueError, match="not found"):
                await app.wait_for_result("unknown", timeout=0.2)
            with pytest.raises(TimeoutError):
                await app.results.wait_for("unknown", 0.2)

    async def test_ends_with_the_app(self, url: str) -> None:
        app = with_tasks(redis_app(url, consume=False))
        await app.start()
        wait = asyncio.create_task(final(app, await app.submit("add", 1, 1)))
        await asyncio.sleep(0.1)
        await app.stop()
        with pytest.raises(BackendError, match="stopped"):
            await wait


class TestLists:
    async def test_the_latest_first(self, url: str) -> None:
        backend = RedisBackend(url)
        for n in (3, 1, 2, 5, 4):
            await backend.store(f"t{n}", finished(f"t{n}", n))
        await backend.store("old", TaskResult("old", TaskStatus.SUCCESS))

        async def listed(*args: Any, **kwargs: Any) -> list[str]:
            return [record.task_id for record in await backend.list_by_status(TaskStatus.SUCCESS, *args, **kwargs)]

        assert await listed() == ["t5", "t4", "t3", "t2", "t1", "old"]
        assert await listed(2) == ["t5", "t4"]
        assert await listed(2, 3) == ["t2", "t1"]
        assert await listed(0) == []
        assert await backend.list_by_status(TaskStatus.FAILED) == []
        await backend.close()

    async def test_what_has_expired_is_on_none(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url, ttl=0.1)
        for n in range(30):
            await backend.store(f"t{n}", finished(f"t{n}", n))
        await asyncio.sleep(0.15)
        assert await backend.list_by_status(TaskStatus.SUCCESS) == []
        await backend.store("new", finished("new", 99))
        await backend.store("newer", finished("newer", 100))
        assert [each.task_id for each in await backend.list_by_status(TaskStatus.SUCCESS, 5)] == ["newer", "new"]
        await backend.close()

        assert look.zcard("flowrra:status:success") == 2
        assert look.llen("flowrra:finished:100") == 2

    async def test_what_expires_while_others_are_kept_is_on_none(self, url: str, look: redis.Redis) -> None:
        """Some are looked at in the very moment in which they expire."""
        backend = RedisBackend(url, ttl=0.05)
        for n in range(600):
            await backend.store(f"t{n}", finished(f"t{n}", n))
        await asyncio.sleep(0.2)
        for n in range(30):
            await backend.store(f"late{n}", finished(f"late{n}", n))
        await backend.close()

        assert look.zcard("flowrra:status:success") == look.llen("flowrra:finished:50") <= 30

    async def test_what_has_expired_is_on_none_whatever_lasts_longer(self, url: str, look: redis.Redis) -> None:
        brief, lasting = RedisBackend(url, ttl=0.05), RedisBackend(url, ttl=60)
        await lasting.store("lasting", finished("lasting", 0))
        for n in range(50):
            await brief.store(f"t{n}", finished(f"t{n}", n))
        await lasting.store("more", finished("more", 51))
        while look.keys("flowrra:task:t*"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)  # unlisted that much later
        for n in range(3):
            await brief.store(f"late{n}", finished(f"late{n}", 60 + n))
        assert sum((await lasting.count()).values()) == 5
        for backend in (brief, lasting):
            await backend.close()

    async def test_what_no_process_writes_any_more_is_unlisted_by_others(self, url: str, look: redis.Redis) -> None:
        """Those that had another ttl, or an earlier version."""
        former, current = RedisBackend(url, ttl=0.05), RedisBackend(url, ttl=60)
        await former.store("former", finished("former", 1))
        look.zadd("flowrra:status:success", {"older": 1})
        look.rpush("flowrra:finished", "1 success 4:work older")
        while look.exists("flowrra:task:former"):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while look.zcard("flowrra:status:success") != 1:
                await current.store("current", finished("current", 2))
        for backend in (former, current):
            await backend.close()

        assert look.smembers("flowrra:finished:ttls") == {b"60000"}
        assert not look.exists("flowrra:finished", "flowrra:finished:50")

    async def test_those_that_have_gone_are_passed_over_many_at_a_time(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        await backend.store("there", finished("there", 1))
        look.zadd("flowrra:status:success", {f"gone{n}": 2e15 + n for n in range(5000)})
        look.config_resetstat()
        assert [each.task_id for each in await backend.list_by_status(TaskStatus.SUCCESS, 5)] == ["there"]
        await backend.close()

        assert calls_of(look)["zrevrange"] < 10

    async def test_what_was_written_again_stays_when_its_first_time_is_over(self, url: str) -> None:
        brief, lasting = RedisBackend(url, ttl=0.1), RedisBackend(url, ttl=60)
        for backend in (brief, lasting):
            await backend.store("again", TaskResult("again", TaskStatus.SUCCESS))
        await asyncio.sleep(0.15)
        await lasting.store("other", TaskResult("other", TaskStatus.SUCCESS))
        listed = {record.task_id for record in await lasting.list_by_status(TaskStatus.SUCCESS)}
        for backend in (brief, lasting):
            await backend.close()

        assert listed == {"again", "other"}

    async def test_cost_as_much_as_is_asked_for(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        await asyncio.gather(*(backend.store(f"t{n}", finished(f"t{n}", n)) for n in range(2000)))
        look.config_resetstat()
        assert len(await backend.list_by_status(TaskStatus.SUCCESS, 10)) == 10
        calls = calls_of(look)
        await backend.close()

        assert not {"scan", "keys"} & set(calls)
        assert calls["mget"] + calls["zrevrange"] == 2, calls

    async def test_each_task_is_on_one(self, url: str) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, workers=2), gate) as app:
            manager = FlowrraManager(app)
            running, other, waiting = [await app.submit("hold", n) for n in range(3)]
            await until(lambda: len(gate.begun) == 2)
            failed = await app.submit("fail")
            while len(await manager.list_running_tasks()) < 2:
                await asyncio.sleep(0.01)

            def ids(tasks: list[dict[str, Any]]) -> list[str]:
                return [task["task_id"] for task in tasks]

            assert ids(await manager.list_running_tasks()) == [other, running]
            assert ids(await manager.list_pending_tasks()) == [failed, waiting]
            gate.opened.set()
            await final(app, failed)
            await final(app, waiting)
            assert ids(await manager.list_failed_tasks()) == [failed]
            assert ids(await manager.list_completed_tasks()) == [waiting, other, running]
            assert await manager.list_running_tasks() == await manager.list_pending_tasks() == []

    async def test_records_can_be_deleted_and_cleared(self, url: str, look: redis.Redis) -> None:
        backend = RedisBackend(url)
        for n in range(600):
            await backend.store(f"t{n}", finished(f"t{n}", n))
        assert await backend.delete("t0") is True
        assert await backend.delete("t0") is False
        assert await backend.get("t0") is None
        look.set("flowrra:taskforce", "somebody else's")
        assert await backend.clear() == 599
        assert await backend.list_by_status(TaskStatus.SUCCESS) == []
        with pytest.raises(NotImplementedError):
            len(backend)
        await backend.close()

        assert look.exists("flowrra:taskforce")


class TestAnIdThatIsNoText:
    async def test_stands_for_its_text(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            task_id = UUID(await app.submit("echo", 1))
            waited = await app.wait_for_result(task_id, timeout=5)  # type: ignore[arg-type]
            later = UUID(await app.options(countdown=60).submit("echo", 2))

            assert await app.get_result(task_id) == waited  # type: ignore[arg-type]
            assert waited.task_id == str(task_id)
            assert await app.cancel_task(later) is True  # type: ignore[arg-type]

    async def test_is_none_of_a_task_if_it_is_none(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            assert await app.get_result(None) is None  # type: ignore[arg-type]
            assert await app.cancel_task(None) is False  # type: ignore[arg-type]
            with pytest.raises(ResultNotFoundError):
                await app.wait_for_result(None, timeout=5)  # type: ignore[arg-type]


class TestJson:
    @pytest.mark.parametrize(
        "value", [object(), {1: 2}, asyncio.Event(), 10**5000], ids=["object", "key", "event", "too many digits"]
    )
    async def test_other_values_are_refused_at_submit(self, url: str, look: redis.Redis, value: Any) -> None:
        async with with_tasks(redis_app(url)) as app:
            with pytest.raises(BackendError, match=r"arguments of task 'echo' can't be written as JSON"):
                await app.submit("echo", value)
            with pytest.raises(BackendError, match="can't be written as JSON"):
                await app.submit("echo", key=[value])
            with pytest.raises(BackendError, match="can't be written as JSON"):
                await app.submit_many([("echo", (value,), {})])

            assert not list(look.scan_iter("flowrra:task:*"))

    async def test_such_a_result_fails_its_task_once(self, url: str) -> None:
        runs: list[int] = []
        for backend in ("", url[:-1] + "1"):  # in the broker's step, and elsewhere
            app = redis_app(url, backend=backend)

            @app.task(name="odd")
            async def odd() -> object:
                runs.append(1)
                return object()

            async with app:
                record = await final(app, await app.submit("odd"))
                assert record.status is TaskStatus.FAILED
                assert "result could not be stored" in str(record.error)
                assert "JSON" in str(record.error)
        assert len(runs) == 2

    async def test_values_pass_as_json_does(self, url: str) -> None:
        async with with_tasks(redis_app(url)) as app:
            task_id = await app.submit("echo", [1, [2, 3]], {"1": 2}, "ü\ud800\x00", 2**70, 1.5, None, True, key="q'\"")
            record = await final(app, task_id)
            assert (await record_of(app, task_id)).args == record.args

        assert record.result == [[[1, [2, 3]], {"1": 2}, "ü\ud800\x00", 2**70, 1.5, None, True], {"key": "q'\""}]


class TestSecrets:
    URLS = (
        "redis://user:s3cret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=s3cret",
        "redis://:s3cret@127.0.0.1:notaport/0",
        "redis://:s3cret@127.0.0.1:1/0?socket_timeout=x",
        "rediss://:s3cret@127.0.0.1:1/0",
        "unix://:s3cret@/nowhere.sock?db=0",
    )

    @pytest.mark.slow
    @pytest.mark.parametrize("address", URLS)
    async def test_are_in_no_error_and_no_log_line(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        texts = []
        try:
            backend = get_backend(address)
            try:
                await backend.get("t1")
            finally:
                await backend.close()  # type: ignore[attr-defined]
        except BackendError as error:
            texts += [str(error), repr(error), str(error.__cause__)]
        try:
            broker = RedisBroker(address)
            try:
                await broker.take(1)
            finally:
                await broker.close()
        except BackendError as error:
            texts += [str(error), repr(error), str(error.__cause__)]

        assert len(texts) == 6
        assert "s3cret" not in "".join(texts) + caplog.text
