"""An event loop that ends without `app.stop()` cancels all that is on it: that is no failure of the tasks that ran."""

from __future__ import annotations

import asyncio

import pytest

from tests.core.apps import memory_app, numbers_of, record_of, until


@pytest.mark.parametrize("max_retries", [0, 3])
@pytest.mark.parametrize("seconds", [0, 0.2], ids=["at once", "after cleaning up"])
def test_what_ran_is_cancelled_and_counts_as_lost(max_retries: int, seconds: float) -> None:
    app = memory_app()

    @app.task(max_retries=max_retries)
    async def hold() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(seconds)

    async def main() -> str:
        await app.start()
        task_id = await app.submit(hold)
        await until(lambda: numbers_of(app, "hold")["running"] == 1)
        return task_id

    task_id = asyncio.run(main())

    record = asyncio.run(record_of(app, task_id))
    assert (record.status, record.retries) == ("cancelled", 0)
    assert "event loop was cancelled" in str(record.error)
    assert numbers_of(app, "hold")["cancelled"] == 1
    assert app.lost_at_stop == 1


def test_what_ends_well_all_the_same_has_succeeded() -> None:
    app = memory_app()

    @app.task()
    async def finish() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return "never"

    async def main() -> str:
        await app.start()
        task_id = await app.submit(finish)
        await until(lambda: numbers_of(app, "finish")["running"] == 1)
        return task_id

    task_id = asyncio.run(main())

    assert asyncio.run(record_of(app, task_id)).result == "done"
    assert app.lost_at_stop == 0
