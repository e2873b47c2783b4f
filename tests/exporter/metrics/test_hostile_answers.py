"""Whatever the app answers, one bad item costs itself alone, and no text of a task's makes an answer fail."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.exporter.conftest import Serve

NOW = datetime.now(UTC)
GOOD = {"task_id": "good", "task_name": "shop.sell", "submitted_at": NOW, "error": "no", "args": (), "kwargs": {}}


class Hostile:
    """Answers like a manager, with these failed tasks and workers."""

    def __init__(self, failed: list[Any], workers: list[Any]) -> None:
        self._failed = failed
        self._workers = workers

    async def get_stats(self) -> dict[str, Any]:
        return {"app": {"running": True}}

    async def health_check(self) -> dict[str, Any]:
        return {"healthy": True, "timestamp": NOW, "components": {}}

    async def list_failed_tasks(self, limit: int | None = None) -> list[Any]:
        return self._failed

    async def list_workers(self) -> list[Any]:
        return self._workers


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        {},
        {**GOOD, "kwargs": 7},
        {**GOOD, "args": 7},
        {**GOOD, "finished_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))},
        {**GOOD, "finished_at": datetime.max.replace(tzinfo=UTC)},
    ],
    ids=["none", "number", "empty", "kwargs", "args", "first day", "last day"],
)
async def test_a_failed_task_that_cannot_be_read_costs_itself_alone(serve: Serve, bad: Any) -> None:
    service = await serve(Hostile([bad, GOOD], []))
    answer = await service.get("/api/failures")
    assert answer.status == 200
    assert "good" in [each["task_id"] for each in json.loads(answer.text)["failures"]]
    assert (await service.get("/")).status == 200


@pytest.mark.parametrize("text", ["file-\udcff", "\ud800", "a\x00b", "\x1b[2J", "x" * 1_000_000], ids=ascii)
async def test_no_text_of_a_task_makes_an_answer_fail(serve: Serve, text: str) -> None:
    failed = {**GOOD, "task_id": text, "task_name": text, "error": text, "args": (text,)}
    service = await serve(Hostile([failed], [{"id": text}]))
    for path in ("/", "/api/failures", "/api/workers", "/readyz?verbose", "/metrics"):
        assert (await service.get(path)).status == 200, path


async def test_what_a_worker_announces_is_answered_to_a_depth(serve: Serve) -> None:
    service = await serve(Hostile([], [{"id": "good"}, {"id": "bad", "note": nested(900)}]))
    answer = await service.get("/api/workers")
    assert answer.status == 200
    assert [each["id"] for each in json.loads(answer.text)] == ["good", "bad"]
