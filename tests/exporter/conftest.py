"""Real exporters for the tests: in this process on a free port, or as the process that the command starts."""

from __future__ import annotations

import asyncio
import functools
import gzip
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.settings import Address, Settings
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

TARGETS = Path(__file__).parent / "targets"
FREE_PORT = "127.0.0.1:0"
START_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, and how long it took in seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        body = gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body
        return body.decode()

    @cached_property
    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The samples of the text format, as the reference parser reads them: (name, labels) to value."""
        assert self.status == 200, f"{self.status}: {self.text[:500]}"
        found = {}
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found, f"served twice: {key}"
                found[key] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's value, None if it is absent."""
        return self.samples.get((name, frozenset(labels.items())))


def fetch(url: str, path: str = "/metrics", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own, as a probe makes it. Header names are given with underscores."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=15)
    started = time.monotonic()
    try:
        connection.request(method, path, body, headers={key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        body = response.read()
        return Answer(response.status, dict(response.headers), body, time.monotonic() - started)
    finally:
        connection.close()


class Service:
    """An exporter in the test's own process, in front of the test's event loop."""

    def __init__(self, exporter: Exporter, clients: Executor) -> None:
        self.exporter = exporter
        self.url = exporter.urls[0]
        self._clients = clients

    async def get(
        self, path: str = "/metrics", method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Answer:
        """One request; the test's loop goes on turning."""
        request = functools.partial(fetch, self.url, path, method, body, **headers)
        return await asyncio.get_running_loop().run_in_executor(self._clients, request)


Serve = Callable[..., Any]


@pytest.fixture
def register() -> Iterator[Callable[[Any], Any]]:
    """Registers a collector in the default registry until the test ends."""
    registered: list[Any] = []

    def add(collector: Any) -> Any:
        REGISTRY.register(collector)
        registered.append(collector)
        return collector

    yield add
    for collector in registered:
        REGISTRY.unregister(collector)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(app, **settings)`` serves an app until the test ends."""
    running: list[Exporter] = []
    clients = ThreadPoolExecutor(50)

    async def start(app: Any, **settings: Any) -> Service:
        chosen = Settings(web_listen_address=(Address("127.0.0.1", 0),), **settings)
        exporter = Exporter(app, chosen)
        await exporter.__aenter__()
        running.append(exporter)
        return Service(exporter, clients)

    yield start
    for exporter in running:
        await exporter.__aexit__(None, None, None)
    clients.shutdown()


class Command:
    """The exporter's command as a process. What it prints is collected line by line."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], python: str = sys.executable) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "flowrra_exporter", *arguments],
            cwd=TARGETS,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._printed = threading.Condition()
        self._readers = [self._read(self.process.stdout, self.out), self._read(self.process.stderr, self.err)]

    def _read(self, stream: Any, lines: list[str]) -> threading.Thread:
        def run() -> None:
            for line in stream:
                with self._printed:
                    lines.append(line.rstrip("\n"))
                    self._printed.notify_all()

        reader = threading.Thread(target=run)
        reader.start()
        return reader

    @property
    def log(self) -> str:
        return "\n".join(self.out)

    def wait_for_line(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Waits until a line with this pattern was printed."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(match for line in list(self.out) if (match := re.search(pattern, line)))
            return bool(found)

        with self._printed:
            assert self._printed.wait_for(look, seconds), f"no {pattern!r} in:\n{self.log}\n{self.err}"
        return found[0]

    @property
    def url(self) -> str:
        return self.wait_for_line(r"listening on (http://\S+?)\"?$")[1]

    def ready(self) -> str:
        """Waits until the app has started; returns the URL."""
        url = self.url
        self.wait_for_line("the app has started")
        return url

    def get(self, path: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
        return fetch(self.url, path, method, **headers)

    def tell(self, line: str) -> None:
        """Sends the target a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Waits for the end; returns the exit status."""
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        return status

    def close(self) -> None:
        self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


Run = Callable[..., Command]


@pytest.fixture
def run() -> Iterator[Run]:
    """``run(target, *flags, **environment)`` starts the command; what still runs at the test's end is killed."""
    commands: list[Command] = []

    def start(*arguments: str, python: str = sys.executable, **environment: str) -> Command:
        commands.append(Command(list(arguments), environment, python))
        return commands[-1]

    yield start
    for command in commands:
        command.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits, turn by turn of the loop, until something is the case that no event tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "didn't happen in time"
        await asyncio.sleep(0.005)
