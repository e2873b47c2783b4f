"""What the probes check. Liveness and startup never depend on another service; readiness does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flowrra_exporter.app.lifecycle import Lifecycle, Phase
from flowrra_exporter.app.loop import AppLoop, CallTimeout, LoopUnavailable
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.app.stall import current_stall, read_runtime_stats
from flowrra_exporter.app.watchdog import Watchdog
from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.metrics.queue_figures import method_of
from flowrra_exporter.paths import LIVEZ, READYZ, STARTUPZ
from flowrra_exporter.probes.check import Check
from flowrra_exporter.probes.hysteresis import Hysteresis
from flowrra_exporter.probes.queue_limits import QueueLimits

__all__ = ["Check", "Checks", "NotStarted", "Readiness", "components"]

logger = logging.getLogger(__name__)

# How often the app is asked again while a verdict may turn.
_FOLLOW_SECONDS = 0.5
# Components that say where the app stands between start and stop: no blips of another service.
_IMMEDIATE = frozenset({"app"})
_WORKERS = "workers"
_ENDING = frozenset({Phase.DRAINING, Phase.STOPPED})
_LIVE, _READY, _BOTH = (LIVEZ,), (READYZ,), (LIVEZ, READYZ)


class Readiness(NamedTuple):
    """The checks of /readyz. Where ``complete`` is False there may be more, which can't be known now."""

    checks: list[Check]
    complete: bool


class NotStarted(LoopUnavailable):
    """There is no app to ask yet."""


