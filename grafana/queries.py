"""PromQL over the exporter's catalog: every series is chosen by job and instance, and by task where it has one."""

from __future__ import annotations

from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.catalog import Metric

TARGET = 'job=~"$job",instance=~"$instance"'


def series(metric: Metric | str, *matchers: str, suffix: str = "") -> str:
    """The series of a metric within what is chosen at the top of the dashboard.

    Args:
        metric: From the catalog; the bare name for a metric that isn't Flowrra's.
        *matchers: Further label matchers, such as ``outcome="success"``.
        suffix: ``_bucket``, ``_sum`` or ``_count`` of a histogram.
    """
    name, labels = (metric, ()) if isinstance(metric, str) else (metric.name, metric.labels)
    chosen = [TARGET, 'task=~"$task"'] if "task" in labels else [TARGET]
    return f"{name}{suffix}{{{','.join([*chosen, *matchers])}}}"


def total(metric: Metric, *by: str) -> str:
    """A gauge, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}({series(metric)})"


def rate(metric: Metric, *by: str) -> str:
    """How much a counter grows in a second, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}(rate({series(metric)}[$__rate_interval]))"


def increase(metric: Metric, *by: str) -> str:
    """How much a counter grew around a point in time, added up over processes, by these labels."""
    return f"{_aggregate('sum', by)}(increase({series(metric)}[$__rate_interval]))"


def quantile(fraction: float, metric: Metric, *matchers: str, by: tuple[str, ...] = ()) -> str:
    """A quantile of a histogram over all processes, by these labels; nothing where it saw nothing.

    See https://prometheus.io/docs/practices/histograms/#quantiles: it is interpolated within a bucket. Of an empty
    histogram it is not a number, which the comparison leaves out.
    """
    buckets = series(metric, *matchers, suffix="_bucket")
    return f"histogram_quantile({fraction}, sum by ({', '.join(('le', *by))}) (rate({buckets}[$__rate_interval]))) >= 0"


def mean(metric: Metric, *matchers: str, by: tuple[str, ...] = ()) -> str:
    """The mean of what a histogram saw, over all processes, by these labels; nothing where it saw nothing."""
    seconds, count = (
        f"{_aggregate('sum', by)}(rate({series(metric, *matchers, suffix=suffix)}[$__rate_interval]))"
        for suffix in ("_sum", "_count")
    )
    return f"{seconds} / ({count} > 0)"


def ratio(part: str, whole: str) -> str:
    """One figure as a fraction of another; nothing where that is 0."""
    return f"{part} / ({whole} > 0)"


def queued(metric: Metric) -> str:
    """A figure of the queues, by executor.

    Queues in memory are each process's own, and are added up. A queue at a broker is the same one for every process
    that shares its namespace: it counts once.
    """
    own, shared = (_of_queues(metric, f'broker{match}"memory"') for match in ("=", "!="))
    once = f"max by (executor, broker, namespace) ({shared})"
    return f"sum by (executor) ({own}) or sum by (executor) ({once})"


def _of_queues(metric: Metric, matcher: str) -> str:
    info = series(catalog.QUEUE_INFO, matcher)
    return f"{series(metric)} * on (job, instance, executor) group_left (broker, namespace) {info}"


def age(metric: Metric, *by: str) -> str:
    """Seconds since the earliest of these timestamps, by these labels; nothing where there is none."""
    return f"time() - {_aggregate('min', by)}({series(metric)})"


def once(metric: Metric, *by: str) -> str:
    """A figure that all processes of a job see alike, added up over jobs, by these labels."""
    return f"{_aggregate('sum', by)}(max by ({', '.join(('job', *by))}) ({series(metric)}))"


def until(metric: Metric, *by: str) -> str:
    """Seconds until the earliest of these timestamps, by these labels; below 0 once it has passed."""
    return f"{_aggregate('min', by)}({series(metric)}) - time()"


def since(metric: Metric, *by: str) -> str:
    """Seconds since the latest of these timestamps, by these labels; nothing where there is none."""
    return f"time() - {_aggregate('max', by)}({series(metric)})"


def least(metric: Metric, *by: str) -> str:
    """The least value over processes, by these labels: of flags, whether all are set."""
    return f"{_aggregate('min', by)}({series(metric)})"


def _aggregate(operator: str, by: tuple[str, ...]) -> str:
    return f"{operator} by ({', '.join(by)}) " if by else operator
