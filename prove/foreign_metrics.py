"""Collectors that raise, hang, yield nonsense and come and go: what they cost is their own metrics, in every format.

The variable `FOREIGN_METRICS_SECONDS` makes it shorter, to try it out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from prove.proof import Proof
from prove.targets.foreign import GOOD
from prove.traffic import Served
from tests.end_to_end.processes import Prometheus
from tests.exporter.conftest import fetch
from tests.exporter.otel.receivers import HttpReceiver, Inbox, streams

TITLE = (
    "40 registered collectors that misbehave for 10 minutes beside 10 good ones: all good ones and Flowrra's are served"
)
SECONDS = float(os.environ.get("FOREIGN_METRICS_SECONDS", "600"))
PAUSE = 1.0
SCRAPE_TIMEOUT = "5"
SETTLING = 0.3
"""The part of the time after which memory is to be flat: by then each has hung that hangs."""
GROWTH = 1.05
THREADS = 40
OURS = ("flowrra_healthy", "flowrra_app_running", "flowrra_tasks_running", "process_resident_memory_bytes")
PUSHED = ("flowrra.healthy", "flowrra.app.running", "process_resident_memory_bytes")
FORMATS: dict[str, tuple[str, Callable[[str], Iterable[Any]]]] = {
    "text": ("text/plain;version=0.0.4", parse_text),
    "OpenMetrics": ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
}


def run(proof: Proof) -> None:
    if shutil.which("prometheus") is None:
        proof.not_shown("it takes Prometheus.")
        return
    inbox = Inbox()
    receiver = HttpReceiver(inbox)
    flags = (
        "--otel.metrics",
        f"--otel.endpoint={receiver.endpoint}",
        "--otel.interval=2",
        "--collector.python-timeout=2",
    )
    try:
        with Served("prove.targets.foreign:make", *flags) as served, tempfile.TemporaryDirectory() as folder:
            _observe(proof, served, inbox, Path(folder))
    finally:
        receiver.close()


def _observe(proof: Proof, served: Served, inbox: Inbox, folder: Path) -> None:
    patience = {"scrape_interval": "5s", "scrape_timeout": "5s"}
    proof.line(f"for {SECONDS:g} s")
    prometheus = Prometheus({"foreign": served.url.removeprefix("http://")}, folder, options={"foreign": patience})
    over = threading.Event()
    scrapers = {name: _Scraper(served.url, accept, parse, over) for name, (accept, parse) in FORMATS.items()}
    pushes = _Pushes(inbox, over)
    megabytes: list[float] = []
    threads: list[int] = []
    began = time.time()
    try:
        prometheus.wait_for_scrapes()
        watched = time.time()
        for each in (*scrapers.values(), pushes):
            each.start()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            time.sleep(PAUSE)
            megabytes.append(served.megabytes())
            threads.append(len(list(Path(f"/proc/{served.process.pid}/task").iterdir())))
        over.set()
        for each in (*scrapers.values(), pushes):
            each.join()
        up = prometheus.query_range("up", watched, time.time())
        good = [name for name in GOOD if prometheus.query(name)]
    finally:
        over.set()
        prometheus.close()
    _report(proof, scrapers, pushes)
    proof.truth("Prometheus keeps the target up throughout", bool(up) and all(set(each) == {1.0} for each in up))
    proof.truth("Prometheus has all good metrics", good == GOOD, f"{len(good)} of {len(GOOD)}")
    _report_memory(proof, megabytes, threads)
    lines = len(served.out)
    proof.truth("the log stays short", lines < 1000, f"{lines} lines in {time.time() - began:.0f} s")


def _report(proof: Proof, scrapers: dict[str, _Scraper], pushes: _Pushes) -> None:
    for name, scraper in scrapers.items():
        slowest = max(scraper.seconds, default=0.0)
        proof.line(
            f"{name}: {len(scraper.seconds)} scrapes, slowest {slowest:.2f} s, {scraper.series} series in the last"
        )
        missing = "; ".join(scraper.missing[:3]) or "none missing"
        proof.truth(f"each scrape of {name} has all good metrics and Flowrra's", not scraper.missing, missing)
        proof.truth(f"there were scrapes of {name}", len(scraper.seconds) > SECONDS / 10)
    proof.line(f"OTLP: {pushes.count} pushes")
    missing = "; ".join(pushes.missing[:3]) or "none missing"
    proof.truth("each push over OTLP has all good metrics and Flowrra's", not pushes.missing, missing)
    proof.truth("there were pushes", pushes.count > SECONDS / 20)


def _report_memory(proof: Proof, megabytes: list[float], threads: list[int]) -> None:
    settled = megabytes[int(SETTLING * len(megabytes)) :]
    third = max(1, len(settled) // 3)
    first, last = statistics.median(settled[:third]), statistics.median(settled[-third:])
    proof.truth("memory is flat", last < GROWTH * first, f"{first:.1f} MB, then {last:.1f} MB")
    proof.truth("threads don't pile up", max(threads) < THREADS, f"{max(threads)} at most, {threads[-1]} at the end")


class _Scraper(threading.Thread):
    """Scrapes in one format over and over, and notes what is missing."""

    def __init__(self, url: str, accept: str, parse: Callable[[str], Iterable[Any]], over: threading.Event) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.missing: list[str] = []
        self.series = 0
        self._url, self._accept, self._parse, self._over = url, accept, parse, over

    def run(self) -> None:
        while not self._over.wait(PAUSE):
            try:
                self._scrape()
            except Exception as error:  # whatever is wrong with an answer, it's the finding
                self.missing.append(f"{type(error).__name__}: {str(error)[:200]}")

    def _scrape(self) -> None:
        answer = fetch(self._url, Accept=self._accept, X_Prometheus_Scrape_Timeout_Seconds=SCRAPE_TIMEOUT)
        self.seconds.append(answer.seconds)
        samples = [sample for family in self._parse(answer.text) for sample in family.samples]
        self.series = len(samples)
        values = {sample.name: sample.value for sample in samples if not sample.labels or sample.name in OURS}
        self.missing += [
            f"{name} is {values.get(name)}" for number, name in enumerate(GOOD) if values.get(name) != number
        ]
        self.missing += [f"no {name}" for name in OURS if name not in values]
        if values.get("flowrra_healthy") != 1:
            self.missing.append(f"flowrra_healthy is {values.get('flowrra_healthy')}")


class _Pushes(threading.Thread):
    """Takes what was pushed, and notes what is missing in it."""

    def __init__(self, inbox: Inbox, over: threading.Event) -> None:
        super().__init__()
        self.count = 0
        self.missing: list[str] = []
        self._inbox, self._over = inbox, over

    def run(self) -> None:
        while not self._over.wait(PAUSE):
            requests, self._inbox.requests = self._inbox.requests, []
            for request in requests:
                self.count += 1
                found = {name: each for (name, _), each in streams(request).items()}
                self.missing += [
                    name for number, name in enumerate(GOOD) if name not in found or found[name].value != number
                ]
                self.missing += [name for name in PUSHED if name not in found]
