"""Two worker processes on one server: what each exporter says of the shared queue is true, and the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from flowrra_exporter.metrics import circuit_breaker

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from tests.exporter.conftest import FREE_PORT, Answer, Command, Run, Serve, fetch
from tests.exporter.targets.shared import SLOTS, produce
from tests.support.servers import ValkeyServer

LOCAL = f"--web.listen-address={FREE_PORT}"
SECONDS = 15.0


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    server = ValkeyServer(appendonly="yes")  # fit to keep tasks
    server.start()
    yield server
    if server.is_running():
        server.stop()


def url_of(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def eventually(look: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """Waits for what another process does, and no event tells."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def queue(scrape: Answer) -> dict[str, float | None]:
    figures = ("pending", "delayed", "in_flight", "dead")
    return {figure: scrape.value(f"flowrra_queue_{figure}_tasks", executor="io", queue="default") for figure in figures}


def sums(commands: list[Command], name: str, **labels: str) -> float:
    return sum(command.get().value(name, **labels) or 0 for command in commands)


def start_workers(run: Run, server: ValkeyServer) -> list[Command]:
    workers = [run(LOCAL, "shared:make", SHARED_URL=url_of(server)) for _ in range(2)]
    for worker in workers:
        worker.ready()
    return workers


@pytest.mark.slow
async def test_the_figures_of_two_workers_on_one_queue(run: Run, server: ValkeyServer) -> None:
    workers = start_workers(run, server)
    gate = redis.Redis(port=server.port)
    before = time.time()
    async with produce(url_of(server)) as producer:
        for _ in range(20):
            await producer.submit("hold")
        for _ in range(3):
            await producer.options(countdown=3600).submit("hold")
        eventually(lambda: sums(workers, "flowrra_executor_busy_workers", executor="io") == 2 * SLOTS, "all slots busy")
        scrapes = [worker.get() for worker in workers]
        for scrape in scrapes:
            figures = queue(scrape)
            assert (figures["pending"] or 0) + (figures["in_flight"] or 0) == 20
            assert (figures["delayed"], figures["dead"]) == (3, 0)
            assert scrape.value("flowrra_tasks_pending") == figures["pending"]
            assert before <= (
                scrape.value("flowrra_queue_oldest_pending_timestamp_seconds", executor="io", queue="default") or 0
            )
            assert (
                scrape.value("flowrra_queue_oldest_pending_timestamp_seconds", executor="io", queue="default") or 0
            ) <= time.time()
            assert scrape.value("flowrra_worker_processes") == 2
            assert (
                scrape.value(
                    "flowrra_queue_info",
                    executor="io",
                    queue="default",
                    broker="RedisBroker",
                    namespace="flowrra",
                    server=f"127.0.0.1:{server.port}/0",
                )
                == 1
            )
            assert scrape.value("flowrra_component_healthy", component="broker") == 1
            assert scrape.value("flowrra_component_healthy", component="backend") == 1
            for operation in ("submit", "take", "settle", "renew"):
                assert scrape.value("flowrra_broker_errors_total", operation=operation) == 0
            for operation in ("get", "store"):
                assert scrape.value("flowrra_backend_errors_total", operation=operation) == 0
        gate.set("open", 1)
        eventually(lambda: sums(workers, "flowrra_tasks_succeeded_total", task="hold") == 20, "all have run")
        eventually(lambda: queue(workers[0].get())["in_flight"] == 0, "all are settled")
    for scrape in (worker.get() for worker in workers):
        assert queue(scrape) == {"pending": 0, "delayed": 3, "in_flight": 0, "dead": 0}
        assert scrape.value("flowrra_queue_oldest_pending_timestamp_seconds", executor="io", queue="default") is None
    workers[1].signal()
    assert workers[1].wait() == 0
    assert workers[0].get().value("flowrra_worker_processes") == 1


