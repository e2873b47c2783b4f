"""The bridge to the app's loop: answers with deadlines, never piles up, and tells a blocked loop from a slow one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from flowrra_exporter.app.loop import AppLoop, CallTimeout, LoopBlocked, LoopEnded, LoopWaits

from tests.exporter.conftest import until

LIMIT = 0.1


class OtherLoop:
    """An event loop that turns in a thread of its own, and can be blocked for as long as a test wants."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)
        self._ended = asyncio.Event()
        self._release = threading.Event()
        self.thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_ended())

    async def _until_ended(self) -> None:
        await self._ended.wait()

    def block(self) -> None:
        blocked = threading.Event()
        self._release.clear()

        def hold() -> None:
            blocked.set()
            self._release.wait(30)

        self.loop.call_soon_threadsafe(hold)
        blocked.wait(5)

    def release(self) -> None:
        self._release.set()

    def turn_slowly(self, seconds: float) -> None:
        """From now on, each turn of the loop takes so long."""

        def work() -> None:
            time.sleep(seconds)
            self.loop.call_soon(work)

        self.loop.call_soon_threadsafe(work)

    def end(self) -> None:
        self.release()
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self._ended.set)
            self.thread.join(5)

    def pending_callbacks(self) -> int:
        return len(self.loop._ready)  # type: ignore[attr-defined]


@pytest.fixture
def other() -> Iterator[OtherLoop]:
    other = OtherLoop()
    yield other
    other.end()


def bridge_to(other: OtherLoop) -> AppLoop:
    return AppLoop(other.loop, other.thread, asyncio.get_running_loop(), LIMIT)


async def test_a_call_runs_in_the_apps_thread_and_its_answer_comes_back(other: OtherLoop) -> None:
    async def whose() -> threading.Thread:
        await asyncio.sleep(0)
        return threading.current_thread()

    assert await bridge_to(other).call("whose", whose, 1.0) is other.thread


async def test_a_plain_function_will_do(other: OtherLoop) -> None:
    assert await bridge_to(other).call("plain", lambda: 5, 1.0) == 5


async def test_an_exception_of_the_call_reaches_the_caller(other: OtherLoop) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("zero")

    with pytest.raises(ZeroDivisionError, match="zero"):
        await bridge_to(other).call("fail", fail, 1.0)


async def test_callers_at_the_same_time_share_one_call(other: OtherLoop) -> None:
    bridge, release, calls = bridge_to(other), asyncio.Event(), []

    async def count() -> int:
        calls.append(1)
        await release.wait()
        return len(calls)

    waiting = [asyncio.create_task(bridge.call("count", count, 5.0)) for _ in range(50)]
    await until(lambda: bool(calls))
    other.loop.call_soon_threadsafe(release.set)
    assert await asyncio.gather(*waiting) == [1] * 50
    assert await bridge.call("count", count, 5.0) == 2


