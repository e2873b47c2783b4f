"""What runs beside the user's tasks: pauses between tries, tasks that are replaced, values that belong to a loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from itertools import pairwise

import pytest

from flowrra.backoff import Backoff
from flowrra.gathering import gather_all
from flowrra.per_loop import PerLoop
from flowrra.supervision import Supervised, cancel_until_ended, spawn

TOKEN: contextvars.ContextVar[str] = contextvars.ContextVar("token", default="none")


class TestBackoff:
    def test_pauses_double_up_to_the_longest_and_each_is_at_most_half_shorter(self) -> None:
        backoff = Backoff(0.1, 1.0)
        for longest in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0):
            assert longest / 2 <= backoff.next() <= longest

    def test_many_do_not_come_back_at_once(self) -> None:
        pauses = sorted(Backoff(1.0).next() for _ in range(200))
        assert max(later - earlier for earlier, later in pairwise(pauses)) < 0.1
        assert pauses[-1] - pauses[0] > 0.3

    def test_begins_anew_after_a_success(self) -> None:
        backoff = Backoff(0.1, 10.0)
        for _ in range(5):
            backoff.next()
        backoff.reset()
        assert backoff.next() <= 0.1


class TestSupervised:
    async def test_is_replaced_when_it_dies_and_says_of_what(self) -> None:
        begun: asyncio.Queue[int] = asyncio.Queue()
        deaths: list[BaseException | None] = []

        async def work() -> None:
            begun.put_nowait(1)
            raise ValueError("broken")

        supervised = Supervised(work, "work", 0.0, deaths.append)
        supervised.start()
        for _ in range(3):
            await begun.get()
        await supervised.stop()
        assert [str(error) for error in deaths[:2]] == ["broken", "broken"]

    async def test_a_system_exit_ends_it_and_not_the_program(self) -> None:
        deaths: asyncio.Queue[BaseException | None] = asyncio.Queue()

        async def work() -> None:
            raise SystemExit(3)

        supervised = Supervised(work, "work", 0.0, deaths.put_nowait)
        supervised.start()
        assert str(await deaths.get()) == "it raised SystemExit(3)"
        await supervised.stop()

    async def test_what_it_dies_of_while_it_is_stopped_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        deaths: list[BaseException | None] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("broken at the end")

        supervised = Supervised(work, "flowrra-work", 0.0, deaths.append)
        supervised.start()
        await asyncio.sleep(0)
        await supervised.stop()
        await asyncio.sleep(0)
        assert "flowrra-work died as it was stopped error=ValueError('broken at the end')" in caplog.text
        assert deaths == []

    async def test_one_that_somebody_cancels_is_replaced(self) -> None:
        running: asyncio.Queue[asyncio.Task[None] | None] = asyncio.Queue()
        deaths: list[BaseException | None] = []

        async def work() -> None:
            running.put_nowait(asyncio.current_task())
            await asyncio.Event().wait()

        supervised = Supervised(work, "work", 0.0, deaths.append)
        supervised.start()
        first = await running.get()
        assert first is not None
        first.cancel()
        assert await running.get() is not first
        assert deaths == [None]
        await supervised.stop()

    async def test_is_not_replaced_once_it_was_stopped(self) -> None:
        begun = 0
        deaths: list[BaseException | None] = []

        async def work() -> None:
            nonlocal begun
            begun += 1
            await asyncio.Event().wait()

        supervised = Supervised(work, "work", 0.0, deaths.append)
        supervised.start()
        await asyncio.sleep(0)
        await supervised.stop()
        await supervised.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (begun, deaths) == (1, [])

    async def test_a_stop_before_its_replacement_begins_is_the_end_of_it(self) -> None:
        begun = 0
        died = asyncio.Event()

        async def work() -> None:
            nonlocal begun
            begun += 1

        supervised = Supervised(work, "work", 0.01, lambda _: died.set())
        supervised.start()
        await died.wait()
        await supervised.stop()
        await asyncio.sleep(0.05)
        assert begun == 1

    async def test_it_sees_nothing_of_the_task_that_starts_it(self) -> None:
        TOKEN.set("a task's")
        assert await spawn(_read_token()) == "none"

    async def test_what_swallows_a_cancellation_is_cancelled_again(self) -> None:
        task = spawn(_swallow_cancellations(2))
        await asyncio.sleep(0)
        await cancel_until_ended(task)
        assert task.result() == 2

    async def test_it_is_so_too_when_the_one_who_cancels_waits_no_more(self) -> None:
        task = spawn(_swallow_cancellations(2))
        await asyncio.sleep(0)
        cancelling = asyncio.create_task(cancel_until_ended(task))
        await asyncio.sleep(0)
        cancelling.cancel()
        await asyncio.wait({cancelling, task}, timeout=5)
        assert cancelling.cancelled()
        assert task.done()
        assert task.result() == 2


class TestGatherAll:
    async def test_answers_in_the_order_of_the_requests(self) -> None:
        assert await gather_all(asyncio.sleep(0.01 * n, n) for n in (3, 1, 2)) == [3, 1, 2]
        assert await gather_all(()) == []

    async def test_one_that_fails_is_what_all_fail_of_once_the_others_have_ended(self) -> None:
        ended: list[int] = []

        async def ask(number: int) -> None:
            await asyncio.sleep(0.01 * number)
            ended.append(number)
            if number in (0, 1):
                raise ValueError(f"request {number}")

        with pytest.raises(ValueError, match="request 1"):
            await gather_all(ask(number) for number in (3, 1, 0, 2))
        assert sorted(ended) == [0, 1, 2, 3]

    async def test_with_the_caller_all_are_cancelled(self) -> None:
        tasks = [spawn(asyncio.sleep(60)) for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await gather_all(tasks)
        assert all(task.cancelled() for task in tasks)


async def _swallow_cancellations(count: int) -> int:
    for _ in range(count):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    return count


async def _read_token() -> str:
    return TOKEN.get()


class Client:
    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


class TestPerLoop:
    def test_each_loop_has_its_own_which_is_closed_with_it(self) -> None:
        clients = PerLoop(Client, Client.close)

        async def get() -> Client:
            client = clients.get()
            assert clients.get() is client
            return client

        first, second = asyncio.run(get()), asyncio.run(get())
        assert first is not second
        assert (first.closed, second.closed) == (1, 1)
        assert len(clients) == 0

    async def test_one_that_is_closed_is_made_anew(self) -> None:
        clients = PerLoop(Client, Client.close)
        first = clients.get()
        await clients.close()
        await clients.close()
        assert first.closed == 1
        assert clients.get() is not first
        await clients.close()

    async def test_one_that_is_popped_is_left_to_the_caller(self) -> None:
        clients = PerLoop(Client)
        assert clients.pop() is None
        first = clients.get()
        assert clients.pop() is first
        assert clients.get() is not first

    def test_none_is_had_without_a_loop(self) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            PerLoop(Client).get()
