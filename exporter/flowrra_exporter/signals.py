"""Takes SIGTERM and SIGINT in the main thread and hands them to the server's loop, whatever the main thread is doing.

Should the server have ended, they are acted on where they come. SIGHUP, which ends a process otherwise, asks for the
configuration to be read again.

A Python signal handler runs when the main thread next runs Python code: late if that is inside a long call of C code,
or has just been on its way into one when the signal came. So each signal comes by two ways: the handler, and the
wakeup descriptor, to which the interpreter writes the signal's number at once
(https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd). An app that installs a wakeup descriptor of its
own takes the second way away; the first one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HANG_UP = getattr(signal, "SIGHUP", None)  # not on Windows


class Signals:
    """Tells a loop of signals.

    Args:
        loop: The loop.
        report: Is called on it with the name and the number (from 1) of each signal that asks for the end.
        interrupt: Is called in the main thread, by the handler; what it raises comes out of whatever runs there.
        reload: Is called on the loop for a SIGHUP.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str, int], None],
        interrupt: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._report = report
        self._interrupt = interrupt
        self._reload = reload
        self._handled = 0
        self._received = 0
        self._reported = 0
        self._reader, self._writer = socket.socketpair()

    @property
    def count(self) -> int:
        """How many signals have come. Readable from any thread."""
        return max(self._handled, self._received)

    def install(self) -> None:
        """Takes the signals from now on. Call it in the main thread, while the loop is running in another."""
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._loop.call_soon_threadsafe(self._loop.add_reader, self._reader, self._receive)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:  # which nohup has seen to
            signal.signal(_HANG_UP, self._hang_up)

    def restore(self) -> None:
        """Gives the signals their default meaning back: from now on one ends the process on the spot.

        But for SIGHUP, which doesn't ask for an end.
        """
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if _HANG_UP is not None:
            signal.signal(_HANG_UP, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._handled += 1
        try:
            self._loop.call_soon_threadsafe(self._catch_up, number)
        except RuntimeError:  # the loop has ended, and the app is to be drained all the same
            self._catch_up(number)
        self._interrupt()

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # a server that has ended has nothing to read again
            self._loop.call_soon_threadsafe(self._reload)

    def _receive(self) -> None:
        for number in self._reader.recv(1024):
            if number in _SIGNALS:
                self._received += 1
                self._catch_up(number)

    def _catch_up(self, number: int) -> None:
        while self._reported < self.count:
            self._reported += 1
            self._report(signal.Signals(number).name, self._reported)
