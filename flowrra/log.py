"""Names the running task in log records, so that a user's own log lines can be found by task; and writes records so
that nobody's text passes for another one."""

from __future__ import annotations

import logging

from flowrra.printable import printable, printable_lines
from flowrra.task import current_task


class TaskLogFilter(logging.Filter):
    """Adds ``task_id``, ``task_name`` and ``attempt`` to every record; None outside of a task, and for Flowrra's own
    lines, which name their task in the message.

    Add it to a handler, and use the attributes in the handler's format::

        handler.addFilter(TaskLogFilter())
        handler.setFormatter(logging.Formatter("%(task_name)s %(task_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        task = None if record.name.startswith("flowrra.") else current_task()
        record.task_id = None if task is None else task.id
        record.task_name = None if task is None else task.name
        record.attempt = None if task is None else task.attempt
        return True


class LineFormatter(logging.Formatter):
    """Writes a record as one line, and a traceback on lines of its own, which begin with spaces.

    Whatever is logged, ids of tasks and their errors included, a line that doesn't begin with spaces is a record's, and
    nothing moves a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines."""
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        parts = [printable(self.formatMessage(record))]
        # Not what another handler's formatter left at the record, unless that is all there is.
        if traceback := self.formatException(record.exc_info) if record.exc_info else record.exc_text:
            parts.append(printable_lines(traceback, "  "))
        if record.stack_info:
            parts.append(printable_lines(self.formatStack(record.stack_info), "  "))
        return "\n".join(parts)
