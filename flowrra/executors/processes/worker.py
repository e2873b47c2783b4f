"""A worker process as the event loop of its parent sees it: it has a socket of its own, and one call at a time.

It is never forked: whatever threads the app has, it begins as a fresh interpreter. The loop watches the process itself
as well as its socket, since a process that the task forked may keep the socket open. Each call has a number that its
answer repeats: a process that sends anything else is ended, lest a task be given what is not its own. Nothing here ever
blocks the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing import connection, resource_tracker
from typing import Final

from flowrra.executors.outcomes import RemoteTraceback
from flowrra.executors.processes import messages, program_metrics
from flowrra.executors.processes.child import TERMINATION_GRACE, serve
from flowrra.executors.processes.program_import import Launcher, main_module
from flowrra.forks import leave_to_parent
from flowrra.task import Progress

logger = logging.getLogger(__name__)


class _Process(multiprocessing.process.BaseProcess):
    """A fresh interpreter, which imports the program itself."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process: multiprocessing.process.BaseProcess) -> Launcher:
        return Launcher(process)


# Seconds until a call's function must have begun: starting Python and importing the task's modules takes that long at
# most. The time limits of tasks count from then on.
START_TIMEOUT: Final = 120.0
# Seconds from the end of a process's connection to its own.
EXIT_GRACE: Final = 1.0
# How often, and how many seconds apart, a process without a descriptor of its own is asked whether it has ended.
MOST_LOOKS: Final = 100
LOOK_INTERVAL: Final = 0.01
CHUNK: Final = 1 << 18

Started = Callable[[], None]
Progressed = Callable[[Progress], None]


