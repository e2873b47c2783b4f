"""Tasks and records as text: each part of them comes back, and what another program wrote is read as it stands."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from flowrra import Task, TaskResult, TaskStatus
from flowrra.codec import EncodedRecord, decode_record, decode_task, encode_call, encode_record, encode_task
from flowrra.task import Attempt, AttemptEnd, Progress

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ATTEMPTS = (
    Attempt(1, "host-1", NOW, NOW, AttemptEnd.FAILED, "ValueError: no", "Traceback"),
    Attempt(2, None, None, None, AttemptEnd.LOST),
)
CALL = ((1, "two", None), {"key": [3.5, {"a": True}]})


class TestTask:
    @pytest.mark.parametrize(
        "parts",
        [
            {},
            {"timeout": 2.5},
            {"backoff": 2},
            {"jitter": 0.5},
            {"headers": {"trace": "1"}},
            {"headers": {"__flowrra__": "date", "value": "2026-01-02"}},
            {"queue": "mail"},
            {"max_retries": 0, "retry_delay": 0.25, "current_retry": 2, "priority": -1, "cpu_bound": True},
        ],
    )
    def test_comes_back_as_it_was(self, parts: dict[str, Any]) -> None:
        task = dataclasses.replace(Task("an-id", "work", *CALL), **parts)
        call = encode_call(*CALL, "work")
        found = decode_task(encode_task(task, None, call).encode())
        assert found == (task, None, call, (), None)

    def test_comes_back_with_what_is_known_of_it(self) -> None:
        call = encode_call(*CALL, "work")
        text = encode_task(Task("an-id", "work", *CALL), NOW, call, ATTEMPTS, "another")
        assert decode_task(text.encode())[1:] == (NOW, call, ATTEMPTS, "another")

    @pytest.mark.parametrize(
        "text",
        [
            '{"id":"a","name":"n","args":[1],"kwargs":{"b":2},"priority":1}',
            '{"id":"a","name":"n","kwargs":{"b":2},"args":[1]}',
            '{"id":"a","name":"n","more":{"x":1,"args":[3]},"args":[1],"kwargs":{"b":2}}',
            '{"id":"a","name":"n","args":[1],"kwargs":{"b":2}}\n',
            '{ "id": "a", "name": "n", "args": [1], "kwargs": {"b": 2} }',
        ],
    )
    def test_of_another_program_has_the_arguments_that_it_says(self, text: str) -> None:
        found = decode_task(text.encode())
        assert (found.task.args, found.task.kwargs) == ((1,), {"b": 2})
        assert found.call == encode_call((1,), {"b": 2}, "n")

    @pytest.mark.parametrize(
        ("field", "text"),
        [
            ("args", '[{"__flowrra__":"date","value":"card 4111"}]'),
            ("args", '[{"__flowrra__":"date","value":"2026-01-02","card 4111":1}]'),
            ("args", '[{"__flowrra__":"tuple","value":[{"__flowrra__":"uuid","value":"card 4111"}]}]'),
            ("args", '[{"__flowrra__":"card 4111","value":1}]'),
            ("kwargs", '{"a":{"__flowrra__":"time","value":"12:00","zone":"card 4111"}}'),
            ("submitted_at", '"card 4111"'),
            ("queue", '"card 4111"'),
            ("attempts", '[{"number":1,"outcome":"card 4111"}]'),
            ("attempts", '[{"number":1,"outcome":"lost","started_at":"card 4111"}]'),
            ("retry_of", "[4111]"),
        ],
    )
    def test_says_which_field_cannot_be_read_and_not_what_it_holds(self, field: str, text: str) -> None:
        with pytest.raises(ValueError, match=f"its {field} can't be read: (ValueError|TypeError)$"):
            decode_task(f'{{"id":"a","name":"n","{field}":{text}}}'.encode())

    @pytest.mark.parametrize(
        "fields", ['"max_retries":"4111"', '"headers":{"a":4111}', '"args":{"a":"4111"}', '"b":"4111']
    )
    def test_quotes_nothing_of_what_it_refuses(self, fields: str) -> None:
        with pytest.raises(ValueError, match=r"^(?!.*4111)"):
            decode_task(f'{{"id":"a","name":"n",{fields}}}'.encode())


class TestRecord:
    @pytest.mark.parametrize(
        "parts",
        [
            {},
            {"result": {"a": [1, 2]}},
            {"result": {"__flowrra__": "date", "value": "2026-01-02"}},
            {"error": "ValueError: no", "traceback": "Traceback …"},
            {"worker": "host-1"},
            {"attempts": ATTEMPTS},
            {"retry_of": "another"},
            {"progress": Progress(1, 2, "half", NOW)},
            {"queue": "mail", "retries": 3},
            {"submitted_at": NOW, "started_at": NOW, "finished_at": NOW},
        ],
    )
    def test_comes_back_as_it_was(self, parts: dict[str, Any]) -> None:
        record = TaskResult("an-id", TaskStatus.FAILED, "work", **{"args": CALL[0], "kwargs": CALL[1], **parts})
        encoded = encode_record(record)
        assert decode_record(encoded.text.encode()) == record
        assert encode_record(record, encode_call(*CALL, "work")) == encoded

    def test_says_where_it_is_to_be_listed(self) -> None:
        known = encode_record(TaskResult("an-id", TaskStatus.SUCCESS, "work", submitted_at=NOW))
        assert known == EncodedRecord(known.text, "success", round(NOW.timestamp() * 1e6), "work")
        unknown = encode_record(TaskResult("an-id", TaskStatus.PENDING))
        assert unknown == EncodedRecord(unknown.text, "pending", 0, "")
