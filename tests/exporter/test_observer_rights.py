"""What the user of an observer must be allowed at the broker: to read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.exporter.conftest import Command, Run
from tests.exporter.targets.shared import produce
from tests.exporter.test_shared_queue import LOCAL, queue, server, url_of
from tests.support.servers import ValkeyServer

__all__ = ["server"]  # the fixture

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
READER = "-@all +@read +@connection +@transaction +time"
TASKS = 3


async def observe(run: Run, server: ValkeyServer, rights: str) -> Command:
    """An observer whose user has these rights, of a queue in which tasks wait."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "watcher", "on", ">secret", "~flowrra:*", *rights.split())
    async with produce(url_of(server)) as producer:
        await producer.submit_many([("count", (), {})] * TASKS)
    url = f"redis://watcher:secret@127.0.0.1:{server.port}/0"
    observer = run(LOCAL, "--observe", "--probe.failure-grace=0", "shared:make", SHARED_URL=url)
    observer.wait_for_line("the observer has started")
    return observer


@pytest.mark.slow
async def test_one_who_may_only_read_sees_the_queue(run: Run, server: ValkeyServer) -> None:
    observer = await observe(run, server, READER)
    scrape = observer.get()
    assert queue(scrape)["pending"] == TASKS
    assert scrape.value("flowrra_worker_processes") == 0
    succeeded = {value for (name, _), value in scrape.samples.items() if name == "flowrra_collector_success"}
    assert succeeded == {1.0}
    assert observer.get("/readyz").status == 200
    for path in (
        "/",
        "/queues",
        "/dead",
        "/workers",
        "/api/queues",
        "/api/all-queues",
        "/api/workers",
        "/api/failures",
    ):
        assert observer.get(path).status == 200, path
    # Whether the server is fit, but for its clock, isn't told to such a user, and so isn't known.
    assert scrape.value("flowrra_broker_unfit", reason="eviction") is None
    assert scrape.value("flowrra_broker_unfit", reason="clock") == 0


@pytest.mark.slow
async def test_one_who_may_ask_for_info_sees_the_server_too(run: Run, server: ValkeyServer) -> None:
    scrape = (await observe(run, server, f"{READER} +info")).get()
    assert scrape.value("flowrra_broker_unfit", reason="eviction") == 0
    assert (scrape.value("flowrra_broker_memory_used_bytes") or 0) > 0


async def test_such_a_user_can_change_nothing(server: ValkeyServer) -> None:
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "watcher", "on", ">secret", "~flowrra:*", *READER.split(), "+info")
    with redis.Redis(port=server.port, username="watcher", password="secret") as watcher:
        for command in (("SET", "flowrra:a", "1"), ("DEL", "flowrra:a"), ("EVAL", "return 1", "0"), ("FLUSHALL",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                watcher.execute_command(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            watcher.get("of-another-app")


def test_the_rights_are_those_of_the_document() -> None:
    assert f"ACL SETUSER watcher on >secret ~flowrra:* {READER} +info" in DOCUMENT
