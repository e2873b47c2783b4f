"""PromQL over the exporter's catalog: series are chosen by job and instance, and by task or queue where they have one.

Three kinds of figures, and how each is added up:

* of a process: over processes, whatever job they are in;
* shared through a broker or a store: once for each broker or store, however many processes and jobs tell it;
* of what isn't there any more: not at all. What is asked for now is asked as an instant query, in which a target that
  can't be scraped has no series.
"""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric

TARGET = 'job=~"$job",instance=~"$instance"'
# What counters are looked at for: around each point in time, or the whole range as of its end.
AROUND = "[$__rate_interval]"
WHOLE = "[$__range] @ end()"
# For so long a target that has been an exporter is one, be it that it can't be scraped any more.
REMEMBERED = "7d"
# What lasts less is no trouble.
WHILE = "1m"
# How many names have a line of their own.
MOST_LINES = 7
# The value of what isn't there, far below all that are.
NOTHING = -1_000_000

# How a queue is called that `queued` has found: in memory by its job, else by its server and namespace.
QUEUE_LEGEND = "{{job}}{{server}} {{namespace}} {{executor}} {{queue}}"

_PROCESS = "job, instance"
_QUEUE = "server, namespace, executor, queue"


def series(metric: Metric | str, *matchers: str, suffix: str = "") -> str:
    """The series of a metric within what is chosen at the top of the dashboard.

    Args:
        metric: From the catalog; the bare name for a metric that isn't Flowrra's.
        *matchers: Further label matchers, such as ``outcome="success"``.
        suffix: ``_bucket``, ``_sum`` or ``_count`` of a histogram.
    """
    name, labels = (metric, ()) if isinstance(metric, str) else (metric.name, metric.labels)
    chosen = [TARGET, *(f'{label}=~"${label}"' for label in ("task", "queue") if label in labels)]
    return f"{name}{suffix}{{{','.join([*chosen, *matchers])}}}"


# ── targets ─────────────────────────────────────────────────────────────────────────────────────────────────────


def targets() -> str:
    """1 for each exporter that could be scraped, 0 for each that could not, of jobs with exporters."""
    return f"({series('up')} and on (job) present_over_time({series(catalog.EXPORTER_INFO)}[{REMEMBERED}]))"


def targets_with_app() -> str:
    """The same, of those that run an app: an observer has no health of its own."""
    return f"({series('up')} and on ({_PROCESS}) present_over_time({series(catalog.HEALTHY)}[{REMEMBERED}]))"


def blocked() -> str:
    """The apps that don't answer, though their exporter does: their event loop doesn't turn."""
    failed = series(catalog.COLLECTOR_SUCCESS, 'collector="health"')
    return f"(({series(catalog.HEALTHY)} == 0) and on ({_PROCESS}) ({failed} == 0))"


def of_exporters(name: str) -> str:
    """A metric that processes of any kind have, of exporters only."""
    return f"({series(name)} and on ({_PROCESS}) {series(catalog.EXPORTER_INFO)})"


def n_of_m(part: str, whole: str, otherwise: str) -> str:
    """How many are as they should be, as labels: ``n`` of ``m``. Its value is what is missing, below 0.

    Args:
        part, whole: Two figures without labels.
        otherwise: The label ``n`` where there are no such figures; the value is then far below.
    """
    of = f'label_replace(count_values("m", {whole}), "m", "of $1", "m", "(.+)")'
    labels = f'count_values("n", {part}) * on () group_left (m) {of}'
    nothing = f'label_replace(vector({NOTHING}), "n", "{otherwise}", "", "")'
    return f"({part} - {whole}) * on () group_left (n, m) ({labels}) or on () {nothing}"


def or_none(figure: str, witness: str, value: int = 0) -> str:
    """A figure that is absent if there is none of it; then this value, as long as somebody is there to say so.

    Args:
        figure: Without labels.
        witness: What is there if figures can be had at all.
        value: What stands for none.
    """
    none = f"0 * count({witness})" + (f" + {value}" if value > 0 else f" - {-value}" if value else "")
    return f"{figure} or ({none})"


def of_range(figure: str) -> str:
    """How often something happened within the whole range, also in processes that are gone; absent if none answers."""
    return f"round({figure}) and on () ({targets()} == 1)"


