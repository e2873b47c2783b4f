"""The sections of the page, each from a view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from flowrra_exporter.app.stall import Stall
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric
from flowrra_exporter.metrics.pacing import Pacer
from flowrra_exporter.metrics.samples import Number
from flowrra_exporter.web.failures import Failure
from flowrra_exporter.web.page import words
from flowrra_exporter.web.page.figures import Figures, quantile
from flowrra_exporter.web.page.html import Column, Html, element, join, row, table
from flowrra_exporter.web.page.view import View

# So many task names have a row; with more, those with the most attempts.
MOST_TASKS = 200
MOST_FAILURES = 10
# So many schedules have a row; with more, those that are due next.
MOST_SCHEDULES = 50
_MOST_EXCEPTIONS = 3
_OUTCOMES = ("success", "error")


def section(name: str, title: str, *content: str) -> Html:
    """A section with its heading. The script replaces those whose content has changed."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def notice(level: str, *text: str) -> Html:
    """A sentence that stands out."""
    return element("p", *text, class_=f"notice {level}")


def note(*text: str) -> Html:
    """What is said where there is nothing to show."""
    return element("p", *text, class_="note")


# ── at a glance ─────────────────────────────────────────────────────────────────────────────────────────────


def overview(view: View) -> Html:
    """The few figures that say whether all is well."""
    figures, rates = view.figures, view.rates
    pending = figures.total(catalog.QUEUE_PENDING)
    waiting = figures.number(catalog.TASKS_PENDING) if pending is None else pending
    lag = figures.distribution(catalog.EVENT_LOOP_LAG)
    failed = figures.total(catalog.TASKS_FAILED)
    tiles = (
        ("Waiting", words.count(waiting), _oldest(view)),
        (
            "Slots in use",
            words.count(figures.total(catalog.EXECUTOR_BUSY_WORKERS)),
            join(["of ", words.count(figures.total(catalog.EXECUTOR_WORKERS))]),
        ),
        (
            "Succeeded",
            words.rate(rates.total(catalog.TASKS_SUCCEEDED)),
            join([words.count(figures.total(catalog.TASKS_SUCCEEDED)), " in all"]),
        ),
        (
            "Failed for good",
            words.rate(rates.total(catalog.TASKS_FAILED)),
            join([words.count(failed), " in all, ", words.count(figures.total(catalog.TASKS_RETRIED)), " retried"]),
        ),
        (
            "Loop lag, p95",
            words.estimate(quantile(0.95, [lag])),
            _counted(figures.number(catalog.EVENT_LOOP_STALLS), "stall", "stalls"),
        ),
    )
    return _glance(tiles)


def shared_overview(view: View) -> Html:
    """The same for an app that other processes run: what they share."""
    figures = view.figures
    return _glance(
        (
            ("Waiting", words.count(figures.total(catalog.QUEUE_PENDING)), _oldest(view)),
            ("Delayed", words.count(figures.total(catalog.QUEUE_DELAYED)), "until a later time"),
            ("In flight", words.count(figures.total(catalog.QUEUE_IN_FLIGHT)), "taken by a worker"),
            ("Unknown", words.count(figures.total(catalog.QUEUE_UNKNOWN)), "no worker knows them"),
            ("Dead", words.count(figures.total(catalog.QUEUE_DEAD)), "set aside"),
            ("Worker processes", words.count(figures.number(catalog.WORKER_PROCESSES)), "that take tasks"),
        )
    )


def _glance(tiles: Iterable[tuple[str, str, str]]) -> Html:
    cells = [_tile(*tile) for tile in tiles]
    heading = element("h2", "At a glance", id="overview-title", class_="visually-hidden")
    return element("section", heading, element("dl", *cells), id="overview", aria_labelledby="overview-title")


def _tile(name: str, figure: str, detail: str) -> Html:
    values = [element("dd", figure, class_="figure"), element("dd", detail, class_="detail")]
    return element("div", element("dt", name), *values)


