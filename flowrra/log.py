"""Names the running task in log records, so that a user's own log lines can be found by task."""

from __future__ import annotations

import logging

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
