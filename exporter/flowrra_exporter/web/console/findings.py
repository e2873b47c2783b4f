"""What is wrong: judged from plain figures, the worst first, and each cause once.

What follows from a cause that is found already isn't told beside it: a loop that doesn't turn explains every figure
that isn't known, and a queue without workers explains that its tasks wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from flowrra_exporter.app.lifecycle import Phase
from flowrra_exporter.app.stall import Stall
from flowrra_exporter.probes.check import Check
from flowrra_exporter.web.console import words
from flowrra_exporter.web.failures import MOST

Level = Literal["good", "busy", "bad"]

# Seconds: tasks that wait for less than that are no news, and those that wait for longer are a backlog.
WAITS, WAITS_LONG = 15.0, 300.0
# Seconds: with more coming than are taken, that's a backlog already.
GROWS = 30.0
# Seconds without an attempt that ended, while all slots are taken and tasks wait: nothing gets on.
IDLE = 30.0
# Seconds: a loop that doesn't turn for less is merely busy.
_BLOCKED = 1.0
# Attempts that failed for good within the window: fewer are no rate, and this part of those that ended is a lot.
FAILURES_AT_LEAST, FAILURE_RATIO = 3, 0.05
FAILURES_BAD, FAILURE_RATIO_BAD = 5, 0.25
# So many names and messages are spelt out.
_MOST_NAMED = 3
# The folders of a path, which the section about the event loop shows.
_FOLDERS = re.compile(r"^/(?:[^/:]*/)*")
_SERVERS = {"broker": "Broker", "backend": "Result backend"}
# What answers without the app: no cause in the app explains that it fails.
_OWN_COLLECTORS = ("python", "otel")
_PHASES = {Phase.STARTING: "Starting", Phase.DRAINING: "Shutting down", Phase.STOPPED: "Stopped"}


class Finding(NamedTuple):
    """Something that is wrong.

    Attributes:
        level: ``bad`` if somebody has to act, ``busy`` if it's to be looked at.
        words: A word or two.
        sentence: What it is, with figures.
        page: The page that shows more, with its parameters.
    """

    level: Level
    words: str
    sentence: str
    page: str = ""
    query: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class QueueFacts:
    """A queue. What isn't known is None.

    Attributes:
        waits: Seconds for which its oldest due task has waited.
        growth: By how many tasks a second more wait in it than before; negative if fewer do.
    """

    queue: str
    executor: str
    pending: float | None = None
    waits: float | None = None
    dead: float | None = None
    unknown: float | None = None
    paused: bool = False
    growth: float | None = None

    @property
    def title(self) -> str:
        """What the queue is called."""
        return f"{self.queue} ({self.executor})"


@dataclass(frozen=True)
class ExecutorFacts:
    """An executor of this process."""

    name: str
    slots: float | None = None
    busy: float | None = None
    stuck: bool = False
    draining: bool = False

    @property
    def is_full(self) -> bool:
        """Whether all of its slots are taken."""
        return bool(self.slots) and self.busy is not None and self.slots is not None and self.busy >= self.slots


@dataclass(frozen=True)
class NameFacts:
    """What became of the tasks of one name within the window."""

    name: str
    finished: int
    failed: int
    ratio: float | None


@dataclass(frozen=True)
class Facts:
    """What is judged. What isn't known is None, or left out.

    Attributes:
        blocked: What blocks the app's event loop now.
        components: Those of the health check.
        workers: Live processes that take tasks from what is shared.
        idle: For how many seconds no attempt has ended in this process.
        running: Names with how many of their attempts run in this process, the most first.
        names: What became of tasks within the last minutes.
        window: Those minutes, in seconds.
        listed_failures: Tasks that failed within the window, where only their records tell.
        overdue: Schedules that are due and did not run.
        broken: Schedules that this process can't run.
        missed: Runs of schedules that were missed or failed lately.
        redelivered: Tasks that were delivered again lately, as their worker was gone.
        unfit: Why the broker's server is unfit to keep tasks.
        collectors: Those that fail.
    """

    phase: Phase = Phase.RUNNING
    message: str = ""
    blocked: Stall | None = None
    components: Sequence[Check] = ()
    executors: Sequence[ExecutorFacts] = ()
    queues: Sequence[QueueFacts] = ()
    workers: float | None = None
    idle: float | None = None
    running: Sequence[tuple[str, float]] = ()
    names: Sequence[NameFacts] = ()
    window: float = 300.0
    listed_failures: int = 0
    overdue: float | None = None
    broken: float | None = None
    missed: float | None = None
    redelivered: float | None = None
    unfit: Sequence[str] = ()
    collectors: Sequence[str] = ()


def find(facts: Facts) -> list[Finding]:
    """What is wrong, the worst first; nothing if all is well."""
    if facts.phase is Phase.FAILED:
        return [Finding("bad", "Failed", _sentence(facts.message)), *_failing(facts)]
    if facts.blocked is not None:
        return [_blocked(facts.blocked), *_failing(facts)]
    if facts.phase is not Phase.RUNNING:
        return [Finding("busy", _PHASES[facts.phase], _sentence(facts.message))]
    rules: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
        *(_servers, _stuck, _components, _workers, _failing, _paused, _backlog),
        *(_schedules, _dead, _redelivered, _draining, _unknown, _unfit, _collectors),
    )
    found = [finding for rule in rules for finding in rule(facts)]
    return sorted(found, key=lambda each: each.level != "bad")


def _blocked(stall: Stall) -> Finding:
    by = f" by task {stall.task}" if stall.task else ""
    at = f" at {_FOLDERS.sub('', stall.line)}" if stall.line else ""
    return Finding(
        "bad" if stall.seconds >= _BLOCKED else "busy",
        "Event loop blocked",
        f"The app's event loop has been blocked for {words.duration(stall.seconds)}{by}{at}. Until it turns again no "
        "task gets on, and what has to be asked on it is not known.",
    )


def _away(facts: Facts) -> list[Check]:
    """The servers that don't answer."""
    return [each for each in facts.components if each.name in _SERVERS and not each.ok]


