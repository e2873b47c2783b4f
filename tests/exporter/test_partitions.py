"""An app whose queues and results are over partitions looks from outside as one that has none."""

from __future__ import annotations

import json

import redis

from flowrra import BackendConfig
from tests.core.apps import final
from tests.exporter.conftest import Serve
from tests.exporter.test_observer_rights import READER
from tests.redis.apps import partitioned_backend, redis_app, with_tasks
from tests.redis.conftest import look, url, valkey

__all__ = ["look", "url", "valkey"]  # the fixtures


async def test_metrics_lists_and_pages_tell_of_all_partitions_and_each_task_once(
    serve: Serve, url: str, look: redis.Redis
) -> None:
    app = with_tasks(redis_app(url, backend=BackendConfig(url=url, partitions=4), partitions=4))
    async with app:
        service = await serve(app)
        done = [await app.submit("add", n, n) for n in range(30)]
        for task_id in done:
            await final(app, task_id)
        delayed = [await app.options(countdown=3600).submit("echo", n) for n in range(10)]
        # What can't be read in two partitions is one figure.
        broken = [done[0], next(each for each in done if not _are_together(url, each, done[0]))]
        for task_id in broken:
            look.set(f"{partitioned_backend(url).cell_of(task_id).namespace}:task:{task_id}", "nonsense")

        counts = json.loads((await service.get("/api/task-counts")).text)
        assert (counts["success"], counts["pending"]) == (30, 10)
        seen, path = list[str](), "/api/task-records?limit=7"
        while path:
            page = json.loads((await service.get(path)).text)
            seen += [each["task_id"] for each in page["tasks"]]
            path = f"/api/task-records?limit=7&cursor={page['next']}" if page["next"] else ""
        assert seen == [each for each in reversed([*done, *delayed]) if each not in broken]
        assert json.loads((await service.get(f"/api/task-records/{done[5]}")).text)["status"] == "success"

        left_out = [cell.unreadable.count for cell in app.results.cells]  # type: ignore[attr-defined]
        scrape = await service.get()  # the reader refuses what is served twice
        assert scrape.value("flowrra_queue_delayed_tasks", executor="io", queue="default") == 10
        assert scrape.value("flowrra_backend_errors_total", operation="list") == sum(left_out) >= 2
        assert len([count for count in left_out if count]) == 2
        assert (await service.get("/readyz")).status == 200
        tasks = (await service.get("/tasks")).text
        assert all(each in tasks for each in delayed)


async def test_one_who_may_only_read_sees_all_partitions(serve: Serve, url: str, look: redis.Redis) -> None:
    async with with_tasks(redis_app(url, backend=BackendConfig(url=url, partitions=4), partitions=4)) as app:
        for number in range(8):
            await app.options(countdown=3600).submit("add", number, number)
    keys = ("~{flowrra.*}:*", "~flowrra:queue:*")
    look.execute_command("ACL", "SETUSER", "watcher", "on", ">secret", *keys, *READER.split())
    address = url.replace("//", "//watcher:secret@")
    config = BackendConfig(url=address, partitions=4)
    observer = with_tasks(redis_app(address, backend=config, partitions=4, consume=False))
    service = await serve(observer)
    scrape = await service.get()
    assert scrape.value("flowrra_queue_delayed_tasks", executor="io", queue="default") == 8
    assert json.loads((await service.get("/api/task-counts")).text)["pending"] == 8
    for path in ("/api/task-records", "/api/all-queues", "/api/workers", "/queues", "/tasks", "/workers"):
        assert (await service.get(path)).status == 200, path


def _are_together(url: str, *task_ids: str) -> bool:
    backend = partitioned_backend(url)
    return len({backend.cell_of(each).namespace for each in task_ids}) == 1
