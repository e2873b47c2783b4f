"""A thousand clients that never finish: half of them send headers without an end, half a body byte by byte."""

from __future__ import annotations

import asyncio
import resource
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from prove.proof import Proof, statuses
from prove.traffic import LIVE, METRICS, READY, Prober, Served, ask

TITLE = "1,000 connections that send a byte now and then: probes and scrapes go on, and everything comes back"
CONNECTIONS = 1_000
OPENED_AT_ONCE = 50
PAUSE = 0.1
BYTE_EVERY = 1.0
SECONDS = 60.0
SETTLE = 15.0
KINDS = {
    "headers that don't end": b"GET /metrics HTTP/1.1\r\nHost: app\r\nX-Slow: ",
    "a body byte by byte": b"POST /metrics HTTP/1.1\r\nHost: app\r\nContent-Length: 100000\r\n\r\n",
}


@dataclass
class Slow:
    """A slow connection. `lasted` is how many seconds until the server ended it, None if it didn't."""

    kind: str
    opened: bool = False
    answered: bool = False
    lasted: float | None = None

    async def run(self, host: str, port: int, until: float) -> None:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return
        self.opened, started = True, time.monotonic()
        ended = asyncio.create_task(self._read(reader))
        try:
            writer.write(KINDS[self.kind])
            while time.monotonic() < until and not ended.done():
                await asyncio.wait({ended}, timeout=BYTE_EVERY)
                if not ended.done():
                    writer.write(b"x")
            if ended.done():
                self.lasted = ended.result() - started
        finally:
            ended.cancel()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> float:
        """Takes what the server says until it says no more; when that was."""
        try:
            while await reader.read(65536):
                self.answered = True
        except OSError:
            pass
        return time.monotonic()


def run(proof: Proof) -> None:
    with Served("prove.targets.steered:manager") as served:
        # The clients of this process need descriptors; the exporter keeps what the shell has given it.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CONNECTIONS)), hard))
        served.tell("steady 500")
        ask(served.url)
        before, megabytes = served.descriptors(), served.megabytes()
        started, peak = served.count(), [before]
        with Prober(served.url, (METRICS, LIVE, READY)) as prober:
            connections = asyncio.run(_hold(served, peak))
        ended, at_the_end = served.count(), served.megabytes()
        deadline = time.monotonic() + SETTLE
        while (after := served.descriptors()) > before and time.monotonic() < deadline:
            time.sleep(0.1)
        last = ask(served.url).answer
        proof.line(
            f"A byte each {BYTE_EVERY:.0f} s for {SECONDS:.0f} s; 500 tasks a second; {soft:,} descriptors allowed"
        )
        proof.line()
        _report(proof, connections)
        proof.answers("meanwhile", prober.answers)
        proof.line(f"descriptors: {before} before, {max(peak)} at the most, {after} after the clients have gone")
        proof.line(
            f"MB in memory: {megabytes:.1f} before, {at_the_end:.1f} at the end, {served.megabytes():.1f} afterwards"
        )
        proof.line(f"lines of log: {len(served.out):,}")
        proof.line()
        held = [each for each in connections if each.opened and each.lasted is None]
        proof.truth("the server ends every slow connection itself", not held, f"{len(held):,} were never ended")
        proof.truth("every probe and scrape is answered", not prober.errors, _some(prober.errors))
        asked = [each for answers in prober.answers.values() for each in answers]
        fine = {each.answer.status for each in asked} == {200}
        proof.truth("each with 200", fine, statuses(asked))
        tasks = (ended.tasks - started.tasks) / (ended.at - started.at)
        proof.truth("tasks go on", ended.tasks > started.tasks, f"{tasks:,.0f} a second")
        proof.truth("all descriptors come back", after <= before, f"{before} before, {after} afterwards")
        proof.truth("a scrape afterwards is answered 200", last.status == 200)


async def _hold(served: Served, peak: list[int]) -> list[Slow]:
    parts = urlsplit(served.url)
    assert parts.hostname is not None
    assert parts.port is not None
    until = time.monotonic() + SECONDS
    kinds = list(KINDS)
    connections = [Slow(kinds[number % len(kinds)]) for number in range(CONNECTIONS)]
    running = []
    for number, connection in enumerate(connections, 1):
        running.append(asyncio.create_task(connection.run(parts.hostname, parts.port, until)))
        if number % OPENED_AT_ONCE == 0:
            await asyncio.sleep(PAUSE)
    while time.monotonic() < until:
        peak.append(served.descriptors())
        await asyncio.sleep(0.5)
    await asyncio.gather(*running)
    return connections


def _report(proof: Proof, connections: list[Slow]) -> None:
    rows = []
    for kind in KINDS:
        some = [each for each in connections if each.kind == kind]
        lasted = sorted(each.lasted for each in some if each.lasted is not None)
        span = f"{lasted[0]:.1f}…{lasted[-1]:.1f}" if lasted else ""
        opened, answered = sum(each.opened for each in some), sum(each.answered for each in some)
        rows.append((kind, *(f"{count:,}" for count in (len(some), opened, answered, len(lasted))), span))
    proof.table(("clients that send", "clients", "connected", "answered", "ended by the server", "after s"), rows)


def _some(errors: list[str]) -> str:
    more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(errors[:3]) + more
