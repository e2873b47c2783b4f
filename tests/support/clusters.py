"""Three primaries and three replicas in one cluster, on loopback: to be killed, stopped, switched and resharded."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import redis
from redis.crc import key_slot

from tests.support.servers import GLANCE, PATIENCE, ServerGroup, free_port

SLOTS = 16384
PRIMARIES = 3
# Whom each replica follows: the first primary has one more than can be lost, the last one none.
FOLLOWED = (0, 0, 1)
# Seconds of silence after which nodes take one for dead.
NODE_TIMEOUT = 1.0
# Keys that are moved by one MIGRATE.
KEYS_AT_ONCE = 20


def slot_of(key: str) -> int:
    """The slot of a key."""
    return key_slot(key.encode())


class Cluster(ServerGroup):
    """A context manager: six nodes, of which the first three are primaries at first.

    Args:
        folder: Where they keep their files.
        password: Of the user ``default``; None is none.
    """

    # ── what runs ───────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        buses: list[int] = []
        for _ in range(PRIMARIES + len(FOLLOWED)):
            buses.append(free_port())
            self._serve(
                **{
                    "cluster-enabled": "yes",
                    "cluster-node-timeout": round(1e3 * NODE_TIMEOUT),
                    "cluster-port": buses[-1],
                    "cluster-allow-replica-migration": "no",
                }
            )
        self._set_passwords()
        self._join(buses)

    def _join(self, buses: list[int]) -> None:
        """Have the nodes meet, share out the slots and follow."""
        for number, port in enumerate(self.ports):
            with self.look(port) as node:
                node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < PRIMARIES:
                    node.execute_command("CLUSTER", "ADDSLOTSRANGE", _first_slot(number), _first_slot(number + 1) - 1)
        with self.look(self.ports[0]) as node:
            for port, bus in zip(self.ports[1:], buses[1:], strict=True):
                node.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        self.until(lambda: all(len(self.nodes(port)) == len(self.ports) for port in self.ports))
        for port, followed in zip(self.ports[PRIMARIES:], FOLLOWED, strict=True):
            with self.look(port) as node:
                node.execute_command("CLUSTER", "REPLICATE", self.id_of(self.ports[followed]))
        self.until(self.is_whole)

    def is_whole(self) -> bool:
        """Whether all nodes answer, see all slots served, and the replicas are in step."""
        online = 0
        for port in self.ports:
            try:
                with self.look(port) as node:
                    state: Any = node.cluster("INFO")
                    info: Any = node.info("replication")
            except redis.RedisError:
                return False
            if state["cluster_state"] != "ok":
                return False
            online += sum(info.get(f"slave{number}", {}).get("state") == "online" for number in range(len(FOLLOWED)))
        return online == len(FOLLOWED)

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        """The address of the cluster."""
        return self.url_of(self.ports)

    def url_of(self, ports: list[int]) -> str:
        """The same, naming these nodes."""
        user = "" if self._password is None else f":{self._password}@"
        return f"redis+cluster://{user}{','.join(f'127.0.0.1:{port}' for port in ports)}/"

    def nodes(self, port: int) -> dict[str, Any]:
        """What a node knows of all: by ``host:port``, as redis-py reads CLUSTER NODES."""
        with self.look(port) as node:
            return dict(node.cluster("NODES"))

    def id_of(self, port: int) -> str:
        """A node's own id."""
        with self.look(port) as node:
            answer: Any = node.execute_command("CLUSTER", "MYID")
            return str(answer.decode())

    def primary_of(self, slot: int, but: int | None = None) -> int | None:
        """The port of the node that takes itself for the primary of a slot; None if there is none but that one."""
        for port in self.ports:
            if port == but:
                continue
            try:
                known = self.nodes(port)
            except redis.RedisError:
                continue
            for place, node in known.items():
                is_its_own = "myself" in node["flags"] and "master" in node["flags"]
                if is_its_own and any(int(each[0]) <= slot <= int(each[-1]) for each in node["slots"]):
                    return int(place.rpartition(":")[2])
        return None

    def the_primary_of(self, slot: int) -> int:
        """The port of a slot's primary, which must have one."""
        found = self.primary_of(slot)
        assert found is not None, f"nobody has slot {slot}"
        return found

    def replica_of(self, port: int) -> int:
        """The port of a replica of that primary."""
        me = self.id_of(port)
        known = self.nodes(port)
        return next(int(place.rpartition(":")[2]) for place, node in known.items() if node["master_id"] == me)

    async def promoted(self, slot: int, former: int) -> float:
        """Wait for another primary of a slot than the former one; when it was seen, by the clock."""
        async with asyncio.timeout(PATIENCE):
            while await asyncio.to_thread(self.primary_of, slot, former) is None:
                await asyncio.sleep(GLANCE)
        return time.time()

    def announce(self, kind: str, name: str) -> None:
        """Have the nodes be named in that way, an ``ip``, ``hostname`` or ``unknown-endpoint``, and have that name."""
        for port in self.ports:
            with self.look(port) as node:
                node.config_set("cluster-preferred-endpoint-type", kind)
                node.config_set("cluster-announce-hostname", name)
        self.until(lambda: all(self._names_of(port) == {name} for port in self.ports))

    def _names_of(self, port: int) -> set[str]:
        return {str(node["hostname"]) for node in self.nodes(port).values()}

    # ── blows ───────────────────────────────────────────────────────────────────────────────────────────────

    def restart(self, port: int) -> None:
        """Start a node again that was killed."""
        server = self.server(port)
        assert server._process is not None
        server._process.wait()
        server._process = None
        server.start()

    def fail_over(self, slot: int, *how: str) -> None:
        """Have the replica of a slot's primary take its place, as for maintenance."""
        with self.look(self.replica_of(self.the_primary_of(slot))) as replica:
            replica.execute_command("CLUSTER", "FAILOVER", *how)

    def heal(self) -> None:
        """Have all nodes run and be in step, with nothing in them."""
        for port, server in zip(self.ports, self._servers, strict=True):
            self.resume(port)
            assert server._process is not None
            if server._process.poll() is not None:
                self.restart(port)
        self.until(self.is_whole)
        for port in self.ports:
            with self.look(port) as node:
                role: Any = node.role()
                if role[0] == b"master":
                    node.flushall()

    # ── resharding ──────────────────────────────────────────────────────────────────────────────────────────

    def other_primary(self, slot: int) -> int:
        """The port of a primary with a replica that doesn't have that slot."""
        owner = self.primary_of(slot)
        for each in range(PRIMARIES):
            port = self.primary_of(_first_slot(each) + SLOTS // (2 * PRIMARIES))
            if port is not None and port != owner:
                return port
        raise LookupError(f"no primary but {owner}")

    def begin_moving(self, slot: int, target: int) -> int:
        """Begin to move a slot, key by key; the port of its primary."""
        source = self.the_primary_of(slot)
        with self.look(target) as node:
            node.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        with self.look(source) as node:
            node.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        return source

    def move_keys(self, slot: int, source: int, target: int, most: float = float("inf")) -> int:
        """Move the keys of a slot, or so many of them; how many were moved."""
        moved = 0
        with self.look(source) as node:
            while moved < most:
                count = min(KEYS_AT_ONCE, most - moved)
                keys: Any = node.execute_command("CLUSTER", "GETKEYSINSLOT", slot, int(count))
                if not keys:
                    break
                password = () if self._password is None else ("AUTH", self._password)
                node.execute_command("MIGRATE", "127.0.0.1", target, "", 0, 5000, *password, "KEYS", *keys)
                moved += len(keys)
        return moved

    def end_moving(self, slot: int, source: int, target: int) -> None:
        """Give a slot to its new primary."""
        new = self.id_of(target)
        for port in (target, source, *self.ports):
            try:
                with self.look(port) as node:
                    role: Any = node.role()
                    if role[0] == b"master":
                        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", new)
            except redis.ConnectionError:
                continue

    def move(self, slot: int, target: int, seconds: float = 0.0) -> None:
        """Move a slot with all its keys, key by key, which takes so long at least."""
        source = self.begin_moving(slot, target)
        self.move_keys(slot, source, target, KEYS_AT_ONCE)
        time.sleep(seconds)
        self.move_keys(slot, source, target)
        self.end_moving(slot, source, target)

    def move_at_once(self, slot: int, target: int) -> None:
        """Move a slot in one step, as Valkey 9 can."""
        source = self.the_primary_of(slot)
        with self.look(source) as node:
            node.execute_command("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id_of(target))
        self.until(lambda: self.primary_of(slot, source) == target)


def _first_slot(primary: int) -> int:
    return primary * SLOTS // PRIMARIES
