"""What runs in a worker process: it takes calls from its socket, one at a time, and sends back how they went.

It ends when the app closes its end of the socket, and when the app's process is gone. SIGINT is none of its business:
Ctrl-C in a terminal reaches every process there, and the app decides what becomes of its tasks. The same holds for
SIGTERM, which a service manager may send to all processes of a service: only from an app that has closed its end of the
socket does it mean this process. It is then raised as SystemExit in the running function, whose ``finally`` blocks run.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, Final, NoReturn

from flowrra.executors.outcomes import format_stack
from flowrra.executors.processes import messages, program_import
from flowrra.executors.processes.program_metrics import Changes
from flowrra.log import LineFormatter, TaskLogFilter
from flowrra.task import Progress, Task, progress_report, running_task

# Seconds between two reports of progress that are told to the app.
PROGRESS_INTERVAL: Final = 0.1
PROCESS_NAME: Final = "flowrra-worker-process"
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [%(process)d %(task_name)s %(task_id)s] %(message)s"

# Seconds between two looks at who the parent is, should its end of a pipe live on in another process.
PARENT_CHECK_INTERVAL: Final = 1.0
# Seconds that a running function gets to clean up, before its process is ended without it.
TERMINATION_GRACE: Final = 2.0

_CHUNK: Final = 1 << 20
_metric_changes = Changes()


class Terminated(SystemExit):
    """Raised in the running function when this process is told to end."""


def serve(connection: socket.socket, main: dict[str, str], log_level: int) -> None:
    """Run calls until the other end is closed.

    Args:
        connection: To the app.
        main: The program's main module, as :func:`program_import.main_module` tells.
        log_level: Of the app's root logger.
    """
    program_import.import_main(main)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        return  # the app is gone, or this is a process that the main module forked while it was imported
    line = Line(connection)
    orphaned = threading.Event()
    _take_over_signals(line, orphaned)
    threading.Thread(target=_end_with_parent, args=(orphaned,), name="flowrra-parent-watch", daemon=True).start()
    while (call := line.receive()) is not None:
        number, frame = call
        kind, payload = _run(number, frame, line, log_level)
        del call, frame
        _flush_output()
        line.send(number, kind, payload)
        del payload  # large results don't stay while it waits


# ── one call ────────────────────────────────────────────────────────────────────────────────────────────────


def _run(number: int, frame: bytes, line: Line, log_level: int) -> tuple[bytes, bytes]:
    try:
        func, task = messages.decode_call(frame)
        _ensure_logging(log_level)
        if line.is_closed():  # the signal came while there was still this call to read
            raise Terminated(128 + signal.SIGTERM)
        line.send(number, messages.STARTED)
        _metric_changes.watch()
        progress = _Progress(line, number)
        try:
            value = contextvars.Context().run(_call, func, task, progress)
        finally:
            progress.close()
            _report_metrics(number, line, task)
        return messages.RESULT, messages.encode_result(value)
    except Terminated as told:
        stack = format_stack(told.__traceback__, without=__file__)
        with contextlib.suppress(OSError):  # nobody is there to read it
            line.send(number, messages.TERMINATED, stack.encode(errors="replace"))
        raise
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
        own = error.with_traceback(_without_own_frames(error.__traceback__))
        if not line.is_own():
            _end_fork(own)
        return messages.ERROR, messages.encode_error(own)


def _report_metrics(number: int, line: Line, task: Task) -> None:
    """Tell the app once that a metric was changed here."""
    if _metric_changes.noticed and line.is_own():
        _metric_changes.noticed = False
        with contextlib.suppress(OSError):  # nobody is there any more
            line.send(number, messages.METRIC_CHANGED, task.name.encode(errors="backslashreplace"))


class _Progress:
    """What the running function tells of its progress, on its way to the app: no more of it than is of use there."""

    def __init__(self, line: Line, number: int) -> None:
        self._line = line
        self._number = number
        self._latest: Progress | None = None
        self._next = 0.0
        self._is_over = False

    def report(self, _: object, progress: Progress) -> None:
        """Take a report, from any thread."""
        self._latest = progress
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_INTERVAL
            self._tell_latest()

    def _tell_latest(self) -> None:
        if not self._line.is_own():
            return
        with self._line.sending, contextlib.suppress(OSError):  # nobody is there any more
            latest, self._latest = self._latest, None
            # A thread that outlives the call must not answer the next one.
            if latest is not None and not self._is_over:
                self._line.send(self._number, messages.PROGRESS, messages.encode_progress(latest))

    def close(self) -> None:
        """Tell what was not told yet, and nothing more."""
        if self._latest is not None:
            self._tell_latest()
        # A thread that has not seen it sends before the outcome, as it holds the line until then.
        self._is_over = True


def _call(func: Callable[..., Any], task: Task, progress: _Progress) -> Any:
    running_task.set(task)
    progress_report.set(progress.report)
    return func(*task.args, **task.kwargs)


def _without_own_frames(traceback: Any) -> Any:
    """The traceback from the task's own code on; all of it if it never got there."""
    inner = traceback
    while inner is not None and inner.tb_frame.f_code.co_filename == __file__:
        inner = inner.tb_next
    return inner or traceback


