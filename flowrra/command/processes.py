"""Runs a worker in several processes: each that ends is replaced, until a signal ends all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

from flowrra.backoff import Backoff
from flowrra.command.reload import RELOADED
from flowrra.runner import SIGNALS

logger = logging.getLogger(__name__)

# The exit status of a process that was started wrongly: another one would be, too.
USAGE_ERROR = 2
# Seconds: a process that lives for less has ended at once, and so many of them, one after the other, are enough.
AT_ONCE = 10.0
MOST_AT_ONCE = 5
# Seconds: a source that changes sooner, again and again, is not changed by people.
HASTE = 3.0
# Seconds that a process gets beyond its own time to stop.
MARGIN = 10.0


class Processes:
    """Several processes that run much the same command.

    Args:
        commands: What Python is called with in each.
        shutdown_timeout: Seconds that each takes to stop, at the most.
        reloads: A process may end to be started anew at once.
    """

    def __init__(self, commands: Sequence[Sequence[str]], shutdown_timeout: float, *, reloads: bool = False) -> None:
        self._commands = commands
        self._shutdown_timeout = shutdown_timeout
        self._reloads = reloads
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Run them until a signal. Returns the exit status: 1 if one of them lost tasks, had to be killed, or ended at
        once again and again; 2 if the command is used wrongly."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._tell_all)
        keeping = [loop.create_task(self._keep_one(command)) for command in self._commands]
        for each in keeping:
            each.add_done_callback(self._has_died)
        try:
            await self._stopping.wait()
            await asyncio.wait(keeping, timeout=self._shutdown_timeout + MARGIN)
            for process in self._running:
                logger.error("worker process did not stop in time, killed pid=%d", process.pid)
                _send(process, signal.SIGKILL)
            await asyncio.gather(*keeping)
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
        return self._status

    def _tell_all(self) -> None:
        """Have all end; told again, they don't wait for running tasks."""
        self._stopping.set()
        for process in self._running:
            _send(process, signal.SIGTERM)

    def _has_died(self, keeper: asyncio.Task[None]) -> None:
        """Nobody replaces its process any more: end all, and raise what it died of."""
        if not keeper.cancelled() and keeper.exception() is not None:
            self._tell_all()

    async def _keep_one(self, command: Sequence[str]) -> None:
        pauses, ended_at_once, has_run = Backoff(0.5, 30.0), 0, False
        reloads = Backoff(0.1, 5.0)
        while not self._stopping.is_set():
            started_at = time.monotonic()
            try:
                status = await self._run_one(command)
            except OSError as error:  # as many run on this machine as may
                logger.warning("a worker process could not be started: %s", error)
                status = 1
            if self._stopping.is_set():
                # One that was still importing its app is ended by the signal itself.
                self._status = max(self._status, int(status not in (0, -signal.SIGTERM, RELOADED)))
                return
            lasted = time.monotonic() - started_at
            if status == RELOADED and self._reloads:
                if lasted >= HASTE:
                    reloads.reset()
                else:
                    await self._pause(reloads.next())
                continue
            has_lasted = lasted >= AT_ONCE
            # What has run once was started rightly: the next one finds its port taken, or its module half written.
            if status == USAGE_ERROR and not has_run:
                self._give_up(USAGE_ERROR, "a worker process says that it was started wrongly")
                return
            if has_lasted:
                has_run = True
                pauses.reset()
                ended_at_once = 0
            ended_at_once += 1
            if ended_at_once == MOST_AT_ONCE:
                self._give_up(1, f"a worker process ended at once for the {MOST_AT_ONCE}th time")
                return
            await self._pause(pauses.next())

    async def _run_one(self, command: Sequence[str]) -> int:
        # In a group of its own, as Ctrl-C reaches the whole group; and with a pipe that ends when this process does.
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=asyncio.subprocess.PIPE, process_group=0
        )
        self._running.add(process)
        if self._stopping.is_set():
            _send(process, signal.SIGTERM)
        status = await process.wait()
        self._running.discard(process)
        if process.stdin is not None:
            process.stdin.close()
        if not self._stopping.is_set() and not (status == RELOADED and self._reloads):
            logger.warning("worker process ended pid=%d by=%s", process.pid, _how_ended(status))
        return status

    async def _pause(self, seconds: float) -> None:
        logger.warning("worker process will be replaced in=%.1f", seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _give_up(self, status: int, reason: str) -> None:
        logger.error("%s: all are ended", reason)
        self._status = max(self._status, status)
        self._tell_all()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal to a process, which may have ended meanwhile."""
    # Not by asyncio: it would ask for the exit status itself, and who waits for that would be told another one.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _how_ended(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # those between SIGRTMIN and SIGRTMAX have no names
        return f"signal {-status}"


def end_with_parent() -> None:
    """End this process, as by SIGTERM, when the one that holds the other end of its standard input has ended. From here
    on there is nothing to be read there, as for a program in the background: what tasks start reads it to its end."""
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        while os.read(parent, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="flowrra-parent", daemon=True).start()
