"""An observer beside two workers: it serves what they share, takes nothing, and doesn't need the broker to live."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import redis
from flowrra_exporter import Exporter
from flowrra_exporter.errors import UsageError
from flowrra_exporter.metrics.catalog import CATALOG
from flowrra_exporter.settings import Settings

from flowrra import Flowrra
from flowrra.scheduler.backends import SQLiteSchedulerBackend
from tests.exporter.commands import run_command
from tests.exporter.conftest import Command, Run
from tests.exporter.targets.shared import in_memory, produce
from tests.exporter.test_shared_queue import LOCAL, eventually, queue, server, start_workers, sums, url_of
from tests.support.servers import ValkeyServer

__all__ = ["server"]  # the fixture

TASKS = 1_000
PROCESS_SCOPE = {name for metric in CATALOG if metric.scope == "process" for name in metric.sample_names}


def observe(run: Run, port: int, *flags: str) -> Command:
    command = run(
        LOCAL, "--observe", "--probe.failure-grace=0", *flags, "shared:make", SHARED_URL=f"redis://127.0.0.1:{port}/0"
    )
    command.wait_for_line("the observer has started")
    return command


@pytest.mark.slow
async def test_it_runs_none_of_a_thousand_tasks_and_sees_them_all(run: Run, server: ValkeyServer) -> None:
    observer = observe(run, server.port)
    client = redis.Redis(port=server.port)
    async with produce(url_of(server)) as producer:
        await producer.submit_many([("count", (), {})] * TASKS)
        scrape = observer.get()
        assert queue(scrape) == {"pending": TASKS, "delayed": 0, "in_flight": 0, "dead": 0}
        assert scrape.value("flowrra_tasks_pending") == TASKS
        assert scrape.value("flowrra_worker_processes") == 0
        workers = start_workers(run, server)
        eventually(lambda: sums(workers, "flowrra_tasks_succeeded_total", task="count") == TASKS, "all have run")
        eventually(lambda: queue(observer.get())["in_flight"] == 0, "all are settled")
    assert int(client.get("ran") or 0) == TASKS
    scrape = observer.get()
    assert queue(scrape) == {"pending": 0, "delayed": 0, "in_flight": 0, "dead": 0}
    assert scrape.value("flowrra_worker_processes") == 2
    assert any(name == "flowrra_exporter_info" and ("mode", "observer") in labels for name, labels in scrape.samples)


@pytest.mark.slow
def test_what_belongs_to_a_process_is_absent(run: Run, server: ValkeyServer) -> None:
    observer = observe(run, server.port)
    assert {name for name, _ in observer.get().samples} & PROCESS_SCOPE == set()
    assert json.loads(observer.get("/api/stats").text) == {
        "tasks": {"pending": 0},
        "paused": {"queues": [], "tasks": []},
    }
    assert set(json.loads(observer.get("/api/health").text)["components"]) == {"broker", "backend"}
    assert json.loads(observer.get("/api/workers").text) == []
    assert json.loads(observer.get("/api/failures").text)["failures"] == []
    for path in ("/api/tasks", "/api/task-stats"):
        answer = observer.get(path)
        assert (answer.status, "in observer mode there is no" in answer.text) == (404, True)
    page = observer.get("/").text
    assert "Worker processes" in page
    assert "Slots in use" not in page


@pytest.mark.slow
async def test_schedules_are_seen_and_not_run(run: Run, server: ValkeyServer, tmp_path: Path) -> None:
    store = SQLiteSchedulerBackend(f"{tmp_path}/schedules.db")
    scheduler = produce(url_of(server)).create_scheduler(store)
    await scheduler.schedule_interval("count", 1)
    await scheduler.schedule_cron("count", "0 0 1 1 *", enabled=False)
    await store.close()
    observer = run(
        *(LOCAL, "--observe", "shared:make_with_schedules"),
        SHARED_URL=url_of(server),
        SCHEDULES=f"{tmp_path}/schedules.db",
    )
    observer.wait_for_line("the observer has started")
    eventually(lambda: observer.get().value("flowrra_scheduler_overdue_schedules") == 1, "one is overdue")
    scrape = observer.get()
    assert scrape.value("flowrra_scheduler_schedules", state="enabled") == 1
    assert scrape.value("flowrra_scheduler_schedules", state="disabled") == 1
    assert scrape.value("flowrra_scheduler_running") is None
    assert queue(scrape)["pending"] == 0
    assert len(json.loads(observer.get("/api/schedules").text)) == 2
    assert "flowrra_scheduler_runs_total" not in scrape.text
    observer.signal()
    assert observer.wait() == 0


@pytest.mark.slow
def test_it_ends_when_asked_to(run: Run, server: ValkeyServer) -> None:
    observer = observe(run, server.port)
    observer.signal(signal.SIGTERM)
    assert observer.wait() == 0
    assert "the observer has stopped" in observer.log


@pytest.mark.slow
def test_the_broker_may_come_later_and_go(run: Run) -> None:
    with ValkeyServer() as first:
        port = first.port
    observer = observe(run, port)
    assert [observer.get(path).status for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 503]
    assert f"127.0.0.1:{port}" in observer.get("/readyz/broker").text
    assert observer.get().value("flowrra_collector_success", collector="queue") == 0
    server = ValkeyServer(port=port)
    server.start()
    eventually(lambda: observer.get("/readyz").status == 200, "it's ready")
    eventually(lambda: queue(observer.get())["pending"] == 0, "the queue is served")
    server.stop()
    eventually(lambda: observer.get("/readyz").status == 503, "it isn't ready")
    assert observer.get("/livez").status == 200


@pytest.mark.slow
def test_a_broker_that_hangs_is_named(run: Run, server: ValkeyServer) -> None:
    observer = observe(run, server.port)
    process = server._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        answer = observer.get("/readyz/broker")
        assert (answer.status, "no answer within" in answer.text) == (503, True)
        assert observer.get("/livez").status == 200
    finally:
        process.send_signal(signal.SIGCONT)
    eventually(lambda: observer.get("/readyz").status == 200, "it's ready again")


@pytest.mark.slow
def test_readiness_can_require_workers(run: Run, server: ValkeyServer) -> None:
    observer = observe(run, server.port, "--probe.require-workers")
    answer = observer.get("/readyz", Accept="text/plain")
    assert (answer.status, "[-]workers failed: live processes that take tasks: 0" in answer.text) == (503, True)
    workers = start_workers(run, server)
    eventually(lambda: observer.get("/readyz").status == 200, "it's ready")
    for worker in workers:
        worker.signal()
        assert worker.wait() == 0
    eventually(lambda: observer.get("/readyz").status == 503, "it isn't ready")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "reason"),
    [("shared:in_memory", "its queue is in its own memory"), ("plain:app", "it has no task, and so no queue")],
)
def test_an_app_without_a_shared_queue_is_refused(target: str, reason: str) -> None:
    ended = run_command(LOCAL, "--observe", target)
    assert (ended.status, reason in ended.err) == (2, True)


@pytest.mark.slow
def test_the_check_says_whether_an_app_can_be_observed(server: ValkeyServer) -> None:
    good = run_command("check", LOCAL, "--observe", "--strict", "shared:make", SHARED_URL=url_of(server))
    assert good.status == 0, good.out
    bad = run_command("check", LOCAL, "--observe", "shared:in_memory")
    assert (bad.status, "its queue is in its own memory" in bad.out) == (1, True)


async def test_a_program_is_told_what_it_can_not_observe() -> None:
    settings = Settings(observe=True)
    with pytest.raises(UsageError, match="it has no task"):
        await Exporter(Flowrra(), settings).__aenter__()
    with pytest.raises(UsageError, match="in its own memory"):
        await Exporter(in_memory, settings).__aenter__()
