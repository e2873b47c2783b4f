"""``async with Exporter(app)`` inside a program: serves the app, leaves its lifecycle alone, cleans up after itself."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from flowrra_exporter import Exporter
from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Address, Settings

from flowrra import Config, ExecutorConfig, Flowrra, __version__
from tests.exporter.conftest import Serve, fetch, until
from tests.exporter.contract import MinimalApp

LOCAL = Settings(web_listen_address=(Address("127.0.0.1", 0),))


async def test_a_program_serves_its_own_app() -> None:
    async with Flowrra() as app, Exporter(app, LOCAL) as exporter:
        scrape = await asyncio.to_thread(fetch, exporter.urls[0])
        assert scrape.value("flowrra_app_running") == 1
        assert app.is_running


async def test_an_app_that_is_not_started_is_seen_as_such_and_not_started() -> None:
    app = Flowrra()
    async with Exporter(app, LOCAL) as exporter:
        scrape = await asyncio.to_thread(fetch, exporter.urls[0])
        assert scrape.value("flowrra_app_running") == 0
        assert scrape.value("flowrra_healthy") == 0
        probes = [await asyncio.to_thread(fetch, exporter.urls[0], path) for path in ("/livez", "/startupz", "/readyz")]
        assert [probe.status for probe in probes] == [200, 503, 503]
        assert not any("has started" in probe.text for probe in probes)
        assert not app.is_running


async def test_it_says_that_an_app_has_started_from_when_it_has() -> None:
    """Whichever is entered first; and one that has started is still one that has, while the exporter closes."""
    app, warm = Flowrra(), asyncio.Event()
    app.on_startup(warm.wait)
    async with Exporter(app, LOCAL) as exporter:
        url = exporter.urls[0]
        starting = await asyncio.to_thread(fetch, url, "/startupz")
        assert (starting.status, "the app is starting" in starting.text) == (503, True)
        start = asyncio.create_task(app.start())
        while not app.is_running:
            await asyncio.sleep(0)
        assert (await asyncio.to_thread(fetch, url, "/startupz")).status == 503, "its hooks are not over"
        assert (await asyncio.to_thread(fetch, url, "/livez")).status == 200
        warm.set()
        await start
        exporter.lifecycle.draining()
        assert (await asyncio.to_thread(fetch, url, "/startupz")).status == 200
        await app.stop()


async def test_afterwards_the_port_is_free_and_no_thread_is_left() -> None:
    for _ in range(3):
        async with Exporter(MinimalApp(), LOCAL) as exporter:
            url = exporter.urls[0]
            assert (await asyncio.to_thread(fetch, url, "/livez")).status == 200
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(fetch, url, "/livez")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]


async def test_one_that_has_drained_is_not_served_again() -> None:
    exporter = Exporter(MinimalApp(), LOCAL)
    async with exporter:
        pass
    with pytest.raises(RuntimeError, match="this Exporter has served already; expected a new one"):
        await exporter.__aenter__()


async def test_what_cannot_be_served_leaves_no_thread_and_no_port() -> None:
    app = Flowrra()

    @app.task()
    async def work() -> None: ...

    async with app:
        await app.wait_for_result(await app.submit(work), timeout=5)
        refused = Settings(web_listen_address=(Address("127.0.0.1", 0),), histogram_run_duration_bounds=(0.5, 2.0))
        exporter = Exporter(app, refused)
        with pytest.raises(UsageError, match="bounds"):
            await exporter.__aenter__()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("flowrra-exporter")]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(fetch, exporter.urls[0], "/livez")


@pytest.mark.slow
async def test_no_connection_is_lost_while_the_web_configuration_is_read_again() -> None:
    async with Exporter(MinimalApp(), LOCAL) as exporter:
        asking = [asyncio.ensure_future(asyncio.to_thread(_ask_often, exporter.urls[0])) for _ in range(4)]
        while not all(task.done() for task in asking):
            assert exporter.server.run_soon(lambda: exporter.server.use_tls(None))
            await asyncio.sleep(0.001)
        assert [await task for task in asking] == [200] * 4


def _ask_often(url: str) -> int:
    return [fetch(url, "/livez").status for _ in range(250)].count(200) * 200 // 250


async def test_two_exporters_can_serve_two_apps() -> None:
    first, second = MinimalApp(), MinimalApp()
    second.stats["executors"]["io"]["workers"] = 9
    async with Exporter(first, LOCAL) as one, Exporter(second, LOCAL) as other:
        values = [
            (await asyncio.to_thread(fetch, exporter.urls[0])).value("flowrra_executor_workers", executor="io")
            for exporter in (one, other)
        ]
    assert values == [4, 9]


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(web_listen_address=(Address("127.0.0.1", 0), Address("127.0.0.1", port)))
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Exporter(MinimalApp(), settings).__aenter__()


async def test_without_an_app_there_is_nothing_to_serve() -> None:
    with pytest.raises(TypeError, match="expected Exporter"):
        await Exporter().__aenter__()


# In front of the real flowrra.


async def test_tasks_that_wait_behind_busy_workers_are_all_counted(serve: Serve) -> None:
    app = Flowrra(Config(executor=ExecutorConfig(io_workers=2)))
    release, running = asyncio.Event(), []

    @app.task()
    async def wait() -> None:
        running.append(1)
        await release.wait()

    async with app:
        service = await serve(app)
        for _ in range(7):
            await app.submit(wait)
        await until(lambda: len(running) == 2)
        scrape = await service.get()
        assert scrape.value("flowrra_queue_pending_tasks", executor="io", queue="default") == 5
        assert scrape.value("flowrra_tasks_pending") == 5
        assert scrape.value("flowrra_executor_busy_workers", executor="io") == 2
        assert scrape.value("flowrra_tasks_running", task="wait") == 2
        assert scrape.value("flowrra_tasks_submitted_total", task="wait") == 7
        release.set()


@pytest.mark.slow
async def test_every_scrape_under_load_adds_up(serve: Serve) -> None:
    app = Flowrra(Config(executor=ExecutorConfig(io_workers=4)))
    attempts = 0

    @app.task(max_retries=2, retry_delay=0.01)
    async def flaky(succeeds: bool) -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0.001)
        if not succeeds:
            raise ValueError("not yet")

    async with app:
        service = await serve(app)
        ids = [await app.submit(flaky, number % 3 > 0) for number in range(300)]
        waiting = asyncio.gather(*(app.wait_for_result(task_id, timeout=20) for task_id in ids))
        while not waiting.done():
            scrape = await service.get()
            started, ended = _attempts(scrape)
            assert started == ended
        started, ended = _attempts(await service.get())
        assert started == ended == attempts == 200 + 100 * 3


def _attempts(scrape: object) -> tuple[float, float]:
    """Attempts that started, and those that ended or run, by one scrape."""
    names = ["tasks_succeeded_total", "tasks_failed_total", "tasks_retried_total", "tasks_cancelled_total"]
    names += ["tasks_released_total", "tasks_running"]

    def value(name: str) -> float:
        return scrape.value(f"flowrra_{name}", task="flaky")  # type: ignore[attr-defined,no-any-return]

    return value("tasks_started_total"), sum(value(name) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ['quo"ted', "new\nline", "back\\slash", "🐘" * 50, "x" * 10_240, "{task}", " "])
async def test_hostile_task_names_come_through(serve: Serve, name: str) -> None:
    app = Flowrra()

    @app.task(name=name)
    async def hostile() -> None:
        pass

    async with app:
        await app.wait_for_result(await app.submit(hostile), timeout=5)
        scrape = await (await serve(app)).get()
        assert scrape.value("flowrra_tasks_succeeded_total", task=name) == 1
        assert scrape.value("flowrra_task_run_duration_seconds_count", task=name, outcome="success") == 1


async def test_every_metric_that_the_real_app_can_have_is_there(serve: Serve) -> None:
    app = Flowrra()

    @app.task()
    async def work() -> None:
        pass

    async with app:
        scrape = await (await serve(app)).get()
        collectors = {
            dict(labels)["collector"]: value
            for (name, labels), value in scrape.samples.items()
            if name == "flowrra_collector_success"
        }
        assert any(
            ("version", __version__) in labels for name, labels in scrape.samples if name == "flowrra_build_info"
        )
        expected = {"app", "executors", "queue", "workers", "tasks", "scheduler", "health", "runtime", "python"}
        assert collectors == dict.fromkeys(expected, 1)
