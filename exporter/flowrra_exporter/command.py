"""The command's process: the main thread runs the app, the server's thread serves; signals drain and end both.

Order: log, bind, serve (alive, not ready), import the target, start the app, ready. A signal is acted on by the
server's loop, so that a blocked app can't hold it up; a deadline in a thread of its own ends what is stuck.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from typing import Any

from flowrra_exporter import logs
from flowrra_exporter.app.lifecycle import Phase
from flowrra_exporter.app.loop import AppLoop
from flowrra_exporter.app.stall import current_line, read_runtime_stats
from flowrra_exporter.app.target import (
    StoppedFromWithin,
    Target,
    check_target,
    describe,
    import_target,
    resolve_target,
)
from flowrra_exporter.errors import UsageError
from flowrra_exporter.exporter import Exporter
from flowrra_exporter.log_writer import FLUSH_SECONDS
from flowrra_exporter.metrics.collectors.runtime import abandoned_tasks
from flowrra_exporter.observed import observe
from flowrra_exporter.settings import Settings
from flowrra_exporter.signals import Signals

logger = logging.getLogger(__name__)

# What a second signal leaves for the end.
_HURRY_SECONDS = 3.0
_LAST_WORDS_SECONDS = FLUSH_SECONDS + 0.5


class _Interrupted(BaseException):
    """Raised in the main thread by a signal while the target is being imported: nothing is to be drained yet."""


class Deadline:
    """Ends the process if it's still there when the time has come, whatever its threads are stuck in."""

    def __init__(self, stuck: Callable[[], str]) -> None:
        self._stuck = stuck
        self._moved = threading.Condition()
        self._at: float | None = None
        self._thread = threading.Thread(target=self._wait, name="flowrra-exporter-deadline", daemon=True)

    def start(self) -> None:
        """Starts the thread that waits; later, when the process is in need, there may be none to be had."""
        self._thread.start()

    @property
    def remaining(self) -> float:
        """Seconds left; 0 before ``set``."""
        return max(0.0, self._at - time.monotonic()) if self._at is not None else 0.0

    def set(self, seconds: float) -> None:
        """The process ends in ``seconds`` at the latest; a deadline can only come closer."""
        at = time.monotonic() + seconds
        with self._moved:
            self._at = at if self._at is None else min(at, self._at)
            self._moved.notify()

    def _wait(self) -> None:
        with self._moved:
            while self._at is None or self.remaining > 0:
                self._moved.wait(None if self._at is None else self.remaining)
        try:
            # In a thread of its own: what the app logs with, and where it is stuck, may be stuck for us, too.
            saying = threading.Thread(target=self._say, name="flowrra-exporter-last-words", daemon=True)
            saying.start()
            saying.join(_LAST_WORDS_SECONDS)
        finally:
            os._exit(1)

    def _say(self) -> None:
        logger.critical("not stopped in time, ending now; stuck: %s", self._stuck())
        logging.shutdown()


