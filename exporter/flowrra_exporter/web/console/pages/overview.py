"""The overview: what is wrong first, then the few figures that say how the app fares, then what runs it."""

from __future__ import annotations

from collections.abc import Iterable

from flowrra_exporter.metrics import catalog
from flowrra_exporter.web.console import process, words
from flowrra_exporter.web.console.activity import CHARTED
from flowrra_exporter.web.console.charts import Series, Span, chart, charts, no_chart
from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.figures import Figures, quantile
from flowrra_exporter.web.console.findings import Finding
from flowrra_exporter.web.console.html import Column, Html, element, join, row, table
from flowrra_exporter.web.console.links import to_task, to_tasks
from flowrra_exporter.web.console.page import Content, Page
from flowrra_exporter.web.console.parts import counted, detail, facts, name, note, notice, section
from flowrra_exporter.web.console.view import View, waiting, waits
from flowrra_exporter.web.failures import Failure

MOST_FAILURES = 10
_FAILURES = (Column("Task"), Column("Failed"), Column("After", True))
_MODES = {
    "command": "runs the app",
    "library": "inside the app's program",
    "observer": "observes an app that other processes run",
}


class Overview(Page):
    """The first page.

    Args:
        max_series: The bound on the series of task names; None without one.
    """

    path = "/"
    title = "Overview"
    group = "overview"

    def __init__(self, max_series: int | None) -> None:
        self._max_series = max_series

    async def render(self, context: Context) -> Content:
        """Its sections."""
        view = context.view
        collectors = process.exporter(view, self._max_series)
        parts = [_findings(context)]
        if not view.attached:
            parts += [_identity(view), collectors]
        elif view.observed:
            parts += [
                _glance(_shared_tiles(view)),
                _activity(view),
                _columns(_stack(failures(context)), _stack(_identity(view), process.health(view), collectors)),
            ]
        else:
            parts += [
                _glance(_tiles(view)),
                _activity(view),
                process.executors(view),
                _columns(
                    _stack(failures(context), collectors),
                    _stack(_identity(view), process.health(view), process.event_loop(view)),
                ),
            ]
        return Content(join(parts))


# ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────


def _findings(context: Context) -> Html:
    """What is wrong, the worst first; or that nothing is."""
    view = context.view
    if not view.findings:
        return section(
            "findings",
            "State",
            notice("good", element("strong", f"{view.headline.words}. "), view.headline.sentence),
            quiet=True,
        )
    items = [_finding(context, each) for each in view.findings]
    title = "What is wrong" if view.headline.level == "bad" else "What to look at"
    return section("findings", title, element("ol", *items, role="list", class_="findings"))


def _finding(context: Context, finding: Finding) -> Html:
    more = []
    if finding.page in context.pages:
        link = context.link(finding.page, **dict(finding.query))
        about = element("span", f" more about: {finding.words}", class_="visually-hidden")
        more = [" ", element("a", "Show", about, href=link)]
    return element(
        "li",
        element("strong", finding.words),
        " ",
        element("span", finding.sentence),
        *more,
        class_=f"notice {finding.level}",
    )


def _identity(view: View) -> Html:
    """What is being looked at."""
    who = view.identity
    places = sorted({(broker, server) for _, _, broker, _, server in view.figures.numbers(catalog.QUEUE_INFO)})
    brokers = [f"{broker} at {server}" if server else f"in {broker}" for broker, server in places]
    versions = [version for version, _ in view.figures.numbers(catalog.BUILD_INFO)]
    pairs = [
        ("App", name(who.name)),
        ("Mode", _MODES.get(who.mode, who.mode)),
        ("Host", name(who.host)),
        ("Process", str(who.pid)),
        ("Up for", words.duration((view.at - who.started_at).total_seconds())),
        ("Queues", ", ".join(brokers) or words.UNKNOWN),
        ("Flowrra", ", ".join(versions) or words.UNKNOWN),
    ]
    return section("process", "Observer" if view.observed else "Process", facts(pairs))


# ── at a glance ─────────────────────────────────────────────────────────────────────────────────────────────


def _tiles(view: View) -> Iterable[Html]:
    """The few figures that say how the app fares."""
    figures = view.figures
    lag = figures.distribution(catalog.EVENT_LOOP_LAG)
    yield _tile("Waiting", words.count(waiting(figures)), _oldest(view))
    yield _slots_tile(figures)
    succeeded = figures.total(catalog.TASKS_SUCCEEDED)
    lately = None if view.activity is None else view.activity.lately
    ended = view.rates.total(catalog.TASKS_SUCCEEDED) if lately is None else lately.finished
    yield _tile("Finished", words.rate(ended), join([words.count(succeeded), " succeeded in all"]))
    failed, retried = figures.total(catalog.TASKS_FAILED), figures.total(catalog.TASKS_RETRIED)
    recent = None if lately is None else round(lately.failed * lately.seconds)
    below = join([words.count(failed), " in all, ", words.count(retried), " retried"])
    yield _tile(
        "Failed, last 5 min" if lately else "Failed for good",
        words.count(failed if recent is None else recent),
        below,
        "bad" if recent and _fails(view) else None,
    )
    if view.blocked is not None:
        yield _tile("Event loop", "blocked", f"for {words.duration(view.blocked.seconds)}", "bad")
    else:
        stalls = counted(figures.number(catalog.EVENT_LOOP_STALLS), "stall", "stalls")
        yield _tile("Loop lag, p95", words.estimate(quantile(0.95, [lag])), stalls)


