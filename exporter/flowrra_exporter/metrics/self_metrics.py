"""What the exporter knows about itself and about the collection at hand.

Has no source of its own that could fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowrra_exporter._version import __version__
from flowrra_exporter.log_writer import dropped_records
from flowrra_exporter.metrics import catalog
from flowrra_exporter.metrics.samples import AnyFamily, Family, series_of


def self_families(
    mode: str, outcomes: Iterable[tuple[str, bool, float]], families: Sequence[AnyFamily], dropped: int
) -> list[Family]:
    """The families about a collection.

    Args:
        mode: What flowrra_exporter_info says.
        outcomes: Each collector's name, success and duration in seconds.
        families: What the collectors made. The number of series includes the families made here.
        dropped: The number of time series left out.
    """
    success, duration = Family(catalog.COLLECTOR_SUCCESS), Family(catalog.COLLECTOR_DURATION)
    for name, succeeded, seconds in outcomes:
        success.points.append(((name,), int(succeeded)))
        duration.points.append(((name,), seconds))
    info = Family(catalog.EXPORTER_INFO, [((__version__, mode), 1)])
    left_out = Family(catalog.EXPORTER_SERIES_DROPPED, [((), dropped)])
    count = Family(catalog.EXPORTER_SERIES)
    own = [info, success, duration, left_out, count, *_log_families()]
    count.points.append(((), 1 + sum(map(series_of, (*families, *own)))))
    return own


def _log_families() -> list[Family]:
    dropped = dropped_records()
    return [] if dropped is None else [Family(catalog.LOG_RECORDS_DROPPED, [((), dropped)])]
