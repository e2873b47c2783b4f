"""The log: one record a line on standard output, as ``key=value`` text or as JSON, in UTC.

Passwords in URLs are masked in every record, also in those of libraries.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from flowrra_exporter.errors import without_secret_options
from flowrra_exporter.log_writer import BackgroundHandler

# Characters of a message, and of a traceback; what is longer loses its middle.
MAX_TEXT, MAX_TRACEBACK = 8 * 1024, 32 * 1024
_END_OF_URL = re.compile(r"[\s'\"]")
_NEEDS_QUOTES = re.compile(r'[\s"=]')
# What a terminal would act on, or show as a line of its own, and JSON's escapes leave as it is.
_UNSEEN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# The same in a traceback, whose lines stay lines.
_UNSEEN_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TASK_FIELDS = ("task_id", "task_name", "attempt")


class ThrottledWarning:
    """Logs a warning at most once in ``seconds``, with how often there was reason to: clients can't fill the log.

    Args:
        logger: Where it is logged.
        message: The warning: a %d for the number, and then what ``warn`` is given, which is about the last time.
        seconds: The time between two lines.
    """

    def __init__(self, logger: logging.Logger, message: str, seconds: float = 60.0) -> None:
        self._logger = logger
        self._message = message
        self._seconds = seconds
        self._count = 0
        self._logged_at = -math.inf

    def warn(self, *details: object, error: BaseException | None = None) -> None:
        """Once more; with the traceback of ``error``, if one is given."""
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= self._seconds:
            self._logger.warning(self._message, self._count, *details, exc_info=error)
            self._count, self._logged_at = 0, now


def mask_secrets(text: str) -> str:
    """``text`` with ``***`` for the user and password of every URL and for options like ``?password=``; takes no longer
    than ``text`` is long."""
    if "://" not in text:
        return text
    parts = []
    done, start = 0, text.find("://")
    while start >= 0:
        start += 3
        found = _END_OF_URL.search(text, start)
        end = len(text) if found is None else found.start()
        for first, last in _credentials(text, start, end):
            parts += [text[done:first], "***"]
            done = last
        start = text.find("://", end)
    return without_secret_options("".join([*parts, text[done:]]))


def _credentials(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where users and passwords stand between ``start``, where a URL's scheme has ended, and ``end``, without spaces.

    Up to the last @: a password may hold an unescaped / or @, and a user alone may be a token. Rather too much than
    too little.
    """
    last_at = text.rfind("@", start, end)
    while 3 <= start < last_at:
        slash = text.find("/", start, end)
        stop = end if slash < 0 else slash
        colon = text.find(":", start, stop)
        if 0 <= colon < last_at:
            yield start, last_at
            return
        at = text.rfind("@", start, stop)
        if at > start:
            yield start, at
        start = text.find("://", stop - 1, end) + 3


def bounded(text: str, limit: int = MAX_TEXT) -> str:
    """``text``, without its middle if it's longer than ``limit``."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}… {len(text) - limit} characters left out …{text[-limit // 2 :]}"


class _RecordFormatter(logging.Formatter):
    """What both formats share: the fields of a record."""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, UTC)
        values = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": bounded(mask_secrets(record.getMessage())),
        }
        for name in _TASK_FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                values[name] = bounded(mask_secrets(value)) if isinstance(value, str) else value
        return values

    def traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(record.stack_info)
        return bounded(mask_secrets("\n".join(parts)), MAX_TRACEBACK)


class TextFormatter(_RecordFormatter):
    """``time=… level=… logger=… msg="…"``; a traceback follows on lines of its own, which begin with spaces.

    Whatever is logged, a line that begins with ``time=`` is a record's, and nothing moves a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = " ".join(f"{key}={_quoted(str(value))}" for key, value in self.fields(record).items())
        traceback = self.traceback(record)
        return f"{line}\n{_indented(traceback)}" if traceback else line


class JsonFormatter(_RecordFormatter):
    """One JSON object a line; a traceback is its field ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        values = self.fields(record)
        traceback = self.traceback(record)
        if traceback:
            values["exception"] = traceback
        return json.dumps(values, default=str)


def _quoted(text: str) -> str:
    """The text as JSON, if it has spaces, quotes or what is unseen; its escapes are JSON's, too."""
    if text and text.isprintable() and not _NEEDS_QUOTES.search(text):
        return text
    return _UNSEEN.sub(_escape, json.dumps(text, ensure_ascii=False))


def _indented(traceback: str) -> str:
    return "\n".join(f"  {_UNSEEN_IN_LINES.sub(_escape, line)}" for line in traceback.split("\n"))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def configure(level: str, format: str, stream: TextIO | None = None, *, behind: bool = False) -> None:
    """Sends every logger's records to a stream.

    Args:
        level: The least severity that is logged.
        format: 'text' or 'json'.
        stream: Where the lines go; standard output if None.
        behind: A thread of its own writes them, so that nobody who logs waits for who reads the log.
    """
    stream = sys.stdout if stream is None else stream
    handler = BackgroundHandler(stream) if behind else logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    task_filter = _task_filter()
    if task_filter is not None:
        handler.addFilter(task_filter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _task_filter() -> logging.Filter | None:
    """flowrra's filter that names the running task; 0.1.8 has none, and another app may come without flowrra."""
    try:
        from flowrra.log import TaskLogFilter
    except ImportError:
        return None
    return TaskLogFilter()
