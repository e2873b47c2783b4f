"""Workers: the processes that take tasks, with their slots and what each of them runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from flowrra_exporter.metrics import catalog
from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.links import to_task, to_tasks, worker_anchor
from flowrra_exporter.web.console.page import Content, Page, part
from flowrra_exporter.web.console.pages.running import Attempt, by_worker, running
from flowrra_exporter.web.console.parts import bar, detail, facts, labels, note, section, state
from flowrra_exporter.web.console.process import executors
from flowrra_exporter.web.console.view import View

# So many workers have a card, and so many attempts are listed on it.
MOST_WORKERS = 100
_MOST_ATTEMPTS = 5
# A worker tells that it lives every few seconds; without news for so long, it's said in colour.
_LATE_SECONDS = 30.0


class Workers(Page):
    """All processes that share the broker; of an app in memory, this one."""

    path = "/workers"
    title = "Workers"
    group = "processes"

    def available(self, view: View) -> bool:
        """Where the app tells of them."""
        return view.has("list_workers") or not view.observed

    async def render(self, context: Context) -> Content:
        """A card for each worker."""

        async def listed() -> Html:
            return await _workers(context)

        if not context.has("list_workers"):
            return Content(executors(context.view))
        return Content(await part("workers", "Worker processes", listed))


async def _workers(context: Context) -> Html:
    found = await context.ask("list_workers")
    attempts, trouble = await _attempts(context, everywhere=len(found) > 1)
    if not found:
        return await _alone(context, attempts, trouble)
    cards = [worker_card(context, each, attempts) for each in found[:MOST_WORKERS]]
    more = [note(f"And {len(found) - MOST_WORKERS:,} more.")] if len(found) > MOST_WORKERS else []
    count = note(f"{len(found):,} {'process takes' if len(found) == 1 else 'processes take'} tasks of this app.")
    return section(
        "workers", "Worker processes", count, *trouble, element("div", *cards, class_="cards"), *more, quiet=True
    )


async def _alone(context: Context, attempts: Mapping[str, Sequence[Attempt]] | None, trouble: list[Html]) -> Html:
    """What is there if the broker knows of no process."""
    view = context.view
    if view.observed or not labels(view.figures, catalog.EXECUTOR_RUNNING):
        return section("workers", "Worker processes", note("No process takes tasks of this app."))
    return executors(view)


async def _attempts(context: Context, everywhere: bool) -> tuple[Mapping[str, Sequence[Attempt]] | None, list[Html]]:
    """What each worker runs; None, and why, if that isn't known."""
    try:
        found, _ = await running(context, everywhere)
    except NotKnown as error:
        return None, [note(f"What they run isn't known at the moment: {error}.")]
    return by_worker(found), []


def worker_card(context: Context, worker: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]] | None) -> Html:
    """One process."""
    own = str(worker.get("id"))
    pairs = [
        ("Slots in use", _slots(worker.get("executors"))),
        ("Heartbeat", _heartbeat(worker.get("heartbeat_at"), context.view.at)),
        ("Started", _since(worker.get("started_at"), context.view.at)),
        ("Flowrra", str(worker.get("version") or words.UNKNOWN)),
    ]
    draining = [" ", element("span", "draining", class_="state busy")] if worker.get("draining") else []
    heading = element(
        "h3", element("bdi", str(worker.get("host"))), f", process {worker.get('pid')}", *draining, detail(own)
    )
    return element(
        "article", heading, facts(pairs), *_runs(context, own, attempts), id=worker_anchor(own), class_="card"
    )


def _slots(found: Any) -> str:
    if not isinstance(found, Mapping) or not found:
        return words.UNKNOWN
    parts = []
    for executor, each in found.items():
        busy, slots = int(each["busy"]), int(each["slots"])
        parts.append(element("span", f"{executor}: {busy:,} of {slots:,}", class_="slots"))
        if slots:
            parts.append(bar(busy / slots))
    return join(parts)


def _heartbeat(found: Any, now: datetime) -> str:
    if not isinstance(found, datetime):
        return words.UNKNOWN
    age = (now - found.astimezone(UTC)).total_seconds()
    return state(age < _LATE_SECONDS, words.ago(found.astimezone(UTC), now), words.ago(found.astimezone(UTC), now))


def _since(found: Any, now: datetime) -> str:
    return words.ago(found.astimezone(UTC), now) if isinstance(found, datetime) else words.UNKNOWN


def _runs(context: Context, worker: str, attempts: Mapping[str, Sequence[Attempt]] | None) -> list[Html]:
    if attempts is None:
        return []
    own = attempts.get(worker, [])
    if not own:
        return []
    items = [
        element(
            "li",
            to_tasks(context, each.task_name),
            " for ",
            words.UNKNOWN if each.elapsed is None else words.duration(each.elapsed),
            detail(to_task(context, each.task_id)),
        )
        for each in own[:_MOST_ATTEMPTS]
    ]
    left = len(own) - len(items)
    more = [note(f"And {left:,} more.")] if left > 0 else []
    return [element("h4", "Runs"), element("ul", *items, class_="plain"), *more]
