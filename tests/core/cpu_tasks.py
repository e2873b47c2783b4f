"""What CPU-bound tasks do in the tests. Worker processes import this module, which is why it imports little."""

from __future__ import annotations

import contextvars
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowrra import Reject, TaskTimeoutError, current_task

PATIENCE = 10.0


def pid() -> int:
    return os.getpid()


def echo(value: Any) -> Any:
    return value


def burn(seconds: float) -> int:
    """Holds the interpreter lock as much as Python code can."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    return os.getpid()


def reject_in_a_group() -> None:
    raise ExceptionGroup("all", [Reject("never again")])


def who_am_i() -> tuple[str, str, int, dict[str, str]] | None:
    task = current_task()
    return None if task is None else (task.id, task.name, task.attempt, task.headers)


def note(path: str, line: str) -> None:
    """Append a line, whole, whoever else does."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def wait_for_file(path: str) -> None:
    end = time.monotonic() + PATIENCE
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.002)


def meet(folder: str, own: str, other: str) -> int:
    """Returns once the other one is here, too."""
    Path(folder, own).touch()
    wait_for_file(f"{folder}/{other}")
    return os.getpid()


def log_turn(path: str, name: str) -> None:
    note(path, f"begin {name}")
    time.sleep(0.05)
    note(path, f"end {name}")


def hold(started: str, release: str) -> int:
    """Says who it is, and goes on until it is let go."""
    note(started, str(os.getpid()))
    wait_for_file(release)
    return os.getpid()


def hold_once(started: str) -> int:
    """The first attempt never ends by itself."""
    note(started, str(os.getpid()))
    task = current_task()
    if task is not None and task.attempt == 1:
        time.sleep(PATIENCE)
    return os.getpid()


def hold_and_clean_up(started: str, cleaned: str) -> None:
    try:
        note(started, str(os.getpid()))
        time.sleep(PATIENCE)
    finally:
        note(cleaned, "cleaned up")


def hold_stubbornly(started: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(started, str(os.getpid()))
    time.sleep(PATIENCE)


def swallow_the_end(started: str) -> str:
    """Does not end when it is told to, but returns."""
    try:
        note(started, str(os.getpid()))
        time.sleep(PATIENCE)
    except SystemExit:
        return "went on"
    return "slept"


def exit_at_once(code: int) -> None:
    os._exit(code)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def close_its_connection() -> None:
    """What a daemonizing library does."""
    os.closerange(3, 64)
    time.sleep(PATIENCE)


def signals_from_elsewhere() -> str:
    """As when all processes of a service or a terminal are signalled."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    return "unmoved"


def use_a_pool() -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, [-1, -2, -3])


def leave_a_fork(started: str) -> int:
    """A forked process that outlives the task, and holds its connection."""
    child = os.fork()
    if child == 0:
        time.sleep(PATIENCE)
        os._exit(0)
    note(started, f"{os.getpid()} {child}")
    time.sleep(PATIENCE)
    return child


def fork_and_return(how: str) -> str:
    """Both processes come back from here."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "the parent's"
    if how == "raises":
        raise ValueError("the child's")
    if how == "exits":
        raise SystemExit(3)
    if how == "ignores its end":
        os.closerange(0, 3)
    return "the child's"


def fork_in_a_thread() -> str:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(fork_and_return("returns")))
    thread.start()
    thread.join()
    return answers[0]


def fork_by_multiprocessing(how: str) -> str:
    process = multiprocessing.get_context("fork").Process(target=fork_and_return, args=(how,))
    process.start()
    process.join()
    return "the parent's"


def come_back_as_a_daemon(where: str) -> None:
    """The process that goes on is not the one that was called."""
    if os.fork():
        os._exit(0)
    note(where, str(os.getpid()))


def _descriptor_of_the_connection() -> int:
    """What a careless loop over all descriptors meets."""
    for name in os.listdir("/proc/self/fd"):
        try:
            probe = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with probe:
            if probe.family == socket.AF_UNIX and not probe.getpeername():
                return int(name)
    raise LookupError


def write_to_its_connection(text: bytes) -> str:
    os.write(_descriptor_of_the_connection(), text)
    return "done"


def write_to_its_connection_later(text: bytes) -> str:
    """When another task's call may be under way."""
    threading.Timer(0.1, write_to_its_connection, (text,)).start()
    return "done"


def use_the_number_of_its_connection(path: str) -> int:
    """Close what it did not open, and get its number for a file."""
    descriptor = _descriptor_of_the_connection()
    os.close(descriptor)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    if file != descriptor:
        os.dup2(file, descriptor)
    os.write(descriptor, b"mine")
    return descriptor


def shout() -> str:
    os.write(1, b"out" * 100)
    os.write(2, b"err" * 100)
    os.closerange(0, 3)
    return "shouted"


def run_a_thread() -> int:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(42))
    thread.start()
    thread.join()
    return answers[0]


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────


class TwoArguments(Exception):
    """Can be pickled, and not be read again: as many exceptions out there."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class HoldsALock(Exception):
    """Can't be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class StrRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Custom(BaseException):
    pass


