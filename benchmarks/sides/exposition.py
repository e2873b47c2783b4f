"""Collects and renders the figures of many task names, as a scrape does, in a process that does nothing else.

    exposition.py NAMES BODY

BODY is a file for the text. Prints milliseconds: of the first scrape, which prepares the lines; of one for which every
name's figures are new, and of that the rendering alone; and of one for which none are. `series` is how many there are.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path

from flowrra_exporter.app.management import Management
from flowrra_exporter.metrics.collectors.tasks import TasksCollector
from flowrra_exporter.metrics.exposition import Format, Renderer

from flowrra import Flowrra
from flowrra import telemetry as counters
from flowrra.management import FlowrraManager

# A scrape of so many series would by default fold most names into one.
MAX_SERIES = 10_000_000
MOST_REPEATS, LEAST_REPEATS, SERIES_IN_ALL = 40, 7, 1_000_000


class Asked(Management):
    """The Management API without a loop that is watched: what is read here are plain numbers."""

    def __init__(self, manager: FlowrraManager) -> None:
        self._manager = manager


class Scrapes:
    """An app with so many names, and scrapes of it."""

    def __init__(self, names: int) -> None:
        app = Flowrra()
        self._telemetry = [app.telemetry.register(f"shop.tasks.task_{number}", "io") for number in range(names)]
        self._collector = TasksCollector(Asked(FlowrraManager(app)), MAX_SERIES)
        self._renderer = Renderer()

    def run_tasks(self) -> None:
        """One task of each name has run."""
        for number, telemetry in enumerate(self._telemetry):
            telemetry.cells[counters.SUBMITTED] += 1
            telemetry.count_start(0.0004 * (1 + number % 7))
            telemetry.count_success(0.013 * (1 + number % 5))

    async def scrape(self) -> tuple[float, float, bytes]:
        """Milliseconds, those of the rendering alone, and the text."""
        started = time.perf_counter()
        families = await self._collector.collect()
        collected = time.perf_counter()
        text = b"".join(self._renderer.render(families, Format.TEXT))
        ended = time.perf_counter()
        return 1000 * (ended - started), 1000 * (ended - collected), text


async def measure(names: int, body: Path) -> dict[str, float]:
    scrapes = Scrapes(names)
    scrapes.run_tasks()
    first, _, text = await scrapes.scrape()
    body.write_bytes(text)
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    changed, rendering, unchanged = [], [], []
    for _ in range(max(LEAST_REPEATS, min(MOST_REPEATS, SERIES_IN_ALL // series))):
        scrapes.run_tasks()
        whole, rendered, _ = await scrapes.scrape()
        changed.append(whole)
        rendering.append(rendered)
        unchanged.append((await scrapes.scrape())[0])
    return {
        "first": first,
        "changed": statistics.median(changed),
        "rendering": statistics.median(rendering),
        "unchanged": statistics.median(unchanged),
        "series": series,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1]), Path(sys.argv[2])))))