def _ensure_logging(level: int) -> None:
    """What tasks log goes to standard error, unless their modules have set up logging themselves."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.addFilter(TaskLogFilter())
    handler.setFormatter(LineFormatter(LOG_FORMAT))
    root.addHandler(handler)
    root.setLevel(level)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # closed by the task, or by who read it
            continue


def _end_fork(error: BaseException | None = None) -> NoReturn:
    """End a process that the task's code has forked, and that came back from there, as a program ends.

    The answer to the call is its parent's to give, and so are the calls that come next.
    """
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
    _flush_output()
    os._exit(status & 0xFF)


# ── the socket ──────────────────────────────────────────────────────────────────────────────────────────────


class Line:
    """The worker process's end of its connection to the app; of no use to a process that was forked from it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.set_inheritable(False)  # nor to a program that a task starts
        # Held while a frame is sent; by a task's threads, too.
        self.sending = threading.RLock()
        self._pid = os.getpid()
        self._identity = _identity(connection)

    def is_own(self) -> bool:
        """Whether this is the worker process itself."""
        return os.getpid() == self._pid

    def receive(self) -> tuple[int, bytes] | None:
        """The number of the next call, and the call; None once the other end is closed."""
        header = self._receive_exactly(messages.HEADER.size)
        if header is None:
            return None
        length, number, _ = messages.HEADER.unpack(header)
        call = self._receive_exactly(length)
        return None if call is None else (number, call)

    def _receive_exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            try:
                chunk = self._socket.recv(min(_CHUNK, size - len(data)))
            except ConnectionError:
                return None
            if not chunk:
                return None
            data += chunk
        return bytes(data)

    def send(self, number: int, kind: bytes, payload: bytes = b"") -> None:
        """Answer a call.

        Raises:
            OSError: The other end is gone, or a task closed this one.
        """
        if not self.is_own():
            _end_fork()
        if _identity(self._socket) != self._identity:
            raise ConnectionError("a task closed the descriptor of this worker process's connection, which others use")
        with self.sending:  # a thread of the task may tell of its progress
            for part in messages.framed(number, kind, payload):
                if part:
                    self._socket.sendall(part)

    def is_closed(self) -> bool:
        """Whether the app has closed its end, or is gone."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def _identity(connection: socket.socket) -> tuple[int, int]:
    """Which open socket a descriptor means: another one may have got its number since."""
    status = os.fstat(connection.fileno())
    return status.st_dev, status.st_ino


# ── signals, and the end ────────────────────────────────────────────────────────────────────────────────────


def _take_over_signals(line: Line, orphaned: threading.Event) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        if orphaned.is_set() or line.is_closed():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
            raise Terminated(128 + signal.SIGTERM)

    def restore() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    # A process that a task forks, such as one of multiprocessing's, answers SIGTERM as any other.
    os.register_at_fork(after_in_child=restore)
    # The parent blocked them, so that none came before there was a handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _end_with_parent(orphaned: threading.Event) -> None:
    """Wait for the end of the parent, in a thread of its own, and end this process with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the main thread
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    while os.getppid() == parent.pid and not wait([parent.sentinel], PARENT_CHECK_INTERVAL):
        pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(TERMINATION_GRACE)
    os._exit(1)
