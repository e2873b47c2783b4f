"""The hooks around a task's submission and its attempts, for tracing and the like."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from flowrra.submission import check_headers
from flowrra.task import Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """What became of an attempt, as the record, the counters and the events have it.

    Attributes:
        status: ``success``; ``failed`` for good; ``retrying``, if another attempt follows; ``cancelled``; or
            ``released``, if it was ended for another process to run the task.
        seconds: How long it took, as the histogram of run times has it.
        exception: The name of the class of what it failed with, as the counter of exceptions has it; None if it didn't.
        error: The error of the record; None if there is none.
    """

    status: Literal["success", "failed", "retrying", "cancelled", "released"]
    seconds: float
    exception: str | None
    error: str | None


class Middleware:
    """Base of middlewares; overrides what it needs. All hooks are synchronous and must be quick.

    A hook that raises is logged and does no harm to the task, nor to the program: a SystemExit or a CancelledError of
    its own is a failure like any other.
    """

    def on_submit(self, task: Task) -> None:
        """Called before a task is accepted; may add to ``task.headers``."""

    def around_attempt(self, task: Task) -> AbstractContextManager[Any]:
        """A context manager that every attempt of a task runs in; it sees the attempt's exception, and can't stop
        it."""
        return nullcontext()

    def on_outcome(self, task: Task, outcome: AttemptOutcome) -> None:
        """Called once what became of an attempt is decided, recorded and counted: after ``around_attempt`` was left,
        or, if the attempt would not end, before that."""


def tell_of_outcome(middlewares: Sequence[Middleware], task: Task, outcome: AttemptOutcome) -> None:
    """Call the ``on_outcome`` hooks."""
    for middleware in middlewares:
        # One that has the other two hooks alone, without deriving from the base, is older than this one.
        if not hasattr(middleware, "on_outcome"):
            continue
        try:
            middleware.on_outcome(task, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException:
            logger.exception(
                "middleware failed at an outcome middleware=%r task=%s id=%s", middleware, task.name, task.id
            )


def tell_of_submission(middlewares: Sequence[Middleware], task: Task) -> None:
    """Call the ``on_submit`` hooks. What a failing one did to the headers is undone; the task goes on without it."""
    for middleware in middlewares:
        headers = task.headers.copy()
        try:
            middleware.on_submit(task)
            check_headers(task.headers)
        except KeyboardInterrupt:
            task.headers = headers
            raise
        except BaseException:
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
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - logged below
            self._log("start", error)

    def __exit__(self, *exception: Any) -> None:
        if self._manager is None:
            return
        try:
            self._manager.__exit__(*exception)
        except KeyboardInterrupt:
            raise
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
