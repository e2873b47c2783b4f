"""Tests of the scripts that the server runs: each has what it uses, and nothing that only costs at every call."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from flowrra.backends import redis as backend
from flowrra.backends import redis_changes
from flowrra.brokers import redis as broker
from flowrra.brokers import redis_connections
from flowrra.redis_script import Script


def scripts_of(module: ModuleType) -> list[tuple[str, Script]]:
    return [(name, value) for name, value in vars(module).items() if isinstance(value, Script)]


SCRIPTS = dict(each for module in (backend, redis_changes, broker, redis_connections) for each in scripts_of(module))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_no_function_that_it_does_not_use(name: str) -> None:
    text = SCRIPTS[name].text
    functions = re.findall(r"^local function (\w+)", text, re.MULTILINE)
    assert [each for each in functions if len(re.findall(rf"\b{each}\b", text)) == 1] == []


def test_a_function_that_only_another_one_uses_is_there_when_that_one_is() -> None:
    text = Script("clock", "records", "queue", "submit").text
    assert "local function forget_list_if_empty" in text, "submit → list → unlist_by_other_names → this"
    assert "local function unlist_expired" not in text, "what ends records, and submitting does not"
