"""The calculation of what a fleet could do, in plain sentences with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import capacity
from benchmarks.harness import Report, thousands

GOAL = 1.7
WORKERS = (1, 2, 4, 8, 16)
PARTITIONS, PRIMARIES = 4, 3
MORE_PARTITIONS = (6, 8, 12)
NAMESPACE = "flowrra"
BACKLOGS = (100, 1_000, 10_000)
GIGABIT = 125e6  # bytes a second


@dataclass(frozen=True)
class Costs:
    """What was measured of one kind of task: medians, microseconds for each task.

    Attributes:
        name: The kind's.
        waiting: Tasks a second that the slots of one worker can wait for.
        worker: Of a worker, while so many of them drain.
        server: Of the server, while so many workers drain.
        many: Of the server, for one that is submitted among many.
        alone: Of the server, for one that is submitted by itself.
        received: Bytes that the server gets, submission among many included.
        sent: Bytes that it sends.
    """

    name: str
    waiting: float
    worker: Mapping[int, float]
    server: Mapping[int, float]
    many: float
    alone: float
    received: float
    sent: float

    @property
    def most_workers(self) -> int:
        """That were measured."""
        return max(self.worker)

    def rate(self, workers: int, share: float = 1.0) -> float:
        """The tasks a second of so many workers, calculated; the share is that of the busiest server."""
        measured = self._measured(workers)
        return capacity.rate(workers, self.worker[measured], self.server[measured], share, self.waiting)

    def limit(self, workers: int, share: float = 1.0) -> float:
        """The tasks a second at which the busiest server is full, while so many workers drain."""
        return capacity.limit(self.server[self._measured(workers)], share)

    def _measured(self, workers: int) -> int:
        return max(count for count in self.worker if count <= workers)


def tell(report: Report, costs: Sequence[tuple[Costs, Costs]]) -> None:
    """Print it.

    Args:
        report: Where to.
        costs: Of each kind of task, in one queue and over partitions; those of the first are the network's.
    """
    most_workers = costs[0][0].most_workers
    on_primaries = capacity.owners(NAMESPACE, PARTITIONS, PRIMARIES)
    report.paragraph(
        f"""On paper, where every process has a core of its own, calculated from the microseconds above, from those of
        {most_workers} workers for more of them: a core that is full does 1,000,000 of them a second."""
    )
    for whole, spread in costs:
        _tell_of_one_server(report, whole)
        _tell_of_partitions(report, whole, spread)
        _table(report, whole, spread, capacity.busiest_share(on_primaries))
    for whole, _ in costs:
        _judge(report, whole)
    report.line()
    _tell_of_primaries(report, on_primaries)
    _tell_what_breaks_it(report, costs[0][0])


def _tell_of_one_server(report: Report, costs: Costs) -> None:
    drained = costs.server[costs.most_workers]
    report.paragraph(
        f"""{costs.name}: a task takes {costs.worker[1]:.1f} us of a worker that is alone, so that it drains
        {costs.rate(1):,.0f}/s at the most. With {costs.most_workers} workers a task takes {drained:.1f} us of the
        server, and before that {costs.many:.1f} us if it is submitted among many, {costs.alone:.1f} us if it is
        submitted by itself. So the server is full at {capacity.limit(drained):,.0f}/s of what waits; if it takes in as
        much as it gives out, at {capacity.limit(drained + costs.many):,.0f}/s submitted among many, and at
        {capacity.limit(drained + costs.alone):,.0f}/s submitted by themselves."""
    )


def _tell_of_partitions(report: Report, whole: Costs, spread: Costs) -> None:
    workers = whole.most_workers
    report.paragraph(
        f"""Over {PARTITIONS} partitions, all on that server, a task takes {spread.server[workers]:.1f} us of it with
        {workers} workers, {spread.server[workers] / whole.server[workers]:.2f} times as much, and
        {spread.worker[workers]:.1f} us of its worker, {spread.worker[workers] / whole.worker[workers]:.2f} times as
        much, as batches are smaller. On servers of their own it is taken to be as much."""
    )


def _table(report: Report, whole: Costs, spread: Costs, busiest_share: float) -> None:
    servers = {
        "one server/s": (whole, 1.0),
        f"{PARTITIONS} partitions on {PRIMARIES} primaries/s": (spread, busiest_share),
        f"evenly over {PRIMARIES}/s": (spread, 1 / PRIMARIES),
    }
    header = [f"{whole.name}, workers"]
    for name in servers:
        header += [name, "busiest"]
    rows = []
    for workers in WORKERS:
        row = [f"{workers}"]
        for costs, share in servers.values():
            reached = costs.rate(workers, share)
            row += [thousands(reached), f"{100 * reached / costs.limit(workers, share):.0f}%"]
        rows.append(row)
    report.table(header, rows)


def _judge(report: Report, costs: Costs) -> None:
    times, is_full = costs.rate(2) / costs.rate(1), costs.rate(2) >= costs.limit(2)
    wanted = f"on paper, {costs.name}: 2 processes at least {GOAL} times one, or the server full"
    report.goal(wanted, f"{times:.2f}{', the server full' if is_full else ''}", is_full or times >= GOAL)


def _tell_of_primaries(report: Report, on_primaries: Sequence[int]) -> None:
    share = capacity.busiest_share(on_primaries)
    shares = {count: capacity.busiest_share(capacity.owners(NAMESPACE, count, PRIMARIES)) for count in MORE_PARTITIONS}
    more = [f"{1 / share:.1f} times ({count} partitions)" for count, share in shares.items()]
    places = ", ".join(f"{number} on primary {primary + 1}" for number, primary in enumerate(on_primaries))
    report.paragraph(
        f"""A cluster of {PRIMARIES} primaries that have equal shares of the slots, in order, has the partitions of the
        namespace {NAMESPACE} as follows: {places}. The busiest has {100 * share:.0f}% of all tasks, so that {PRIMARIES}
        primaries do {1 / share:.1f} times what one does, and not {PRIMARIES} times: one has at least
        {-(-PARTITIONS // PRIMARIES)} of {PARTITIONS} partitions. More of them do {", ".join(more)}: {PRIMARIES} times
        take a multiple of {PRIMARIES}."""
    )
    spreads = (f"{capacity.largest_partition(tasks, PARTITIONS):.2f} times of {tasks:,}" for tasks in BACKLOGS)
    report.paragraph(
        f"""A task's partition is the crc32 of its id. The largest of {PARTITIONS} has more than the mean:
        {", ".join(spreads)} waiting tasks (means of {capacity.DRAWS} draws). A backlog is drained when that one is."""
    )


def _tell_what_breaks_it(report: Report, costs: Costs) -> None:
    most = capacity.limit(costs.server[costs.most_workers] + costs.many)
    one_way = max(costs.received, costs.sent) * most
    report.line("What would break it")
    report.line()
    report.paragraph(
        f"""The network: of an empty task the server gets {costs.received:,.0f} bytes and sends {costs.sent:,.0f}. At
        {most:,.0f}/s that is {one_way / 1e6:,.0f} MB/s one way, {100 * one_way / GIGABIT:.0f}% of a gigabit line; each
        replica is sent the writes once more. Larger arguments and results fill it sooner, and take time of the server's
        core, too. And loopback answers at once: over a network a worker waits for the round trip of each batch, which
        larger batches make up for only where there are many slots."""
    )
    report.paragraph(
        """One hot partition: the id spreads the tasks of all queues alike, so that no queue is hot by itself. A primary
        is, that has two partitions, other applications' keys, or a slower machine: the queue is drained as fast as that
        one is. Ids that an application gives spread as well, unless it chose them by their crc32."""
    )
    report.paragraph(
        """Replicas that are waited for: with min_replicas a task is accepted, and an outcome settled, only when the
        replicas have it. The server's time stays, the wait doesn't: who submits one task after the other submits at
        most 1 / (round trip to the server + round trip to the replica) a second, and a worker needs more slots for its
        rate."""
    )
    report.paragraph(
        """What else tasks do: progress, retries, delays, watchers and the exporter's queries take time of the server
        that is not in these figures; so do an append-only file that is synced always, and, in fleets of hundreds, the
        looks at each other's connections."""
    )
