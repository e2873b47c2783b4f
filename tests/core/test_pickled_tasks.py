"""Tests of tasks as they travel to worker processes."""

from __future__ import annotations

import pickle
from dataclasses import fields

from flowrra.task import Task

TASK = Task(
    "id-1",
    "shop.pack",
    (1, "two"),
    {"three": 3},
    max_retries=4,
    retry_delay=5.0,
    current_retry=6,
    priority=7,
    cpu_bound=True,
    timeout=8.0,
    backoff=9.0,
    jitter=0.1,
    headers={"trace": "t"},
    queue="mail",
)


def test_a_task_arrives_as_it_was() -> None:
    arrived = pickle.loads(pickle.dumps(TASK, pickle.HIGHEST_PROTOCOL))
    assert {each.name: getattr(arrived, each.name) for each in fields(Task)} == {
        each.name: getattr(TASK, each.name) for each in fields(Task)
    }


def test_the_names_of_its_fields_stay_behind() -> None:
    pickled = pickle.dumps(TASK, pickle.HIGHEST_PROTOCOL)
    assert [each.name for each in fields(Task) if each.name.encode() in pickled and len(each.name) > 4] == []