# ── figures of processes ────────────────────────────────────────────────────────────────────────────────────────


def total(metric: Metric, *by: str) -> str:
    """A gauge, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}({series(metric)})"


def most(metric: Metric | str, *by: str) -> str:
    """The greatest value over processes, by these labels: of flags, whether any is set."""
    return f"{_aggregate('max', by)}({series(metric)})"


def least(metric: Metric, *by: str) -> str:
    """The least value over processes, by these labels: of flags, whether all are set."""
    return f"{_aggregate('min', by)}({series(metric)})"


def rate(metric: Metric, *by: str) -> str:
    """How much a counter grows in a second, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}(rate({series(metric)}{AROUND}))"


def rate_now(metric: Metric, *by: str, suffix: str = "") -> str:
    """The same, of processes that can still be scraped."""
    grown = f"rate({series(metric, suffix=suffix)}{AROUND})"
    return f"{_aggregate('sum', by)}({grown} and on ({_PROCESS}) ({series('up')} == 1))"


def increase(metric: Metric, *by: str, within: str = AROUND) -> str:
    """How much a counter grew around a point in time or within a range, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}(increase({series(metric)}{within}))"


def ratio(part: str, whole: str) -> str:
    """One figure as a fraction of another; nothing where that is 0."""
    return f"{part} / ({whole} > 0)"


def quantile(fraction: float, metric: Metric, *matchers: str, by: tuple[str, ...] = (), within: str = AROUND) -> str:
    """A quantile of a histogram over all processes, by these labels; nothing where it saw nothing.

    See https://prometheus.io/docs/practices/histograms/#quantiles: it is interpolated within a bucket. Of an empty
    histogram it is not a number, which the comparison leaves out.
    """
    return f"histogram_quantile({fraction}, {_buckets(metric, *matchers, by=by, within=within)}) >= 0"


def buckets(metric: Metric, *matchers: str) -> str:
    """How many observations fell into each bucket around a point in time, over all processes."""
    return f"sum by (le) (increase({series(metric, *matchers, suffix='_bucket')}{AROUND}))"


def _buckets(metric: Metric, *matchers: str, by: tuple[str, ...], within: str) -> str:
    grown = f"increase({series(metric, *matchers, suffix='_bucket')}{within})"
    return f"sum by ({', '.join(('le', *by))}) ({grown})"


def mean(metric: Metric, *matchers: str, by: tuple[str, ...] = (), within: str = AROUND) -> str:
    """The mean of what a histogram saw, over all processes, by these labels; nothing where it saw nothing."""
    seconds, count = (
        f"{_aggregate('sum', by)}(increase({series(metric, *matchers, suffix=suffix)}{within}))"
        for suffix in ("_sum", "_count")
    )
    return ratio(seconds, count)


def age(metric: Metric, *by: str) -> str:
    """Seconds since the earliest of these timestamps, by these labels; nothing where there is none."""
    return f"time() - {_aggregate('min', by)}({series(metric)})"


# ── a few names of many ─────────────────────────────────────────────────────────────────────────────────────────


def foremost(metric: Metric, suffix: str = "") -> str:
    """The few names of tasks of which a counter grew most within the whole range."""
    grown = f"increase({series(metric, suffix=suffix)}{WHOLE})"
    return f"topk({MOST_LINES}, sum by (task) ({grown}) > 0)"


def of_foremost(figure: str, metric: Metric, suffix: str = "") -> str:
    """A figure by task, of those names."""
    return f"{figure} and on (task) {foremost(metric, suffix)}"


def of_others(figure: str, metric: Metric, suffix: str = "") -> str:
    """A figure by task, added up over all other names."""
    return f"sum({figure} unless on (task) {foremost(metric, suffix)})"


def slowest(fraction: float, metric: Metric, *matchers: str) -> str:
    """A quantile by task, of the few names for which it was highest within the whole range."""
    ranking = quantile(fraction, metric, *matchers, by=("task",), within=WHOLE)
    return f"{quantile(fraction, metric, *matchers, by=('task',))} and on (task) topk({MOST_LINES}, {ranking})"


# ── figures that are shared ─────────────────────────────────────────────────────────────────────────────────────


# Where a queue or a broker is: at a server that all its processes name, at a broker of the user's own that tells no
# server, or in memory.
_AT_SERVER, _ELSEWHERE, _IN_MEMORY = 'server!=""', 'broker!="memory",server=""', 'broker="memory"'


def queued(metric: Metric, own: str = "sum") -> str:
    """A figure of the queues, by where they are, executor and queue.

    Queues in memory are each process's own, and become one by job. A queue at a broker is the same one for every
    process that shares its server and namespace: it counts once. Of brokers that tell no server, it does so by job.

    Args:
        metric: From the catalog.
        own: How the figures of queues in memory become one.
    """
    return _by_queue(series(metric), own, "max")


def taken() -> str:
    """How many tasks are taken from each queue in a second, by whichever process."""
    return _by_queue(f"rate({series(catalog.QUEUE_TAKEN)}{AROUND})", "sum", "max")


def oldest() -> str:
    """When the task that waits longest became due, by queue, as ``queued`` has them."""
    return _by_queue(series(catalog.QUEUE_OLDEST_PENDING), "min", "min")


def oldest_to_take() -> str:
    """The same, but for queues of which nothing is begun, by request."""
    paused = f"unless on ({_PROCESS}, executor, queue) {series(catalog.QUEUE_PAUSED)} == 1"
    return _by_queue(f"({series(catalog.QUEUE_OLDEST_PENDING)} {paused})", "min", "min")


def busiest() -> str:
    """Of the slots of those who take from a queue, how many are busy, of the queue of which most are.

    A process that doesn't tell from which queues it takes, takes from all that it tells of.
    """
    executor = f"on ({_PROCESS}, executor)"
    # Whatever queues are chosen: one that takes from others alone tells so.
    tells = f"{catalog.EXECUTOR_QUEUE_INFO.name}{{{TARGET}}}"
    told, seen = series(catalog.EXECUTOR_QUEUE_INFO), series(catalog.QUEUE_INFO)
    queues = f"({told} or {seen} unless {executor} {tells})"
    shared = f"group by ({_PROCESS}, executor, queue) {queues} * {executor} group_left ()"
    # Those that begin nothing by request have no slot to give.
    slots = f"{series(catalog.EXECUTOR_WORKERS)} > 0 unless {series(catalog.EXECUTOR_DRAINING)} == 1"
    busy = series(catalog.EXECUTOR_BUSY_WORKERS)
    taking, all_slots = (f"{shared} max by ({_PROCESS}, executor) ({each})" for each in (f"{busy} and {slots}", slots))
    return f"max({_by_taker(taking)} / {_by_taker(all_slots)})"


def _by_taker(figure: str) -> str:
    shared, own = (
        f"{figure} * on ({_PROCESS}) group_left (server, namespace)"
        f" {_once(series(catalog.QUEUE_INFO, place), _PROCESS, 'server', 'namespace')}"
        for place in (_AT_SERVER, 'server=""')
    )
    return f"(sum by ({_QUEUE}) ({shared}) or sum by ({_PROCESS}, executor, queue) ({own}))"


def _by_queue(figure: str, own: str, shared: str) -> str:
    at_server, elsewhere, in_memory = (_placed(figure, place) for place in (_AT_SERVER, _ELSEWHERE, _IN_MEMORY))
    return (
        f"({own} by (job, executor, queue) ({in_memory})"
        f" or {shared} by (job, namespace, executor, queue) ({elsewhere})"
        f" or {shared} by ({_QUEUE}) ({at_server}))"
    )


def _placed(figure: str, place: str) -> str:
    queue = f"{_PROCESS}, executor, queue"
    info = _once(series(catalog.QUEUE_INFO, place), queue, "server", "namespace")
    return f"{figure} * on ({queue}) group_left (server, namespace) {info}"


def by_broker(metric: Metric, *by: str) -> str:
    """A figure that all processes of a broker see alike, by broker; in memory each process has its own."""
    at_server, elsewhere, in_memory = (
        f"{series(metric)} * on ({_PROCESS}) group_left (server, namespace) {_brokers(place)}"
        for place in (_AT_SERVER, _ELSEWHERE, _IN_MEMORY)
    )
    return (
        f"(max by ({', '.join(('server', 'namespace', *by))}) ({at_server})"
        f" or max by ({', '.join(('job', 'namespace', *by))}) ({elsewhere})"
        f" or sum by ({', '.join(('job', *by))}) ({in_memory}))"
    )


def _brokers(place: str) -> str:
    # Not narrowed down to the queues that are chosen: a process has one broker for all of them.
    return _once(f"{catalog.QUEUE_INFO.name}{{{TARGET},{place}}}", _PROCESS, "server", "namespace")


def sum_unless_none(figure: str) -> str:
    """A number over all brokers or stores; 0 as soon as one of them has none, however many others have.

    Args:
        figure: The number of each.
    """
    return f"min({figure}) == 0 or sum({figure})"


def running_schedulers() -> str:
    """How many processes run the scheduler, by store; in memory by job."""
    shared, own = (_stored(series(catalog.SCHEDULER_RUNNING), match) for match in ("!=", "="))
    return f"(sum by (store) ({shared}) or sum by (job) ({own}))"


def by_store(metric: Metric, *by: str, own: str = "sum", shared: str = "max") -> str:
    """A figure that the processes of a store of schedules share, by store; in memory each process has its own.

    Args:
        metric: From the catalog.
        *by: Further labels.
        own: How the figures of stores in memory become one, by job.
        shared: How those of one store do, where each process tells of the tasks that it knows.
    """
    return _once_for_each_store(series(metric), *by, own=own, shared=shared)


def broken() -> str:
    """Schedules that can't run, by store: but for those whose task another process of the store knows."""
    # Whatever tasks are chosen: the number is of all schedules.
    # A schedule that is marked, as its row can't be read, has no next run: whoever knows its task, it is broken.
    tasks, schedules = (f"{metric.name}{{{TARGET}}}" for metric in (catalog.TASKS_RUNNING, catalog.SCHEDULE_NEXT_RUN))
    # Stores in memory are each process's own.
    info = series(catalog.SCHEDULER_INFO, 'store!=""')
    store = f"* on ({_PROCESS}) group_left (store) {_once(info, _PROCESS, 'store')}"
    # An observer tells of no tasks: what it doesn't know isn't known.
    unknown = f"({schedules} and on ({_PROCESS}) {tasks} unless on ({_PROCESS}, task) {tasks})"
    elsewhere = f"count by ({_PROCESS}) ({unknown} {store} and on (store, task) ({tasks} {store}))"
    told = series(catalog.SCHEDULER_BROKEN)
    return _once_for_each_store(f"({told} - on ({_PROCESS}) group_left () {elsewhere} or {told})", shared="min")