def _oldest(view: View) -> str:
    moments = view.figures.numbers(catalog.QUEUE_OLDEST_PENDING).values()
    if not moments:
        return "nothing waits" if view.figures.total(catalog.QUEUE_PENDING) == 0 else "for how long isn't known"
    return f"the oldest for {words.duration(max(0.0, view.at.timestamp() - min(moments)))}"


def _counted(value: Number | None, one: str, many: str) -> str:
    return join([words.count(value), f" {one if value == 1 else many}"])


# ── the app ─────────────────────────────────────────────────────────────────────────────────────────────────

_COMPONENTS = (Column("Component"), Column("State"), Column("Says"))
_EXECUTORS = (Column("Executor"), Column("State"), Column("Slots in use"), Column("Tasks known", True))
_QUEUES = (
    Column("Queue"),
    Column("Waiting", True),
    Column("Oldest waits", True),
    Column("Delayed", True),
    Column("In flight", True),
    Column("Unknown", True),
    Column("Dead", True),
    Column("State"),
)


def health(view: View) -> Html:
    """The components of the health check."""
    if not view.health:
        return section("health", "Health", note("No component is configured."))
    rows = [
        row(_COMPONENTS, (check.name, _state(check.ok, "healthy"), mask_secrets(check.message)))
        for check in view.health
    ]
    return section("health", "Health", table("As the health check found them.", _COMPONENTS, rows))


def executors(view: View) -> Html:
    """Executors with their slots."""
    figures = view.figures
    names = _labels(figures, catalog.EXECUTOR_RUNNING)
    if not names:
        return section("executors", "Executors", _nothing(view, "executors", "No executor yet: no task is registered."))
    rows = []
    for name in names:
        slots = _slots(figures, name)
        running = _state(bool(figures.number(catalog.EXECUTOR_RUNNING, name)), "running", "stopped")
        known = words.count(figures.number(catalog.TASKS_REGISTERED, name))
        rows.append(row(_EXECUTORS, (name, running, slots, known)))
    return section("executors", "Executors", table("Each slot runs a task at a time.", _EXECUTORS, rows, wide=True))


def _slots(figures: Figures, executor: str) -> Html:
    busy = figures.number(catalog.EXECUTOR_BUSY_WORKERS, executor)
    slots = figures.number(catalog.EXECUTOR_WORKERS, executor)
    text = element("span", words.count(busy), " of ", words.count(slots))
    if busy is None or not slots:
        return text
    share = f"{min(100.0, 100 * busy / slots):.1f}%"
    used = element("rect", width=share, height="100%", class_="used")
    return join([element("svg", used, class_="bar", aria_hidden="true", focusable="false"), text])


def queues(view: View) -> Html:
    """Queues: depth and age."""
    figures = view.figures
    places = sorted(figures.numbers(catalog.QUEUE_INFO))
    if not places:
        return section("queues", "Queues", _nothing(view, "queue", "No queue yet: no task is registered."))
    rows = [row(_QUEUES, _queue(view, executor, broker)) for executor, broker, *_ in places]
    caption = "A queue in memory is this process's own; any other is shared by all processes."
    return section("queues", "Queues", table(caption, _QUEUES, rows, wide=True))


def _queue(view: View, executor: str, broker: str) -> tuple[str, ...]:
    figures = view.figures
    pending = figures.number(catalog.QUEUE_PENDING, executor)
    oldest = figures.number(catalog.QUEUE_OLDEST_PENDING, executor)
    paused = figures.number(catalog.QUEUE_PAUSED, executor)
    age = words.UNKNOWN if pending != 0 else element("span", "none", class_="nothing")
    if oldest is not None:
        age = element("span", words.duration(max(0.0, view.at.timestamp() - oldest)))
    return (
        join([executor, _detail(f"in {broker}")]),
        words.count(pending),
        age,
        words.count(figures.number(catalog.QUEUE_DELAYED, executor)),
        words.count(figures.number(catalog.QUEUE_IN_FLIGHT, executor)),
        words.count(figures.number(catalog.QUEUE_UNKNOWN, executor)),
        words.count(figures.number(catalog.QUEUE_DEAD, executor)),
        words.UNKNOWN if paused is None else _state(not paused, "open", "paused"),
    )


