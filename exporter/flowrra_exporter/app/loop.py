"""The bridge from the server's thread to the app's event loop: calls with deadlines, and a heartbeat.

Two things can wait on the app's loop at any moment: one heartbeat and one visit. A visit starts the calls
that have gathered until the loop gets to it, and of each call (named by a key) at most one is under way:
a caller who asks for the same meanwhile joins it. So however often a blocked app is scraped and probed, nothing
piles up on its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

logger = logging.getLogger(__name__)

# How often a waiting call looks whether the loop still answers.
_STEP_SECONDS = 0.02
# The most that one turn of the server's own loop adds to the silence. More, and this thread hadn't run either.
_MAX_TURN_SECONDS = 0.2
_MIN_TURN_SECONDS = 0.005
# Silence counts once we've had this many turns in it. A process that was throttled as a whole has had one.
_MIN_TURNS = 3


class LoopUnavailable(Exception):
    """The app's loop can't be asked; the text says why."""


class LoopBlocked(LoopUnavailable):
    """The app's loop doesn't answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"event loop blocked for {seconds:.1f} s")


class LoopEnded(LoopUnavailable):
    """The app's loop is closed, or its thread has ended."""

    def __init__(self) -> None:
        super().__init__("the app's event loop has ended")


class LoopWaits(LoopUnavailable):
    """The app's loop itself waits for the figures: it can't be asked for any, and nothing is wrong with it."""

    def __init__(self) -> None:
        super().__init__(
            "the registry is collected on the app's own event loop, which waits for that; collect it in another "
            "thread, as by asyncio.to_thread(generate_latest, registry)"
        )


class CallTimeout(Exception):
    """The loop runs, but what was called didn't answer in time."""


class _Call:
    """One call on the app's loop, and the future on the server's loop that all who want its answer await."""

    __slots__ = ("asked_at", "factory", "future", "given_up", "key", "task", "waiters")

    def __init__(self, key: str, factory: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.key = key
        self.factory = factory
        self.future = future
        self.asked_at = time.monotonic()
        self.task: asyncio.Task[None] | None = None  # none until the app's loop takes the call up
        self.waiters = 0
        self.given_up = False

    @property
    def age(self) -> float:
        """Seconds since it was asked; 0 until the app's loop takes it up."""
        return 0.0 if self.task is None else time.monotonic() - self.asked_at

    def settle(self, result: Any, error: BaseException | None) -> None:
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)
            self.future.exception()  # mark it as seen: those who asked may have gone