def _servers(facts: Facts) -> Iterable[Finding]:
    """Broker and result backend, which are often one server: then it's one cause."""
    away = _away(facts)
    if away:
        named = [_SERVERS[each.name] for each in away]
        who = " and ".join([named[0], *(each.lower() for each in named[1:])])
        said = "; ".join(dict.fromkeys(each.message for each in away))
        yield Finding("bad", f"{who} away", _sentence(said))


def _stuck(facts: Facts) -> Iterable[Finding]:
    """Executors that don't get on: all of their slots are held, and others wait."""
    for each in facts.executors:
        waiting, waits = _waiting_for(each, facts)
        behind = f"{_wait(waiting)} behind them" if waiting else "others wait"
        if each.stuck:
            told = (check.message for check in facts.components if check.name == f"{each.name}_executor")
            hanging = next(told, "")
            said = f": {hanging.removeprefix('degraded: ').rpartition('hang: ')[2]}" if hanging else ""
            yield Finding(
                "bad", f"Executor {each.name} stuck", f"Tasks that hang hold all slots, and {behind}{said}.", "/running"
            )
        elif _gets_nowhere(each, facts):
            yield Finding(
                "bad",
                f"No progress in executor {each.name}",
                f"All {words.count(each.slots)} slots are taken, no attempt has ended for "
                f"{words.duration(facts.idle or 0.0)}, and {behind}, the oldest for {words.duration(waits)}."
                f"{_running(facts)}",
                "/running",
            )


def _waiting_for(executor: ExecutorFacts, facts: Facts) -> tuple[float, float]:
    """How many tasks wait for its slots, and for how many seconds the oldest of them does."""
    queues = [queue for queue in facts.queues if queue.executor == executor.name and not queue.paused]
    return sum(queue.pending or 0 for queue in queues), max((queue.waits or 0.0 for queue in queues), default=0.0)


def _gets_nowhere(executor: ExecutorFacts, facts: Facts) -> bool:
    return executor.is_full and _waiting_for(executor, facts)[1] >= WAITS and (facts.idle or 0.0) >= IDLE


