"""A real Prometheus stores the exemplars that OpenMetrics carries, and gives back the traces that there were."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.end_to_end.processes import HERE, Exporter, Prometheus, tool, wait_for
from tests.end_to_end.traced_app import NAPS

pytestmark = pytest.mark.tools


@pytest.mark.slow
def test_the_traces_of_attempts_are_read_back_from_prometheus(tmp_path: Path) -> None:
    tool("prometheus")
    started = time.time()
    exporter = Exporter("traced_app:app", "--otel.traces", folder=HERE)
    prometheus = None
    try:
        traces = wait_for(lambda: _traces(exporter), 20, "the naps were traced")
        prometheus = Prometheus({"shop": exporter.address}, tmp_path, features=["exemplar-storage"])
        prometheus.wait_for_scrapes()
        found = prometheus.exemplars('flowrra_task_run_duration_seconds_bucket{job="shop"}', started, time.time())
    finally:
        if prometheus is not None:
            prometheus.close()
        exporter.close()

    stored = [(series["seriesLabels"], exemplar) for series in found for exemplar in series["exemplars"]]
    assert {exemplar["labels"]["trace_id"] for _, exemplar in stored} == traces
    assert len(stored) == len(NAPS)
    for labels, exemplar in stored:
        assert (labels["task"], labels["outcome"]) == ("nap", "success")
        assert float(exemplar["value"]) <= float(labels["le"])
        assert started <= exemplar["timestamp"] <= time.time()
    assert max(float(exemplar["value"]) for _, exemplar in stored) >= max(NAPS)


def _traces(exporter: Exporter) -> set[str] | None:
    # A line of the log may begin before the end of the line that was printed.
    traces = {found[1] for line in exporter.lines if (found := re.match(r"traced ([0-9a-f]{32})", line))}
    return traces if len(traces) == len(NAPS) else None
