"""The log: one record a line on standard output, as ``key=value`` text or as JSON, in UTC.

Passwords in URLs are masked in every record, whoever wrote it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

# Up to the last @: a password may hold an unescaped / or @, and a user alone may be a token. Rather too much than too
# little.
_URL_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s'\"]*:[^\s'\"]*|[^/\s'\"]+)@")
_NEEDS_QUOTES = re.compile(r'[\s"=]')
_TASK_FIELDS = ("task_id", "task_name", "attempt")


class Occasionally:
    """Logs a warning at most once in `seconds`, with how often there was reason to: clients can't fill the log.

    `message` has a %d for the number, and then what `warn` is given, which tells of the last time.
    """

    def __init__(self, logger: logging.Logger, message: str, seconds: float = 60.0) -> None:
        self._logger = logger
        self._message = message
        self._seconds = seconds
        self._count = 0
        self._logged_at = -math.inf

    def warn(self, *details: object) -> None:
        """Once more."""
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= self._seconds:
            self._logger.warning(self._message, self._count, *details)
            self._count, self._logged_at = 0, now


def mask_secrets(text: str) -> str:
    """`text` with the user and password of every URL replaced by ``***``."""
    return _URL_CREDENTIALS.sub("***@", text)


class _RecordFormatter(logging.Formatter):
    """What both formats share: the fields of a record."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, UTC)
        values = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": mask_secrets(record.getMessage()),
        }
        for name in _TASK_FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                values[name] = value
        return values

    def traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(record.stack_info)
        return mask_secrets("\n".join(parts))


class TextFormatter(_RecordFormatter):
    """``time=… level=… logger=… msg="…"``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(f"{key}={_quoted(str(value))}" for key, value in self.fields(record).items())
        traceback = self.traceback(record)
        return f"{line}\n{traceback}" if traceback else line


class JsonFormatter(_RecordFormatter):
    """One JSON object a line; a traceback is its field ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        values = self.fields(record)
        traceback = self.traceback(record)
        if traceback:
            values["exception"] = traceback
        return json.dumps(values, default=str)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if not text or _NEEDS_QUOTES.search(text) else text


def configure(level: str, format: str, stream: TextIO | None = None) -> None:
    """Sends every logger's records of at least `level` to `stream` (standard output) as 'text' or 'json'."""
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    task_filter = _task_filter()
    if task_filter is not None:
        handler.addFilter(task_filter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _task_filter() -> logging.Filter | None:
    """flowrra's filter that names the running task;

    0.1.8 has none, and another app may come without flowrra.
    """
    try:
        from flowrra.log import TaskLogFilter
    except ImportError:
        return None
    return TaskLogFilter()
