"""Tasks and records as JSON: what travels through a server.

What JSON has, stands there as it is, for flowrra 0.1.8 and other languages to read; what it lacks is tagged, see
``tags.py``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from json.encoder import c_make_encoder  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from flowrra import rebuilding, tags
from flowrra.exceptions import BackendError, SerializationError
from flowrra.queue_names import DEFAULT_QUEUE, checked_queue, is_queue_name
from flowrra.ranges import MAX_BACKOFF, MAX_DELAY, MAX_PRIORITY, MAX_RETRIES
from flowrra.task import MAX_ATTEMPTS, Attempt, Task, TaskResult

# Bytes: an entry that is larger is refused, as it would hold up everybody else's.
MAX_SIZE = 64 * 1024 * 1024

# What a record's fields are, unless they are times or the user's.
_RECORD_TYPES = (
    ("task_id", str),
    ("task_name", str | None),
    ("error", str | None),
    ("traceback", str | None),
    ("queue", str | None),
    ("retries", int | None),
    ("args", list | None),
    ("kwargs", dict | None),
    ("worker", str | None),
    ("attempts", list | None),
    ("retry_of", str | None),
    ("progress", dict | None),
)
_FIELDS = frozenset({"submitted_at", "attempts", "retry_of", *(field.name for field in dataclasses.fields(Task))})
_ARGS_MARK = ',"args":['

_WRITABLE = (
    "Pass None, booleans, numbers, text, bytes, dates and times, UUIDs, decimals, lists, tuples, sets, dicts with text "
    "as keys, and what an annotation tells how to rebuild"
)
_MARK = tags.MARK
_MARK_BYTES = _MARK.encode()

_quoted = json.encoder.encode_basestring_ascii
_decoder = json.JSONDecoder()
_encoder = json.JSONEncoder(separators=(",", ":"))
# Made once: JSONEncoder makes it anew for each text, which takes longer than to write most of them.
_chunks = c_make_encoder and c_make_encoder(None, _encoder.default, _quoted, None, ":", ",", False, False, True)


class DecodedTask(NamedTuple):
    """A task as it was read from a queue.

    Attributes:
        task: The task.
        submitted_at: When it was submitted, if that is known.
        call: Its arguments as text, as :func:`encode_call` makes it.
        attempts: Those that have ended, oldest first.
        retry_of: The id of the task that it is another run of.
    """

    task: Task
    submitted_at: datetime | None
    call: str
    attempts: tuple[Attempt, ...] = ()
    retry_of: str | None = None


class EncodedRecord(NamedTuple):
    """A record as its backend keeps it, and what its lists are made of.

    Attributes:
        text: The record.
        status: Its status.
        submitted: When the task was submitted, in microseconds since 1970; 0 if that is unknown, or before.
        name: The task's name; "" if that is unknown.
    """

    text: str
    status: str
    submitted: int
    name: str


def _number(value: float) -> str:
    """As JSON: the text of an enumeration's member, or of NumPy's numbers, is none."""
    return repr(value) if type(value) in (int, float) else json.dumps(value)


def encode_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task_name: str | None,
    function: Callable[..., Any] | None = None,
) -> str:
    """A task's arguments as text. It is made once, when the task is submitted, and kept: what an attempt does to its
    arguments reaches neither the next attempt nor the record.

    Args:
        args, kwargs: The arguments.
        task_name: The task's name.
        function: What they are for, if a worker is to call it with what it reads from the text: it must then be able
            to rebuild, by the function's annotations, what has no type in the text.

    Raises:
        SerializationError: They hold what can't be written, or not be rebuilt, or are too large.
    """
    what = f"The arguments of task '{task_name}'"
    try:
        if tags.are_plain(args) and (not kwargs or tags.is_plain(kwargs)):
            text = _call_of(args, kwargs)
            if _MARK not in text:
                return _checked(text, what)
        text = _call_of(*written_call(args, kwargs, task_name, function))
    except Exception as error:  # it is user code, and may raise anything
        raise _unwritable(what, error) from error
    return _checked(text, what)


def written_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    task_name: str | None,
    function: Callable[..., Any] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """:func:`encode_call`, but as what JSON has rather than as its text.

    Raises:
        SerializationError: As there.
    """
    try:
        return rebuilding.written_call(args, kwargs, function)
    except Exception as error:  # it is user code, and may raise anything
        raise _unwritable(f"The arguments of task '{task_name}'", error) from error


def _call_of(args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    return f'"args":{_encode(args) if args else "[]"},"kwargs":{_encode(kwargs) if kwargs else "{}"}'


def encode_task(
    task: Task,
    submitted_at: datetime | None,
    call: str,
    attempts: Sequence[Attempt] = (),
    retry_of: str | None = None,
) -> str:
    """A task as the text that waits in a queue.

    Args:
        task: The task, whose arguments are not looked at.
        submitted_at: When it was submitted; None if that is unknown.
        call: Its arguments, from :func:`encode_call`. They stand last, where they can be cut out again.
        attempts: Those that have ended, for the record that the worker of the next one keeps.
        retry_of: The id of the task that it is another run of.

    Raises:
        SerializationError: Another part of it is of the wrong type.
    """
    what = f"Task '{task.name}'"
    # Put together by hand, as this is on every task's way; what few tasks have is written only where it is there.
    rest = ""
    if task.timeout is not None:
        rest += f',"timeout":{_number(task.timeout)}'
    if task.backoff != 1.0:
        rest += f',"backoff":{_number(task.backoff)}'
    if task.jitter:
        rest += f',"jitter":{_number(task.jitter)}'
    if task.headers:
        rest += f',"headers":{_encoded_headers(task.headers, what)}'
    if task.queue != DEFAULT_QUEUE:
        rest += f',"queue":{_quoted(task.queue)}'
    if submitted_at is not None:
        rest += f',"submitted_at":"{submitted_at.isoformat()}"'
    if attempts:
        rest += f',"attempts":{_attempts(attempts)}'
    if retry_of is not None:
        rest += f',"retry_of":{_quoted(retry_of)}'
    return _checked(
        f'{{"id":{_quoted(task.id)},"name":{_quoted(task.name)},'
        f'"max_retries":{_number(task.max_retries)},"retry_delay":{_number(task.retry_delay)},'
        f'"current_retry":{task.current_retry},"priority":{_number(task.priority)},'
        f'"cpu_bound":{"true" if task.cpu_bound else "false"}{rest},{call}}}',
        what,
    )


def decode_task(data: bytes) -> DecodedTask:
    """Read what :func:`encode_task`, or flowrra 0.1.8, wrote.

    Raises:
        ValueError: It is no task, or one of its fields is out of range. It names the field, and quotes nothing of what
            the field holds.
    """
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has {len(data):,} bytes, at most {MAX_SIZE:,} are read")
    text = data.decode()
    fields = _decoded(text)
    found = fields.get
    task_id, name, args, kwargs = found("id"), found("name"), found("args"), found("kwargs")
    if not (isinstance(task_id, str) and isinstance(name, str) and task_id and name):
        raise ValueError("it has no id or no name")
    if not isinstance(args or [], list) or not isinstance(kwargs or {}, dict):
        raise ValueError("its arguments are no list, or no dict")
    if _MARK in text:
        args, kwargs = _field("args", tags.read, args), _field("kwargs", tags.read_values, kwargs or {})
    submitted_at = found("submitted_at")
    try:
        max_retries, retry_delay, current_retry, timeout, backoff, jitter = _numbers(
            found("max_retries", 3),
            found("retry_delay", 1.0),
            found("current_retry", 0),
            found("timeout"),
            found("backoff", 1.0),
            found("jitter", 0.0),
        )
        task = Task(
            task_id,
            name,
            tuple(args or ()),
            kwargs or {},
            max_retries,
            retry_delay,
            current_retry,
            _priority(found("priority", 0)),
            bool(found("cpu_bound", False)),
            timeout,
            backoff,
            jitter,
            _headers(found("headers")),
            _field("queue", checked_queue, found("queue")) if "queue" in fields else DEFAULT_QUEUE,
        )
        return DecodedTask(
            task,
            None if submitted_at is None else _field("submitted_at", datetime.fromisoformat, submitted_at),
            _call_within(text, fields) or encode_call(task.args, task.kwargs, name),
            # What few tasks have is looked at only where it is there.
            _field("attempts", _read_attempts, found("attempts")) if "attempts" in fields else (),
            _field("retry_of", _text_or_none, found("retry_of")) if "retry_of" in fields else None,
        )
    except (TypeError, AttributeError, KeyError, OverflowError, BackendError) as error:
        raise ValueError(f"a field is of the wrong type: {type(error).__name__}") from None


def check_task(task: Task) -> None:
    """Look at a task that a broker of the user's own has made, as :func:`decode_task` does at what it reads.

    Raises:
        ValueError: One of its fields is of the wrong type or out of range.
    """
    task.args, task.kwargs = _arguments(task.args, task.kwargs)
    numbers = task.max_retries, task.retry_delay, task.current_retry, task.timeout, task.backoff, task.jitter
    task.max_retries, task.retry_delay, task.current_retry, task.timeout, task.backoff, task.jitter = _numbers(*numbers)
    task.priority, task.headers = _priority(task.priority), _headers(task.headers)


def _field(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """A field of a task, from what stands there.

    Raises:
        ValueError: It can't be read.
    """
    try:
        return read(value)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        # Only the class: what it says may quote the value, and is shown to people who may not see that.
        raise ValueError(f"its {name} can't be read: {type(error).__name__}") from None


def _call_within(text: str, fields: dict[str, Any]) -> str | None:
    """What :func:`encode_call` made, as it stands in a task's text; None if the text is not of :func:`encode_task`.

    Before the arguments there are only numbers and text, in which every quotation mark has a backslash before it: the
    first of the marks is theirs.
    """
    if not (fields.keys() <= _FIELDS and text.endswith("}")):
        return None
    start = text.find(_ARGS_MARK)
    return text[start + 1 : -1] if start > 0 and list(fields)[-2:] == ["args", "kwargs"] else None


def _numbers(*found: Any) -> tuple[int, float, int, float | None, float, float]:
    """The numbers of a task, from what stands there.

    Raises:
        ValueError: One is no number, or out of range.
    """
    try:
        return _checked_numbers(*found)
    except TypeError:  # a list or a dict, which is not found again by its value
        return _checked_numbers.__wrapped__(*found)


# The tasks of one name say the same: it is looked at once.
@lru_cache(maxsize=1024, typed=True)
def _checked_numbers(
    max_retries: Any, retry_delay: Any, current_retry: Any, timeout: Any, backoff: Any, jitter: Any
) -> tuple[int, float, int, float | None, float, float]:
    return (
        _whole("max_retries", max_retries),
        _ranged("retry_delay", retry_delay, MAX_DELAY),
        _whole("current_retry", current_retry),
        None if timeout is None else _ranged("timeout", timeout, MAX_DELAY),
        _ranged("backoff", backoff, MAX_BACKOFF),
        _ranged("jitter", jitter, 1.0),
    )


def _ranged(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its {name} is no number")
    if not 0 <= value <= most:  # what is no number at all compares as False
        raise ValueError(f"its {name} is not between 0 and {most:g}")
    return float(value)


def _whole(name: str, value: Any) -> int:
    number = _ranged(name, value, MAX_RETRIES)
    if number != int(number):
        raise ValueError(f"its {name} is no whole number")
    return int(number)


def _priority(value: Any) -> Any:
    if not isinstance(value, int | float) or not abs(value) <= MAX_PRIORITY:
        raise ValueError("its priority is no number, or too large")
    return value


def _arguments(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise ValueError("its arguments are no list, or no dict")
    return tuple(args), kwargs


def _headers(headers: Any) -> dict[str, str]:
    if not headers:
        return {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("its headers are not text to text")
    return headers


def _attempts(attempts: Sequence[Attempt]) -> str:
    return _encode([attempt.to_dict() for attempt in attempts])


def _read_attempts(found: Any) -> tuple[Attempt, ...]:
    """Attempts, from what stands there.

    Raises:
        KeyError, TypeError, ValueError: They are none.
    """
    if found is None:
        return ()
    attempts = tuple(map(Attempt.from_dict, found))
    for attempt in attempts:
        if type(attempt.number) is not int:
            raise TypeError("the number of an attempt is no number")
        for text in (attempt.worker, attempt.error, attempt.traceback):
            _text_or_none(text)
    return attempts[-MAX_ATTEMPTS:]


def _text_or_none(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("it is no text")
    return value


def encode_record(record: TaskResult, call: str | None = None) -> EncodedRecord:
    """A record as a result backend keeps it.

    Args:
        record: The record.
        call: The task's arguments, from :func:`encode_call`; None encodes those of the record.

    Raises:
        SerializationError: Its result or arguments hold what JSON doesn't have, or are too large.
    """
    if call is None:
        call = encode_call(record.args, record.kwargs, record.task_name)
    what = f"The record of task '{record.task_name}'"
    rest = "" if record.traceback is None else f',"traceback":{_quoted(record.traceback)}'
    if record.worker is not None:
        rest += f',"worker":{_quoted(record.worker)}'
    if record.attempts:
        rest += f',"attempts":{_attempts(record.attempts)}'
    if record.retry_of is not None:
        rest += f',"retry_of":{_quoted(record.retry_of)}'
    if record.progress is not None:
        rest += f',"progress":{_encode(record.progress.to_dict())}'
    if record.queue != DEFAULT_QUEUE:
        rest += f',"queue":{_quoted(record.queue)}'
    status = str(record.status)  # quicker than its value
    error = "null" if record.error is None else _encoded(record.error, what)
    text = _checked(
        f'{{"task_id":{_quoted(record.task_id)},"status":"{status}",'
        f'"task_name":{_encoded(record.task_name, what)},"result":{_encoded(record.result, what)},'
        f'"error":{error},"submitted_at":{_time(record.submitted_at)},'
        f'"started_at":{_time(record.started_at)},"finished_at":{_time(record.finished_at)},'
        f'"retries":{record.retries},{call}{rest}}}',
        what,
    )
    moment = record.submitted_at
    # A naive one is local time, as flowrra 0.1.8 wrote it.
    submitted = 0 if moment is None else max(0, round(moment.timestamp() * 1e6))
    return EncodedRecord(text, status, submitted, record.task_name or "")


def decode_record(data: bytes) -> TaskResult:
    """Read what :func:`encode_record`, or flowrra 0.1.8, wrote. An argument or a result that can't be read stays as it
    is written, and so does what holds it.

    Raises:
        BackendError: It is no record.
    """
    try:
        fields = _decoded(data)
        for name, kind in _RECORD_TYPES:
            if not isinstance(fields.get(name), kind):
                raise TypeError(f"its {name} is of the wrong type")
        if not is_queue_name(fields.get("queue") or DEFAULT_QUEUE):
            raise ValueError("no queue has the name of its queue")
        if _MARK_BYTES in data:
            fields.update(_values_of_record(fields))
        attempts = _read_attempts(fields.pop("attempts", None))
        record = TaskResult.from_dict(fields)
        record.attempts = attempts
        return record
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(f"A task's record can't be read: {type(error).__name__}: {error}") from None


def _time(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{moment.isoformat()}"'


def _encoded(value: Any, what: str) -> str:
    # Most values are one of these; the encoder takes ten times as long.
    if value is None:
        return "null"
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is dict and not value:
        return "{}"
    try:
        if tags.is_plain(value):
            text = _encode(value)
            if _MARK not in text:
                return text
        return _encode(tags.Writer().write(value))
    except Exception as error:  # it is user code, and may raise anything
        raise _unwritable(what, error) from error


def _encoded_headers(headers: Mapping[str, str], what: str) -> str:
    """Headers, which are text to text: none is a tag, whatever its name is."""
    try:
        return _encode(dict(headers))
    except Exception as error:  # a middleware may have put anything there
        raise _unwritable(what, error) from error


def _encode(value: Any) -> str:
    """What is plain, as JSON."""
    return _encoder.encode(value) if _chunks is None else "".join(_chunks(value, 0))


def _unwritable(what: str, error: Exception) -> SerializationError:
    if isinstance(error, SerializationError):  # it says all
        return error
    reason = "they are nested too deeply, or contain themselves" if isinstance(error, RecursionError) else str(error)
    return SerializationError(f"{what} can't be written as JSON: {reason}. {_WRITABLE}")


def _checked(text: str, what: str) -> str:
    if len(text) > MAX_SIZE:
        raise SerializationError(f"{what} would take {len(text):,} bytes as JSON, at most {MAX_SIZE:,} are allowed")
    return text


def _values_of_record(fields: dict[str, Any]) -> dict[str, Any]:
    """What a record holds of the user's. What can't be read of it is left as it is, lest the record be lost with it."""
    read = tags.read_what_can_be
    try:
        return {
            "args": read(fields.get("args")),
            "kwargs": tags.read_values(fields.get("kwargs") or {}, read),
            "result": read(fields.get("result")),
        }
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(data: str | bytes) -> Any:
    # As json.loads does, which looks for white space on both sides first.
    if isinstance(data, str) and data.startswith("{"):
        value, end = _decoder.raw_decode(data)
        if end == len(data):
            return value
    return json.loads(data)


def _decoded(data: str | bytes) -> dict[str, Any]:
    try:
        fields = _read(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields
