"""The web configuration file and what it names, read again when one of the files changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.config_file import WebConfig, load_web_config

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class WebConfigFile:
    """`current` is what the file said when it was last in order. Raises UsageError if it isn't at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.current = load_web_config(path)
        self._seen = _versions(self.current)

    async def watch(self, apply: Callable[[WebConfig], Coroutine[Any, Any, None]]) -> None:
        """Looks at the files each second, until it's cancelled; what they say is given to `apply` when they change.

        Files that aren't in order change nothing but the log: half a configuration must not open a door.
        """
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            versions = await asyncio.to_thread(_versions, self.current)
            if versions == self._seen:
                continue
            self._seen = versions
            try:
                config = await asyncio.to_thread(load_web_config, self._path)
                await apply(config)
            except UsageError as error:
                logger.error("the web configuration stays as it was: %s", error)
                continue
            self.current = config
            # What it names now may be other files than before.
            self._seen = await asyncio.to_thread(_versions, config)
            logger.info("read the web configuration again: %s", self._path)


def _versions(config: WebConfig) -> list[tuple[int, ...] | None]:
    """What changes with the files: times, sizes, and the inodes to which the links of a Kubernetes secret lead."""
    found: list[tuple[int, ...] | None] = []
    for path in config.files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
    return found
