"""The configuration: defaults, validation, the environment, and what URLs lead to."""

from __future__ import annotations

import os
from typing import Any

import pytest

from flowrra import (
    BackendConfig,
    BackendError,
    BrokerConfig,
    Config,
    ExecutorConfig,
    Flowrra,
    IOExecutor,
    SchedulerConfig,
    Task,
    TaskResult,
    TaskStatus,
)
from flowrra.backends import InMemoryBackend, get_backend
from flowrra.brokers.base import BaseBroker
from flowrra.brokers.factory import get_broker
from tests.core.apps import final

REDIS = "redis://localhost:6379/0"


class TestDefaults:
    def test_broker(self) -> None:
        broker = BrokerConfig(REDIS)

        assert (broker.url, broker.max_connections, broker.socket_timeout) == (REDIS, 50, 5.0)
        assert (broker.retry_on_timeout, broker.queue_key) == (True, None)

    def test_backend(self) -> None:
        backend = BackendConfig(REDIS)

        assert (backend.url, backend.ttl, backend.max_connections) == (REDIS, None, 50)
        assert (backend.socket_timeout, backend.retry_on_timeout) == (5.0, True)

    def test_executor(self) -> None:
        executor = ExecutorConfig()

        assert (executor.io_workers, executor.cpu_workers) == (4, os.cpu_count() or 1)
        assert (executor.max_queue_size, executor.max_retries, executor.retry_delay) == (1000, 3, 1.0)

    def test_scheduler(self) -> None:
        scheduler = SchedulerConfig()

        assert (scheduler.database_url, scheduler.check_interval, scheduler.enabled) == (None, 60.0, False)

    def test_config(self) -> None:
        config = Config()

        assert config.broker is config.backend is config.scheduler is None
        assert config.executor == ExecutorConfig()

    def test_no_executor_becomes_a_default_one(self) -> None:
        assert Config(executor=None).executor == ExecutorConfig()  # type: ignore[arg-type]

    def test_two_configurations_never_share_an_executor(self) -> None:
        first, second = Config(), Config()

        first.executor.io_workers = 99

        assert second.executor.io_workers == 4


