"""The script of the day: what befalls the fleet, which alerts that raises, and what mends it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from deploy.prometheus import thresholds
from flowrra.management import FlowrraManager
from prove.day.fleet import BILLING, SHOP, Fleet

SLOTS = 8
IN_HAND = 6


@dataclass(frozen=True)
class Step:
    """What happens, and the alerts to wait for then.

    Attributes:
        does: What happens.
        raises: Alerts that fire because of it.
    """

    does: Callable[[Fleet], None]
    raises: tuple[str, ...] = ()


@dataclass(frozen=True)
class Phase:
    """A part of the day.

    Attributes:
        name: In one word.
        story: In one sentence.
        steps: What befalls the fleet. Dashboards are looked at after the first.
        mend: What ends it; after it, all alerts resolve.
        may: Alerts that may fire besides, as it depends on the moment.
        shown: Tiles of the overview that are red then.
    """

    name: str
    story: str
    steps: tuple[Step, ...]
    mend: Callable[[Fleet], None]
    may: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    @property
    def raises(self) -> tuple[str, ...]:
        """All alerts that fire in it."""
        return tuple(alert for step in self.steps for alert in step.raises)


def nothing(_: Fleet) -> None:
    """All is well."""


def becomes(state: str) -> Callable[[Fleet], None]:
    """Load and tasks become so."""
    return lambda fleet: fleet.feels(state)


# ── hung tasks ──────────────────────────────────────────────────────────────────────────────────────────────────


def hang(fleet: Fleet) -> None:
    """Each slot of an app gets a task that never ends, and one of the other app does."""
    fleet.submit(SHOP, "hang")
    fleet.submit(BILLING, "hang", SLOTS)


def cancel_hung(fleet: Fleet) -> None:
    """As the runbook has it."""
    for job in (SHOP, BILLING):
        fleet.manage(job, lambda manager: manager.cancel_tasks(name="hang"))


# ── killed workers ──────────────────────────────────────────────────────────────────────────────────────────────


def take_long(fleet: Fleet, job: str) -> None:
    """An app's workers have tasks in hand that take their time."""

    async def run(manager: FlowrraManager) -> None:
        for _ in range(IN_HAND):
            await manager.app.submit("count_shelves")
        async with asyncio.timeout(20):
            while await running(manager) < IN_HAND:
                await asyncio.sleep(0.1)

    async def running(manager: FlowrraManager) -> int:
        return len((await manager.list_tasks(status="running", name="count_shelves"))["tasks"])

    fleet.manage(job, run)


def kill_two(fleet: Fleet) -> None:
    """A worker of each app is killed with tasks in hand."""
    for job in (SHOP, BILLING):
        take_long(fleet, job)
    for member in (fleet.shop[1], fleet.billing):
        member.kill()


def start_both_again(fleet: Fleet) -> None:
    """Where they were."""
    fleet.shop[1] = fleet.start(SHOP, address=fleet.shop[1].address)
    fleet.billing = fleet.start(BILLING, address=fleet.billing.address)


def forget_dead(fleet: Fleet) -> None:
    """As the runbook has it, once somebody has looked at them."""
    fleet.manage(BILLING, lambda manager: manager.delete_dead_tasks())


def kill_for_good(fleet: Fleet) -> None:
    """The only worker of an app is killed with tasks in hand."""
    take_long(fleet, BILLING)
    fleet.billing.kill()


def forget_target(fleet: Fleet) -> None:
    """Prometheus is told that there is none of that job any more."""
    fleet.leaves(fleet.billing)


def start_elsewhere(fleet: Fleet) -> None:
    """A new one comes at another address."""
    fleet.billing = fleet.start(BILLING)
    fleet.joins(fleet.billing)


# ── other processes ─────────────────────────────────────────────────────────────────────────────────────────────


def freeze_worker(fleet: Fleet) -> None:
    """The process with the scheduler stands still, as one does whose machine is paused, and misses what is due."""
    fleet.plan("build_report", 3.0)
    os.kill(fleet.billing.process.pid, signal.SIGSTOP)