# ── tasks ───────────────────────────────────────────────────────────────────────────────────────────────────

_TASKS = (
    Column("Task"),
    Column("Running", True),
    Column("Succeeded", True),
    Column("Failed", True),
    Column("Retried", True),
    Column("Run p50", True),
    Column("Run p95", True),
    Column("Wait p95", True),
)
_FAILURES = (Column("Task"), Column("Failed"), Column("After", True))


async def tasks(view: View) -> Html:
    """The tasks by name, with rates and quantiles."""
    names = _labels(view.figures, catalog.TASKS_STARTED)
    if not names:
        empty = "No task is registered yet. A function becomes one by @app.task()."
        return section("tasks", "Tasks", _nothing(view, "tasks", empty))
    shown = names if len(names) <= MOST_TASKS else _busiest(view.figures, names)
    pacer, rows = Pacer(), []
    exceptions = _exceptions(view.figures)
    for name in shown:
        rows.append(row(_TASKS, _task(view, name, exceptions.get(name, []))))
        await pacer.pause_if_due()
    content = [table(_tasks_caption(view), _TASKS, rows, wide=True)]
    if len(shown) < len(names):
        left = len(names) - len(shown)
        content.append(note(f"And {left:,} more; these are the {len(shown)} with the most attempts."))
    return section("tasks", "Tasks", *content)


def _task(view: View, name: str, exceptions: list[tuple[Number, str]]) -> tuple[str, ...]:
    figures = view.figures
    durations = [figures.distribution(catalog.TASK_RUN_DURATION, name, outcome) for outcome in _OUTCOMES]
    wait = [figures.distribution(catalog.TASK_QUEUE_WAIT, name)]
    return (
        join([name, *_raised(exceptions)]),
        words.count(figures.number(catalog.TASKS_RUNNING, name)),
        _counter(view, catalog.TASKS_SUCCEEDED, name),
        _counter(view, catalog.TASKS_FAILED, name),
        _counter(view, catalog.TASKS_RETRIED, name),
        words.estimate(quantile(0.5, durations)),
        words.estimate(quantile(0.95, durations)),
        words.estimate(quantile(0.95, wait)),
    )


def _counter(view: View, metric: Metric, task: str) -> Html:
    """The rate, and the total below it. What never happened is a plain 0, so that the rest stands out."""
    total = view.figures.number(metric, task)
    if total == 0:
        return element("span", "0", class_="nothing")
    rate = words.rate(view.rates.of(metric, task))
    return join([rate, _detail(words.count(total), " in all")])


def _raised(exceptions: list[tuple[Number, str]]) -> Iterable[Html]:
    if exceptions:
        most = sorted(exceptions, reverse=True)[:_MOST_EXCEPTIONS]
        text = ", ".join(f"{name} × {times:,.0f}" for times, name in most)  # noqa: RUF001 - the sign for "times"
        yield _detail(f"{text} and more" if len(exceptions) > len(most) else text)


def _exceptions(figures: Figures) -> dict[str, list[tuple[Number, str]]]:
    found: dict[str, list[tuple[Number, str]]] = {}
    for (task, exception), times in figures.numbers(catalog.TASK_EXCEPTIONS).items():
        if times:
            found.setdefault(task, []).append((times, exception))
    return found


def _busiest(figures: Figures, names: Sequence[str]) -> list[str]:
    started = figures.numbers(catalog.TASKS_STARTED)
    return sorted(sorted(names, key=lambda name: -started[(name,)])[:MOST_TASKS])


def _tasks_caption(view: View) -> str:
    seconds = view.rates.seconds
    window = "from the next refresh on" if seconds is None else f"over the last {words.duration(round(seconds))}"
    return (
        f"Attempts in this process. Rates are {window}; run and waiting times are estimates from histograms, "
        "since the app started."
    )