def _running(facts: Facts) -> str:
    """What holds the slots."""
    named = ", ".join(
        f"{_isolated(name)} \N{MULTIPLICATION SIGN} {number:,.0f}" for name, number in facts.running[:_MOST_NAMED]
    )
    more = " and more" if len(facts.running) > _MOST_NAMED else ""
    return f" There run: {named}{more}." if named else ""


def _components(facts: Facts) -> Iterable[Finding]:
    """What the health check says of the rest."""
    stuck = {f"{each.name}_executor" for each in facts.executors if each.stuck}
    for each in facts.components:
        if each.ok or each.name in _SERVERS or each.name in stuck:
            continue
        if _away(facts) and each.name.endswith("_executor"):
            continue  # it can't get on without them
        page = "/schedules" if each.name == "scheduler" else ""
        yield Finding("bad", f"{each.name.replace('_', ' ').capitalize()} unhealthy", _sentence(each.message), page)


def _workers(facts: Facts) -> Iterable[Finding]:
    waiting = sum(each.pending or 0 for each in facts.queues)
    if facts.workers == 0 and waiting and not _away(facts):
        yield Finding("bad", "No worker", f"{_wait(waiting)}, and no live process takes any.", "/workers")


def _failing(facts: Facts) -> Iterable[Finding]:
    found = [each for each in facts.names if each.failed >= FAILURES_AT_LEAST and (each.ratio or 0.0) >= FAILURE_RATIO]
    minutes = f"within the last {words.duration(facts.window)}"
    if found:
        found.sort(key=lambda each: (-each.failed, each.name))
        bad = [each for each in found if each.failed >= FAILURES_BAD and (each.ratio or 0.0) >= FAILURE_RATIO_BAD]
        named = "; ".join(
            f"{_isolated(each.name)}: {each.failed:,} failed, {words.share(each.ratio or 0.0)}"
            for each in found[:_MOST_NAMED]
        )
        more = f"; and {len(found) - _MOST_NAMED:,} more names" if len(found) > _MOST_NAMED else ""
        yield Finding("bad" if bad else "busy", "Tasks fail", f"{minutes.capitalize()}: {named}{more}.", "/names")
    elif facts.listed_failures >= FAILURES_AT_LEAST:
        more = " or more" if facts.listed_failures >= MOST else ""
        said = f"{facts.listed_failures:,}{more} tasks failed for good {minutes}."
        yield Finding("busy", "Tasks fail", said, "/tasks", (("status", "failed"),))


def _paused(facts: Facts) -> Iterable[Finding]:
    found = [each for each in facts.queues if each.paused and each.pending]
    if found:
        named = ", ".join(f"{_tasks(each.pending or 0)} in {each.title}" for each in found[:_MOST_NAMED])
        said = f"By request no task is taken from it, and there wait: {named}."
        yield Finding("busy", "Queue paused", said, "/queues")


def _backlog(facts: Facts) -> Iterable[Finding]:
    """Tasks that wait for long, if nothing else that was found explains it."""
    explained = {each.name for each in facts.executors if each.stuck or each.draining or _gets_nowhere(each, facts)}
    queues = [each for each in facts.queues if each.pending and (each.waits or 0.0) >= WAITS and not each.paused]
    queues = [each for each in queues if each.executor not in explained]
    if not queues or facts.workers == 0 or _away(facts):
        return
    growing = [each for each in queues if (each.waits or 0.0) >= GROWS and (each.growth or 0.0) > 0]
    old = [each for each in queues if each not in growing and (each.waits or 0.0) >= WAITS_LONG]
    if growing:
        waiting, longest, waits = _backlog_of(growing)
        rate = words.rate(sum(each.growth or 0.0 for each in growing))
        said = f"{waiting}, the oldest for {waits} in {longest.title}; {rate} more come than are taken."
        is_bad = (longest.waits or 0.0) >= WAITS_LONG
        yield Finding("bad" if is_bad else "busy", "Backlog grows", said, "/queues")
    if old:
        waiting, longest, waits = _backlog_of(old)
        said = f"{waiting}, the oldest for {waits} in {longest.title}."
        yield Finding("busy", "Tasks wait long", said, "/queues")
    full = {each.name for each in facts.executors if each.is_full}
    held = [each for each in queues if each.executor in full]
    if held and not growing and not old:
        waiting, _, waits = _backlog_of(held)
        yield Finding("busy", "All slots taken", f"{waiting} for one, the oldest for {waits}.", "/running")