class Checks:
    """Answers liveness, startup, readiness and health. Its methods belong to the server's thread.

    Args:
        lifecycle: Where the app stands.
        watchdog: Whether its loop is blocked.
        app_loop: Returns its loop, None before there is one.
        management: Returns its Management API, None before there is an app.
        timeout: The time for the app's own health check, in seconds.
        failure_grace: For how many seconds a component must fail before it fails readiness, and pass before it doesn't.
        queue_limits: The limits of the queues.
        require_workers: Some process must take tasks.
        fail_when_stuck: An executor that is stuck fails liveness.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        watchdog: Watchdog,
        app_loop: Callable[[], AppLoop | None],
        management: Callable[[], Management | None],
        timeout: float,
        failure_grace: float,
        queue_limits: QueueLimits,
        require_workers: bool,
        fail_when_stuck: bool,
    ) -> None:
        self._lifecycle = lifecycle
        self._watchdog = watchdog
        self._app_loop = app_loop
        self._management = management
        self._timeout = timeout
        self._queue_limits = queue_limits
        self._require_workers = require_workers
        self._fail_when_stuck = fail_when_stuck
        self._queues_failed = ThrottledWarning(logger, "get_queue_stats() failed %d times")
        self._workers_failed = ThrottledWarning(logger, "list_workers() failed %d times")
        self._hysteresis = Hysteresis(failure_grace, _IMMEDIATE)
        self._following: asyncio.Task[None] | None = None

    def liveness(self) -> list[Check]:
        """Fails if a restart would help: the loop is blocked past the threshold, or the app has died, or an executor is
        stuck, if that is to count."""
        return [self._process(), self._event_loop(), *self._progress()]

    def startup(self) -> list[Check]:
        """Fails until the app has started, also if it is stopped before."""
        return [self._startup()]

    def _startup(self) -> Check:
        phase, message = self._lifecycle.status
        ok = self._lifecycle.has_started and phase is not Phase.FAILED
        if ok:
            message = self._lifecycle.sentence(Phase.RUNNING)
        elif phase in _ENDING:
            message = "a shutdown was asked for before the start was over"
        return Check("startup", ok, message, (STARTUPZ, READYZ))

    async def readiness(self) -> Readiness:
        """Fails before the start, during the shutdown, while the loop is blocked: at once. While a component is
        unhealthy or a queue too long: once that has lasted for the grace.
        """
        found = await self._evaluate()
        if not self._hysteresis.settled and (self._following is None or self._following.done()):
            self._following = asyncio.create_task(self._follow(), name="flowrra-exporter:follow")
        return found

    async def _follow(self) -> None:
        """Asks again until each verdict is settled, so that it doesn't depend on how often the probe comes."""
        while not self._hysteresis.settled:
            await asyncio.sleep(_FOLLOW_SECONDS)
            await self._evaluate()

    async def _evaluate(self) -> Readiness:
        phase, message = self._lifecycle.status
        if phase is not Phase.RUNNING:
            self._hysteresis.reset()
            ending = [Check("shutdown", False, message, _READY)] if phase in _ENDING else []
            return Readiness([self._startup(), *ending], False)
        health, queues, workers = await asyncio.gather(self._health_or_error(), self._queues(), self._workers())
        if self._lifecycle.status.phase is not Phase.RUNNING:
            return await self._evaluate()  # a shutdown has begun meanwhile
        startup = self._startup()
        shutdown = Check("shutdown", True, "no shutdown was asked for", _READY)
        if isinstance(health, LoopUnavailable):
            blocked = Check("event_loop", False, str(health), _BOTH, self._silent_since(), self._culprit())
            held = self._hysteresis.judge([], complete=False)
            return Readiness([startup, shutdown, blocked, *held], False)
        loop = Check("event_loop", True, "event loop answers", _BOTH)
        answered = not isinstance(health, Exception)
        known = [] if isinstance(health, Exception) else components(dict(health))
        found = [_answer_of(health), *known, *queues, *workers]
        own = [check for check in (startup, shutdown, loop) if check.name not in {each.name for each in found}]
        judged = self._hysteresis.judge([check._replace(probes=_READY) for check in found], complete=answered)
        return Readiness([*own, *judged], answered)

    async def _health_or_error(self) -> Mapping[str, Any] | Exception:
        try:
            health = await self.ask("health_check")
        except Exception as error:  # noqa: BLE001 - the answer says it: the check is what failed
            return error
        return health if isinstance(health, Mapping) else TypeError("health_check() answered no mapping")

    async def _queues(self) -> list[Check]:
        """The checks of the queues, if there is a limit. What can't be known fails nothing: that's said instead."""
        if not self._queue_limits:
            return []
        method = method_of(self._management())
        try:
            return self._queue_limits.checks(await self.ask(method))
        except (LoopUnavailable, CallTimeout, NoSuchMethod) as error:
            return self._queue_limits.unknown(str(error))
        except Exception as error:  # noqa: BLE001 - the answer says it, and the log now and then
            self._queues_failed.warn(error=error)
            return self._queue_limits.unknown(f"{method}() failed: {type(error).__name__}")

    async def _workers(self) -> list[Check]:
        """Whether any process takes tasks, if that is required. What can't be known isn't met."""
        if not self._require_workers:
            return []
        try:
            count = len(await self.ask("list_workers"))
        except (LoopUnavailable, CallTimeout, NoSuchMethod) as error:
            return [Check(_WORKERS, False, f"not known: {error}")]
        except Exception as error:  # noqa: BLE001 - the answer says it, and the log now and then
            self._workers_failed.warn(error=error)
            return [Check(_WORKERS, False, f"not known: list_workers() failed: {type(error).__name__}")]
        return [Check(_WORKERS, count > 0, f"live processes that take tasks: {count}")]

    async def health(self) -> dict[str, Any]:
        """The app's health check, or one of the same shape that says why there is none."""
        try:
            return dict(await self.ask("health_check"))
        except (LoopUnavailable, CallTimeout) as error:
            return _unhealthy("event_loop" if isinstance(error, LoopUnavailable) else "health_check", str(error))
        except Exception as error:  # noqa: BLE001 - the answer says it: the check is what failed
            return _unhealthy("health_check", f"health check failed: {type(error).__name__}")

    async def ask(self, method: str, **arguments: Any) -> Any:
        """What the Management API answers, for a client that won't wait.

        Raises:
            NotStarted: There is no app yet.
            Exception: Whatever ``Management.ask`` raises.
        """
        management = self._management()
        if management is None:
            raise NotStarted(self._lifecycle.status.message)
        return await management.ask(method, self._timeout, **arguments)

    def _process(self) -> Check:
        phase, message = self._lifecycle.status
        loop = self._app_loop()
        if phase is not Phase.FAILED and loop is not None and loop.ended and phase is not Phase.STOPPED:
            return Check("app", False, "the app's event loop has ended", _LIVE)
        return Check("app", phase is not Phase.FAILED, message, _LIVE)

    def _event_loop(self) -> Check:
        seconds = self._watchdog.blocked_for
        if seconds is not None:
            message = f"event loop blocked for {seconds:.1f} s"
            return Check("event_loop", False, message, _BOTH, self._silent_since(), self._culprit())
        return Check("event_loop", True, "event loop answers" if self._app_loop() else "no event loop yet", _BOTH)

    def _progress(self) -> list[Check]:
        """Whether tasks that hang hold all slots of an executor, if that is to be checked. Known in this process alone:
        no other service can fail it."""
        if not self._fail_when_stuck:
            return []
        by_executor = read_runtime_stats(self._management()).get("stuck")
        if not isinstance(by_executor, Mapping):
            return [Check("progress", True, "not known: the app doesn't tell", _LIVE)]
        stuck = [str(executor) for executor, is_stuck in by_executor.items() if is_stuck]
        if stuck:
            return [Check("progress", False, f"tasks that hang hold all slots of: {', '.join(stuck)}", _LIVE)]
        return [Check("progress", True, "no executor is stuck", _LIVE)]

    def _silent_since(self) -> datetime | None:
        loop = self._app_loop()
        return None if loop is None else datetime.now(UTC) - timedelta(seconds=loop.silence)

    def _culprit(self) -> str:
        """What holds the loop up."""
        loop = self._app_loop()
        if loop is None or loop.ended:
            return ""
        return current_stall(loop, read_runtime_stats(self._management())).culprit


def _answer_of(health: Mapping[str, Any] | Exception) -> Check:
    """Whether there was an answer to the health check, whatever it says."""
    if isinstance(health, CallTimeout):
        return Check("health_check", False, str(health))
    if isinstance(health, Exception):
        return Check("health_check", False, f"health check failed: {type(health).__name__}")
    return Check("health_check", True, "the app answers its health check")


def components(health: dict[str, Any]) -> list[Check]:
    """The components of a health check as checks. One that isn't configured (None) is left out."""
    found = health.get("components") or {}
    checks = [
        Check(str(name), bool(state.get("healthy")), str(state.get("message", "")))
        for name, state in found.items()
        if state is not None
    ]
    if health.get("healthy") or any(not check.ok for check in checks):
        return checks
    return [*checks, Check("health", False, "the health check says unhealthy")]


def _unhealthy(component: str, message: str) -> dict[str, Any]:
    return {
        "healthy": False,
        "timestamp": datetime.now(UTC),
        "components": {component: {"healthy": False, "message": message}},
    }