def thaw_worker(fleet: Fleet) -> None:
    """It goes on."""
    os.kill(fleet.billing.process.pid, signal.SIGCONT)


def ask_to_stop(fleet: Fleet) -> None:
    """A worker that is asked to stop finishes what it has in hand."""
    take_long(fleet, SHOP)
    fleet.shop[1].process.terminate()


def start_again(fleet: Fleet) -> None:
    """Once it has stopped, another takes its place."""
    fleet.shop[1].process.wait(30)
    fleet.shop[1] = fleet.start(SHOP, address=fleet.shop[1].address)


def deploy(fleet: Fleet) -> None:
    """All processes are replaced, one after the other."""
    fleet.shop = [fleet.replaced(member) for member in fleet.shop]
    fleet.billing = fleet.replaced(fleet.billing)
    fleet.observer = fleet.replaced(fleet.observer)


def few_series(fleet: Fleet) -> None:
    """A worker is deployed with room for few series."""
    fleet.shop[0] = fleet.replaced(fleet.shop[0], "--max-series=200")


def many_series(fleet: Fleet) -> None:
    """And with room for many again."""
    fleet.shop[0] = fleet.replaced(fleet.shop[0])


def restart_often(fleet: Fleet) -> None:
    """A worker is killed again and again, as by a container's limit of memory, and comes back each time."""
    for _ in range(thresholds.PROCESS_RESTARTS + 1):
        fleet.shop[1] = fleet.restarts(fleet.shop[1])


def forget_all_dead(fleet: Fleet) -> None:
    """Of both apps."""
    for job in (SHOP, BILLING):
        fleet.manage(job, lambda manager: manager.delete_dead_tasks())


def crash(fleet: Fleet) -> None:
    """Tasks kill the processes that run them."""
    fleet.submit(SHOP, "crash", 12)


