"""Processes that schedule beside the test's own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Program:
    """A running `tests.scheduler.program`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next_run(self) -> tuple[str, float]:
        """What it runs next, and when, on the monotonic clock."""
        assert self._process.stdout is not None
        while line := (await self._process.stdout.readline()).decode().split():
            if line[0] == "RUN":
                return line[1], float(line[2])
        raise EOFError("it has ended")

    async def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"READY\n"

    async def kill(self) -> str:
        """End it at once; what it logged."""
        if self._process.returncode is None:
            self._process.kill()
        _, log = await self._process.communicate()
        return log.decode()


@asynccontextmanager
async def program(
    store: str, broker: str = "", results: str = "", lease: float = 0.0, environment: dict[str, str] | None = None
) -> AsyncIterator[Program]:
    """A process that schedules; an empty address is none, a lease of 0 the usual one."""
    command = [sys.executable, "-m", "tests.scheduler.program", store, broker, results, str(lease)]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    found = Program(process)
    try:
        await found.wait_until_ready()
        yield found
    finally:
        if process.returncode is None:
            await found.kill()
