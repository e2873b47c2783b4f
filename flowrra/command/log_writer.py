"""Writes a worker's log in a thread of its own: a pipe that nobody reads, or a terminal that is stopped, holds up no
task. What waits is bounded; a record that finds no room is dropped, and a line says how many, once the log flows again.

The exporter has a log of the same kind. It goes with older versions of flowrra, and can't have it from here.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from flowrra.forks import tell_of_forks
from flowrra.log import LineFormatter

# Lines that wait to be written take no more.
MAX_WAITING_BYTES = 4 * 1024 * 1024
# Seconds that the end of the process waits for what is not written yet.
FLUSH_SECONDS = 1.0
FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
_LINE_OVERHEAD = 100
_DROPPED = "%d log records were dropped: nobody had read the log for too long"


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Have what is logged written to standard error, unless the caller has set up logging already. At the end it is
    written before what comes after."""
    if logging.getLogger().handlers:
        yield
        return
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(LineFormatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        yield
    finally:
        handler.flush()


class BackgroundHandler(logging.Handler):
    """Formats a record where it is logged, and leaves the line to a thread that writes it.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        self._begin()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="flowrra-log", daemon=True)
        self._thread.start()
        tell_of_forks(self)

    def _begin(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._waiting = 0
        self._untold = 0
        self._is_full = self._is_closed = False

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record, without the lock of other handlers: a slow ``__str__`` holds up only who logs it."""
        accepted: object = self.filter(record)
        if accepted:
            # From Python 3.12 on, a filter may return another record.
            self.emit(accepted if isinstance(accepted, logging.LogRecord) else record)
        return bool(accepted)

    def emit(self, record: logging.LogRecord) -> None:
        """Leave the record's line to the thread. A line in its place says that a record can't be formatted."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - its arguments are anybody's objects
            text = "a record of %s could not be formatted (%s): %.200r"
            message = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
            line = self._own_line(logging.ERROR, text, record.name, type(error).__name__, message)
        self._put(_encoded(line))

    def flush(self) -> None:
        """Wait until everything is written, for a second at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, FLUSH_SECONDS if self._thread else 0.0)

    def close(self) -> None:
        """Take no more; the thread ends when it has written what waits."""
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
                self._untold += 1
                return
            self._waiting += size
        self._lines.put(line)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            is_written = self._write(line)
            size = len(line) + _LINE_OVERHEAD
            with self._changed:
                # Half of the room first: else each line of a slow reader would be followed by one about the next.
                self._is_full = self._is_full and self._waiting - size > MAX_WAITING_BYTES / 2
                untold = self._untold if is_written and not self._is_full else 0
            is_told = untold and self._write(_encoded(self._own_line(logging.WARNING, _DROPPED, untold)))
            with self._changed:
                self._untold += (not is_written) - (untold if is_told else 0)
                self._waiting -= size
                self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        """Write a line, and return whether it could be: who read it may be gone, the disk full, the stream closed, or
        an odd object."""
        try:
            if self._descriptor is None:
                self._stream.write(line.decode())
                self._stream.flush()
            else:
                _write_all(self._descriptor, line)
        except Exception:  # noqa: BLE001 - it is counted; a thread that ends would lose all that comes, and say nothing
            return False
        return True

    def _own_line(self, level: int, message: str, *args: object) -> str:
        return self.format(logging.LogRecord(__name__, level, __file__, 0, message, args, None))

    def forked(self) -> None:
        """In a child, where the thread isn't, and a lock of its may be held for ever: it writes by itself."""
        self._begin()
        self._thread = None


def _descriptor_of(stream: TextIO) -> int | None:
    """The file behind a stream. It is written to directly: a buffer's lock would hang the end of the process."""
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
