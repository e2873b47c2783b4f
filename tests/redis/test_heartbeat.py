"""The thread that renews leases: whatever goes wrong in it, it goes on."""

from __future__ import annotations

import queue
from typing import Any

from flowrra import BackendError
from flowrra.brokers.base import Renewal
from flowrra.brokers.redis import RedisBroker
from flowrra.executors.sources.heartbeat import Heartbeat


def test_it_goes_on_after_an_error_that_nobody_foresaw(url: str) -> None:
    told: queue.Queue[Renewal | BackendError] = queue.Queue()
    calls: list[int] = []

    def announcement() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return {"id": "worker"}

    keeper = Heartbeat(
        RedisBroker(url, lease=0.4), lambda: ["unknown"], lambda: ["add"], announcement, told.put, lambda _: None
    )
    keeper.start()
    first, second, third = (told.get(timeout=5) for _ in range(3))
    keeper.stop(timeout=5)

    # What befalls the announcement doesn't keep the leases from being renewed, neither before nor afterwards.
    assert isinstance(second, BackendError)
    assert "RuntimeError: dictionary changed size" in str(second)
    for renewal in (first, third):
        assert isinstance(renewal, Renewal)
        assert renewal.missing == ["unknown"]
