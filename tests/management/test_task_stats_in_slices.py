"""Reading the figures of thousands of names from another thread doesn't keep the interpreter from the app's."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager

NAMES = 4_000


@pytest.fixture
def only_given_turns() -> Iterator[None]:
    """No thread is made to give the lock back: one runs only while another gives it back by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(30)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("only_given_turns")
def test_another_thread_gets_turns_meanwhile() -> None:
    app = Flowrra()
    for number in range(NAMES):
        app.telemetry.register(f"task_{number}", "io")
    turns, over = [0], threading.Event()

    def take_turns() -> None:
        while not over.is_set():
            turns[0] += 1
            time.sleep(0)

    other = threading.Thread(target=take_turns)
    other.start()
    try:
        before = turns[0]
        with pytest.raises(StopIteration) as answer:
            FlowrraManager(app).get_task_stats().send(None)  # without a loop, which would give turns itself
        taken = turns[0] - before
    finally:
        over.set()
        other.join()

    assert len(answer.value.value) == NAMES
    assert taken > 5
