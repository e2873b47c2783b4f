"""The command as a process that ends by itself: what it printed, and its exit status."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.exporter.conftest import TARGETS

_SECONDS = 60.0


class Ended(NamedTuple):
    """A process that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed, each line without the spaces that align it."""
        return [" ".join(line.split()) for line in self.out.splitlines()]


def run_command(*arguments: str, folder: Path = TARGETS, **environment: str) -> Ended:
    """Runs the command to its end."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "flowrra_exporter", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


async def check(*arguments: str, folder: Path = TARGETS, **environment: str) -> Ended:
    """Runs the check to its end, while the test's own loop goes on to serve."""
    return await asyncio.to_thread(run_command, "check", *arguments, folder=folder, **environment)
