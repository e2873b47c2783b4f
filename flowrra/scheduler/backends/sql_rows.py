"""Schedules as rows of a table, and the rows read back, whatever somebody has written into them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from flowrra import codec, tags
from flowrra.scheduler.backends.sql_schema import DEFINED
from flowrra.scheduler.error_text import storable
from flowrra.scheduler.local_time import local, micros
from flowrra.scheduler.models import ScheduledTask, ScheduleType, check, definition_key


def written(task: ScheduledTask) -> dict[str, Any]:
    """The row of a schedule, by column."""
    values = {column.name: getattr(task, column.name) for column in DEFINED}
    args, kwargs = codec.written_call(task.args, task.kwargs, task.task_name)
    return {
        **values,
        "schedule_type": task.schedule_type.value,
        "args": args,
        "kwargs": kwargs,
        **dated(task.last_run_at, task.next_run_at),
        "definition": definition_of(task),
    }


def unstorable(row: dict[str, Any], *, takes_nul: bool) -> str | None:
    """What of a schedule's row a server may refuse; None if there is nothing."""
    for name, value in row.items():
        try:
            is_json = name in ("args", "kwargs")
            text = json.dumps(value, ensure_ascii=False, allow_nan=False) if is_json else value
            if not isinstance(text, str):
                continue
            if not takes_nul and (_NUL_OF_JSON.search(text) if is_json else "\0" in text):
                return f"{name} has a NUL character"
            text.encode()
        except ValueError as error:  # a lone surrogate is one, too
            return f"{name}: {error}"
    return None


# An even number of backslashes before it are backslashes of the text.
_NUL_OF_JSON = re.compile(r"(?<!\\)(\\\\)*\\u0000")


def dated(last_run: datetime | None, next_run: datetime | None) -> dict[str, Any]:
    """The columns that say when a schedule ran and runs next."""
    return {
        "last_run_at": last_run,
        "last_run": None if last_run is None else micros(last_run),
        "next_run_at": next_run,
        "due": None if next_run is None else micros(next_run),
    }


def definition_of(task: ScheduledTask) -> str | None:
    """What schedules that mean the same have in common; None for one that can't be read."""
    try:
        return definition_key(task)
    except (ValueError, TypeError):  # unreadable; it is kept, and is broken when it becomes due
        return None


def read_task(row: Any) -> ScheduledTask:
    """The schedule of a row, as far as it can be read; ``broken`` says what can't."""
    return read_row(row)[0]


def read_row(row: Any) -> tuple[ScheduledTask, str | None]:
    """A schedule, and what of its row can't be read, for which something empty stands in; ``broken`` says it too."""
    fields, faults = {column.name: row[column.name] for column in DEFINED}, []
    for name, (read, stand_in) in _READERS.items():
        try:
            fields[name] = read(fields[name])
        except (ValueError, TypeError, RecursionError) as error:
            # What a task is called with is shown to nobody who may only see that its schedule is broken.
            value = "" if name in ("args", "kwargs") else f" {fields[name]!r}"
            faults.append(f"{name}{value} can't be read: {error}")
            fields[name] = stand_in
    for instant, name in (("due", "next_run_at"), ("last_run", "last_run_at")):
        try:
            if row[instant] is not None:
                fields[name] = local(row[instant])
        except (ValueError, TypeError, OverflowError, OSError) as error:
            faults.append(f"{instant} {row[instant]!r} can't be read: {error}")
    task = ScheduledTask(**fields)
    try:
        if not faults:
            check(task)
    except (TypeError, ValueError) as error:
        faults.append(str(error))
    fault = storable("; ".join(faults)) or None
    task.broken = fault or task.broken
    return task, fault


def _arguments(kind: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        found = json.loads(value) if isinstance(value, str) else value  # 0.1.8 put text into PostgreSQL's JSON too
        if not isinstance(found, kind):
            raise TypeError(f"it is not a {kind.__name__}")
        return tuple(tags.read(found)) if kind is list else tags.read_values(found)

    return read


def _datetime(value: Any) -> datetime | None:
    if value is not None and not isinstance(value, datetime):
        raise TypeError("it is not a time")
    return value


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local
_READERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "schedule_type": (ScheduleType, ScheduleType.ONE_TIME),
    "args": (_arguments(list), ()),
    "kwargs": (_arguments(dict), {}),
    "enabled": (bool, True),
    "last_run_at": (_datetime, None),
    "next_run_at": (_datetime, None),
    "created_at": (_datetime, _EPOCH),
    "updated_at": (_datetime, _EPOCH),
}
