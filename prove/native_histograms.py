"""Prometheus makes native histograms of what the exporter serves: nothing is lost, and one series replaces many.

Needs Prometheus 3; the variable `PROMETHEUS` may hold its path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from prove.proof import Proof
from tests.end_to_end.processes import HERE, Exporter, Prometheus, wait_for
from tests.end_to_end.traced_app import NAPS

TITLE = "Prometheus 3 converts the histograms to native ones (convert_classic_histograms_to_nhcb)"
RUN = "flowrra_task_run_duration_seconds"
CLASSIC, NATIVE = "classic", "native"


def run(proof: Proof) -> None:
    program = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
    version = _version(program)
    proof.line(version or "There is no Prometheus here.")
    major = re.search(r"version (\d+)", version)
    if program is None or major is None or int(major[1]) < 3:
        proof.not_shown("it takes Prometheus 3. PROMETHEUS=/path/to/prometheus names one.")
        return
    with tempfile.TemporaryDirectory() as folder:
        exporter = Exporter("traced_app:app", "--otel.traces", folder=HERE)
        try:
            _compare(proof, exporter, program, Path(folder))
        finally:
            exporter.close()


def _version(program: str | None) -> str:
    if program is None:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30)
    return (said.stdout + said.stderr).split(" (")[0].strip()


def _compare(proof: Proof, exporter: Exporter, program: str, folder: Path) -> None:
    wait_for(lambda: "".join(exporter.lines).count("traced ") == len(NAPS) or None, 20, "the naps have ended")
    started = time.time()
    prometheus = Prometheus(
        {CLASSIC: exporter.address, NATIVE: exporter.address},
        folder,
        features=["native-histograms", "exemplar-storage"],
        options={NATIVE: {"convert_classic_histograms_to_nhcb": True}},
        program=program,
    )
    try:
        prometheus.wait_for_scrapes()

        def one(expression: str) -> float | None:
            found = prometheus.query(expression)
            return found[0][1] if len(found) == 1 else None

        buckets = {job: one(f'count({{__name__=~"flowrra_.*_bucket",job="{job}"}})') or 0 for job in (CLASSIC, NATIVE)}
        series = {job: one(f'count({{__name__=~"flowrra_.*",job="{job}"}})') or 0 for job in (CLASSIC, NATIVE)}
        proof.line(f"series of Flowrra's: {series[CLASSIC]:.0f} as served, {series[NATIVE]:.0f} converted")
        proof.truth("as served, there are buckets", buckets[CLASSIC] > 0, f"{buckets[CLASSIC]:.0f}")
        proof.truth("converted, no series of a bucket is stored", buckets[NATIVE] == 0, f"{buckets[NATIVE]:.0f}")
        labels = 'task="nap",outcome="success"'
        for what, classic, native in (
            ("count", f'{RUN}_count{{{labels},job="classic"}}', f'histogram_count({RUN}{{{labels},job="native"}})'),
            ("sum", f'{RUN}_sum{{{labels},job="classic"}}', f'histogram_sum({RUN}{{{labels},job="native"}})'),
            (
                "90th percentile",
                f'histogram_quantile(0.9, {RUN}_bucket{{{labels},job="classic"}})',
                f'histogram_quantile(0.9, {RUN}{{{labels},job="native"}})',
            ),
        ):
            found = (one(classic), one(native))
            same = None not in found and found[0] == found[1]
            proof.truth(f"the {what} is the same, as served and converted", same, found)
        count = one(f'histogram_count({RUN}{{{labels},job="native"}})')
        proof.truth("it is the number of tasks that ran", count == len(NAPS), count)
        kept = prometheus.exemplars(f'{RUN}{{job="native"}}', started - 60, time.time())
        traces = {exemplar["labels"]["trace_id"] for each in kept for exemplar in each["exemplars"]}
        proof.line(f"traces in the exemplars of the native histogram: {len(traces)}")
        faults = [target["lastError"] for target in prometheus.targets() if target["lastError"]]
        proof.truth("no scrape had a fault", not faults, "; ".join(faults))
    finally:
        prometheus.close()
