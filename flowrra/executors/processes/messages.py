"""What travels between an app and its worker processes: calls one way, how they went the other.

A message is a frame: a header, with the length, the number of the call and one byte that says what it is, then a
pickle. Both ends run the same code on the same machine. Nobody else writes to the socket between them, but for a task's
own code by mistake, which does not know the number.
"""

from __future__ import annotations

import importlib
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any, Final

from flowrra.exceptions import SerializationError, TaskImportError
from flowrra.executors.outcomes import RemoteTraceback, describe, format_traceback
from flowrra.executors.processes import program_import
from flowrra.task import Progress, Task

# The length of what follows it, the number of the call, and the kind.
HEADER: Final = struct.Struct("!QQc")
# Bytes of a frame: nothing that claims more would ever arrive whole.
MAX_FRAME: Final = 1 << 36

CALL: Final = b"c"
STARTED: Final = b"s"
METRIC_CHANGED: Final = b"m"
PROGRESS: Final = b"p"
RESULT: Final = b"r"
ERROR: Final = b"e"
TERMINATED: Final = b"t"
ANSWERS: Final = frozenset({STARTED, METRIC_CHANGED, PROGRESS, RESULT, ERROR, TERMINATED})

# Raised out of a coroutine these would mean something else than that a task has failed.
CONTROL_FLOW: Final = (KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration)


def framed(number: int, kind: bytes, payload: bytes = b"") -> tuple[bytes, bytes]:
    """The parts of a frame, apart, as the second may be large.

    Args:
        number: Of the call that it is, or is an answer to.
        kind: What it is.
        payload: What it says.
    """
    return HEADER.pack(len(payload), number, kind), payload


# ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────


def encode_call(func: Callable[..., Any], task: Task) -> bytes:
    """A call of a task's function, named by where it can be imported from.

    Raises:
        SerializationError: An argument can't be pickled.
    """
    try:
        return pickle.dumps((func.__module__, func.__qualname__, task), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # as in decode_outcome()
        which = _unpicklable_arguments(task) or "its arguments"
        raise SerializationError(f"{which} can't be sent to a worker process: {describe(error)}") from error


def _unpicklable_arguments(task: Task) -> str:
    named = {**{f"argument {index}": value for index, value in enumerate(task.args)}, **task.kwargs}
    return ", ".join(name for name, value in named.items() if not _is_picklable(value))


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except BaseException:  # noqa: BLE001 - it is user code, and may raise anything
        return False
    return True


def decode_call(payload: bytes) -> tuple[Callable[..., Any], Task]:
    """The function, imported if need be, and the task that it is called for.

    Raises:
        TaskImportError: There is no such function here.
        SerializationError: An argument can't be made anew from its pickle.
        Exception: Whatever the import of the function's module raises.
    """
    try:
        module, qualname, task = program_import.load(lambda: pickle.loads(payload))  # noqa: S301 - the parent's
    except Exception as error:
        raise SerializationError(f"its arguments can't be read in the worker process: {describe(error)}") from error
    return _import_function(module, qualname, task.name), task


def _import_function(module: str, qualname: str, task_name: str) -> Callable[..., Any]:
    try:
        found: Any = program_import.load(lambda: importlib.import_module(module))
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != module:
            raise  # the module is there, and misses another one
        why = program_import.describe_absence(module, qualname)
        raise TaskImportError(f"Task '{task_name}' can't be found in a worker process: {why}") from error
    if not callable(found):
        raise TaskImportError(f"Task '{task_name}' can't be called: '{qualname}' in '{module}' is {found!r}")
    function: Callable[..., Any] = found
    return function


# ── progress ────────────────────────────────────────────────────────────────────────────────────────────────


def encode_progress(progress: Progress) -> bytes:
    """What a task tells of its progress."""
    return json.dumps(progress.to_dict()).encode()


def decode_progress(payload: bytes) -> Progress:
    """Read what :func:`encode_progress` wrote."""
    return Progress.from_dict(json.loads(payload))


# ── outcomes ────────────────────────────────────────────────────────────────────────────────────────────────


def encode_result(value: object) -> bytes:
    """What a task returned.

    Raises:
        SerializationError: It can't be pickled.
    """
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        kind = type(value).__name__
        raise SerializationError(
            f"its result, a {kind}, can't be sent back from the worker process: {describe(error)}"
        ) from error


def encode_error(error: BaseException) -> bytes:
    """What a task raised, with its traceback as text. An exception that can't be pickled is described instead."""
    exception, stands_for = None, None
    if _survives_pickling(error):
        exception = error
    else:
        stands_for = type(error) if _is_picklable(type(error)) else None
    is_exception = isinstance(error, Exception)
    description = (type(error).__name__, _text_of(error), stands_for, is_exception)
    return pickle.dumps((exception, description, format_traceback(error)), pickle.HIGHEST_PROTOCOL)


def _survives_pickling(error: BaseException) -> bool:
    try:
        again = pickle.loads(pickle.dumps(error, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - just written
        return type(again) is type(error) and str(again) == str(error)
    except BaseException:  # noqa: BLE001 - it is user code, and may raise anything
        return False


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:  # noqa: BLE001 - it is user code, and may raise anything
        return f"<its str() raised {type(failure).__name__}>"


def decode_outcome(frame: bytes) -> Any:
    """The result that a worker process sent.

    Raises:
        SerializationError: It can't be made anew from its pickle.
        BaseException: What the task raised there, with a :class:`RemoteTraceback` as its cause.
    """
    kind, payload = frame[:1], memoryview(frame)[1:]
    if kind == ERROR:
        error = _decode_error(payload)
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame
    try:
        return pickle.loads(payload)  # noqa: S301 - written by a worker process of this one
    except BaseException as error:  # its class is user code: what it raises here must not end the app
        raise SerializationError(
            f"its result can't be read, back from the worker process: {describe(error)}"
        ) from error


def _decode_error(payload: memoryview) -> BaseException:
    try:
        error, (name, text, stands_for, is_exception), remote = pickle.loads(payload)  # noqa: S301 - as above
    except BaseException as failure:  # noqa: BLE001 - its class is user code, and may raise anything
        return SerializationError(f"its exception can't be read, back from the worker process: {describe(failure)}")
    if error is None or isinstance(error, CONTROL_FLOW):
        error = _stand_in(name, text, stands_for, Exception if is_exception else BaseException)
    error.__cause__ = RemoteTraceback(remote)
    return error  # type: ignore[no-any-return]  # a pickle may be anything, this one is what encode_error() wrote


class _StandIn:
    """Speaks for an exception that could not travel."""

    text: str

    def __str__(self) -> str:
        return self.text


def _stand_in(name: str, text: str, stands_for: type[BaseException] | None, base: type[BaseException]) -> BaseException:
    """An exception of that name and text; where its class is known and harmless, also an instance of it."""
    parents = [base] if stands_for is None or issubclass(stands_for, CONTROL_FLOW) else [stands_for, base]
    for parent in parents:
        try:
            made: Any = type(name, (_StandIn, parent), {})
            error: BaseException = made.__new__(made)
            error.text = text  # type: ignore[attr-defined]  # of _StandIn
            return error
        except Exception:  # noqa: BLE001, S112 - its class is user code, and may refuse to be derived from
            continue
    return base(text)