class WorkerProcess:
    """One process of the pool.

    Args:
        name: Of the process.
        ended: Called with this object once it has ended, for whatever reason.

    Raises:
        OSError, RuntimeError: It can't be started.

    Attributes:
        calls: How many calls it has completed.
        has_begun: Whether the function of its latest call has begun.
        is_ending: Whether it was told to end.
        exit: How it ended, such as "ended with exit code 1".
        gone: Done once it has ended.
    """

    def __init__(self, name: str, ended: Callable[[WorkerProcess], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self.calls = 0
        self.has_begun = self.is_ending = self._is_cut_off = self._is_distrusted = False
        # By chance, so that nothing that a task writes to the socket can look like an answer.
        self._numbers = count(random.getrandbits(62))
        self._number: int | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._outcome: asyncio.Future[bytes | None] | None = None
        self._started: Started | None = None
        self._progressed: Progressed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self.exit = "ended"
        self._looks = 0
        self._stopped_at: RemoteTraceback | None = None
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        level = logging.getLogger().level
        self._process = _Process(target=serve, args=(theirs, main_module(), level), name=name)
        try:
            with _no_signals_yet():
                self._process.start()
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._pidfd = _open_pidfd(self.pid)
        _living.add(self)
        self._loop.add_reader(self._socket, self._read)
        self._loop.add_reader(self._watched(), self._on_exit)

    def _watched(self) -> int:
        return self._process.sentinel if self._pidfd is None else self._pidfd

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, call: bytes, started: Started, progressed: Progressed) -> bytes | None:
        """Run one call; if this is cancelled, the process is ended.

        Args:
            call: What :func:`messages.encode_call` made.
            started: Called when the function begins.
            progressed: Called with what it tells of its progress.

        Returns:
            The frame that came back; None if the process ended without one.
        """
        outcome: asyncio.Future[bytes | None] = self._loop.create_future()
        self._outcome, self._number = outcome, next(self._numbers)
        self._started, self._progressed, self.has_begun = started, progressed, False
        start_limit = self._loop.call_later(START_TIMEOUT, self._give_up_start)
        self._send(self._number, call)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not outcome.done():
                try:
                    await asyncio.wait((outcome,))
                except asyncio.CancelledError as error:
                    if not outcome.done():  # else it was too late
                        cancelled = error
                        self.end()
        finally:
            start_limit.cancel()
            self._outcome = self._started = self._progressed = None
        frame = outcome.result()
        if frame is None and cancelled is not None:
            raise cancelled from self._stopped_at
        self.calls += frame is not None
        return frame

    def _give_up_start(self) -> None:
        if not self.has_begun:
            self.exit = f"was ended as it had not begun after {START_TIMEOUT:.0f} s"
            self.end()

    @property
    def is_usable(self) -> bool:
        """Whether it can be given another call, as far as is known."""
        return not (self.is_ending or self._is_cut_off or self.gone.done())

    def exit_reason(self) -> str:
        """How it ended, for an error message."""
        if self.has_begun:
            return f"The worker process {self.exit} while it ran the task"
        if self.calls:
            return f"The worker process {self.exit} before it ran the task"
        return (
            f"The worker process {self.exit} before it could run the task; what it wrote to standard error says why. "
            "It imports the program's main module and the task's: what they do only as a program belongs under "
            "`if __name__ == '__main__':`"
        )

    # ── the socket ──────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, number: int, call: bytes) -> None:
        for part in messages.framed(number, messages.CALL, call):
            self._unsent += part
        self._write()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has ended, which its watched descriptor tells
            sent = len(self._unsent)
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        if self._receive() == 0:
            # It is about to end, unless its task has just closed the socket: then it can't be of use any more.
            self._loop.remove_reader(self._socket)
            self._is_cut_off = True
            if self._timer is None:
                self._set_timer(EXIT_GRACE, self.kill)

    def _receive(self) -> int | None:
        """Take what has arrived.

        Returns:
            How many bytes that were; 0 if there will be no more, None if there is nothing now.
        """
        try:
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self._received += chunk
        while (frame := self._next_frame()) is not None:
            self._take(frame)
        return len(chunk)

    def _next_frame(self) -> bytes | None:
        """The kind and the payload of the next answer that has arrived whole."""
        start = messages.HEADER.size
        if len(self._received) < start or self._is_distrusted:
            return None
        length, number, kind = messages.HEADER.unpack_from(self._received)
        if number != self._number or kind not in messages.ANSWERS or length > messages.MAX_FRAME:
            self._distrust()
            return None
        if len(self._received) < start + length:
            return None
        frame = bytes(memoryview(self._received)[start - len(kind) : start + length])
        del self._received[: start + length]
        return frame

    def _take(self, frame: bytes) -> None:
        if frame[:1] == messages.STARTED:
            self.has_begun = True
            if self._started is not None:
                self._started()
        elif frame[:1] == messages.PROGRESS:
            if self._progressed is not None:
                self._progressed(messages.decode_progress(frame[1:]))
        elif frame[:1] == messages.METRIC_CHANGED:
            _unseen_changes.warn(frame[1:].decode(errors="replace"))
        elif frame[:1] == messages.TERMINATED:
            self._stopped_at = RemoteTraceback(frame[1:].decode())
        elif self._outcome is not None and not self._outcome.done():
            self._number = None
            self._outcome.set_result(frame)

    def _distrust(self) -> None:
        """What has arrived is no answer to its call, and whatever comes next need not be one either."""
        self._is_distrusted = self._is_cut_off = True
        self._loop.remove_reader(self._socket)
        self._received.clear()
        self.exit = "was ended, as it sent what is no answer to its call,"
        self._close_own_end()
        self._terminate()

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def retire(self) -> None:
        """Let it end by itself, as it is idle; it is told again if it doesn't."""
        if not self.is_ending and not self.gone.done():
            self.is_ending = True
            self._close_own_end()
            self._set_timer(TERMINATION_GRACE, self._terminate)

    def end(self) -> None:
        """End it: SystemExit in the function that runs, and SIGKILL for what does not heed that."""
        if not self.is_ending and not self.gone.done():
            self.is_ending = True
            self._close_own_end()
            self._terminate()

    def _close_own_end(self) -> None:
        self._unsent.clear()
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_WR)

    def _terminate(self) -> None:
        self._process.terminate()
        self._set_timer(TERMINATION_GRACE, self.kill)

    def _set_timer(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def _on_exit(self) -> None:
        """It has ended: take what it still sent, and tell who waits."""
        self._loop.remove_reader(self._watched())
        code = self._process.exitcode
        if code is None and self._pidfd is None and self._looks < MOST_LOOKS:
            # What the system closes for it on its way out is seen a little before its exit code.
            self._looks += 1
            self._loop.call_later(LOOK_INTERVAL, self._on_exit)
            return
        while self._receive():
            pass
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self.exit == "ended":
            self.exit = _describe_exit(code)
        self.release()
        program_metrics.forget(self.pid)
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
        self.gone.set_result(None)
        self._ended(self)

    def release(self) -> None:
        """Close what the operating system holds for it."""
        _living.discard(self)
        self._socket.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        with contextlib.suppress(ValueError):  # it still runs, or someone else has waited for it
            self._process.close()

    def disown(self) -> None:
        """In a forked child: have multiprocessing not wait for it."""
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]  # there is no other way

    def end_at_exit(self) -> int:
        """Tell it to end, without a loop.

        Returns:
            What becomes readable when it has.
        """
        self._close_own_end()
        self._process.terminate()
        return self._process.sentinel


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", as when memory runs out," if name == "SIGKILL" else "")


def _open_pidfd(pid: int | None) -> int | None:
    """A descriptor that tells of a process's end; None where the system has none."""
    try:
        return os.pidfd_open(pid)  # type: ignore[arg-type]  # it has started
    except (AttributeError, OSError):
        return None


@contextlib.contextmanager
def _no_signals_yet() -> Iterator[None]:
    """A process that starts in here has SIGINT and SIGTERM blocked, until it can handle them."""
    resource_tracker.ensure_running()  # it would unblock them
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


_unseen_changes = program_metrics.UnseenChanges()

# Those that have not ended, for the end of a program that does not stop its app: multiprocessing would wait for them.
_living: set[WorkerProcess] = set()


def _end_living() -> None:
    """At the end of this process, end those that are left."""
    left = {process.end_at_exit() for process in tuple(_living)}
    deadline = time.monotonic() + TERMINATION_GRACE
    while left and (seconds := deadline - time.monotonic()) > 0:
        left.difference_update(connection.wait(left, seconds))
    for process in _living if left else ():
        process.kill()


def _leave_living() -> None:
    """In a forked child: they are the parent's, to end and to wait for."""
    leave_to_parent(*_living)
    for process in _living:
        process.disown()
    _living.clear()


os.register_at_fork(after_in_child=_leave_living)
# After multiprocessing's own, and so called before it.
atexit.register(_end_living)
