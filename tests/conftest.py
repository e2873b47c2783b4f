"""What holds for every test: nothing hangs, asyncio never has to report a mistake that nobody handled, and no
connection outlives its event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import signal
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

HERE = Path(__file__).parent
# Seconds that one test may take, by folder: a hanging test must fail by itself and say where it hung.
DEADLINES = {
    HERE / "core": 30.0,
    HERE / "management": 30.0,
    HERE / "exporter": 60.0,
    HERE / "redis": 40.0,
    HERE / "settlement": 120.0,
    HERE / "redis_faults": 90.0,
}


def _within(seconds: float, test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return bounded


def pytest_configure() -> None:
    # Ignored where the tests were started by nohup or in the background, and so by the processes that they start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# No Debian package has it; the proof `manifests` fetches it, and does with it what the tests do.
PROOFS_ALONE = "helm is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
            continue
        for folder, seconds in DEADLINES.items():
            if folder in item.path.parents:
                item.obj = _within(seconds, item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where every tool is meant to be there, a test that is skipped for want of one has failed."""
    report = yield
    is_missing = report.skipped and not hasattr(report, "wasxfail") and PROOFS_ALONE not in str(report.longrepr)
    if is_missing and os.environ.get("FLOWRRA_REQUIRE_TOOLS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, although FLOWRRA_REQUIRE_TOOLS is set: {report.longreprtext}"
    return report


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


_connections: weakref.WeakSet[AbstractConnection] = weakref.WeakSet()
_connect = AbstractConnection.connect


async def _note_and_connect(connection: AbstractConnection) -> None:
    _connections.add(connection)
    await _connect(connection)  # type: ignore[no-untyped-call]


AbstractConnection.connect = _note_and_connect  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """A connection that is open on a closed loop is told of by whichever test runs when it is collected; here the one
    that left it fails."""
    yield
    left = [connection for connection in _connections if connection.is_connected and _is_loop_closed(connection)]
    _connections.difference_update(left)
    assert not left, f"open on event loops that are closed: {left}"


def _is_loop_closed(connection: AbstractConnection) -> bool:
    writer = connection._writer
    return writer is not None and writer.transport._loop.is_closed()  # type: ignore[attr-defined]
