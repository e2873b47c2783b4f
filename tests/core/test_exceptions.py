"""The errors: their families, texts, attributes, and that they survive pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

import flowrra
from flowrra.exceptions import (
    BackendError,
    ExecutorNotRunningError,
    FlowrraError,
    TaskNotFoundError,
    TaskTimeoutError,
)

ERRORS = [
    FlowrraError("anything"),
    TaskNotFoundError("send_email"),
    TaskTimeoutError("some-id", 2.5),
    TaskTimeoutError("some-id", None),
    ExecutorNotRunningError(),
    BackendError("the server is gone"),
    flowrra.Reject("bad address"),
    flowrra.Reject(),
    flowrra.SerializationError("its result can't travel"),
    flowrra.TaskImportError("not there"),
    flowrra.WorkerLostError("killed"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_every_error_is_a_flowrra_error(error: Exception) -> None:
    assert isinstance(error, FlowrraError)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error: Exception, protocol: int) -> None:
    restored = pickle.loads(pickle.dumps(error, protocol))

    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert restored.args == error.args
    assert vars(restored) == vars(error)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_every_error_can_be_copied(error: Exception) -> None:
    assert str(copy.copy(error)) == str(error)


def test_not_found_names_the_task() -> None:
    error = TaskNotFoundError("send_email")

    assert str(error) == "Task 'send_email' not registered"
    assert error.task_name == "send_email"


def test_a_timeout_is_also_the_builtin_one_and_names_id_and_limit() -> None:
    error = TaskTimeoutError("some-id", 2.5)

    assert isinstance(error, TimeoutError)
    assert str(error) == "Task 'some-id' did not complete within 2.5s"
    assert (error.task_id, error.timeout) == ("some-id", 2.5)


def test_not_running_says_what_to_do() -> None:
    assert str(ExecutorNotRunningError()) == "Executor is not running. Call start() first."


def test_a_backend_error_carries_its_message() -> None:
    assert str(BackendError("the server is gone")) == "the server is gone"
