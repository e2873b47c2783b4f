"""What the log says of something that fails again and again."""

from __future__ import annotations

import logging

import pytest

from flowrra import outage
from flowrra.outage import Outage

logger = logging.getLogger("flowrra.test")


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
    return clock


@pytest.fixture
def broker(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level("INFO", "flowrra.test")
    return Outage(logger, "broker not readable", "executor=io")


def test_its_beginning_a_line_each_30_s_and_its_end_are_said(
    broker: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(330):
        broker.failed("refused")
        clock.now += 0.2
    broker.over()
    assert caplog.messages == [
        "broker not readable executor=io times=1 error=refused",
        "still: broker not readable executor=io times=151 seconds=30 error=refused",
        "still: broker not readable executor=io times=301 seconds=60 error=refused",
        "over: broker not readable executor=io times=330 seconds=66.0",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "WARNING", "INFO"]


def test_what_comes_and_goes_does_not_fill_the_log(
    broker: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        broker.failed("refused")
        clock.now += 0.1
        broker.over()
        clock.now += 0.2
    assert len(caplog.messages) == 2
    broker.failed("refused")
    assert len(caplog.messages) == 3, "30 s after the last beginning, the next one is said at once"


def test_one_that_begins_soon_after_another_is_said_once_it_lasts(
    broker: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broker.failed("refused")
    broker.over()
    for _ in range(4):
        clock.now += 10
        broker.failed("refused")
    clock.now += 5
    broker.over()
    assert caplog.messages[2:] == [
        "still: broker not readable executor=io times=3 seconds=20 error=refused",
        "over: broker not readable executor=io times=4 seconds=35.0",
    ]


def test_success_without_a_failure_says_nothing(broker: Outage, caplog: pytest.LogCaptureFixture) -> None:
    broker.over()
    assert caplog.messages == []


def test_the_first_line_alone_has_the_traceback(broker: Outage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    error = OSError("no route")
    broker.failed("no route", error)
    clock.now += 31
    broker.failed("no route", error)
    first, second = caplog.records
    assert first.exc_info is not None
    assert first.exc_info[1] is error
    assert second.exc_info is None