async def test_a_slow_call_times_out_and_costs_no_other_call_anything(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    with pytest.raises(CallTimeout, match=r"slow did not answer within 0\.3 s"):
        await bridge.call("slow", lambda: asyncio.sleep(20), 0.3)
    assert await bridge.call("quick", lambda: 1, 0.3) == 1


@pytest.mark.slow
async def test_who_joins_a_call_that_is_overdue_is_told_at_once(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    with pytest.raises(CallTimeout):
        await bridge.call("slow", lambda: asyncio.sleep(20), 2.0)
    started = time.monotonic()
    with pytest.raises(CallTimeout, match="slow has not answered for"):
        await bridge.call("slow", lambda: asyncio.sleep(20), 2.0)
    assert time.monotonic() - started < 2.0 / 2


@pytest.mark.slow
async def test_a_call_that_a_busy_loop_took_up_late_is_overdue_as_soon(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    other.turn_slowly(0.06)
    with pytest.raises(CallTimeout):
        await bridge.call("slow", lambda: asyncio.sleep(20), 0.5)
    with pytest.raises(CallTimeout, match="slow has not answered for"):
        await bridge.call("slow", lambda: asyncio.sleep(20), 0.5)


@pytest.mark.slow
async def test_a_call_that_waited_for_a_blocked_loop_is_not_overdue_when_that_turns_again(other: OtherLoop) -> None:
    bridge, release = bridge_to(other), asyncio.Event()

    async def answer() -> int:
        await release.wait()
        return 1

    other.block()
    for _ in range(2):
        with pytest.raises(LoopBlocked):
            await bridge.call("stats", answer, 5.0)
    await asyncio.sleep(4 * LIMIT)
    other.release()
    await until(lambda: not bridge.unresponsive)
    joined = asyncio.create_task(bridge.call("stats", answer, 2 * LIMIT))
    await asyncio.sleep(LIMIT / 2)
    other.loop.call_soon_threadsafe(release.set)
    assert await joined == 1


async def test_a_call_that_hangs_for_long_is_cancelled_and_can_be_tried_again(other: OtherLoop) -> None:
    bridge = AppLoop(other.loop, other.thread, asyncio.get_running_loop(), LIMIT, cancel_after=0.3)
    cancelled = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(CallTimeout):
        await bridge.call("stats", hang, 0.1)
    async with asyncio.timeout(5):
        while not cancelled.is_set():
            with pytest.raises(CallTimeout):
                await bridge.call("stats", hang, 0.1)
            await asyncio.sleep(0.02)
    assert await _call_until_answered(bridge) == 1


async def test_everybody_who_waits_for_a_call_is_told_that_it_was_cancelled(other: OtherLoop) -> None:
    bridge = AppLoop(other.loop, other.thread, asyncio.get_running_loop(), LIMIT, cancel_after=0.1)
    first = asyncio.create_task(bridge.call("stats", lambda: asyncio.sleep(20), 10.0))
    await asyncio.sleep(0.2)
    with pytest.raises(CallTimeout, match="stats was cancelled"):
        await bridge.call("stats", lambda: asyncio.sleep(20), 10.0)  # which asks for the end of what hangs
    with pytest.raises(CallTimeout, match="stats was cancelled"):
        await first


async def _call_until_answered(bridge: AppLoop) -> object:
    async with asyncio.timeout(5):
        while True:
            try:
                return await bridge.call("stats", lambda: 1, 0.1)
            except CallTimeout:
                await asyncio.sleep(0.01)


async def test_a_blocked_loop_is_noticed_within_the_limit(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    await bridge.call("warm", lambda: 1, 1.0)
    other.block()
    started = time.monotonic()
    with pytest.raises(LoopBlocked, match=r"event loop blocked for 0\.\d s"):
        await bridge.call("stats", lambda: 1, 5.0)
    assert LIMIT <= time.monotonic() - started < 5.0 / 2


async def test_a_loop_known_to_be_blocked_is_not_waited_for(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    other.block()
    with pytest.raises(LoopBlocked):
        await bridge.call("stats", lambda: 1, 5.0)
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(LoopBlocked):
            await bridge.call("stats", lambda: 1, 5.0)
    assert time.monotonic() - started < 20 * LIMIT / 2


async def test_a_block_that_begins_during_a_call_is_noticed_too(other: OtherLoop) -> None:
    bridge, entered = bridge_to(other), threading.Event()

    async def enter_and_wait() -> None:
        entered.set()
        await asyncio.sleep(20)

    call = asyncio.create_task(bridge.call("stats", enter_and_wait, 5.0))
    await until(entered.is_set)
    other.block()
    started = time.monotonic()
    with pytest.raises(LoopBlocked):
        await call
    assert time.monotonic() - started < 5.0 / 2


async def test_nothing_piles_up_on_a_blocked_loop(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    await bridge.call("warm", lambda: 1, 1.0)
    other.block()
    before = other.pending_callbacks()
    for _ in range(3):
        calls = [bridge.call(f"call{number}", lambda: 1, 5.0) for number in range(30)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {LoopBlocked}
    assert other.pending_callbacks() - before <= 2  # one heartbeat, one visit


async def test_the_loop_answers_again_as_soon_as_it_is_released(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    other.block()
    with pytest.raises(LoopBlocked):
        await bridge.call("stats", lambda: 1, 5.0)
    other.release()
    await until(lambda: not bridge.unresponsive)
    assert bridge.silence == 0
    assert await bridge.call("stats", lambda: 2, 5.0) in (1, 2)


async def test_silence_grows_while_the_loop_is_blocked(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    bridge.tick()
    await until(lambda: bridge.silence == 0)
    started = time.monotonic()
    other.block()
    while time.monotonic() - started < 0.5:
        bridge.tick()
        await asyncio.sleep(0.02)
    assert 0.5 / 2 < bridge.silence <= time.monotonic() - started


@pytest.mark.slow
async def test_silence_counts_after_three_turns_and_no_sooner(other: OtherLoop) -> None:
    """However long they took: a process that is throttled as a whole has had one."""
    bridge = bridge_to(other)
    other.block()
    bridge.tick()
    seen = []
    for _ in range(3):
        time.sleep(2 * LIMIT)
        bridge.tick()
        seen.append((bridge.silence > LIMIT, bridge.unresponsive))
    assert seen == [(True, False), (True, False), (True, True)]


@pytest.mark.slow
async def test_time_in_which_the_whole_process_stood_still_is_not_blamed_on_the_app(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    other.block()
    bridge.tick()
    bridge.tick()
    time.sleep(2.0)  # this thread stands still, as in a process that was stopped
    bridge.tick()
    assert bridge.silence < 2.0 / 2
    other.release()
    await until(lambda: not bridge.unresponsive)


@pytest.mark.slow
async def test_a_pause_of_the_whole_process_does_not_make_a_healthy_loop_look_blocked(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    for _ in range(5):
        other.block()
        bridge.tick()
        time.sleep(1.5 * LIMIT)  # no thread turns, as when a container has used up its share of the CPU
        other.release()
        assert await bridge.call("stats", lambda: 1, 1.0) == 1


async def test_while_the_loop_itself_waits_for_the_figures_it_is_asked_for_none(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    with bridge.waiting(), pytest.raises(LoopWaits, match="collect it in another thread"):
        await bridge.call("stats", lambda: 1, 1.0)
    assert await bridge.call("stats", lambda: 1, 1.0) == 1


async def test_what_is_to_run_soon_runs_in_the_apps_thread(other: OtherLoop) -> None:
    threads: list[threading.Thread] = []
    bridge_to(other).run_soon(lambda: threads.append(threading.current_thread()))
    await until(lambda: bool(threads))
    assert threads == [other.thread]


async def test_a_loop_has_ended_when_it_is_closed_and_when_its_thread_is_gone(other: OtherLoop) -> None:
    here, gone = asyncio.get_running_loop(), threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    closed = asyncio.new_event_loop()
    closed.close()
    assert not AppLoop(other.loop, other.thread, here, LIMIT).ended
    assert AppLoop(other.loop, gone, here, LIMIT).ended
    assert AppLoop(closed, other.thread, here, LIMIT).ended


async def test_a_loop_that_has_ended_says_so(other: OtherLoop) -> None:
    bridge = bridge_to(other)
    other.end()
    with pytest.raises(LoopEnded, match="event loop has ended"):
        await bridge.call("stats", lambda: 1, 1.0)
    bridge.tick()
    bridge.run_soon(lambda: None)
