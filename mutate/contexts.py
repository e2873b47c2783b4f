"""A pytest plugin that writes down which test runs which lines, in its own process and in those that it starts, and how
long each test takes. Loaded with `-p mutate.contexts`; every process that shares the tests has a file of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

FOLDER = Path(os.environ["MUTATE_FOLDER"])
# What the measurement of processes that a test starts is told, by the configuration: which test it was.
STARTED_BY = "MUTATE_TEST"

_coverage = coverage.Coverage(config_file=str(FOLDER / "measured.ini"), context="")
_coverage.start()
_seconds: dict[str, float] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    os.environ[STARTED_BY] = item.nodeid
    _coverage.switch_context(item.nodeid)
    began = time.monotonic()
    done = yield
    _seconds[item.nodeid] = time.monotonic() - began
    _coverage.switch_context("")
    del os.environ[STARTED_BY]
    return done


def pytest_unconfigure() -> None:
    _coverage.stop()
    _coverage.save()
    (FOLDER / f"seconds.{os.getpid()}.json").write_text(json.dumps(_seconds))