@pytest.mark.slow
async def test_what_a_killed_worker_held_is_counted_where_it_runs_again(run: Run, server: ValkeyServer) -> None:
    victim, survivor = workers = start_workers(run, server)
    async with produce(url_of(server)) as producer:
        for _ in range(2 * SLOTS):
            await producer.submit("hold")
        eventually(lambda: sums(workers, "flowrra_executor_busy_workers", executor="io") == 2 * SLOTS, "all slots busy")
        victim.process.kill()
        redis.Redis(port=server.port).set("open", 1)
        eventually(lambda: queue(survivor.get())["in_flight"] == 0, "all are settled")
    scrape = survivor.get()
    assert scrape.value("flowrra_tasks_redelivered_total", task="hold") == SLOTS
    assert scrape.value("flowrra_tasks_started_total", task="hold") == 2 * SLOTS
    assert scrape.value("flowrra_tasks_succeeded_total", task="hold") == 2 * SLOTS
    assert queue(scrape) == {"pending": 0, "delayed": 0, "in_flight": 0, "dead": 0}


@pytest.mark.slow
def test_what_nobody_can_read_is_counted_as_dead(run: Run, server: ValkeyServer) -> None:
    worker = start_workers(run, server)[0]
    redis.Redis(port=server.port).lpush("flowrra:queue:io", "this is no task")
    eventually(lambda: queue(worker.get())["dead"] == 1, "it's dead")
    assert queue(worker.get()) == {"pending": 0, "delayed": 0, "in_flight": 0, "dead": 1}


@pytest.mark.slow
def test_a_broker_that_goes_away_fails_readiness_and_not_liveness(run: Run, server: ValkeyServer) -> None:
    worker = run(LOCAL, "--probe.failure-grace=0.2", "shared:make", SHARED_URL=url_of(server))
    worker.ready()
    assert worker.get("/readyz").status == 200
    port = server.port
    server.stop()
    eventually(lambda: worker.get("/readyz").status == 503, "readiness fails")
    reason = worker.get("/readyz", Accept="text/plain").text
    assert "[-]broker failed: not" in reason
    assert f"127.0.0.1:{port}" in reason
    assert worker.get("/livez").status == 200
    scrape = worker.get()
    assert scrape.value("flowrra_healthy") == 0
    assert scrape.value("flowrra_component_healthy", component="broker") == 0
    assert scrape.value("flowrra_component_healthy", component="backend") == 0
    assert scrape.value("flowrra_component_healthy", component="app") == 1
    assert scrape.value("flowrra_collector_success", collector="queue") == 0
    assert set(queue(scrape).values()) == {None}
    assert scrape.value("flowrra_worker_processes") is None
    eventually(lambda: (worker.get().value("flowrra_broker_errors_total", operation="take") or 0) > 0, "it's counted")
    with ValkeyServer(port=port):
        eventually(lambda: worker.get("/readyz").status == 200, "readiness recovers")
        assert fetch(worker.url, "/livez").status == 200


@pytest.mark.slow
async def test_the_figures_are_back_at_once_after_a_long_outage(
    serve: Serve, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "PAUSE", 0.2)
    app, figures = make_app(url_of(server)), {"pending": 1, "delayed": 0, "in_flight": 0, "dead": 0}
    async with app:
        await app.submit("job")
        service = await serve(app)
        assert queue(await service.get()) == figures
        port = server.port
        server.stop()
        for _ in range(circuit_breaker.FAILURES + 10):
            scrape = await service.get()
            await asyncio.sleep(circuit_breaker.PAUSE)
        assert set(queue(scrape).values()) == {None}
        assert scrape.value("flowrra_worker_processes") is None
        with ValkeyServer(port=port):
            await app.submit("job")  # the server is there
            async with asyncio.timeout(5):  # of what was asked just before its return, one hears a moment later
                while not all_succeed(scrape):
                    await asyncio.sleep(circuit_breaker.PAUSE)
                    scrape = await service.get()
            assert queue(scrape) == figures
            assert scrape.value("flowrra_worker_processes") is not None


def all_succeed(scrape: Answer) -> bool:
    collectors = ("app", "executors", "queue", "workers")
    return all(scrape.value("flowrra_collector_success", collector=each) == 1 for each in collectors)


def make_app(url: str) -> Flowrra:
    """A producer: what it submits stays in the queue."""
    executor = ExecutorConfig(consume=False)
    app = Flowrra(Config(broker=BrokerConfig(url), backend=BackendConfig(url), executor=executor))

    @app.task()
    async def job() -> None: ...

    return app
