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
from typing import Any, Final

from flowrra.executors import messages
from flowrra.executors.failures import format_stack
from flowrra.log import TaskLogFilter
from flowrra.task import Task, running_task

PROCESS_NAME: Final = "flowrra-worker-process"
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [%(process)d %(task_name)s %(task_id)s] %(message)s"

# Seconds between two looks at who the parent is, should its end of a pipe live on in another process.
PARENT_CHECK_INTERVAL: Final = 1.0
# Seconds that a running function gets to clean up, before its process is ended without it.
TERMINATION_GRACE: Final = 2.0

_CHUNK: Final = 1 << 20
_is_serving = False


class Terminated(SystemExit):
    """Raised in the running function when this process is told to end."""


def is_importing_main() -> bool:
    """Whether this is a worker process that still imports the program's main module."""
    return multiprocessing.current_process().name.startswith(PROCESS_NAME) and not _is_serving


def serve(connection: socket.socket, log_level: int) -> None:
    """Run calls until the other end is closed.

    Args:
        connection: To the app.
        log_level: Of the app's root logger.
    """
    global _is_serving
    _is_serving = True
    orphaned = threading.Event()
    _take_over_signals(connection, orphaned)
    threading.Thread(target=_end_with_parent, args=(orphaned,), name="flowrra-parent-watch", daemon=True).start()
    while (frame := _receive(connection)) is not None:
        kind, payload = _run(frame, connection, log_level)
        del frame
        _flush_output()
        _send(connection, kind, payload)
        del payload  # large results don't stay while it waits


# ── one call ────────────────────────────────────────────────────────────────────────────────────────────────


def _run(frame: bytes, connection: socket.socket, log_level: int) -> tuple[bytes, bytes]:
    try:
        func, task = messages.decode_call(frame[1:])
        _ensure_logging(log_level)
        if _is_closed(connection):  # the signal came while there was still this call to read
            raise Terminated(128 + signal.SIGTERM)
        _send(connection, messages.STARTED)
        value = contextvars.Context().run(_call, func, task)
        return messages.RESULT, messages.encode_result(value)
    except Terminated as told:
        stack = format_stack(told.__traceback__, without=__file__)
        with contextlib.suppress(OSError):  # nobody is there to read it
            _send(connection, messages.TERMINATED, stack.encode(errors="replace"))
        raise
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is its outcome
        own = error.__traceback__
        return messages.ERROR, messages.encode_error(error.with_traceback(_without_own_frames(own)))


def _call(func: Callable[..., Any], task: Task) -> Any:
    running_task.set(task)
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
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    root.addHandler(handler)
    root.setLevel(level)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # closed by the task, or by who read it
            continue


# ── the socket ──────────────────────────────────────────────────────────────────────────────────────────────


def _receive(connection: socket.socket) -> bytes | None:
    """The next frame; None once the other end is closed."""
    header = _receive_exactly(connection, messages.LENGTH.size)
    if header is None:
        return None
    return _receive_exactly(connection, messages.LENGTH.unpack(header)[0])


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = connection.recv(min(_CHUNK, size - len(data)))
        except ConnectionError:
            return None
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _send(connection: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    for part in messages.framed(kind, payload):
        if part:
            connection.sendall(part)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the app has closed its end, or is gone."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


# ── signals, and the end ────────────────────────────────────────────────────────────────────────────────────


def _take_over_signals(connection: socket.socket, orphaned: threading.Event) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        if orphaned.is_set() or _is_closed(connection):
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
