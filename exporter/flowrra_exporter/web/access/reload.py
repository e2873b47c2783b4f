"""The web configuration file and what it names, read again when one of the files changes, or when someone asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.access.web_config import WebConfig, load_web_config

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# After so long, files that couldn't be used are read again, changed or not: it may not have been their fault.
_AGAIN_SECONDS = 10.0

_Versions = list[tuple[int, ...]]


class WebConfigFile:
    """The web configuration file.

    Attributes:
        current: What the file said when it was last in order.

    Raises:
        UsageError: It isn't in order at first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.current = load_web_config(path)
        self._seen: _Versions | None = _versions(self.current)
        self._asked = asyncio.Event()
        self._again_at = 0.0
        self._problem = ""

    @property
    def in_order(self) -> bool:
        """Whether the files were in order when they were last read."""
        return not self._problem

    def ask(self) -> None:
        """The files are to be read now, changed or not. Call it on the loop that watches."""
        self._asked.set()

    async def watch(self, apply: Callable[[WebConfig], None]) -> None:
        """Looks at the files each second, until it's cancelled.

        Files that aren't in order change nothing but the log: half a configuration must not open a door.

        Args:
            apply: Is given what the files say when that changes.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _LOOK_SECONDS)
            versions = await asyncio.to_thread(_versions, self.current)
            asked = self._asked.is_set()
            again = bool(self._problem) and time.monotonic() >= self._again_at
            if asked or again or versions != self._seen:
                self._asked.clear()
                await self._read(versions, apply, asked)

    async def _read(self, versions: _Versions, apply: Callable[[WebConfig], None], asked: bool) -> None:
        news = asked or versions != self._seen
        self._seen, self._again_at = versions, time.monotonic() + _AGAIN_SECONDS
        try:
            config = await asyncio.to_thread(load_web_config, self._path)
            lacking = config.without_a_word(self.current)
            if lacking:
                raise UsageError(f"{self._path}: {lacking} is gone; expected '{lacking}: {{}}' if it is to be gone")
            apply(config)
        except UsageError as error:
            if news or str(error) != self._problem:
                logger.error("the web configuration stays as it was: %s", error)
            self._problem = str(error)
            return
        except Exception as error:
            self._problem = f"{type(error).__name__}"  # so that it's tried again
            raise
        self.current, self._problem = config, ""
        # What it names now may be other files than before.
        self._seen = await asyncio.to_thread(_versions, config)
        logger.info("read the web configuration again: %s", self._path)


def _versions(config: WebConfig) -> _Versions:
    """What changes with the files: times, sizes, and the inodes to which the links of a Kubernetes secret lead."""
    found: _Versions = []
    for path in config.files:
        with contextlib.suppress(OSError):  # one that is gone is missing here
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    return found
