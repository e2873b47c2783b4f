"""An OpenTelemetry agent that isn't ours, rotel, holds the same numbers as the scrape of that moment."""

from __future__ import annotations

import importlib.util
import math
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest
from flowrra_exporter.metrics.catalog import CATALOG

from flowrra import Flowrra
from tests.exporter.conftest import Serve
from tests.support.servers import free_port

Labels = frozenset[tuple[str, str]]
VOLATILE = (
    *("flowrra_collector_duration", "flowrra_registered_collector_duration"),
    *("flowrra_otel", "flowrra_event_loop", "flowrra_exporter_series"),
)


class Agent(NamedTuple):
    """A running agent: where it listens for each protocol, and where it writes down what it gets."""

    endpoints: dict[str, str]
    output: Path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("rotel is not installed")
    grpc, http = free_port(), free_port()
    output = tmp_path / "rotel.txt"
    command = [
        str(Path(found.origin).with_name("rotel-agent")), "start", "--exporter", "blackhole",
        "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{http}",
        "--debug-log", "metrics", "--debug-log-verbosity", "detailed",
    ]  # fmt: skip
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for_port(http)
        wait_for_port(grpc)
        yield Agent({"http/protobuf": f"http://127.0.0.1:{http}", "grpc": f"http://127.0.0.1:{grpc}"}, output)
    finally:
        process.terminate()
        process.wait(10)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, "rotel does not listen"
            time.sleep(0.02)
        else:
            return


def wait_for_text(output: Path, text: str) -> str:
    deadline = time.monotonic() + 10
    while text not in (found := output.read_text()):
        assert time.monotonic() < deadline, f"rotel has not told of {text}:\n{found}"
        time.sleep(0.02)
    return found


def samples(text: str) -> dict[tuple[str, Labels], float]:
    """What the agent wrote down, as the samples that a scrape has: by OpenTelemetry name and attributes."""
    found: dict[tuple[str, Labels], float] = {}
    for metric in re.split(r"^Metric #\d+$", text, flags=re.M)[1:]:
        name = re.search(r"-> Name: (\S+)", metric)
        assert name is not None
        for point in re.split(r"^\w+DataPoints #\d+$", metric, flags=re.M)[1:]:
            labels = frozenset(re.findall(r"-> (\S+): Str\((.*)\)", point))
            value = re.search(r"^Value: (\S+)", point, re.M)
            if value is not None:
                found[name[1], labels] = float(value[1])
            else:
                found.update(histogram(name[1], labels, point))
    return found


def histogram(name: str, labels: Labels, point: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    counts = [int(count) for count in re.findall(r"^Buckets #\d+, Count: (\d+)", point, re.M)]
    bounds = [float(bound) for bound in re.findall(r"^ExplicitBounds #\d+: (\S+)", point, re.M)]
    for bound, count in zip([*bounds, math.inf], accumulate(counts), strict=True):
        yield (f"{name}_bucket", labels | {("le", "+Inf" if math.isinf(bound) else str(bound))}), count
    for part in ("Count", "Sum"):
        value = re.search(rf"^{part}: (\S+)", point, re.M)
        assert value is not None
        yield (f"{name}_{part.lower()}", labels), float(value[1])


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_it_holds_the_numbers_of_the_scrape(agent: Agent, serve: Serve, protocol: str) -> None:
    app = Flowrra()

    @app.task("shop.pay", max_retries=1, retry_delay=0)
    async def pay(number: int) -> None:
        if number % 2:
            raise ValueError(number)

    async with app:
        service = await serve(
            app,
            otel_metrics=True,
            otel_endpoint=agent.endpoints[protocol],
            otel_protocol=protocol,
            otel_interval=600.0,
        )
        for task_id in [await app.submit(pay, number) for number in range(30)]:
            await app.wait_for_result(task_id, 5)
        assert await service.exporter.push_metrics()
        scrape = (await service.get()).samples
        told = samples(wait_for_text(agent.output, "python_info"))
    for metric in CATALOG:
        if metric.name.startswith(VOLATILE):
            continue
        scraped = {key: value for key, value in scrape.items() if key[0] in metric.sample_names}
        names = [name.replace(metric.name, metric.otel_name) for name in metric.sample_names]
        same = {
            (name.replace(metric.name, metric.otel_name), labels): value for (name, labels), value in scraped.items()
        }
        assert {key: value for key, value in told.items() if key[0] in names} == pytest.approx(same), metric.name
    started = frozenset({("task", "shop.pay")})
    assert told["flowrra.tasks.started", started] == 45