def _fails(view: View) -> bool:
    return any(each.words == "Tasks fail" and each.level == "bad" for each in view.findings)


def _slots_tile(figures: Figures) -> Html:
    busy, slots = (
        words.count(figures.total(each)) for each in (catalog.EXECUTOR_BUSY_WORKERS, catalog.EXECUTOR_WORKERS)
    )
    stuck = sorted(name for (name,), is_stuck in figures.numbers(catalog.EXECUTOR_STUCK).items() if is_stuck)
    if stuck:
        return _tile("Slots in use", busy, join(["of ", slots, f", all stuck: {', '.join(stuck)}"]), "bad")
    return _tile("Slots in use", busy, join(["of ", slots]))


def _shared_tiles(view: View) -> Iterable[Html]:
    """The same for an app that other processes run: what they share."""
    figures = view.figures
    yield _tile("Waiting", words.count(waiting(figures)), _oldest(view))
    yield _tile("Delayed", words.count(figures.total(catalog.QUEUE_DELAYED)), "until a later time")
    yield _tile("In flight", words.count(figures.total(catalog.QUEUE_IN_FLIGHT)), "taken by a worker")
    yield _tile("Unknown", words.count(figures.total(catalog.QUEUE_UNKNOWN)), "no worker knows them")
    yield _tile("Dead", words.count(figures.total(catalog.QUEUE_DEAD)), "set aside")
    yield _tile("Worker processes", words.count(figures.number(catalog.WORKER_PROCESSES)), "that take tasks")


def _glance(tiles: Iterable[Html]) -> Html:
    heading = element("h2", "At a glance", id="overview-title", class_="visually-hidden")
    return element("section", heading, element("dl", *tiles), id="overview", aria_labelledby="overview-title")


def _tile(term: str, figure: str, below: str, level: str | None = None) -> Html:
    values = [element("dd", figure, class_="figure"), element("dd", below, class_="detail")]
    return element("div", element("dt", term), *values, class_=level)


def _oldest(view: View) -> str:
    moments = view.figures.numbers(catalog.QUEUE_OLDEST_PENDING).values()
    if not moments:
        return "nothing waits" if waiting(view.figures) == 0 else "for how long isn't known"
    return f"the oldest for {words.duration(waits(view.figures, view.at, min(moments)))}"


def _activity(view: View) -> Html:
    """Throughput and failures of the last hour."""
    finished, failures = "Finished attempts", "Failures"
    if view.activity is None:
        why = (
            "Each process counts its own attempts, and an observer runs none: see the metrics of the workers."
            if view.observed
            else "This app doesn't tell."
        )
        return section("activity", "The last hour", charts(no_chart(finished, why)))
    periods = view.activity.chart
    spans = [Span(each.at, each.seconds) for each in periods]
    good = Series("finished", "finished", [each.finished for each in periods])
    bad = Series("failed for good", "failed", [each.failed for each in periods])
    again = Series("to be retried", "retried", [each.retried for each in periods])
    return section(
        "activity",
        "The last hour",
        charts(
            chart(finished, view.at, CHARTED, spans, [good]),
            chart(failures, view.at, CHARTED, spans, [bad, again]),
        ),
    )


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────


def failures(context: Context) -> Html:
    """The tasks that failed last. Their errors and arguments with task data alone."""
    view, listing = context.view, context.view.failures
    if listing is None:
        return section("failures", "Recent failures", note("This app can't list its failed tasks."))
    content: list[Html] = []
    if listing.problem:
        # Why it isn't known is said above already.
        known = view.blocked is not None or view.headline.level == "bad"
        content.append(
            note("No news of failures.") if known else notice("busy", f"No news of failures: {listing.problem}.")
        )
    if listing.failures and listing.at is not None:
        shown = listing.failures[:MOST_FAILURES]
        caption = join(["The last of those whose results are kept, as of ", words.moment(listing.at, view.at), "."])
        rows = [row(_FAILURES, _failed(context, failure)) for failure in shown]
        content.append(table(caption, _FAILURES, rows, wide=True))
    elif not listing.problem:
        content.append(note("None among the results that are kept."))
    return section("failures", "Recent failures", *content)


def _failed(context: Context, failure: Failure) -> tuple[str, ...]:
    view, at = context.view, failure.finished_at
    when = words.UNKNOWN if at is None else join([words.moment(at, view.at), detail(words.ago(at, view.at))])
    attempts = words.UNKNOWN if failure.retries is None else counted(failure.retries + 1, "attempt", "attempts")
    what = [to_tasks(context, failure.task_name), detail(to_task(context, failure.task_id))]
    if context.task_data:
        what += [
            detail("given ", element("code", failure.arguments)),
            detail("raised ", element("code", failure.error)),
        ]
    return join(what), when, attempts


def _columns(*parts: Html) -> Html:
    return element("div", *parts, class_="columns")


def _stack(*parts: Html) -> Html:
    return element("div", *parts, class_="stack")
