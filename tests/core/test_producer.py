"""Another app with the same tasks, that runs nothing; and other slots than the configuration says."""

from __future__ import annotations

import asyncio

import pytest

from flowrra import Config, ExecutorConfig, Flowrra
from flowrra.backends import InMemoryBackend
from tests.core.apps import memory_app
from tests.core.test_polled_broker import ListBroker


async def test_a_producer_calls_no_hook_and_has_no_scheduler() -> None:
    app = memory_app()
    app.create_scheduler("sqlite:///:memory:")
    called: list[str] = []
    app.on_startup(lambda: called.append("startup"))
    app.on_shutdown(lambda: called.append("shutdown"))
    async with app.producer() as producer:
        assert producer.scheduler is None
        assert producer.config.executor.consume is False
    assert called == []
    assert app.config.executor.consume is True
    assert not app.is_running


async def test_a_producer_runs_no_delayed_task_either() -> None:
    broker = ListBroker()
    app = memory_app(broker=broker)

    @app.task
    async def work() -> None: ...

    async with app.producer() as producer:
        task_id = await producer.options(countdown=0.01).submit("work")
        [task] = broker.tasks
        assert task.id == task_id
        assert task.due_at is not None


def test_a_producer_has_the_tasks() -> None:
    app = Flowrra(Config(backend=InMemoryBackend()))

    @app.task
    async def work() -> None: ...

    producer = app.producer()
    assert producer.registry.list_tasks() == ["work"]
    assert list(producer.executors) == ["io"]
    assert producer.id != app.id


@pytest.mark.parametrize(("config", "kinds"), [(Config(), ["io"]), (Config(backend=InMemoryBackend()), ["io", "cpu"])])
def test_a_producer_without_tasks_has_the_queues_of_both_kinds(config: Config, kinds: list[str]) -> None:
    assert list(Flowrra(config).producer().executors) == kinds


async def test_other_slots_than_the_configuration_says() -> None:
    app = memory_app()
    config = app.config
    running = most = 0

    @app.task
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    app.configure_executor(io_workers=1)
    async with app:
        for task_id in [await app.submit(count) for _ in range(5)]:
            assert (await app.wait_for_result(task_id)).result is None
        with pytest.raises(RuntimeError, match="can't be changed while the app runs"):
            app.configure_executor(io_workers=2)
    assert most == 1
    assert config.executor.io_workers == ExecutorConfig().io_workers


def test_slots_that_can_t_be() -> None:
    with pytest.raises(ValueError, match="io_workers"):
        memory_app().configure_executor(io_workers=0)
