"""The hooks around a task's submission and its attempts, for tracing and the like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flowrra.submission import check_headers
from flowrra.task import Task

logger = logging.getLogger(__name__)


class Middleware:
    """Base of middlewares; overrides what it needs. Both hooks are synchronous and must be quick.

    A hook that raises is logged and does no harm to the task.
    """

    def on_submit(self, task: Task) -> None:
        """Called before a task is accepted; may add to ``task.headers``."""

    def around_attempt(self, task: Task) -> AbstractContextManager[Any]:
        """A context manager that every attempt of a task runs in; it sees the attempt's exception, and can't stop
        it."""
        return nullcontext()


def tell_of_submission(middlewares: Sequence[Middleware], task: Task) -> None:
    """Call the ``on_submit`` hooks. What a failing one did to the headers is undone; the task goes on without it."""
    for middleware in middlewares:
        headers = task.headers.copy()
        try:
            middleware.on_submit(task)
            check_headers(task.headers)
        except Exception:
            task.headers = headers
            logger.exception("middleware failed at submit middleware=%r task=%s id=%s", middleware, task.name, task.id)


class IsolatedMiddleware:
    """A middleware's context manager that can neither fail an attempt nor hide its failure."""

    def __init__(self, middleware: Middleware, task: Task) -> None:
        self._middleware = middleware
        self._task = task
        self._manager: Any = None

    def __enter__(self) -> None:
        try:
            manager = self._middleware.around_attempt(self._task)
            manager.__enter__()
            self._manager = manager
        except Exception as error:  # noqa: BLE001 - logged below
            self._log("start", error)

    def __exit__(self, *exception: Any) -> None:
        if self._manager is None:
            return
        try:
            self._manager.__exit__(*exception)
        except BaseException as error:  # noqa: BLE001 - logged below
            # A generator-based manager raises what it was given again; that is no failure of its own.
            if error is not exception[1]:
                self._log("end", error)

    def _log(self, moment: str, error: BaseException) -> None:
        logger.error(
            "middleware failed at the %s of an attempt middleware=%r task=%s id=%s",
            moment,
            self._middleware,
            self._task.name,
            self._task.id,
            exc_info=error,
        )
