"""An event loop that ends without `app.stop()`, as by Ctrl-C: the tasks that ran are given back, not failed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra
from tests.core.apps import final, record_of

PROGRAM = """
    import asyncio
    from flowrra import BackendConfig, BrokerConfig, Config, Flowrra

    app = Flowrra(Config(BrokerConfig(url={url!r}, partitions={n}), BackendConfig(url={url!r}, partitions={n})))
    begun = asyncio.Event()

    @app.task(max_retries=1)
    async def job():
        begun.set()
        await asyncio.Event().wait()

    @app.task(max_retries=0)
    async def interrupt():
        raise KeyboardInterrupt

    async def main():
        await app.start()
        print(await app.submit(job), flush=True)
        await begun.wait()
        {end}

    asyncio.run(main())
"""


def run(url: str, partitions: int, end: str) -> list[str]:
    """The ids of the tasks that a worker has begun, whose loop has ended."""
    program = textwrap.dedent(PROGRAM).format(url=url, n=partitions, end=end)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.split()


def app_of(url: str, partitions: int) -> Flowrra:
    return Flowrra(Config(BrokerConfig(url=url, partitions=partitions), BackendConfig(url=url, partitions=partitions)))


async def assert_runs_again(app: Flowrra, task_id: str) -> None:
    @app.task(max_retries=1)
    async def job() -> str:
        return "done"

    async with app:
        record = await final(app, task_id, within=30)
    assert (record.result, record.retries) == ("done", 0)
    # A loop that takes long to close may be given it once more.
    assert record.attempts[0].outcome == "released"
    assert "failed" not in {attempt.outcome for attempt in record.attempts}


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 2])
async def test_they_run_again_and_that_costs_no_retry(url: str, partitions: int) -> None:
    [task_id] = await asyncio.to_thread(run, url, partitions, "return")
    await assert_runs_again(app_of(url, partitions), task_id)


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 2])
async def test_a_task_that_interrupts_its_worker_has_failed_and_does_so_to_no_other(url: str, partitions: int) -> None:
    end = "print(await app.submit(interrupt), flush=True); await asyncio.Event().wait()"
    beside, interrupting = await asyncio.to_thread(run, url, partitions, end)
    app = app_of(url, partitions)
    record = await record_of(app, interrupting)
    assert (record.status, record.error) == ("failed", "KeyboardInterrupt")
    await assert_runs_again(app, beside)
