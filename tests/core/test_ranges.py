"""Numbers are checked where they come in, and what is taken there can be held by every later part of the way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, SchedulerConfig, Task
from flowrra.codec import decode_task, encode_call, encode_task
from flowrra.executors.outcomes import retry_delay
from flowrra.middleware import Middleware
from flowrra.ranges import MAX_BACKOFF, MAX_DELAY, MAX_PRIORITY, MAX_RETRIES
from flowrra.submission import SubmitOptions
from tests.core.apps import memory_app

NEVER_NUMBERS = [
    True,
    "5",
    "soon",
    b"5",
    [1],
    (1,),
    {},
    1j,
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -(10**400),
    10**5000,
]

URL = "redis://localhost"
SECONDS, RETRIES = (-1, -0.001, MAX_DELAY * 1.001), (-1, 2.5, 0.0, MAX_RETRIES + 1)
COUNT, MORE_THAN_NO_SECONDS = (0, -1, 2.5), (0, -1, MAX_DELAY * 1.001)

REGISTRATION = {
    "max_retries": RETRIES,
    "retry_delay": SECONDS,
    "backoff": (-1, -0.5, MAX_BACKOFF * 1.001),
    "jitter": (-0.1, 1.001),
    "timeout": MORE_THAN_NO_SECONDS,
    "priority": (0.5,),
}
OPTIONS = {"priority": (), "countdown": SECONDS, "timeout": MORE_THAN_NO_SECONDS}
CONFIGURATIONS: dict[Callable[..., Any], dict[str, tuple[float, ...]]] = {
    BrokerConfig: {
        "max_connections": COUNT,
        "socket_timeout": SECONDS,
        "lease": (0, 0.5, -1, MAX_DELAY * 1.001),
        "max_deliveries": COUNT,
        "unknown_ttl": MORE_THAN_NO_SECONDS,
    },
    BackendConfig: {"ttl": (0, -1, MAX_DELAY * 1.001), "max_connections": COUNT, "socket_timeout": SECONDS},
    ExecutorConfig: {
        "io_workers": COUNT,
        "cpu_workers": COUNT,
        "max_queue_size": COUNT,
        "max_retries": RETRIES,
        "retry_delay": SECONDS,
        "max_tasks_per_child": COUNT,
    },
    SchedulerConfig: {"check_interval": MORE_THAN_NO_SECONDS},
}
BOUNDS = {
    "max_retries": (0, MAX_RETRIES),
    "retry_delay": (0, MAX_DELAY),
    "backoff": (0, MAX_BACKOFF),
    "jitter": (0, 1),
    "timeout": (5e-324, MAX_DELAY),
    "countdown": (0, MAX_DELAY),
    "priority": (-int(MAX_PRIORITY), int(MAX_PRIORITY)),
}


def refused(values: dict[str, tuple[float, ...]]) -> list[Any]:
    """Every option with each of its bad values."""
    return [
        pytest.param(name, value, id=f"{name}={value if type(value) is not int or abs(value) < 1e9 else 'huge'}")
        for name, own in values.items()
        for value in [*NEVER_NUMBERS, *own]
    ]


def refuses(name: str) -> Any:
    """An error that names what was refused, and says what would be taken."""
    return pytest.raises((TypeError, ValueError), match=rf"^{name} must be .*, not ")


@pytest.mark.parametrize(("name", "value"), refused(REGISTRATION))
def test_at_registration(name: str, value: Any) -> None:
    async def job() -> None: ...

    app = memory_app()
    with refuses(name):
        app.task(**{name: value})(job)
    assert app.registry.list_tasks() == []


@pytest.mark.parametrize(("name", "value"), refused(OPTIONS))
def test_in_the_options_of_a_submission(name: str, value: Any) -> None:
    with refuses(name):
        memory_app().options(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), refused({"max_retries": RETRIES, "retry_delay": SECONDS, "remember": SECONDS})
)
def test_in_the_options_that_a_scheduler_gives(name: str, value: Any) -> None:
    with refuses(name):
        SubmitOptions(**{name: value})


@pytest.mark.parametrize(("name", "value"), refused({"priority": ()}))
async def test_at_submission(name: str, value: Any) -> None:
    app = memory_app()

    @app.task()
    async def job() -> None: ...

    async with app:
        for submit in (app.submit, app.executors["io"].submit):
            with refuses(name):
                await submit(job, priority=value)
        with refuses(name):
            await asyncio.to_thread(app.submit_sync, job, priority=value)


@pytest.mark.parametrize(
    ("eta", "text"),
    [
        (datetime.min, "exists in UTC"),  # noqa: DTZ901 - local
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "exists in UTC"),
        (datetime(2200, 1, 1, tzinfo=UTC), "at most"),
        (1_800_000_000, "a datetime"),
    ],
    ids=str,
)
def test_a_time_that_no_task_can_wait_for(eta: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"eta must be .*{text}.*, not "):
        memory_app().options(eta=eta)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda each: each.__name__)
def test_in_a_configuration(configuration: Callable[..., Any]) -> None:
    url = {"url": URL} if configuration in (BrokerConfig, BackendConfig) else {}
    for name, bad in CONFIGURATIONS[configuration].items():
        for value in [*NEVER_NUMBERS, *bad]:
            with refuses(name):
                configuration(**url, **{name: value})


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "1e400", "1" + "0" * 400, "soon", "True", "[1]"])
def test_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWRRA_BROKER_URL", URL)
    monkeypatch.setenv("FLOWRRA_BACKEND_URL", URL)
    parts = zip(("BROKER", "BACKEND", "EXECUTOR", "SCHEDULER"), CONFIGURATIONS.values(), strict=True)
    for variable in [f"FLOWRRA_{part}_{name.upper()}" for part, names in parts for name in names]:
        monkeypatch.setenv(variable, text)
        with pytest.raises(ValueError, match=rf"^{variable}.* must be .*, not "):
            Config.from_env()
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("configuration", "fields"),
    [
        (BrokerConfig, {"url": 7}),
        (BrokerConfig, {"url": URL, "namespace": 7}),
        (BrokerConfig, {"url": URL, "queue_key": b"queue"}),
        (BrokerConfig, {"url": URL, "retry_on_timeout": "no"}),
        (BackendConfig, {"url": URL, "retry_on_timeout": "no"}),
        (ExecutorConfig, {"consume": "no"}),
        (SchedulerConfig, {"enabled": "no"}),
    ],
    ids=str,
)
def test_text_and_switches_of_a_configuration(configuration: Callable[..., Any], fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=list(fields)[-1].replace("url", "URL")):
        configuration(**fields)


class Whole(IntEnum):
    """Members of an enumeration are integers, whatever their text is."""

    TWO = 2


def values_of(name: str) -> st.SearchStrategy[Any]:
    least, most = BOUNDS[name]
    edges = st.sampled_from([least, most, math.nextafter(most, 0), 0, 1, 1.0, Whole.TWO])
    return edges | st.integers() | st.floats() | st.floats(0, 1) | st.integers(0, MAX_RETRIES)


def chosen_from(names: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values_of(name) for name in names})


class Sight(Middleware):
    """Keeps the tasks that were submitted, as they are."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def on_submit(self, task: Task) -> None:
        self.tasks.append(task)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    registered=chosen_from(REGISTRATION),
    chosen=chosen_from(OPTIONS),
    retry=st.integers(0, MAX_RETRIES) | st.integers(0, 40),
)
def test_what_is_taken_can_be_queued_read_again_and_retried(
    registered: dict[str, Any], chosen: dict[str, Any], retry: int
) -> None:
    async def accepted() -> Task | None:
        app, sight = memory_app(), Sight()
        app.add_middleware(sight)

        async def job() -> None: ...

        try:
            app.task(**registered)(job)
            submission = app.options(**chosen)
        except (TypeError, ValueError):
            return None
        await app.start()
        try:
            await submission.submit(job)
        finally:
            await app.stop(wait=False)
        return sight.tasks[0]

    task = asyncio.run(accepted())
    if task is None:
        return
    task.current_retry = min(retry, task.max_retries)
    text = encode_task(task, datetime.now(UTC), encode_call((), {}, task.name))
    assert decode_task(text.encode()).task == task
    assert 0 <= retry_delay(task) <= 2 * MAX_DELAY
