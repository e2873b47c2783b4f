"""What holds for every test: nothing hangs, and asyncio never has to report a mistake that nobody handled."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# Seconds that one test may take, by folder: a hanging test must fail by itself and say where it hung.
DEADLINES = {HERE / "core": 15.0, HERE / "management": 15.0, HERE / "exporter": 60.0}


def _within(seconds: float, test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return bounded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
            continue
        for folder, seconds in DEADLINES.items():
            if folder in item.path.parents:
                item.obj = _within(seconds, item.obj)


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_report(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Asyncio logs, and otherwise ignores, exceptions that were never retrieved and tasks destroyed while pending."""
    yield
    reports = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not reports, reports