class Command:
    """One run of the command. ``run`` returns the exit status.

    Args:
        target: What names the app, ``MODULE:APP``.
        settings: The settings in force.
        load: Finds the app, once the server runs; None imports the target.
    """

    def __init__(self, target: str, settings: Settings, load: Callable[[], Any] | None = None) -> None:
        self._target = target
        self._settings = settings
        self._load = load or partial(import_target, target)
        self._exporter = Exporter(settings=settings, mode="command", name=target)
        self._deadline = Deadline(self._stuck)
        self._main_thread = threading.current_thread()
        self._importing = False
        self._signals: Signals | None = None
        self._app: Target | None = None
        self._lost = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def run(self) -> int:
        """Runs the app; returns 0 after a shutdown by a signal or by the app's own ``stop``, 1 if its loop ended by
        itself or tasks were lost.

        Raises:
            UsageError: The target is no app, doesn't start, or can't be served with these settings.
        """
        check_target(self._target)
        logs.configure(self._settings.log_level, self._settings.log_format, behind=True)
        self._start_threads()
        self._signals = Signals(
            self._exporter.server_loop, self._shut_down, self._interrupt_import, self._exporter.reload
        )
        self._signals.install()
        try:
            return self._run_app(self._import())
        except _Interrupted:
            logger.info("stopped before the app was imported")
            return 0
        finally:
            self._signals.restore()
            self._exporter.close(flush_timeout=self._deadline.remaining / 2)

    def _start_threads(self) -> None:
        try:
            self._deadline.start()
        except RuntimeError as error:
            raise UsageError(f"no thread can be started: {error}") from error
        self._exporter.serve()

    def _import(self) -> Any:
        try:
            self._importing = True
            return self._load()
        finally:
            self._importing = False

    def _run_app(self, found: Any) -> int:
        try:
            asyncio.run(self._serve_app(found), debug=False)
        except UsageError:
            raise
        except BaseException as error:
            # Whatever a task raised to end the loop (SystemExit, for one): nobody had asked for it.
            reason = f"the app's event loop ended: {describe(error)}"
            self._exporter.lifecycle.failed(reason)
            logger.critical("%s", reason, exc_info=self._settings.debug)
            return 1
        if self._lost:
            logger.error("exit status 1: the stop cancelled %d tasks that the app had accepted", self._lost)
            return 1
        return 0

    async def _serve_app(self, found: Any) -> None:
        app_loop = self._exporter.watch(asyncio.get_running_loop())
        # Signals that came before there was a loop to tell:
        count = 0 if self._signals is None else self._signals.count
        if count > 0:
            self._stop.set()
        if count > 1:
            self._hurry.set()
        try:
            if await self._unless_stopped(self._start(found, app_loop)):
                self._exporter.lifecycle.running()
                logger.info("%s", self._exporter.lifecycle.sentence(Phase.RUNNING))
                await self._until_stopped()
            if self._app is not None:
                await self._drain(self._app)
                self._lost = self._count_lost()
            self._exporter.lifecycle.stopped()
            logger.info("%s", self._exporter.lifecycle.sentence(Phase.STOPPED))
        finally:
            self._deadline.set(self._settings.shutdown_timeout)  # also for what the loop still has to clean up

    async def _start(self, found: Any, app_loop: AppLoop) -> None:
        target = await resolve_target(found, self._target)
        if self._settings.observe:
            observed = await observe(target.manager, self._target)
            target = Target(observed, observed)  # which can't be started: no task is to run here
        self._exporter.attach(target.manager, app_loop)
        self._app = target
        try:
            await target.start()
        except StoppedFromWithin:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"starting the app failed: {describe(error)}") from error
        if not self._settings.observe:
            _warn_without_tasks(target.app)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Waits for ``work``, and cancels it if a signal comes first; whether it was finished, and the app not stopped
        meanwhile."""
        task = asyncio.create_task(work, name="flowrra-exporter:start")
        await self._first_of(task, self._stop)
        if not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
            return False
        except StoppedFromWithin:
            self._has_stopped()
            return False
        return True

    async def _until_stopped(self) -> None:
        """Waits for a signal, or until the app was stopped from within: then there is nothing left to be served."""
        if self._app is None:
            return
        ended = asyncio.create_task(self._app.until_stopped(), name="flowrra-exporter:end")
        await self._first_of(ended, self._stop)
        ended.cancel()
        if not self._stop.is_set():
            self._has_stopped()

    def _has_stopped(self) -> None:
        logger.info("the app was stopped from within: shutting down")
        self._deadline.set(self._settings.shutdown_timeout)

    async def _drain(self, target: Target) -> None:
        """Stops the app: running tasks may finish, unless a second signal comes or the time is over."""
        margin = min(2.0, 0.2 * self._settings.shutdown_timeout)
        budget = max(0.0, self._deadline.remaining - margin)
        stop = asyncio.create_task(target.stop(wait=True, timeout=budget), name="flowrra-exporter:stop")
        await self._first_of(stop, self._hurry)
        if stop.done():
            stop.result()
            return
        stop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stop
        await target.stop(wait=False, timeout=0.0)

    @staticmethod
    async def _first_of(task: asyncio.Task[None], event: asyncio.Event) -> None:
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    def _interrupt_import(self) -> None:
        if self._importing:
            raise _Interrupted

    def _shut_down(self, name: str, count: int) -> None:
        if count == 1:
            self._exporter.lifecycle.draining()
            logger.info("%s: shutting down, within %g s", name, self._settings.shutdown_timeout)
            self._deadline.set(self._settings.shutdown_timeout)  # first: the app has what is left of it to drain
            self._tell_app(self._stop)
        else:
            logger.warning("%s again: not waiting for running tasks", name)
            self._deadline.set(_HURRY_SECONDS if count == 2 else 0.0)
            self._tell_app(self._hurry)

    def _tell_app(self, event: asyncio.Event) -> None:
        if self._exporter.app_loop is not None:
            self._exporter.app_loop.run_soon(event.set)

    def _stuck(self) -> str:
        """What the process is waiting for, for the log."""
        parts = [f"main thread at {current_line(self._main_thread)}"]
        if self._exporter.lifecycle.status.phase is Phase.STARTING:
            parts.append("the app hadn't started")
        running = self._running_tasks()
        if running:
            parts.append(f"tasks running: {running}")
        if lost := self._count_lost():
            parts.append(f"tasks lost: {lost}")
        return "; ".join(parts)

    def _count_lost(self) -> int:
        """How many tasks the app's stop has cancelled so far, as far as the app counts them."""
        stats = read_runtime_stats(self._exporter.management)
        try:
            return sum(map(int, abandoned_tasks(stats).values()))
        except TypeError:  # an app of another kind, which says something else by that name
            return 0

    def _running_tasks(self) -> str:
        management = self._exporter.management
        if management is None or not management.has("get_task_stats"):
            return ""
        try:
            stats = management.read("get_task_stats")
            return ", ".join(f"{name} ({task['running']})" for name, task in stats.items() if task["running"])
        except Exception as error:  # noqa: BLE001 - nothing may keep the process from ending
            return f"unknown ({type(error).__name__})"


def _warn_without_tasks(app: Any) -> None:
    """A module that forgets to import its tasks has an app that looks well, and does nothing."""
    registry = getattr(app, "registry", None)
    if isinstance(registry, Sized) and len(registry) == 0:
        logger.warning("the app has no tasks; expected the target's module to import those that define them")
