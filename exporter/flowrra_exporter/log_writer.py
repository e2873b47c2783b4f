"""Writes the log in a thread of its own: a pipe that nobody reads, or a disk that hangs, holds up nobody who logs.

What waits is bounded. A record that finds no room is dropped and counted; a line says how many, once the log flows
again.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import weakref
from typing import TextIO

# Lines that wait to be written take no more.
MAX_WAITING_BYTES = 4 * 1024 * 1024
# How long the end of the process waits for what is not written yet.
FLUSH_SECONDS = 1.0
_LINE_OVERHEAD = 100
_DROPPED = "%d log records were dropped: nobody had read the log for too long"


class BackgroundHandler(logging.Handler):
    """Formats a record where it's logged, and leaves the line to a thread that writes it to ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        self.dropped = 0
        self._begin()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="flowrra-exporter-log", daemon=True
        )
        self._thread.start()
        _handlers.add(self)

    def _begin(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._waiting = 0
        self._untold = 0
        self._is_full = self._is_closed = False

    def handle(self, record: logging.LogRecord) -> bool:
        """Takes a record, without the lock of other handlers: a slow ``__str__`` holds up only who logs it."""
        accepted: object = self.filter(record)
        if accepted:
            # From Python 3.12 on, a filter may return another record.
            self.emit(accepted if isinstance(accepted, logging.LogRecord) else record)
        return bool(accepted)

    def emit(self, record: logging.LogRecord) -> None:
        """Leaves the record's line to the thread. A line in its place says that a record can't be formatted."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - its arguments are anybody's objects
            line = self._own_line(
                logging.ERROR,
                "a record of %s could not be formatted (%s): %.200r",
                record.name,
                type(error).__name__,
                record.msg if isinstance(record.msg, str) else type(record.msg).__name__,
            )
        self._put(_encoded(line))

    def flush(self) -> None:
        """Waits until everything is written, for a second at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, FLUSH_SECONDS if self._thread else 0.0)

    def close(self) -> None:
        """Takes no more; the thread ends when it has written what waits."""
        self._is_closed = True
        self._lines.put(None)
        super().close()

    def _put(self, line: bytes) -> None:
        if self._thread is None:
            self._write(line)
            return
        size = len(line) + _LINE_OVERHEAD
        with self._changed:
            self._is_full = self._is_full or self._waiting + size > MAX_WAITING_BYTES
            if self._is_full or self._is_closed:
                self._drop()
                return
            self._waiting += size
        self._lines.put(line)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            written = self._write(line)
            with self._changed:
                waiting = self._waiting - len(line) - _LINE_OVERHEAD
                # Half of the room first: else each line of a slow reader would be followed by one about the next.
                self._is_full = self._is_full and waiting > MAX_WAITING_BYTES / 2
                untold = self._untold if written and not self._is_full else 0
            if untold and self._write(_encoded(self._own_line(logging.WARNING, _DROPPED, untold))):
                with self._changed:
                    self._untold -= untold
            with self._changed:
                self._waiting -= len(line) + _LINE_OVERHEAD
                if not written:
                    self._drop()
                self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        """Whether it could be written: who read it may be gone, the disk full, the stream closed, or an odd object."""
        try:
            if self._descriptor is None:
                self._stream.write(line.decode())
                self._stream.flush()
            else:
                _write_all(self._descriptor, line)
        except Exception:  # noqa: BLE001 - it's counted; a thread that ends would lose all that comes, and count nothing
            return False
        return True

    def _drop(self) -> None:
        self.dropped += 1
        self._untold += 1

    def _own_line(self, level: int, message: str, *args: object) -> str:
        return self.format(logging.LogRecord(__name__, level, __file__, 0, message, args, None))

    def forked(self) -> None:
        """In a child, where the thread isn't, and a lock of its may be held for ever: it writes by itself."""
        self._begin()
        self._thread = None


_handlers: weakref.WeakSet[BackgroundHandler] = weakref.WeakSet()


def dropped_records() -> int | None:
    """How many records this process's log has dropped; None if it isn't written behind."""
    found = [handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, BackgroundHandler)]
    return sum(found) if found else None


def _descriptor_of(stream: TextIO) -> int | None:
    """The file behind a stream. Written to directly: a buffer's lock would hang the end of the process."""
    try:
        stream.flush()
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # it is none, or closed
        return None


def _encoded(line: str) -> bytes:
    return line.encode(errors="backslashreplace") + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # whoever started us left the pipe so
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


def _after_fork() -> None:
    for handler in list(_handlers):
        handler.forked()


if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
    os.register_at_fork(after_in_child=_after_fork)
