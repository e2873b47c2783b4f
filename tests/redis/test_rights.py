"""The users that the documents give to an app and to its observer have all the rights that these need."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from flowrra import BackendConfig
from flowrra.backends.listing import TaskFilter
from flowrra.management import FlowrraManager
from flowrra.task import TaskStatus
from tests.core.apps import final, until, watchers_of
from tests.redis.apps import counts_of, redis_app, with_tasks

DOCS = Path(__file__).parents[2] / "docs"
# What names the keys and channels of an app with partitions, as the documents do.
PARTITIONED = ["~{flowrra.*}:*", "~flowrra:queue:*", "&{flowrra.*}:*"]


@pytest.fixture
def let(url: str, look: redis.Redis) -> Iterator[str]:
    """The address for the user whom a document names."""
    yield url.replace("redis://", "redis://shop:secret@")
    look.execute_command("ACL", "DELUSER", "shop")


def rules_in(document: str, user: str, *, partitions: int = 1) -> list[str]:
    """The rights of a user, as the document writes them."""
    found = re.search(rf"^ACL SETUSER {user} (.*)$", (DOCS / document).read_text(), re.MULTILINE)
    assert found is not None
    rules = found[1].split()
    if partitions > 1:
        rules = [*(rule for rule in rules if rule[0] not in "~&"), *PARTITIONED]
    return rules


def denied(look: redis.Redis) -> list[tuple[str, str]]:
    """What was refused for want of a right: the command or key, and what was wrong. One question needs none."""
    found = [(entry["object"], entry["reason"]) for entry in look.acl_log()]
    return [each for each in found if each != ("config|get", "command")]


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("database", [0, 1])
async def test_an_app_may_do_all_that_it_does(look: redis.Redis, let: str, database: int, partitions: int) -> None:
    look.execute_command("ACL", "SETUSER", "shop", *rules_in("redis.md", "shop", partitions=partitions))
    look.acl_log_reset()
    backend = BackendConfig(url=f"{let.rsplit('/', 1)[0]}/{database}", partitions=partitions)
    app = with_tasks(redis_app(let, backend=backend, partitions=partitions))
    manager = FlowrraManager(app)

    async def watch() -> None:
        async for _ in manager.watch():
            pass

    async with app:
        watching = asyncio.create_task(watch())
        await until(lambda: watchers_of(app))
        done = [await app.submit("add", number, 1) for number in range(6)]
        failed = await app.submit("fail")
        assert [(await final(app, task_id)).result for task_id in done] == [1, 2, 3, 4, 5, 6]
        assert (await final(app, failed)).error == "ValueError: boom"
        assert await app.cancel_task(await app.options(countdown=60).submit("add", 1, 2))
        await manager.pause_task("add")
        await manager.pause_queue("default")
        waiting = await app.submit("add", 1, 2)
        await manager.resume_queue("default")
        await manager.resume_task("add")
        assert (await final(app, waiting)).is_success
        assert await manager.retry_task(failed) == await manager.retry_task(failed)
        assert await app.results.delete(done[0])
        assert len(await manager.list_workers()) == 1
        assert await counts_of(app) == (0, 0, 0, 0)
        watching.cancel()
    assert denied(look) == []


@pytest.mark.parametrize("partitions", [1, 3])
async def test_an_observer_may_look_at_all_that_it_shows(
    look: redis.Redis, url: str, let: str, partitions: int
) -> None:
    rules = rules_in("security.md", "watcher", partitions=partitions)
    look.execute_command("ACL", "SETUSER", "shop", *(rule for rule in rules if rule[0] != "&"))
    look.acl_log_reset()
    own = BackendConfig(url=url, partitions=partitions)
    async with with_tasks(redis_app(url, backend=own, partitions=partitions)) as app:
        assert (await final(app, await app.submit("add", 1, 2))).is_success
        await app.options(countdown=60, queue="mail").submit("add", 1, 2)
        let_backend = BackendConfig(url=let, partitions=partitions)
        async with with_tasks(redis_app(let, backend=let_backend, partitions=partitions, consume=False)) as observing:
            manager = FlowrraManager(observing)
            assert (await manager.health_check())["healthy"]
            assert [each["delayed"] for each in await manager.list_queues() if each["queue"] == "mail"] == [1]
            assert len(await manager.list_workers()) == 1
            assert await manager.list_dead_tasks() == []
            assert {status: number for (status, _), number in (await observing.results.count()).items()} == {
                TaskStatus.SUCCESS: 1,
                TaskStatus.PENDING: 1,
            }
            assert len((await observing.results.find(TaskFilter(), 10)).records) == 2
    assert denied(look) == []
