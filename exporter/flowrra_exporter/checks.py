"""What the probes check. Liveness and startup never depend on another service; readiness does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flowrra_exporter.app_loop import AppLoop, CallTimeout, LoopUnavailable
from flowrra_exporter.lifecycle import Lifecycle, Phase
from flowrra_exporter.management import Management
from flowrra_exporter.watchdog import Watchdog


class Check(NamedTuple):
    """The result of one check; `message` is for humans."""

    name: str
    ok: bool
    message: str


class NotStarted(LoopUnavailable):
    """There is no app to ask yet."""


class Checks:
    """Answers liveness, startup, readiness and health.

    `timeout` (seconds) is for the app's own health check.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        watchdog: Watchdog,
        app_loop: Callable[[], AppLoop | None],
        management: Callable[[], Management | None],
        timeout: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._watchdog = watchdog
        self._app_loop = app_loop
        self._management = management
        self._timeout = timeout

    def liveness(self) -> list[Check]:
        """Fails if a restart would help: the loop is blocked past the threshold, or the app has died."""
        return [self._process(), self._event_loop()]

    def startup(self) -> list[Check]:
        """Fails until the app has started."""
        phase, message = self._lifecycle.status
        ok = phase not in (Phase.STARTING, Phase.FAILED)
        return [Check("startup", ok, "the app has started" if ok else message)]

    async def readiness(self) -> list[Check]:
        """Fails before the start, during the shutdown, and while a component is unhealthy."""
        phase, message = self._lifecycle.status
        if phase is not Phase.RUNNING:
            return [Check("shutdown" if phase in (Phase.DRAINING, Phase.STOPPED) else "startup", False, message)]
        found = await self.health()
        return [Check("startup", True, message), *components(found)]

    async def health(self) -> dict[str, Any]:
        """The app's health check, or one of the same shape that says why there is none."""
        try:
            return dict(await self.ask("health_check"))
        except (LoopUnavailable, CallTimeout) as error:
            return _unhealthy("event_loop" if isinstance(error, LoopUnavailable) else "health_check", str(error))
        except Exception as error:  # noqa: BLE001  # told to whoever asked: the check is what failed
            return _unhealthy("health_check", f"health check failed: {type(error).__name__}")

    async def ask(self, method: str) -> Any:
        """What the Management API answers, for a client that won't wait.

        Raises what `Management.ask` raises.
        """
        management = self._management()
        if management is None:
            raise NotStarted(self._lifecycle.status.message)
        return await management.ask(method, self._timeout)

    def _process(self) -> Check:
        phase, message = self._lifecycle.status
        loop = self._app_loop()
        if phase is not Phase.FAILED and loop is not None and loop.ended and phase is not Phase.STOPPED:
            return Check("app", False, "the app's event loop has ended")
        return Check("app", phase is not Phase.FAILED, message)

    def _event_loop(self) -> Check:
        seconds = self._watchdog.blocked_for
        if seconds is not None:
            return Check("event_loop", False, f"event loop blocked for {seconds:.1f} s")
        return Check("event_loop", True, "event loop answers" if self._app_loop() else "no event loop yet")


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