def overdue() -> str:
    """Schedules that have been overdue for a while, by store: each is for a moment, until a scheduler has taken it."""
    return _once_for_each_store(f"min_over_time({series(catalog.SCHEDULER_OVERDUE)}[{WHILE}])")


def _once_for_each_store(figure: str, *by: str, own: str = "sum", shared: str = "max") -> str:
    once = f"{shared} by ({', '.join(('store', *by))}) ({_stored(figure, '!=')})"
    return f"({once} or {own} by ({', '.join(('job', *by))}) ({_stored(figure, '=')}))"


def _stored(figure: str, match: str) -> str:
    info = _once(series(catalog.SCHEDULER_INFO, f'store{match}""'), _PROCESS, "store")
    return f"{figure} * on ({_PROCESS}) group_left (store) {info}"


def _once(info: str, on: str, *told: str) -> str:
    """What an info tells of each process, once: a target whose labels change, or whose address another one has by now,
    is there twice for a while, and Prometheus joins nothing to two, at no time of a range."""
    return f"topk by ({on}) (1, max by ({', '.join((on, *told))}) ({info}))"


def by_schedule(metric: Metric) -> str:
    """A time of each schedule, once for each store, with what the schedule is for and when it runs. Of those that
    processes have in their memory under one id it is the earliest: that of the process that is furthest behind."""
    schedule = f"{_PROCESS}, schedule, task"
    info = _once(series(catalog.SCHEDULE_INFO), schedule, "description", "runs")
    described = f"on ({schedule}) group_left (description, runs) {info}"
    labels = "task, description, runs, schedule, store"
    shared, own = (_stored(f"{series(metric)} * {described}", match) for match in ("!=", "="))
    return f"(max by ({labels}) ({shared}) or min by ({labels}) ({own}))"


def _aggregate(operator: str, by: tuple[str, ...]) -> str:
    return f"{operator} by ({', '.join(by)}) " if by else operator
