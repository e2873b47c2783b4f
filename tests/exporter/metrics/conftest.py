"""What holds for the tests of metrics: none begins while a thread of another one still reads the user's collectors."""

from __future__ import annotations

import threading
import time

import pytest
from flowrra_exporter.metrics.registry_runs import THREAD_NAME


@pytest.fixture(autouse=True)
def no_other_tests_threads() -> None:
    """Several tests count them, and those of a collector that was slow outlive its test."""
    deadline = time.monotonic() + 35
    while any(thread.name == THREAD_NAME for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread of another test never ends"
        time.sleep(0.01)