def failures(view: View, task_data: bool) -> Html:
    """The tasks that failed last. Their errors and arguments with ``task_data`` alone."""
    listing = view.failures
    if listing is None:
        return section("failures", "Recent failures", note("This app can't list its failed tasks."))
    content: list[Html] = []
    if listing.problem:
        content.append(notice("bad", f"No news of failures: {listing.problem}."))
    if listing.failures and listing.at is not None:
        shown = listing.failures[:MOST_FAILURES]
        caption = join(["The last of those whose results are kept, as of ", words.moment(listing.at, view.at), "."])
        rows = [row(_FAILURES, _failed(view, failure, task_data)) for failure in shown]
        content.append(table(caption, _FAILURES, rows, wide=True))
    elif not listing.problem:
        content.append(note("None among the results that are kept."))
    return section("failures", "Recent failures", *content)


def _failed(view: View, failure: Failure, task_data: bool) -> tuple[str, ...]:
    at = failure.finished_at
    when = words.UNKNOWN if at is None else join([words.moment(at, view.at), _detail(words.ago(at, view.at))])
    attempts = words.UNKNOWN if failure.retries is None else _counted(failure.retries + 1, "attempt", "attempts")
    what = [failure.task_name, _detail(element("code", failure.task_id))]
    if task_data:
        what += [
            _detail("given ", element("code", failure.arguments)),
            _detail("raised ", element("code", failure.error)),
        ]
    return join(what), when, attempts


# ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────

_SCHEDULES = (Column("Schedule"), Column("Next run", True), Column("Last run", True))


def schedules(view: View) -> Html | None:
    """The scheduler, and the schedules that repeat. None if the app has no scheduler, as far as is known."""
    figures = view.figures
    running = figures.number(catalog.SCHEDULER_RUNNING)
    if figures.number(catalog.COLLECTOR_SUCCESS, "scheduler") == 0:
        # Its own process knows whether it runs, its store what there is to be run.
        known = [] if running is None else [_facts([("Scheduler", _state(bool(running), "running", "stopped"))])]
        return section("schedules", "Schedules", *known, _nothing(view, "scheduler", ""))
    if running is None:
        return None
    overdue = figures.number(catalog.SCHEDULER_OVERDUE)
    broken = figures.number(catalog.SCHEDULER_BROKEN)
    facts = [
        ("Scheduler", _state(bool(running), "running", "stopped")),
        ("Enabled", words.count(figures.number(catalog.SCHEDULER_SCHEDULES, "enabled"))),
        ("Disabled", words.count(figures.number(catalog.SCHEDULER_SCHEDULES, "disabled"))),
        ("Overdue", words.count(overdue)),
        ("Broken", words.count(broken)),
        ("Lag, p95", words.estimate(quantile(0.95, [figures.distribution(catalog.SCHEDULER_LAG)]))),
    ]
    upcoming = sorted(figures.numbers(catalog.SCHEDULE_NEXT_RUN).items(), key=lambda each: each[1])
    if not upcoming:
        return section("schedules", "Schedules", _facts(facts))
    rows = [row(_SCHEDULES, _schedule(view, labels, due)) for labels, due in upcoming[:MOST_SCHEDULES]]
    listed = table("Enabled cron and interval schedules, the next one first.", _SCHEDULES, rows, wide=True)
    left = len(upcoming) - len(rows)
    more = [note(f"And {left:,} more, due later.")] if left else []
    return section("schedules", "Schedules", _facts(facts), listed, *more)


def _schedule(view: View, labels: tuple[str, ...], due: Number) -> tuple[str, ...]:
    name, task = labels
    following, last = _moment(due), view.figures.number(catalog.SCHEDULE_LAST_RUN, name, task)
    wait = (following - view.at).total_seconds()
    when = f"in {words.duration(wait)}" if wait >= 0 else f"overdue for {words.duration(-wait)}"
    ran = element("span", "never", class_="nothing")
    if last is not None:
        ran = join([words.moment(_moment(last), view.at), _detail(words.ago(_moment(last), view.at))])
    return (
        join([task, _detail(element("code", name))]),
        join([words.moment(following, view.at), _detail(when)]),
        ran,
    )