@pytest.mark.parametrize(
    ("cls", "fields", "text"),
    [
        (BrokerConfig, {"url": ""}, "Broker URL is required"),
        (BrokerConfig, {"url": REDIS, "max_connections": 0}, "max_connections must be at least 1"),
        (BrokerConfig, {"url": REDIS, "socket_timeout": -0.1}, "socket_timeout must be non-negative"),
        (BackendConfig, {"url": ""}, "Backend URL is required"),
        (BackendConfig, {"url": REDIS, "ttl": 0}, "ttl must be at least 1 second"),
        (BackendConfig, {"url": REDIS, "max_connections": 0}, "max_connections must be at least 1"),
        (BackendConfig, {"url": REDIS, "socket_timeout": -1}, "socket_timeout must be non-negative"),
        (ExecutorConfig, {"io_workers": 0}, "io_workers"),
        (ExecutorConfig, {"cpu_workers": 0}, "cpu_workers"),
        (ExecutorConfig, {"max_queue_size": 0}, "max_queue_size"),
        (ExecutorConfig, {"max_tasks_per_child": 0}, "max_tasks_per_child"),
        (ExecutorConfig, {"max_retries": -1}, "max_retries"),
        (ExecutorConfig, {"retry_delay": -0.5}, "retry_delay"),
        (SchedulerConfig, {"check_interval": 0}, "check_interval"),
    ],
)
def test_bad_values_are_refused_at_construction(cls: type, fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cls(**fields)


@pytest.mark.parametrize(
    "executor",
    [
        {"io_workers": 1},
        {"cpu_workers": 1},
        {"max_queue_size": 1},
        {"max_retries": 0},
        {"retry_delay": 0},
        {"max_tasks_per_child": 1},
    ],
    ids=str,
)
def test_the_smallest_allowed_values_are_accepted(executor: dict[str, Any]) -> None:
    ExecutorConfig(**executor)


def test_passwords_of_urls_are_not_shown() -> None:
    secret = "://user:hidden@host/0"
    shown = Config(BrokerConfig(f"redis{secret}"), BackendConfig(f"redis{secret}"))
    assert "hidden" not in f"{shown!r} {SchedulerConfig(f'postgresql{secret}')!r}"


def test_no_number_of_cpu_workers_means_the_number_of_cpus() -> None:
    assert ExecutorConfig(cpu_workers=None).cpu_workers == (os.cpu_count() or 1)


class TestOldNameOfIoWorkers:
    """`num_workers` became `io_workers` in 0.1.6; the old name is accepted and says that it is deprecated."""

    def test_as_a_keyword(self) -> None:
        with pytest.warns(DeprecationWarning, match="io_workers"):
            executor = ExecutorConfig(num_workers=7)

        assert executor.io_workers == 7

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_as_a_property(self) -> None:
        assert ExecutorConfig(io_workers=7).num_workers == 7

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_as_an_environment_variable(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FLOWRRA_EXECUTOR_NUM_WORKERS", "7")

        assert Config.from_env().executor.io_workers == 7

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_it_is_validated_as_well(self) -> None:
        with pytest.raises(ValueError, match="workers"):
            ExecutorConfig(num_workers=0)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which nothing of Flowrra is set."""
    for name in list(os.environ):
        if name.startswith("FLOWRRA_"):
            monkeypatch.delenv(name)
    return monkeypatch


class TestEnvironment:
    def test_an_empty_environment_gives_the_defaults(self, environment: pytest.MonkeyPatch) -> None:
        assert Config.from_env() == Config()

    def test_every_variable_has_its_field(self, environment: pytest.MonkeyPatch) -> None:
        for name, value in {
            "BROKER_URL": "redis://broker:6379/0",
            "BROKER_MAX_CONNECTIONS": "11",
            "BROKER_SOCKET_TIMEOUT": "1.5",
            "BROKER_RETRY_ON_TIMEOUT": "no",
            "BROKER_QUEUE_KEY": "shop:queue",
            "BACKEND_URL": "redis://backend:6379/1",
            "BACKEND_TTL": "3600",
            "BACKEND_MAX_CONNECTIONS": "12",
            "BACKEND_SOCKET_TIMEOUT": "2.5",
            "BACKEND_RETRY_ON_TIMEOUT": "off",
            "EXECUTOR_IO_WORKERS": "13",
            "EXECUTOR_CPU_WORKERS": "3",
            "EXECUTOR_MAX_QUEUE_SIZE": "14",
            "EXECUTOR_MAX_RETRIES": "5",
            "EXECUTOR_RETRY_DELAY": "0.25",
            "EXECUTOR_MAX_TASKS_PER_CHILD": "100",
            "SCHEDULER_DATABASE_URL": "sqlite:///schedules.db",
            "SCHEDULER_CHECK_INTERVAL": "15",
            "SCHEDULER_ENABLED": "true",
        }.items():
            environment.setenv("FLOWRRA_" + name, value)

        assert Config.from_env() == Config(
            broker=BrokerConfig("redis://broker:6379/0", 11, 1.5, False, "shop:queue"),
            backend=BackendConfig("redis://backend:6379/1", 3600, 12, 2.5, False),
            executor=ExecutorConfig(13, 3, 14, 5, 0.25, 100),
            scheduler=SchedulerConfig("sqlite:///schedules.db", 15.0, True),
        )

    def test_the_number_of_cpu_workers_may_be_unset(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FLOWRRA_EXECUTOR_IO_WORKERS", "8")

        executor = Config.from_env().executor

        assert (executor.io_workers, executor.cpu_workers) == (8, os.cpu_count() or 1)

    def test_another_prefix(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FLOWRRA_EXECUTOR_IO_WORKERS", "8")
        environment.setenv("SHOP_EXECUTOR_IO_WORKERS", "9")

        assert Config.from_env(prefix="SHOP_").executor.io_workers == 9

    @pytest.mark.parametrize("empty", ["BROKER_URL", "BACKEND_URL"])
    def test_an_empty_url_is_no_url(self, environment: pytest.MonkeyPatch, empty: str) -> None:
        environment.setenv("FLOWRRA_" + empty, "")

        config = Config.from_env()

        assert config.broker is config.backend is None

    def test_the_scheduler_is_only_there_when_enabled(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FLOWRRA_SCHEDULER_DATABASE_URL", "sqlite:///schedules.db")

        assert Config.from_env().scheduler is None

    @pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "Yes", "on", "ON"])
    def test_what_means_yes(self, environment: pytest.MonkeyPatch, text: str) -> None:
        environment.setenv("FLOWRRA_SCHEDULER_ENABLED", text)

        scheduler = Config.from_env().scheduler

        assert scheduler is not None
        assert scheduler.enabled is True

    @pytest.mark.parametrize("text", ["false", "0", "no", "off", "", "maybe"])
    def test_anything_else_means_no(self, environment: pytest.MonkeyPatch, text: str) -> None:
        environment.setenv("FLOWRRA_SCHEDULER_ENABLED", text)

        assert Config.from_env().scheduler is None

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("EXECUTOR_IO_WORKERS", "many"),
            ("EXECUTOR_IO_WORKERS", "2.5"),
            ("EXECUTOR_CPU_WORKERS", "all"),
            ("EXECUTOR_MAX_QUEUE_SIZE", "1k"),
            ("EXECUTOR_RETRY_DELAY", "soon"),
            ("BROKER_SOCKET_TIMEOUT", "5s"),
            ("BACKEND_TTL", "1h"),
        ],
    )
    def test_what_is_no_number_is_refused_by_name(self, environment: pytest.MonkeyPatch, name: str, text: str) -> None:
        environment.setenv("FLOWRRA_BROKER_URL", REDIS)
        environment.setenv("FLOWRRA_BACKEND_URL", REDIS)
        environment.setenv("FLOWRRA_" + name, text)

        with pytest.raises(ValueError, match=f"FLOWRRA_{name}.*{text}"):
            Config.from_env()

    def test_what_is_out_of_range_is_refused(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("FLOWRRA_EXECUTOR_IO_WORKERS", "0")

        with pytest.raises(ValueError, match="io_workers"):
            Config.from_env()


class TestBackendUrls:
    @pytest.mark.parametrize("url", ["memory://", "postgres://db/x", "http://x", "no scheme at all", "amqp://x"])
    def test_other_schemes_are_refused(self, url: str) -> None:
        with pytest.raises(BackendError, match="Unsupported backend URL scheme"):
            get_backend(url)

    @pytest.mark.parametrize("value", [42, b"redis://x", object, ["redis://x"]], ids=repr)
    def test_what_is_neither_text_nor_a_backend_is_refused(self, value: Any) -> None:
        with pytest.raises(BackendError, match="must be a connection string"):
            get_backend(value)

    def test_none_is_memory(self) -> None:
        assert isinstance(get_backend(None), InMemoryBackend)

    def test_an_instance_passes_through(self) -> None:
        backend = InMemoryBackend()

        assert get_backend(backend) is backend

    def test_a_secret_in_a_refused_url_is_not_repeated(self) -> None:
        with pytest.raises(BackendError) as refused:
            get_backend("postgres://shop:hunter2@db/x")

        assert "hunter2" not in str(refused.value)


class TestBrokerUrls:
    @pytest.mark.parametrize("url", ["amqp://rabbit", "amqps://rabbit"])
    def test_amqp_is_not_there_yet(self, url: str) -> None:
        with pytest.raises(BackendError, match="not yet implemented"):
            get_broker(url)

    @pytest.mark.parametrize("url", ["kafka://x", "memory://", "http://x"])
    def test_other_schemes_are_refused(self, url: str) -> None:
        with pytest.raises(BackendError, match=r"(?i)unsupported broker"):
            get_broker(url)

    def test_none_is_none(self) -> None:
        assert get_broker(None) is None

    def test_an_instance_passes_through(self) -> None:
        class Broker(BaseBroker):
            async def push(self, task: Task) -> None: ...

            async def pop(self, timeout: float | None = None) -> Task | None: ...

            async def size(self) -> int:
                return 0

        broker = Broker()

        assert get_broker(broker) is broker


class TestWhatAConfigurationCreates:
    def test_nothing_configured_means_memory(self) -> None:
        config = Config()

        assert config.create_broker() is None
        assert config.create_broker(queue_suffix=":io") is None
        assert isinstance(config.create_backend(), InMemoryBackend)
        assert config.create_scheduler_backend() is None

    def test_a_backend_instance_is_accepted_where_a_configuration_is(self) -> None:
        backend = InMemoryBackend()

        assert Config(backend=backend).create_backend() is backend

    async def test_a_given_backend_holds_the_results(self) -> None:
        backend = InMemoryBackend()
        app = Flowrra(Config(backend=backend))

        @app.task()
        async def job() -> str:
            return "done"

        async with app:
            task_id = await app.submit(job)
            await final(app, task_id)

        stored = await backend.get(task_id)
        assert isinstance(stored, TaskResult)
        assert (stored.status, stored.result) == (TaskStatus.SUCCESS, "done")

    @pytest.mark.parametrize("kind", [Flowrra, IOExecutor])
    def test_the_executors_limits_are_the_defaults_of_tasks_that_set_none(self, kind: Any) -> None:
        owner = kind(Config(executor=ExecutorConfig(max_retries=9, retry_delay=0.125)))

        @owner.task()
        async def plain() -> None: ...

        @owner.task
        async def plainest() -> None: ...

        @owner.task(max_retries=1, retry_delay=2.0)
        async def particular() -> None: ...

        assert (plain.max_retries, plain.retry_delay) == (plainest.max_retries, plainest.retry_delay) == (9, 0.125)
        assert (particular.max_retries, particular.retry_delay) == (1, 2.0)

    def test_an_app_can_be_built_on_any_url_without_a_server(self) -> None:
        app = Flowrra.from_urls(broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")

        assert app.is_running is False


class TestParts:
    """What can't be a part is refused where it is given, without showing what may hold a password."""

    @pytest.mark.parametrize("part", ["broker", "backend", "executor", "scheduler"])
    @pytest.mark.parametrize(
        "wrong", ["redis://:secret@localhost/0", {"io_workers": 3}, True], ids=["URL", "dict", "bool"]
    )
    def test_of_another_type(self, part: str, wrong: object) -> None:
        with pytest.raises(TypeError, match=f"^{part} must be an? .*, not a {type(wrong).__name__}$") as refusal:
            Config(**{part: wrong})  # type: ignore[arg-type]
        assert "secret" not in str(refusal.value)

    def test_of_one_another(self) -> None:
        with pytest.raises(TypeError, match=r"broker must be a BrokerConfig.*not a BackendConfig"):
            Config(broker=BackendConfig(REDIS))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"backend must be a BackendConfig.*not a BrokerConfig"):
            Config(backend=BrokerConfig(REDIS))  # type: ignore[arg-type]

    @pytest.mark.parametrize("wrong", ["redis://:secret@localhost/0", BrokerConfig(REDIS)], ids=["URL", "part"])
    def test_in_place_of_the_configuration(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match=r"config must be a Config, .*from_urls") as refusal:
            Flowrra(wrong)
        assert "secret" not in str(refusal.value)

    @pytest.mark.parametrize("name", ["database_url", "timezone"])
    def test_a_scheduler_s_text(self, name: str) -> None:
        with pytest.raises(TypeError, match=f"{name} must be a text, not a int"):
            SchedulerConfig(**{name: 5})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="database_url must be a text, not a int"):
            Flowrra().create_scheduler(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "5", True])
async def test_a_timeout_that_is_no_number_of_seconds_stops_nothing(seconds: Any) -> None:
    app = Flowrra()
    with pytest.raises((TypeError, ValueError), match="shutdown_timeout must be"):
        app.run(shutdown_timeout=seconds)
    async with app:
        with pytest.raises((TypeError, ValueError), match="timeout must be"):
            await app.stop(timeout=seconds)
        assert app.is_running
    with pytest.raises((TypeError, ValueError), match="timeout must be"):
        app.stop_sync(timeout=seconds)
