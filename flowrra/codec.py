"""Tasks and records as JSON: what travels through a server, and stays readable by flowrra 0.1.8.

Only what JSON has: text, numbers, true, false, null, lists, and dicts with text as keys. Tuples come back as lists.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowrra.exceptions import BackendError
from flowrra.task import Task, TaskResult

# Bytes: an entry that is larger is refused, as it would hold up everybody else's.
MAX_SIZE = 64 * 1024 * 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_encode = json.JSONEncoder(separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring_ascii


class QueuedTask(NamedTuple):
    """A task as it was read from a queue, and when it was submitted, if that is known."""

    task: Task
    submitted_at: datetime | None


class EncodedRecord(NamedTuple):
    """A record as its backend keeps it, and what its lists are made of.

    Attributes:
        text: The record.
        status: Its status.
        submitted: When the task was submitted, in microseconds since 1970; 0 if that is unknown.
    """

    text: str
    status: str
    submitted: int


def _number(value: float) -> str:
    """As JSON: the text of an enumeration's member, or of NumPy's numbers, is none."""
    return repr(value) if type(value) in (int, float) else json.dumps(value)


def encode_task(task: Task, submitted_at: datetime | None) -> str:
    """A task as the text that waits in a queue.

    Raises:
        BackendError: Its arguments hold what JSON doesn't have, or are too large.
    """
    return _task_text(task, submitted_at, _call_text(task.args, task.kwargs, f"The arguments of task '{task.name}'"))


def encode_submission(task: Task, record: TaskResult) -> tuple[str, EncodedRecord]:
    """:func:`encode_task` and :func:`encode_record` for a new task, whose arguments are encoded once.

    Raises:
        BackendError: Its arguments hold what JSON doesn't have, or are too large.
    """
    call = _call_text(task.args, task.kwargs, f"The arguments of task '{task.name}'")
    return _task_text(task, record.submitted_at, call), _encoded_record(record, call)


def _call_text(args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> str:
    return f'"args":{_encoded(args, what)},"kwargs":{_encoded(kwargs, what)}'


def _task_text(task: Task, submitted_at: datetime | None, call: str) -> str:
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
        rest += f',"headers":{_encoded(task.headers, what)}'
    if submitted_at is not None:
        rest += f',"submitted_at":"{submitted_at.isoformat()}"'
    return _checked(
        f'{{"id":{_quoted(task.id)},"name":{_quoted(task.name)},{call},'
        f'"max_retries":{task.max_retries},"retry_delay":{_number(task.retry_delay)},'
        f'"current_retry":{task.current_retry},"priority":{_number(task.priority)},'
        f'"cpu_bound":{"true" if task.cpu_bound else "false"}{rest}}}',
        what,
    )


def decode_task(data: bytes) -> QueuedTask:
    """Read what :func:`encode_task`, or flowrra 0.1.8, wrote.

    Raises:
        ValueError: It is no task.
    """
    fields = _decoded(data)
    task_id, name, args, kwargs = (fields.get(key) for key in ("id", "name", "args", "kwargs"))
    if not (isinstance(task_id, str) and isinstance(name, str) and task_id and name):
        raise ValueError("it has no id or no name")
    if not isinstance(args or [], list) or not isinstance(kwargs or {}, dict):
        raise ValueError("its arguments are no list, or no dict")
    headers = fields.get("headers") or {}
    timeout, submitted_at = fields.get("timeout"), fields.get("submitted_at")
    try:
        task = Task(
            task_id,
            name,
            tuple(args or ()),
            kwargs or {},
            int(fields.get("max_retries", 3)),
            float(fields.get("retry_delay", 1.0)),
            int(fields.get("current_retry", 0)),
            fields.get("priority", 0),
            bool(fields.get("cpu_bound", False)),
            None if timeout is None else float(timeout),
            float(fields.get("backoff", 1.0)),
            float(fields.get("jitter", 0.0)),
            {str(key): str(value) for key, value in headers.items()} if headers else {},
        )
        return QueuedTask(task, None if submitted_at is None else datetime.fromisoformat(submitted_at))
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a field is of the wrong type: {error}") from None


def encode_record(record: TaskResult) -> EncodedRecord:
    """A record as a result backend keeps it.

    Raises:
        BackendError: Its result or arguments hold what JSON doesn't have, or are too large.
    """
    call = _call_text(record.args, record.kwargs, f"The arguments of task '{record.task_name}'")
    return _encoded_record(record, call)


def _encoded_record(record: TaskResult, call: str) -> EncodedRecord:
    what = f"The record of task '{record.task_name}'"
    rest = "" if record.traceback is None else f',"traceback":{_quoted(record.traceback)}'
    text = _checked(
        f'{{"task_id":{_quoted(record.task_id)},"status":"{record.status.value}",'
        f'"task_name":{_encoded(record.task_name, what)},"result":{_encoded(record.result, what)},'
        f'"error":{_encoded(record.error, what)},"submitted_at":{_time(record.submitted_at)},'
        f'"started_at":{_time(record.started_at)},"finished_at":{_time(record.finished_at)},'
        f'"retries":{record.retries},{call}{rest}}}',
        what,
    )
    moment = record.submitted_at
    # A naive one is local time, as flowrra 0.1.8 wrote it.
    submitted = 0 if moment is None else round((moment.astimezone(UTC) - _EPOCH).total_seconds() * 1e6)
    return EncodedRecord(text, record.status.value, submitted)


def decode_record(data: bytes) -> TaskResult:
    """Read what :func:`encode_record`, or flowrra 0.1.8, wrote.

    Raises:
        BackendError: It is no record.
    """
    try:
        return TaskResult.from_dict(_decoded(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    if (kind is tuple or kind is dict) and not value:
        return "{}" if kind is dict else "[]"
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BackendError(
            f"{what} can't be written as JSON: {error}. Pass text, numbers, booleans, None, lists and dicts"
        ) from error


def _checked(text: str, what: str) -> str:
    if len(text) > MAX_SIZE:
        raise BackendError(f"{what} would take {len(text):,} bytes as JSON, at most {MAX_SIZE:,} are allowed")
    return text


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    return fields
