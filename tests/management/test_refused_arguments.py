"""What can't be an argument is the caller's mistake: it is refused by its name, and nobody is asked, in memory as on a
server."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager

# A server that nobody is to ask: it isn't there.
NOWHERE = "redis://127.0.0.1:1/0"
LIMITED = ("list_tasks", "cancel_tasks", "purge_queue", "requeue_dead_tasks", "delete_dead_tasks")
LISTS = (
    "list_pending_tasks", "list_retrying_tasks", "list_running_tasks", "list_completed_tasks", "list_failed_tasks",
    "list_cancelled_tasks", "list_running_attempts", "list_dead_tasks", "get_slowest_tasks", "get_failing_tasks",
)  # fmt: skip
OF_ONE_TASK = (
    "get_task_result", "get_task", "cancel_task", "retry_task",
    "get_dead_task", "requeue_dead_task", "delete_dead_task",
)  # fmt: skip
OF_ONE_SCHEDULE = ("get_schedule", "trigger_schedule", "enable_schedule", "disable_schedule", "delete_schedule")
FILTERED = {
    "list_tasks": ("name", "queue", "error", "worker", "cursor"),
    "cancel_tasks": ("name", "queue", "worker"),
    "purge_queue": ("name",),
    "list_dead_tasks": ("name", "reason"),
    "requeue_dead_tasks": ("name", "reason"),
    "delete_dead_tasks": ("name", "reason"),
    "get_throughput": ("task_name",),
    "drain_worker": ("worker",),
    "resume_worker": ("worker",),
}


@pytest.fixture(params=["memory", "server"])
def manager(request: pytest.FixtureRequest) -> FlowrraManager:
    app = Flowrra() if request.param == "memory" else Flowrra.from_urls(NOWHERE, NOWHERE)

    @app.task()
    async def work() -> None:
        """Nothing."""

    return FlowrraManager(app)


async def refusal(manager: FlowrraManager, method: str, *args: Any, **arguments: Any) -> tuple[type[Exception], str]:
    with pytest.raises((TypeError, ValueError)) as refused:
        await getattr(manager, method)(*args, **arguments)
    return type(refused.value), str(refused.value)


@pytest.mark.parametrize("method", [*LIMITED, *LISTS])
@pytest.mark.parametrize("limit", [1.5, "3", True, float("nan"), -1, 2**70])
async def test_a_limit_is_a_whole_number(manager: FlowrraManager, method: str, limit: Any) -> None:
    kind, text = await refusal(manager, method, limit=limit)
    assert kind is (ValueError if type(limit) is int else TypeError)
    assert text.startswith("limit must be ")


@pytest.mark.parametrize("method", LIMITED)
async def test_none_at_all_is_no_limit_of_what_is_acted_on_or_of_a_page(manager: FlowrraManager, method: str) -> None:
    kind, text = await refusal(manager, method, limit=0)
    assert kind is ValueError
    assert text.startswith("limit must be at least 1")


@pytest.mark.parametrize("method", ["list_tasks", "cancel_tasks"])
@pytest.mark.parametrize("argument", ["since", "until"])
async def test_a_time_is_a_datetime_that_exists_in_utc(manager: FlowrraManager, method: str, argument: str) -> None:
    for nonsense in ("2024-01-01", date(2024, 1, 1), 1_700_000_000):
        kind, text = await refusal(manager, method, **{argument: nonsense})
        assert (kind, text.startswith(f"{argument} must be a datetime, not ")) == (TypeError, True)
    kind, text = await refusal(manager, method, **{argument: datetime.min})  # noqa: DTZ901
    assert (kind, text.startswith(f"{argument} must be a time that exists in UTC too")) == (ValueError, True)


async def test_any_time_that_exists_is_taken() -> None:
    manager = FlowrraManager(Flowrra())
    for moment in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(2024, 1, 1)):  # noqa: DTZ001
        page = await manager.list_tasks(since=moment, until=moment)
        assert page == {"tasks": [], "next": None}


@pytest.mark.parametrize(
    ("method", "argument"), [(method, argument) for method, arguments in FILTERED.items() for argument in arguments]
)
async def test_a_filter_is_a_text(manager: FlowrraManager, method: str, argument: str) -> None:
    for nonsense in (5, ["work"], b"work"):
        kind, text = await refusal(manager, method, **{argument: nonsense})
        assert (kind, text.startswith(f"{argument} must be a text, not ")) == (TypeError, True)


@pytest.mark.parametrize("argument", ["task", "name", "queue", "after"])
async def test_so_is_that_of_a_watch(manager: FlowrraManager, argument: str) -> None:
    arguments: dict[str, Any] = {argument: 5}
    with pytest.raises(TypeError, match=f"{argument} must be a text, not 5"):
        await anext(manager.watch(**arguments))


@pytest.mark.parametrize("method", ["list_tasks", "cancel_tasks"])
@pytest.mark.parametrize("status", ["bogus", 5, []])
async def test_a_status_that_is_none_is_told_which_there_are(manager: FlowrraManager, method: str, status: Any) -> None:
    kind, text = await refusal(manager, method, status=status)
    assert kind is ValueError
    assert text == f"status must be pending, running, success, failed, retrying, cancelled or None, not {status!r}"


async def test_text_that_no_server_can_hold_is_refused(manager: FlowrraManager) -> None:
    kind, text = await refusal(manager, "list_tasks", name="\ud800")
    assert (kind, text.startswith("name must be a text that UTF-8 can hold")) == (ValueError, True)


@pytest.mark.parametrize("nonsense", [None, 5, []])
@pytest.mark.parametrize("method", [*OF_ONE_TASK, *OF_ONE_SCHEDULE, "pause_task", "resume_task", "get_task_info"])
async def test_an_id_or_a_name_is_a_text(manager: FlowrraManager, method: str, nonsense: Any) -> None:
    kind, text = await refusal(manager, method, nonsense)
    name = "task_id" if method in OF_ONE_TASK else "schedule_id" if method in OF_ONE_SCHEDULE else "task_name"
    assert (kind, text) == (TypeError, f"{name} must be a text, not {nonsense!r}")


@pytest.mark.parametrize("method", ["pause_queue", "resume_queue", "purge_queue"])
async def test_a_queue_has_a_name_that_one_can_have(manager: FlowrraManager, method: str) -> None:
    for nonsense in (5, "no queue's name", ""):
        kind, text = await refusal(manager, method, nonsense)
        assert (kind, text.startswith("A queue's name must have ")) == (ValueError, True)


@pytest.mark.parametrize("method", ["drain_worker", "resume_worker"])
async def test_one_worker_at_a_time_is_drained(manager: FlowrraManager, method: str) -> None:
    kind, text = await refusal(manager, method, "all")
    assert (kind, text) == (ValueError, "worker must be the id of one worker, as list_workers() has it, not 'all'")