def _moment(seconds: Number) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _detail(*text: str) -> Html:
    return element("span", *text, class_="detail")


# ── what runs it ────────────────────────────────────────────────────────────────────────────────────────────

_COLLECTORS = (Column("Collector"), Column("State"), Column("Took", True))


def event_loop(view: View) -> Html:
    """How late the app's event loop is, and what blocked it last."""
    lag = view.figures.distribution(catalog.EVENT_LOOP_LAG)
    if lag is None:
        return section("event-loop", "Event loop", _nothing(view, "runtime", "Not measured yet."))
    facts = [
        ("Lag, p50", words.estimate(quantile(0.5, [lag]))),
        ("Lag, p95", words.estimate(quantile(0.95, [lag]))),
        ("Stalls of more than a second", words.count(view.figures.number(catalog.EVENT_LOOP_STALLS))),
        ("Last stall", _last_stall(view)),
    ]
    return section("event-loop", "Event loop", _facts(facts))


def _last_stall(view: View) -> str:
    stall = view.last_stall
    if stall is None:
        return "none"
    when = [] if stall.at is None else [words.moment(stall.at, view.at), f", {words.ago(stall.at, view.at)}"]
    return join([*when, f", for {words.duration(stall.seconds)}", _detail(join(_culprit(stall)))])


def _culprit(stall: Stall) -> Iterable[str]:
    if stall.task:
        yield join(["by task ", element("code", stall.task), " "])
    if stall.line:
        yield join(["at ", element("code", stall.line)])


def blocked(stall: Stall) -> Html:
    """What is said while the app's event loop is blocked."""
    return notice(
        "bad",
        element("strong", f"The app's event loop has been blocked for {words.duration(stall.seconds)} "),
        *_culprit(stall),
        " Until it turns again no task gets on, and what has to be asked on it is not known.",
    )


def exporter(view: View, max_series: int | None) -> Html:
    """Collectors, and how much there is to scrape. ``max_series`` is None without a limit."""
    figures = view.figures
    rows = []
    for (name,), success in sorted(figures.numbers(catalog.COLLECTOR_SUCCESS).items()):
        seconds = figures.number(catalog.COLLECTOR_DURATION, name)
        took = words.UNKNOWN if seconds is None else words.duration(seconds)
        rows.append(row(_COLLECTORS, (name, _state(bool(success), "works"), took)))
    series = words.count(figures.number(catalog.EXPORTER_SERIES))
    facts = [
        ("Time series", series if max_series is None else join([series, f" of at most {max_series:,}"])),
        ("Left out", words.count(figures.number(catalog.EXPORTER_SERIES_DROPPED))),
    ]
    caption = "Where the figures come from. Those of a collector that fails are absent; the log says why."
    return section("exporter", "Collectors", table(caption, _COLLECTORS, rows), _facts(facts))


def _facts(facts: Iterable[tuple[str, str]]) -> Html:
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in facts]
    return element("dl", *pairs, class_="facts")


def _state(ok: bool, good: str, bad: str = "failing") -> Html:
    return element("span", good if ok else bad, class_=f"state {'good' if ok else 'bad'}")


def _labels(figures: Figures, metric: Metric) -> list[str]:
    return sorted(label for label, *_ in figures.numbers(metric))


def _nothing(view: View, collector: str, empty: str) -> Html:
    """Why there is nothing to show: the source failed, or the app doesn't have it, or it's simply empty."""
    success = view.figures.number(catalog.COLLECTOR_SUCCESS, collector)
    if success is None:
        return note("This app doesn't tell.")
    if not success:
        return notice("bad", f"Not known at the moment: the collector “{collector}” failed.")
    return note(empty)
