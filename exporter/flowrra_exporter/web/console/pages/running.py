"""Running now: the attempts under way, the longest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flowrra_exporter.web.console import listing, words
from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.links import to_task, to_tasks, to_worker
from flowrra_exporter.web.console.listing import Sortable
from flowrra_exporter.web.console.listing import listing as list_items
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.parts import bar, detail, name, note, section
from flowrra_exporter.web.console.view import View

# The most that are asked for: where more run, the page says so.
MOST = 1000
_OF_THIS_PROCESS, _OF_ALL = "list_running_attempts", "list_tasks"
_MOST_OF_ALL = 200


@dataclass(frozen=True)
class Attempt:
    """An attempt under way; what isn't known of it is None.

    Attributes:
        timeout: Seconds that it may take; None is no limit, or not known.
        number: Which attempt it is, 1 for the first.
    """

    task_id: str
    task_name: str
    elapsed: float | None
    timeout: float | None
    number: int | None
    executor: str | None
    queue: str | None
    worker: str | None


class Running(Page):
    """What runs now: in this process, or in all that share the result backend."""

    path = "/running"
    title = "Running"
    group = "tasks"
    parameters = listing.PARAMETERS

    def available(self, view: View) -> bool:
        """Where what runs can be listed."""
        return view.has(_OF_THIS_PROCESS) or view.has(_OF_ALL)

    async def render(self, context: Context) -> Content:
        """The list."""

        async def listed() -> Html:
            found, whole = await running(context)
            return _listed(context, found, whole)

        return Content(await part("running", "Running now", listed))


async def running(context: Context, everywhere: bool = False) -> tuple[list[Attempt], bool]:
    """The attempts under way, the longest first, and whether these are all.

    Args:
        everywhere: Those of all processes, as far as their records tell, rather than this one's.

    Raises:
        NotKnown: They can't be listed at the moment.
    """
    if context.has(_OF_THIS_PROCESS) and not (everywhere and context.has(_OF_ALL)):
        answer = await context.read(_OF_THIS_PROCESS, limit=MOST)  # also while the loop is blocked, or all slots hang
        found, whole = [_of_this_process(each) for each in answer], len(answer) < MOST
    else:
        page = await context.ask(_OF_ALL, status="running", limit=_MOST_OF_ALL)
        found, whole = [_of_all(each, context.view.at) for each in page["tasks"]], page["next"] is None
    return sorted(found, key=lambda each: -(each.elapsed or 0.0)), whole


def _of_this_process(found: Mapping[str, Any]) -> Attempt:
    return Attempt(
        task_id=str(found["task_id"]),
        task_name=str(found["task_name"]),
        elapsed=float(found["elapsed"]),
        timeout=found["timeout"],
        number=int(found["attempt"]),
        executor=str(found["executor"]),
        queue=str(found["queue"]),
        worker=str(found["worker"]),
    )


def _of_all(found: Mapping[str, Any], now: datetime) -> Attempt:
    started = found.get("started_at")
    elapsed = max(0.0, (now - started.astimezone(UTC)).total_seconds()) if isinstance(started, datetime) else None
    retries = found.get("retries")
    return Attempt(
        task_id=str(found["task_id"]),
        task_name=str(found.get("task_name") or "unknown"),
        elapsed=elapsed,
        timeout=None,
        number=retries + 1 if isinstance(retries, int) else None,
        executor=None,
        queue=found.get("queue"),
        worker=found.get("worker"),
    )


def _listed(context: Context, found: list[Attempt], whole: bool) -> Html:
    if not found:
        return section("running", "Running now", note("Nothing runs at the moment."))
    where = "in this process" if context.has(_OF_THIS_PROCESS) else "in all processes"
    caption = f"Attempts under way {where}, the longest first."
    more = [] if whole else [note(f"More run than the {len(found):,} that are listed here.")]
    return section(
        "running", "Running now", list_items(context, caption, columns(context), found, "attempts"), *more, quiet=True
    )


def columns(context: Context) -> list[Sortable[Attempt]]:
    """The columns of a list of attempts; those that an observer can't fill are left out."""
    own = [
        Sortable[Attempt]("executor", "Executor", lambda each: each.executor or "", lambda each: each.executor),
    ]
    return [
        Sortable("name", "Task", lambda each: _task(context, each), lambda each: each.task_name.casefold()),
        Sortable("elapsed", "Runs for", _elapsed, lambda each: each.elapsed, numeric=True),
        Sortable("attempt", "Attempt", _number, lambda each: each.number, numeric=True),
        *(own if context.has(_OF_THIS_PROCESS) else []),
        Sortable("queue", "Queue", lambda each: name(each.queue or ""), lambda each: each.queue),
        Sortable("worker", "Worker", lambda each: _worker(context, each), lambda each: each.worker),
    ]


def _task(context: Context, each: Attempt) -> Html:
    return join([to_tasks(context, each.task_name), detail(to_task(context, each.task_id))])


def _number(each: Attempt) -> str:
    return words.count(each.number)


def _worker(context: Context, each: Attempt) -> str:
    return words.UNKNOWN if each.worker is None else to_worker(context, each.worker)


def _elapsed(each: Attempt) -> Html:
    """For how long it runs, and how much of its time that is."""
    if each.elapsed is None:
        return words.UNKNOWN
    if each.timeout is None:
        return element("span", words.duration(each.elapsed))
    late = each.elapsed > each.timeout
    text = element("span", words.duration(each.elapsed), class_="state bad" if late else None)
    of = detail(f"of {words.duration(each.timeout)}{', which is over' if late else ''}")
    return join([text, bar(each.elapsed / each.timeout), of])


def by_worker(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts of each worker, in their order."""
    found: dict[str, list[Attempt]] = {}
    for each in attempts:
        found.setdefault(each.worker or "", []).append(each)
    return found
