"""What `--json` prints is what the JSON API's OpenAPI document says of the same questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from flowrra_exporter.web.api.schemas import Schemas
from jsonschema import Draft202012Validator

from flowrra.management.answers import BulkResult
from tests.command.conftest import APP, Flowrra, Process, finished, until
from tests.command.test_exporter import port
from tests.command.test_schedules import schedule_id
from tests.redis.apps import QUEUE

__all__ = ["port", "schedule_id"]

pytestmark = pytest.mark.slow


class Document:
    """The OpenAPI document that a worker serves, in which no object has keys that are not described."""

    def __init__(self, port: int) -> None:
        self._document = httpx.get(f"http://127.0.0.1:{port}/api/openapi.json").json()
        for schema in self._document["components"]["schemas"].values():
            close(schema)

    def of(self, path: str) -> dict[str, Any]:
        """The schema of what a path answers."""
        operation = self._document["paths"][path]["get"]
        schema: dict[str, Any] = operation["responses"]["200"]["content"]["application/json"]["schema"]
        return schema

    def check(self, answer: Any, schema: dict[str, Any]) -> None:
        Draft202012Validator({**schema, "components": self._document["components"]}).validate(answer)


def close(schema: dict[str, Any]) -> None:
    if "properties" in schema:
        schema["additionalProperties"] = False


@pytest.fixture
def document(url: str, port: int, flowrra: Flowrra, look: redis.Redis) -> Iterator[Document]:
    look.rpush(QUEUE, b"what no task is")
    with Process(url, "worker", APP, "--exporter", f"127.0.0.1:{port}"):
        until(lambda: flowrra("workers", "--json").answer, 60)
        yield Document(port)


def test_answers(document: Document, flowrra: Flowrra) -> None:
    failed = flowrra("submit", "fail").out.strip()
    finished(flowrra, flowrra("submit", "send", "me").out.strip())
    finished(flowrra, failed)
    flowrra("submit", "copy", "100")
    until(lambda: any(task["progress"] for task in flowrra("tasks", "--json").answer["tasks"]))
    for command, path in (
        ("tasks", "/api/task-records"),
        (f"task {failed}", "/api/task-records/{id}"),
        ("queues", "/api/all-queues"),
        ("workers", "/api/workers"),
        ("dead", "/api/dead-tasks"),
    ):
        answer = flowrra(*command.split(), "--json").answer
        assert answer, command
        document.check(answer, document.of(path))
    stats = flowrra("stats", "--json").answer
    document.check(stats["tasks"], document.of("/api/task-counts"))
    event = json.loads(flowrra("watch", "--task", failed, "--json").out)
    document.check(event, {"$ref": "#/components/schemas/TaskEvent"})
    for component in flowrra("health", "--json").answer["components"].values():
        document.check(component, {"$ref": "#/components/schemas/Component"})


def test_what_is_done_to_many(document: Document, flowrra: Flowrra) -> None:
    schemas = Schemas({})
    schema = schemas.of(BulkResult)
    for words in ("cancel --name hold --yes", "purge mail --yes", "requeue --all", "forget --all --yes"):
        answer = flowrra(*words.split(), "--json").answer
        Draft202012Validator({**schema, "components": {"schemas": schemas.components}}).validate(answer)


def test_schedules(document: Document, flowrra: Flowrra, schedule_id: str) -> None:
    for command, path in (("schedules", "/api/schedules"), ("runs", "/api/schedule-runs")):
        answer = flowrra(command, "--app", "tests.command.shop:scheduled", "--json").answer
        assert answer
        document.check(answer, document.of(path))