def _backlog_of(queues: Sequence[QueueFacts]) -> tuple[str, QueueFacts, str]:
    """How many tasks wait in all of them, the queue whose oldest waits longest, and for how long that does."""
    longest = max(queues, key=lambda each: each.waits or 0.0)
    return _wait(sum(each.pending or 0 for each in queues)), longest, words.duration(longest.waits or 0.0)


def _schedules(facts: Facts) -> Iterable[Finding]:
    if facts.broken:
        # Another process that runs tasks may know those of schedules that this one doesn't.
        level: Level = "busy" if (facts.workers or 0) > 1 else "bad"
        said = f"{_schedules_are(facts.broken)} broken: here their tasks are not registered, or they can't be read."
        yield Finding(level, "Schedules broken", said, "/schedules")
    if facts.overdue:
        yield Finding(
            "bad", "Schedules overdue", f"{_schedules_are(facts.overdue)} due, and did not run.", "/schedules"
        )
    if facts.missed:
        many = "run of a schedule was" if facts.missed == 1 else "runs of schedules were"
        said = f"{words.count(facts.missed)} {many} missed or failed lately."
        yield Finding("busy", "Schedules missed", said, "/schedules")


def _dead(facts: Facts) -> Iterable[Finding]:
    found = [each for each in facts.queues if each.dead]
    if found:
        total = sum(each.dead or 0 for each in found)
        where = ", ".join(each.title for each in found[:_MOST_NAMED])
        yield Finding(
            "busy", "Dead tasks", f"{_tasks(total)} {'was' if total == 1 else 'were'} given up, in {where}.", "/dead"
        )


def _redelivered(facts: Facts) -> Iterable[Finding]:
    if facts.redelivered:
        said = f"{_tasks(facts.redelivered)} came again lately, as the worker that had them was gone."
        yield Finding("busy", "Workers died", said, "/workers")


def _draining(facts: Facts) -> Iterable[Finding]:
    names = [each.name for each in facts.executors if each.draining]
    if names:
        yield Finding(
            "busy", "Draining", f"By request no task is begun in this process by: {', '.join(names)}.", "/workers"
        )


def _unknown(facts: Facts) -> Iterable[Finding]:
    total = sum(each.unknown or 0 for each in facts.queues)
    if total:
        verb = "waits" if total == 1 else "wait"
        yield Finding(
            "busy", "Unknown tasks", f"{_tasks(total)} {verb} for a worker that knows their names.", "/queues"
        )


def _unfit(facts: Facts) -> Iterable[Finding]:
    if facts.unfit:
        reasons = ", ".join(each.replace("_", " ") for each in facts.unfit)
        said = f"The broker's server may lose tasks or time them wrongly: {reasons}."
        yield Finding("busy", "Broker unfit", said, "/queues")


def _collectors(facts: Facts) -> Iterable[Finding]:
    unhealthy = [each for each in facts.components if not each.ok]
    failing = [each for each in facts.collectors if not unhealthy or each in _OWN_COLLECTORS]
    if failing:
        said = f"Figures are missing, as these fail: {', '.join(failing)}. The exporter's log says why."
        yield Finding("busy", "Collectors fail", said)


def _tasks(number: float) -> str:
    return f"{number:,.0f} {'task' if number == 1 else 'tasks'}"


def _wait(number: float) -> str:
    return f"{_tasks(number)} {'waits' if number == 1 else 'wait'}"


def _isolated(name: str) -> str:
    """A name whose direction of writing changes nothing around it."""
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


def _schedules_are(number: float) -> str:
    return f"{number:,.0f} {'schedule is' if number == 1 else 'schedules are'}"


def _sentence(text: str) -> str:
    """The text with a capital at its beginning and a stop at its end."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
