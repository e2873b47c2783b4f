"""Processes that tasks start have none of the exporter's sockets, however they are started."""

from __future__ import annotations

import os
import signal
import socket
from urllib.parse import urlsplit

import pytest

from tests.exporter.conftest import FREE_PORT, Run, fetch


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("way", ["fork", "multiprocessing", "subprocess", "posix_spawn"])
def test_the_port_and_the_clients_are_free_once_the_exporter_is_killed(run: Run, way: str) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "forking:make", FLOWRRA_TEST_WAY=way)
    url = command.ready()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
    with socket.create_connection((host, port), timeout=10) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        command.tell("start a child")
        child = int(command.wait_for_line(r"^child (\d+)$")[1])
        try:
            assert fetch(url, "/livez").status == 200, "the parent's sockets are its own"
            command.signal(signal.SIGKILL)
            command.process.wait(10)
            os.kill(child, 0)
            try:
                rest = client.recv(1 << 16)
            except ConnectionResetError:
                rest = b""
            assert rest == b"", "the client learns of the end"
            successor = run(f"--web.listen-address={host}:{port}", "plain:app")
            assert fetch(successor.ready(), "/livez").status == 200
        finally:
            os.kill(child, signal.SIGKILL)