class AppLoop:
    """Reaches the app's loop from the server's loop.

    All methods but the constructor and ``waiting`` belong to the server's thread.

    Args:
        loop: The app's loop.
        thread: The thread in which it runs.
        server_loop: The loop from which calls come.
        silence_limit: How long a heartbeat may stay unanswered before calls give up, in seconds.
        cancel_after: A call that has not answered for so many seconds is cancelled by the next who asks.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: threading.Thread,
        server_loop: asyncio.AbstractEventLoop,
        silence_limit: float,
        cancel_after: float = 10.0,
    ) -> None:
        self.thread = thread
        self._loop = loop
        self._server_loop = server_loop
        self._silence_limit = silence_limit
        self._cancel_after = cancel_after
        self._calls: dict[str, _Call] = {}
        self._posted: deque[_Call] = deque()
        self._visit_waits = False
        self._answered = True  # set by the app's thread, cleared by the server's
        self._silence = 0.0
        self._silent_turns = 0
        self._last_turn = time.monotonic()
        self._waits = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the app's loop itself waits, calls raise ``LoopWaits``. Call it in the loop's thread."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @property
    def ended(self) -> bool:
        """Whether the loop is closed or its thread is gone."""
        return self._loop.is_closed() or not self.thread.is_alive()

    @property
    def silence(self) -> float:
        """Seconds without an answer to the heartbeat, counting only time in which this thread ran."""
        return 0.0 if self._answered else self._silence

    @property
    def unresponsive(self) -> bool:
        """Whether the loop has been silent past the limit."""
        return self.silence >= self._silence_limit and self._silent_turns >= _MIN_TURNS

    def tick(self) -> None:
        """Sends a heartbeat if none is under way, else adds the time since the last tick to the silence."""
        now = time.monotonic()
        turn = now - self._last_turn
        if self._answered:
            self._silence, self._silent_turns, self._last_turn = 0.0, 0, now
            self._answered = False
            self._post(self._answer)
        elif turn >= _MIN_TURN_SECONDS:
            self._silence += min(turn, _MAX_TURN_SECONDS)
            self._silent_turns += 1
            self._last_turn = now

    def run_soon(self, callback: Callable[[], Any]) -> None:
        """Runs ``callback`` on the app's loop as soon as that turns; nothing if it has ended."""
        self._post(callback)

    async def call(self, key: str, factory: Callable[[], Any], timeout: float, give_up: bool = False) -> Any:
        """What ``await factory()`` returns on the app's loop.

        Args:
            key: The call's name. If a call of that name is under way, its answer is shared.
            factory: What is called, a function or a coroutine function.
            timeout: The most that the answer may take, in seconds.
            give_up: The call is cancelled, or not begun at all, once nobody waits for it any more.

        Raises:
            LoopBlocked: The loop doesn't turn; at once if that is known.
            LoopEnded: The loop is closed, or its thread has ended.
            CallTimeout: The call did not answer in time, or is overdue already.
            Exception: Whatever the call raises.
        """
        self._check()
        call = self._calls.get(key) or self._post_call(key, factory)
        self._refuse_if_hanging(call, timeout)
        call.waiters += 1
        try:
            return await self._wait_for(call, timeout)
        finally:
            call.waiters -= 1
            if give_up and not call.waiters and not call.future.done():
                self._give_up(call)

    async def _wait_for(self, call: _Call, timeout: float) -> Any:
        until = time.monotonic() + timeout
        while not call.future.done():
            left = until - time.monotonic()
            if left <= 0:
                raise CallTimeout(f"{call.key} did not answer within {timeout:g} s")
            await asyncio.wait({call.future}, timeout=min(left, _STEP_SECONDS))
            if not call.future.done():
                self._check()
        return call.future.result()

    def _give_up(self, call: _Call) -> None:
        call.given_up = True
        if call.task is not None:
            self._post(call.task.cancel)
        # Whoever asks the same from now on begins anew.
        self._forget(call)

    def _check(self) -> None:
        if self.ended:
            raise LoopEnded
        if self._waits:
            raise LoopWaits
        self.tick()
        if self.unresponsive:
            raise LoopBlocked(self.silence)

    def _refuse_if_hanging(self, call: _Call, timeout: float) -> None:
        """Raises CallTimeout for a call that is overdue already, instead of waiting for it once more."""
        age = call.age
        if age > self._cancel_after and call.task is not None:
            self._post(call.task.cancel)
        if age > timeout:
            raise CallTimeout(f"{call.key} has not answered for {age:.1f} s")

    def _post_call(self, key: str, factory: Callable[[], Any]) -> _Call:
        call = self._calls[key] = _Call(key, factory, self._server_loop.create_future())
        call.future.add_done_callback(lambda _: self._forget(call))
        self._posted.append(call)
        if not self._visit_waits:
            self._visit_waits = True
            self._post(self._visit)
        return call

    def _forget(self, call: _Call) -> None:
        if self._calls.get(call.key) is call:
            del self._calls[call.key]

    def _post(self, callback: Callable[[], Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop was closed; ``ended`` says so from now on
            logger.debug("the app's event loop is closed; not run: %r", callback)

    # On the app's loop:

    def _answer(self) -> None:
        self._answered = True

    def _visit(self) -> None:
        self._visit_waits = False  # first: a call posted from now on needs a visit of its own
        while self._posted:
            call = self._posted.popleft()
            if call.given_up:
                continue
            now = time.monotonic()
            if now - call.asked_at > self._silence_limit:
                call.asked_at = now  # the loop was blocked: who asked before has gone, and the call isn't late
            call.task = self._loop.create_task(self._run(call), name=f"flowrra-exporter:{call.key}")

    async def _run(self, call: _Call) -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = call.factory()
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError:
            error = CallTimeout(f"{call.key} was cancelled")
            raise
        except Exception as raised:  # noqa: BLE001 - handed to the callers
            error = raised
        finally:
            self._deliver(call, result, error)

    def _deliver(self, call: _Call, result: Any, error: Exception | None) -> None:
        try:
            self._server_loop.call_soon_threadsafe(call.settle, result, error)
        except RuntimeError:
            logger.debug("the server has stopped; the answer of %s came too late", call.key)
