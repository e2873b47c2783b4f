"""Clients of an exporter: probes that go on all the time, and what the exporter's process takes meanwhile."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from tests.exporter.conftest import FREE_PORT, Answer, Command

METRICS, LIVE, READY = "/metrics", "/livez", "/readyz"
PATIENCE = 60.0


class Asked(NamedTuple):
    """An answer, and when it was asked for, on the monotonic clock."""

    at: float
    answer: Answer

    @property
    def until(self) -> float:
        """When it was there."""
        return self.at + self.answer.seconds


def ask(url: str, path: str = METRICS) -> Asked:
    """One request on a connection of its own, as the kubelet makes it, but with all the time in the world."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    at = time.monotonic()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        return Asked(at, Answer(response.status, dict(response.headers), body, time.monotonic() - at))
    finally:
        connection.close()


class Prober:
    """Asks for some paths over and over, each in a thread of its own, while its context lasts.

    Attributes:
        answers: What was answered, by path.
        errors: What happened instead of an answer.
    """

    def __init__(self, url: str, paths: Sequence[str], pause: float = 0.1) -> None:
        self.answers: dict[str, list[Asked]] = {path: [] for path in paths}
        self.errors: list[str] = []
        self._url = url
        self._pause = pause
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(path,)) for path in paths]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str) -> None:
        while not self._over.wait(self._pause):
            try:
                self.answers[path].append(ask(self._url, path))
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"{path}: {error!r}")

    def between(self, start: float, end: float) -> dict[str, list[Asked]]:
        """The answers that were asked for and there between two moments of the monotonic clock."""
        return {
            path: [asked for asked in answers if start <= asked.at and asked.until <= end]
            for path, answers in self.answers.items()
        }


class Served(Command):
    """The exporter's command in front of an app, as a context; what still runs at its end is killed."""

    def __init__(self, target: str, *flags: str, **environment: str) -> None:
        super().__init__([f"--web.listen-address={FREE_PORT}", *flags, target], environment)
        self._asked = 0

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def count(self) -> Count:
        """What the app itself has counted by now. Only of ``prove.targets.steered``."""
        self._asked += 1
        self.tell(f"count {self._asked}")
        found = self.wait_for_line(rf"^count {self._asked}: (\d+) tasks (\S+) s (\S+) s processor$")
        return Count(int(found[1]), float(found[2]), float(found[3]))

    def descriptors(self) -> int:
        """How many files and sockets the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def megabytes(self) -> float:
        """What it has in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Count(NamedTuple):
    """How many tasks have run, when, and what processor time the process had taken by then, in seconds."""

    tasks: int
    at: float
    processor: float
