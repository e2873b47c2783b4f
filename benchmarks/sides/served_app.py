"""Runs an app under a steady load with the exporter in its process, and measures the turns of its event loop while
another process scrapes.

    served_app.py LOAD NAMES SCRAPES SECONDS [BODY]

LOAD is `calm` (1,000 tasks a second, the loop mostly waits) or `busy` (the loop never waits). NAMES task names share
the load in turn, so that every one's figures change from scrape to scrape. SCRAPES is how many a second, 0 for none.
BODY is a file for the last scrape's text.

A turn of the busy loop is one pass, from one resumption of a coroutine that is resumed in every pass to the next. A
turn of the calm loop is how late it calls what is due every millisecond: it waits for its timer, for the interpreter
lock, and for whatever is called first.

Prints milliseconds: quantiles of the turns, and of the scrapes, as the scraping process sees them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from pathlib import Path

from flowrra_exporter.exporter import Exporter
from flowrra_exporter.settings import Address, Settings

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend

SCRAPER = Path(__file__).with_name("scraper.py")
WORKERS = 16
TICK = 0.001
TASK_SECONDS = 0.005
# Few results are kept: the pauses of the garbage collector over many would hide what is looked for.
RESULTS = 1_000
# After the start, and after the first scrapes, which prepare what the later ones use.
WARM_UP = 1.0

Function = Callable[[], Awaitable[None]]


def make_app(names: int, load: str) -> tuple[Flowrra, Iterator[Function]]:
    """An app, and its tasks over and over."""
    app = Flowrra(Config(backend=InMemoryBackend(max_results=RESULTS), executor=ExecutorConfig(io_workers=WORKERS)))

    def register(number: int) -> Function:
        @app.task(name=f"shop.tasks.task_{number}")
        async def work() -> None:
            if load == "calm":
                await asyncio.sleep(TASK_SECONDS)

        return work

    return app, cycle([register(number) for number in range(names)])


async def calm(app: Flowrra, functions: Iterator[Function], turns: list[float], over: asyncio.Event) -> None:
    """Every millisecond one task, and a note of how late the loop is."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not over.is_set():
        due = max(due + TICK, loop.time())  # a late one doesn't make the next ones late, too
        called: asyncio.Future[None] = loop.create_future()
        loop.call_at(due, called.set_result, None)
        await called
        turns.append(1000 * max(0.0, loop.time() - due))
        await app.submit(next(functions))


async def busy(app: Flowrra, functions: Iterator[Function], turns: list[float], over: asyncio.Event) -> None:
    """In every pass of the loop one task, and a note of how long the pass was."""
    while not over.is_set():
        started = time.perf_counter()
        await app.submit(next(functions))
        await asyncio.sleep(0)
        turns.append(1000 * (time.perf_counter() - started))


async def scrape(url: str, rate: float, seconds: float, body: str) -> list[float]:
    """Let another process scrape; returns the milliseconds of each scrape."""
    command = (sys.executable, "-P", str(SCRAPER), url, str(rate), str(seconds), body)
    scraper = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await scraper.communicate()
    assert scraper.returncode == 0, f"the scraper ended with {scraper.returncode}"
    milliseconds: list[float] = json.loads(output)
    return milliseconds


def quantiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    """Median, tail and greatest of some values, each with a name."""
    cuts = statistics.quantiles(milliseconds, n=1_000, method="inclusive")
    figures = {"p50": cuts[499], "p99": cuts[989], "p99.9": cuts[998], "max": max(milliseconds)}
    return {f"{name} {figure}": value for figure, value in figures.items()}


async def measure(load: str, names: int, rate: float, seconds: float, body: str) -> dict[str, float]:
    app, functions = make_app(names, load)
    turns: list[float] = []
    scrapes: list[float] = []
    over = asyncio.Event()
    settings = Settings(web_listen_address=(Address("127.0.0.1", 0),))
    async with app, Exporter(app, settings) as exporter:
        loading = asyncio.create_task({"calm": calm, "busy": busy}[load](app, functions, turns, over))
        url = f"{exporter.urls[0]}{settings.web_telemetry_path}"
        await (scrape(url, rate, WARM_UP, body) if rate else asyncio.sleep(WARM_UP))
        turns.clear()
        if rate:
            scrapes = await scrape(url, rate, seconds, body)
        else:
            await asyncio.sleep(seconds)
        measured = turns.copy()
        over.set()
        await loading
    figures = quantiles("turn", measured) | {"turns/s": len(measured) / seconds}
    return figures | (quantiles("scrape", scrapes) if scrapes else {})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("load", choices=("calm", "busy"))
    parser.add_argument("names", type=int)
    parser.add_argument("scrapes", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("body", nargs="?", default="")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.load, given.names, given.scrapes, given.seconds, given.body))))