class Final(Exception):
    """Can't be derived from."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()

    def __init_subclass__(cls) -> None:
        raise TypeError("final")


def _local_exception() -> Exception:
    class Local(Exception):
        pass

    return Local("boom")


FAILURES: dict[str, tuple[Callable[[], BaseException], str]] = {
    "exception": (lambda: ValueError("boom"), "ValueError: boom"),
    "without text": (lambda: KeyError(), "KeyError"),
    "two arguments": (lambda: TwoArguments(7, "boom"), "TwoArguments: 7: boom"),
    "holds a lock": (lambda: HoldsALock("boom"), "HoldsALock: boom"),
    "str raises": (lambda: StrRaises(), "StrRaises: <its str() raised RuntimeError>"),
    "local class": (_local_exception, "Local: boom"),
    "final class": (lambda: Final("boom"), "Final: boom"),
    "base exception": (lambda: Custom("boom"), "Custom: boom"),
    "system exit": (lambda: SystemExit(3), "SystemExit: 3"),
    "keyboard interrupt": (lambda: KeyboardInterrupt("boom"), "KeyboardInterrupt: boom"),
    "generator exit": (lambda: GeneratorExit("boom"), "GeneratorExit: boom"),
    "stop iteration": (lambda: StopIteration("boom"), "StopIteration: boom"),
    "group": (lambda: ExceptionGroup("several", [ValueError(1)]), "ExceptionGroup: several (1 sub-exception)"),
    "our own": (lambda: TaskTimeoutError("an-id", 3), "TaskTimeoutError: Task 'an-id' did not complete within 3s"),
    "surrogate": (lambda: ValueError("\ud800"), "ValueError: \ud800"),
}


def fail(how: str) -> None:
    raise FAILURES[how][0]()


def fail_with_a_cause() -> None:
    try:
        raise KeyError("the first")
    except KeyError as error:
        raise ValueError("the second") from error


def recurse() -> None:
    recurse()


def fail_before(attempt: int, how: str) -> int:
    task = current_task()
    if task is None or task.attempt < attempt:
        raise FAILURES[how][0]()
    return task.attempt


def reject() -> None:
    raise Reject("never again")


# ── what can't travel ───────────────────────────────────────────────────────────────────────────────────────


def return_a_lock(path: str) -> object:
    note(path, "ran")
    return threading.Lock()


class NeedsProcess:
    """Can be read only in the process of that id."""

    def __init__(self, process: int) -> None:
        self.process = process

    def __reduce__(self) -> tuple[Any, ...]:
        return _only_in, (self.process,)


def _only_in(process: int) -> str:
    if os.getpid() != process:
        raise LookupError("not here")
    return "made anew"


def return_unreadable() -> NeedsProcess:
    return NeedsProcess(os.getpid())


def send_over_a_socket() -> int:
    """The descriptors of the worker are its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"hello")
        return len(theirs.recv(10))


class RaisesElsewhere:
    """Raises what would end a program, in any process but that one, when it is made anew from its pickle."""

    def __init__(self, process: int, error: type[BaseException]) -> None:
        self.process = process
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_elsewhere, (self.process, self.error)


class FailsElsewhere(Exception):
    """The same, as an exception."""

    def __init__(self, process: int, error: type[BaseException]) -> None:
        super().__init__(process)
        self.process = process
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise_elsewhere, (self.process, self.error, True)


def _raise_elsewhere(process: int, error: type[BaseException], is_exception: bool = False) -> object:
    if os.getpid() != process:
        raise error
    return FailsElsewhere(process, error) if is_exception else RaisesElsewhere(process, error)


class SleepsElsewhere:
    """Takes its time, in any process but that one, to be made anew from its pickle."""

    def __init__(self, process: int) -> None:
        self.process = process

    def __reduce__(self) -> tuple[Any, ...]:
        return _sleep_elsewhere, (self.process,)


def _sleep_elsewhere(process: int) -> SleepsElsewhere:
    if os.getpid() != process:
        time.sleep(PATIENCE)
    return SleepsElsewhere(process)


def return_what_raises(error: type[BaseException]) -> RaisesElsewhere:
    return RaisesElsewhere(os.getpid(), error)


def raise_what_raises(error: type[BaseException]) -> None:
    raise FailsElsewhere(os.getpid(), error)


class RaisesWhenPickled:
    """Raises what would end a program when it is pickled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        raise self.error


def take(value: object) -> None:
    del value


def add_up(one: int, other: int) -> int:
    return one + other


def count_to(total: int, seconds: float) -> int:
    """Tell of each step; also from a thread that goes on for a while after the function."""
    task = current_task()
    assert task is not None
    for step in range(1, total + 1):
        task.progress(step, total, f"step {step}")
        time.sleep(seconds)
    context = contextvars.copy_context()

    def go_on() -> None:
        time.sleep(0.2)  # until the function has returned, for certain
        for _ in range(200):
            context.run(task.progress, 0, None, "too late")

    threading.Thread(target=go_on).start()
    return total
