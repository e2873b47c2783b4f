"""TaskStatus, TaskResult and Task: the values that callers read, compare, store and send as JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from datetime import UTC, datetime

import pytest

from flowrra import Task, TaskResult, TaskStatus
from flowrra.constants import STATUS_COLORS, TASK_STATUSES

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)

KEYS = [
    "task_id",
    "status",
    "task_name",
    "result",
    "error",
    "submitted_at",
    "started_at",
    "finished_at",
    "retries",
    "args",
    "kwargs",
]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (TaskStatus.PENDING, "pending"),
        (TaskStatus.RUNNING, "running"),
        (TaskStatus.SUCCESS, "success"),
        (TaskStatus.FAILED, "failed"),
        (TaskStatus.RETRYING, "retrying"),
        (TaskStatus.CANCELLED, "cancelled"),
    ],
)
def test_a_status_is_its_text_in_every_use(status: TaskStatus, text: str) -> None:
    assert status == text
    assert status.value == text
    assert str(status) == text
    assert f"{status}" == text
    assert json.dumps(status) == f'"{text}"'
    assert TaskStatus(text) is status
    assert {text: 1}[status] == 1


def test_there_are_exactly_six_statuses() -> None:
    assert len(TaskStatus) == 6


def test_the_constants_for_user_interfaces() -> None:
    assert TASK_STATUSES == ("pending", "running", "success", "failed")
    assert {status: STATUS_COLORS[status] for status in TASK_STATUSES} == {
        "pending": "yellow",
        "running": "blue",
        "success": "success",
        "failed": "error",
    }, "the CSS classes of 0.1.8"
    assert set(STATUS_COLORS) == {status.value for status in TaskStatus}


@pytest.mark.parametrize(
    "value",
    [
        Task("id", "name", (1, "a"), {"k": [1]}, priority=5),
        TaskResult("id", TaskStatus.SUCCESS, "name", {"a": 1}, args=(1,), kwargs={"k": 2}),
    ],
    ids=["task", "record"],
)
def test_the_fields_can_be_read_by_vars(value: Task | TaskResult) -> None:
    assert vars(value) == value.__dict__ == {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    assert type(value)(**vars(value)) == value == pickle.loads(pickle.dumps(value)) == copy.deepcopy(value)


class TestTaskResult:
    def test_the_positional_order_is_fixed(self) -> None:
        record = TaskResult(
            "id", TaskStatus.FAILED, "name", "result", "error", MOMENT, MOMENT, MOMENT, 2, (1,), {"a": 1}
        )

        assert [getattr(record, key) for key in KEYS] == [
            "id", TaskStatus.FAILED, "name", "result", "error", MOMENT, MOMENT, MOMENT, 2, (1,), {"a": 1},
        ]  # fmt: skip

    def test_only_id_and_status_are_required(self) -> None:
        record = TaskResult("id", TaskStatus.PENDING)

        assert record.task_name is record.result is record.error is None
        assert record.submitted_at is record.started_at is record.finished_at is None
        assert (record.retries, record.args, record.kwargs) == (0, (), {})

    def test_two_records_never_share_their_keyword_arguments(self) -> None:
        first, second = TaskResult("1", TaskStatus.PENDING), TaskResult("2", TaskStatus.PENDING)

        first.kwargs["a"] = 1

        assert second.kwargs == {}

    def test_it_can_be_changed_and_compared(self) -> None:
        record = TaskResult("id", TaskStatus.PENDING)
        record.status = TaskStatus.RUNNING

        assert record == TaskResult("id", TaskStatus.RUNNING)

    @pytest.mark.parametrize(
        ("status", "complete", "success"),
        [
            (TaskStatus.PENDING, False, False),
            (TaskStatus.RUNNING, False, False),
            (TaskStatus.RETRYING, False, False),
            (TaskStatus.SUCCESS, True, True),
            (TaskStatus.FAILED, True, False),
            (TaskStatus.CANCELLED, True, False),
        ],
    )
    def test_what_is_complete_and_what_is_a_success(self, status: TaskStatus, complete: bool, success: bool) -> None:
        record = TaskResult("id", status)

        assert (record.is_complete, record.is_success, record.success) == (complete, success, success)

    def test_to_dict_is_a_property_with_plain_values(self) -> None:
        record = TaskResult(
            "id", TaskStatus.SUCCESS, "name", {"a": 1}, None, MOMENT, MOMENT, None, 1, (1, 2), {"k": "v"}
        )

        printed = record.to_dict

        assert {key: printed[key] for key in KEYS} == {
            "task_id": "id",
            "status": "success",
            "task_name": "name",
            "result": {"a": 1},
            "error": None,
            "submitted_at": MOMENT.isoformat(),
            "started_at": MOMENT.isoformat(),
            "finished_at": None,
            "retries": 1,
            "args": (1, 2),
            "kwargs": {"k": "v"},
        }
        assert type(printed["status"]) is str
        json.dumps(printed)

    def test_a_record_survives_the_way_through_json(self) -> None:
        record = TaskResult(
            "id", TaskStatus.FAILED, "n", None, "ValueError: x", MOMENT, MOMENT, MOMENT, 3, (1, "a"), {"k": [1]}
        )

        assert TaskResult.from_dict(json.loads(json.dumps(record.to_dict))) == record

    def test_from_dict_needs_only_id_and_status(self) -> None:
        assert TaskResult.from_dict({"task_id": "id", "status": "pending"}) == TaskResult("id", TaskStatus.PENDING)

    @pytest.mark.parametrize("missing", ["task_id", "status"])
    def test_from_dict_names_what_is_missing(self, missing: str) -> None:
        data = {"task_id": "id", "status": "pending"}
        del data[missing]

        with pytest.raises((KeyError, ValueError), match=missing):
            TaskResult.from_dict(data)

    def test_from_dict_refuses_an_unknown_status(self) -> None:
        with pytest.raises(ValueError, match="sleeping"):
            TaskResult.from_dict({"task_id": "id", "status": "sleeping"})

    def test_records_of_earlier_releases_with_naive_times_are_still_read(self) -> None:
        record = TaskResult.from_dict(
            {"task_id": "id", "status": "success", "finished_at": "2025-01-02T03:04:05.000006", "args": [1, 2]}
        )

        assert record.finished_at is not None
        assert record.finished_at.replace(tzinfo=None) == datetime(2025, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001
        assert record.args == (1, 2)


class TestTask:
    def test_the_fields_of_earlier_releases_come_first_with_their_defaults(self) -> None:
        task = Task("id", "name", (1,), {"a": 2})

        assert (task.id, task.name, task.args, task.kwargs) == ("id", "name", (1,), {"a": 2})
        assert (task.max_retries, task.retry_delay, task.current_retry) == (3, 1.0, 0)
        assert (task.priority, task.cpu_bound, task.headers) == (0, False, {})

    def test_they_can_all_be_given_by_position(self) -> None:
        task = Task("id", "name", (), {}, 1, 2.5, 1, -7, True)

        assert (task.max_retries, task.retry_delay, task.current_retry) == (1, 2.5, 1)
        assert (task.priority, task.cpu_bound) == (-7, True)

    def test_the_lower_priority_number_comes_first_whatever_the_id(self) -> None:
        urgent, normal = Task("z", "z", (), {}, priority=-1), Task("a", "a", (), {}, priority=0)

        assert urgent < normal
        assert not normal < urgent
        assert not normal < Task("b", "b", (), {}, priority=0)

    def test_two_tasks_never_share_their_headers(self) -> None:
        first, second = Task("1", "n", (), {}), Task("2", "n", (), {})

        first.headers["traceparent"] = "00-1"

        assert second.headers == {}
