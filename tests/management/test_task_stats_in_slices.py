"""Reading the figures of thousands of names from another thread doesn't keep the interpreter from the app's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.core.apps import without_a_loop

NAMES = 4_000


@pytest.fixture
def only_given_turns() -> Iterator[None]:
    """No thread is made to give the lock back: one runs only while another gives it back by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(30)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("only_given_turns")
@pytest.mark.parametrize(
    "read",
    [
        lambda app: without_a_loop(FlowrraManager(app).get_task_stats()),
        lambda app: without_a_loop(FlowrraManager(app).get_task_stats(window=60)),
        lambda app: app.task_history.now().tallies,
    ],
    ids=["cumulative", "of a window", "for the history"],
)
def test_another_thread_gets_turns_meanwhile(read: Callable[[Flowrra], Any]) -> None:
    app = Flowrra()
    for number in range(NAMES):
        app.telemetry.register(f"task_{number}", "io").count_start(0.0)
    turns, over = [0], threading.Event()

    def take_turns() -> None:
        while not over.is_set():
            turns[0] += 1
            time.sleep(0)

    other = threading.Thread(target=take_turns)
    other.start()
    try:
        before = turns[0]
        answer = read(app)  # without a loop, which would give turns itself
        taken = turns[0] - before
    finally:
        over.set()
        other.join()

    assert len(answer) == NAMES
    assert taken > 5