PHASES = (
    Phase(
        "burst",
        "twenty times as much is submitted for a while",
        (Step(becomes("burst"), ("FlowrraSaturated", "FlowrraOldestTaskTooOld")),),
        becomes("quiet"),
    ),
    Phase(
        "failing",
        "a supplier is away: its task fails in each attempt, and a payment provider declines most",
        (Step(becomes("broken"), ("FlowrraTasksFailing", "FlowrraRetryStorm")),),
        becomes("quiet"),
        shown=("Failing",),
    ),
    Phase(
        "crashing",
        "a task kills the processes that run it",
        (Step(crash, ("FlowrraWorkersRestarting", "FlowrraTasksFailing")),),
        nothing,
    ),
    Phase(
        "restarts",
        "a worker is killed again and again, and comes back each time",
        (Step(restart_often, ("FlowrraProcessRestarting",)),),
        forget_all_dead,
        may=("FlowrraTargetDown", "FlowrraRedeliveries", "FlowrraDeadTasks", "FlowrraEventLoopBlocked"),
    ),
    Phase(
        "hung",
        "each slot of an app has a task that never ends",
        (
            Step(
                hang,
                (
                    "FlowrraSaturated",
                    "FlowrraOldestTaskTooOld",
                    "FlowrraExecutorStuck",
                    "FlowrraTaskHung",
                ),
            ),
        ),
        cancel_hung,
        shown=("Stuck executors",),
    ),
    Phase(
        "killed",
        "a worker of each app is killed with tasks in hand, and comes back",
        (
            Step(kill_two, ("FlowrraTargetDown",)),
            Step(start_both_again, ("FlowrraRedeliveries", "FlowrraDeadTasks")),
        ),
        forget_dead,
        # What is given up has failed.
        may=("FlowrraNoWorkers", "FlowrraSchedulerStalled", "FlowrraScheduleNotRun", "FlowrraTasksFailing"),
        shown=("Targets up", "Apps healthy"),
    ),
    Phase(
        "gone",
        "the only worker of an app is killed for good, and another comes elsewhere",
        (
            Step(
                kill_for_good,
                (
                    "FlowrraTargetDown",
                    "FlowrraNoWorkers",
                    "FlowrraNoProgress",
                    "FlowrraOldestTaskTooOld",
                    "FlowrraSchedulerStalled",
                    "FlowrraScheduleNotRun",
                ),
            ),
            Step(forget_target, ("FlowrraTargetsMissing",)),
            Step(start_elsewhere, ("FlowrraDeadTasks",)),
        ),
        forget_dead,
        may=("FlowrraTasksFailing",),
        shown=("Targets up", "Apps healthy"),
    ),
    Phase(
        "stopped",
        "the broker answers nobody",
        (Step(Fleet.server_stops, ("FlowrraDependencyDown", "FlowrraCollectorFailing", "FlowrraHeartbeatLost")),),
        Fleet.goes_on,
        may=("FlowrraRedeliveries", "FlowrraDeadTasks"),
        shown=("Apps healthy", "Broker and results"),
    ),
    Phase(
        "full",
        "the broker's memory is full, and it refuses what is new",
        (Step(lambda fleet: fleet.server_may_use(1.02), ("FlowrraBrokerFull",)),),
        lambda fleet: fleet.server_may_use(0),
    ),
    Phase(
        "unfit",
        "the broker may evict tasks",
        (Step(lambda fleet: fleet.server_may_use(0.5, "allkeys-lru"), ("FlowrraBrokerUnfit",)),),
        lambda fleet: fleet.server_may_use(0),
    ),
    Phase(
        "blocked",
        "a task blocks the event loop of an app's only worker",
        (
            Step(
                lambda fleet: fleet.submit(BILLING, "block_a_while"),
                ("FlowrraEventLoopBlocked", "FlowrraCollectorFailing", "FlowrraSchedulerStalled"),
            ),
        ),
        nothing,
        may=("FlowrraScheduleNotRun", "FlowrraNoProgress", "FlowrraOldestTaskTooOld"),
        shown=("Apps healthy", "Event loops blocked"),
    ),
    Phase(
        "stalls",
        "a task blocks it again and again",
        (Step(lambda fleet: fleet.submit(BILLING, "stutter"), ("FlowrraEventLoopStalls",)),),
        nothing,
        # Imports have a second, which passes while the loop stands still.
        may=("FlowrraEventLoopBlocked", "FlowrraCollectorFailing", "FlowrraSchedulerStalled", "FlowrraTasksFailing"),
    ),
    Phase(
        "stopping",
        "a worker takes long to stop, and then comes back: no alert calls that dead",
        (Step(ask_to_stop),),
        start_again,
        may=("FlowrraTargetDown", "FlowrraRedeliveries"),
    ),
    Phase(
        "unknown",
        "a producer of the next release comes before its workers",
        (Step(Fleet.producer_is_ahead, ("FlowrraUnknownTasks", "FlowrraSchedulesBroken")),),
        Fleet.producer_goes_back,
    ),
    Phase(
        "names",
        "a worker is deployed that has room for fewer series than its tasks have",
        (Step(few_series, ("FlowrraSeriesDropped",)),),
        many_series,
    ),
    Phase(
        "missed",
        "the process with the scheduler stands still for a while",
        (
            Step(freeze_worker, ("FlowrraTargetDown", "FlowrraSchedulerStalled", "FlowrraScheduleNotRun")),
            Step(thaw_worker, ("FlowrraScheduleMissed",)),
        ),
        forget_dead,
        may=("FlowrraNoWorkers", "FlowrraNoProgress", "FlowrraOldestTaskTooOld", "FlowrraDeadTasks"),
        shown=("Targets up", "Apps healthy"),
    ),
    Phase("deploy", "a rolling deploy: each process is replaced by a new one", (Step(deploy),), nothing),
)
# Why no phase can raise them: promtool's tests alone prove them.
UNRAISED = {
    "FlowrraClockSkew": "processes of one machine have one clock",
    "FlowrraAppNotRunning": "an app that stops without its process is a mistake in that program",
    "FlowrraWorkersDead": "what dies is replaced",
    "FlowrraTasksAbandoned": "only tasks in memory are abandoned, by a stop after which the process is scraped no more",
}
