"""An event loop in simulated time: what waits for minutes is tested in milliseconds, and to the instant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class SimulatedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer as soon as nothing else is to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


Scenario = Callable[[], Coroutine[Any, Any, Any]]


def now() -> float:
    """The simulated time, in seconds."""
    return asyncio.get_running_loop().time()


def run_in(loop: SimulatedLoop, scenario: Scenario) -> Any:
    """Runs a scenario on the loop, and closes that."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scenario())
