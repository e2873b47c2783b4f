"""Exemplars: the last sampled attempt of each bucket, readable from any thread."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from flowrra_exporter.metrics.exemplars import Exemplar, Exemplars
from prometheus_client.openmetrics.parser import text_string_to_metric_families

MAIL = ("mail", "success")
BOUNDS = (0.1, 1.0)


def test_each_bucket_has_the_last_one_that_fell_into_it() -> None:
    exemplars = Exemplars(BOUNDS)
    first, second, large = Exemplar(1, 1, 0.1, 10.0), Exemplar(2, 2, 0.05, 11.0), Exemplar(3, 3, 7.0, 12.0)
    for exemplar in (first, second, large):
        exemplars.keep(MAIL, exemplar)
    assert exemplars.of(MAIL, BOUNDS) == (second, None, large)
    assert exemplars.of(("mail", "error"), BOUNDS) is None


def test_a_value_at_a_bound_belongs_to_its_bucket() -> None:
    exemplars = Exemplars(BOUNDS)
    exemplars.keep(MAIL, Exemplar(1, 1, 0.1, 10.0))
    assert [found is not None for found in exemplars.of(MAIL, BOUNDS) or ()] == [True, False, False]


def test_with_other_bounds_each_stands_where_its_value_belongs() -> None:
    exemplars = Exemplars(BOUNDS)
    older, newer = Exemplar(1, 1, 0.5, 10.0), Exemplar(2, 2, 0.05, 11.0)
    exemplars.keep(MAIL, newer)
    exemplars.keep(MAIL, older)
    assert exemplars.of(MAIL, (0.01, 0.9, 2.0)) == (None, newer, None, None)


def test_it_is_valid_openmetrics() -> None:
    exemplar = Exemplar(0xABC, 0xDEF, 0.25, 1_700_000_000.5)
    text = (
        "# TYPE run_seconds histogram\n# UNIT run_seconds seconds\n"
        f'run_seconds_bucket{{le="1.0"}} 1{exemplar.openmetrics()}\n'
        'run_seconds_bucket{le="+Inf"} 1\nrun_seconds_count 1\nrun_seconds_sum 0.25\n# EOF\n'
    )
    (family,) = text_string_to_metric_families(text)
    found = family.samples[0].exemplar
    assert found is not None
    assert found.labels == {"trace_id": f"{0xABC:032x}", "span_id": f"{0xDEF:016x}"}
    assert (found.value, float(found.timestamp)) == (0.25, 1_700_000_000.5)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """The interpreter goes from one thread to the other as often as it can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hasty_threads")
def test_it_can_be_read_while_another_thread_writes() -> None:
    exemplars = Exemplars(BOUNDS)
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            exemplars.keep(MAIL, Exemplar(number, number, number % 3 * 0.6, float(number)))
            if done.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    seen: set[Exemplar | None] = set()
    deadline = time.monotonic() + 20
    try:
        while len(seen) < 500 and time.monotonic() < deadline:
            for index, found in enumerate(exemplars.of(MAIL, BOUNDS) or ()):
                assert found is None or (found.trace_id == found.span_id == found.timestamp)
                assert found is None or found.value == index * 0.6
                seen.add(found)
    finally:
        done.set()
        writer.join()
    assert len(seen) >= 500, "nothing was written while it was read"


def test_what_was_read_stays_as_it_was() -> None:
    exemplars = Exemplars(BOUNDS)
    exemplars.keep(MAIL, Exemplar(1, 1, 0.1, 1.0))
    found = exemplars.of(MAIL, BOUNDS)
    assert found is not None
    before = list(found)
    exemplars.keep(MAIL, Exemplar(2, 2, 0.1, 2.0))
    assert list(found) == before
