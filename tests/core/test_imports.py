"""What can be imported from where, on a machine with nothing but Python."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest

IMPORTS = {
    "flowrra": (
        "Flowrra IOExecutor CPUExecutor TaskRegistry Config BrokerConfig BackendConfig ExecutorConfig SchedulerConfig "
        "Task TaskResult TaskStatus FlowrraError TaskNotFoundError TaskTimeoutError ExecutorNotRunningError "
        "BackendError Reject SerializationError TaskImportError WorkerLostError current_task __version__"
    ),
    "flowrra.app": "Flowrra",
    "flowrra.config": "Config BrokerConfig BackendConfig ExecutorConfig SchedulerConfig",
    "flowrra.task": "Task TaskResult TaskStatus",
    "flowrra.registry": "TaskRegistry",
    "flowrra.exceptions": "FlowrraError TaskNotFoundError TaskTimeoutError ExecutorNotRunningError BackendError",
    "flowrra.events": "EventBus event_bus",
    "flowrra.constants": "TASK_STATUSES STATUS_COLORS",
    "flowrra.log": "TaskLogFilter",
    "flowrra.executors": "BaseTaskExecutor IOExecutor CPUExecutor",
    "flowrra.executors.base": "BaseTaskExecutor",
    "flowrra.executors.io_executor": "IOExecutor",
    "flowrra.executors.cpu_executor": "CPUExecutor",
    "flowrra.backends": "BaseResultBackend InMemoryBackend get_backend",
    "flowrra.backends.base": "BaseResultBackend",
    "flowrra.backends.memory": "InMemoryBackend",
    "flowrra.backends.factory": "get_backend",
    "flowrra.brokers": "BaseBroker",
    "flowrra.brokers.base": "BaseBroker",
    "flowrra.brokers.factory": "get_broker",
    "flowrra.management": "FlowrraManager",
    "flowrra.management.manager": "FlowrraManager",
}

DRIVERS = [
    "redis",
    "valkey",
    "hiredis",
    "asyncpg",
    "aiomysql",
    "aiosqlite",
    "sqlalchemy",
    "aiohttp",
    "fastapi",
    "flask",
    "starlette",
    "django",
    "prometheus_client",
    "opentelemetry",
    "click",
    "uvloop",
]


@pytest.mark.parametrize(("module", "names"), IMPORTS.items(), ids=IMPORTS.keys())
def test_the_documented_names_are_importable(module: str, names: str) -> None:
    imported = importlib.import_module(module)

    assert [name for name in names.split() if not hasattr(imported, name)] == []


def test_a_name_is_the_same_object_wherever_it_is_imported_from() -> None:
    owners: dict[str, object] = {}
    for module, names in IMPORTS.items():
        for name in names.split():
            value = getattr(importlib.import_module(module), name)
            assert owners.setdefault(name, value) is value, f"{module}.{name}"


def run_without_drivers(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter in which no driver and no web framework can be imported."""
    blocker = f"""
        import sys

        class NotInstalled:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {DRIVERS!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, NotInstalled())
    """
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(blocker) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_core_runs_without_any_driver_or_framework() -> None:
    finished = run_without_drivers(f"""
        import asyncio, importlib
        for module in {list(IMPORTS)!r}:
            importlib.import_module(module)

        from flowrra import Flowrra
        from flowrra.management import FlowrraManager

        app = Flowrra.from_urls()

        @app.task()
        async def double(number):
            return number * 2

        async def main():
            async with app:
                record = await app.wait_for_result(await app.submit(double, 21), timeout=5)
                print(record.result, (await FlowrraManager(app).health_check())["healthy"])

        asyncio.run(main())
    """)

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "42 True\n", "")


def test_star_import_offers_what_the_package_declares() -> None:
    namespace: dict[str, object] = {}

    exec("from flowrra import *", namespace)

    assert {"Flowrra", "Config", "TaskStatus", "TaskTimeoutError"} <= namespace.keys()


def test_the_redis_classes_can_be_had_from_their_packages() -> None:
    from flowrra import backends, brokers
    from flowrra.backends.redis import RedisBackend
    from flowrra.brokers.redis import RedisBroker

    assert (backends.RedisBackend, brokers.RedisBroker) == (RedisBackend, RedisBroker)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("flowrra.backends import RedisBackend", "RedisBackend needs the redis package: pip install 'flowrra[redis]'"),
        ("flowrra.brokers import RedisBroker", "RedisBroker needs the redis package: pip install 'flowrra[redis]'"),
        ("flowrra_exporter import Exporter", "aiohttp is not installed; run: pip install 'flowrra[exporter]'"),
    ],
)
def test_a_class_whose_packages_are_missing_names_the_extra(wanted: str, told: str) -> None:
    finished = run_without_drivers(f"from {wanted}")

    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == f"ModuleNotFoundError: {told}"


def test_a_redis_url_without_the_redis_package_names_the_extra() -> None:
    finished = run_without_drivers("""
        from flowrra import BackendError, Flowrra

        for url in ("redis://localhost/0", "rediss://localhost/0", "unix:///run/redis"):
            for which in ("broker", "backend"):
                app = Flowrra.from_urls(**{which: url})
                try:
                    app.task()(print)
                except BackendError as error:
                    print(which, error)
    """)

    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines() == 3 * [
        "broker A broker on Redis requires redis package: pip install 'flowrra[redis]'",
        "backend A result backend on Redis requires redis package: pip install 'flowrra[redis]'",
    ]
