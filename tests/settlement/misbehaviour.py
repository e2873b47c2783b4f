"""Functions that do what no task should: to their arguments, their results, their errors, and to what they can reach of
the task itself. Worker processes import this module, too."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from flowrra import current_task


class Boom(BaseException):
    """What no `except Exception` catches."""


class EvilDict(dict[str, Any]):
    """Raises as soon as anybody looks into it."""

    def items(self) -> NoReturn:
        raise Boom("items")

    def __iter__(self) -> Iterator[str]:
        raise Boom("iter")

    def __len__(self) -> int:
        return 1


class EvilText(str):
    """Text as it comes from an exception's ``str``; useless."""

    def __format__(self, specification: str) -> NoReturn:
        raise Boom("format")

    def __len__(self) -> NoReturn:
        raise Boom("len")

    def __getitem__(self, key: Any) -> NoReturn:
        raise Boom("getitem")


class EvilError(Exception):
    """Its text, its cause and its class can't be looked at."""

    def __str__(self) -> str:
        raise Boom("str")

    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise Boom("cause")


class EvilTextError(Exception):
    def __str__(self) -> str:
        return EvilText("text")


class EvilClass(type):
    """A class of errors that can't be asked whether they are of it, nor what it is called."""

    @property
    def __name__(cls) -> NoReturn:  # type: ignore[override]
        raise Boom("name")

    def __instancecheck__(cls, instance: object) -> bool:
        raise Boom("instancecheck")


class EvilKindError(Exception, metaclass=EvilClass):
    pass


class EvilIdentityError(Exception):
    """Says of itself that it is of another class, and raises."""

    @property
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise Boom("class")


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def _task() -> Any:
    task = current_task()
    assert task is not None
    return task


def spoil_arguments(order: dict[str, Any], items: list[Any]) -> str:
    order["lock"] = threading.Lock
    order["loaded_at"] = datetime.datetime.now(datetime.UTC)
    order["self"] = order
    items.append(object())
    items.append({1: EvilDict()})
    return "shipped"


def return_an_object(*_: Any) -> object:
    return object()


def return_a_dict_that_raises(*_: Any) -> Any:
    return {"inner": [EvilDict(a=1)]}


def return_something_deep(*_: Any) -> Any:
    return _deep(5_000)


def return_itself(*_: Any) -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def raise_evil_error(*_: Any) -> NoReturn:
    raise EvilError


def raise_evil_text(*_: Any) -> NoReturn:
    raise EvilTextError


def raise_evil_kind(*_: Any) -> NoReturn:
    raise EvilKindError


def raise_evil_identity(*_: Any) -> NoReturn:
    raise EvilIdentityError


def raise_boom(*_: Any) -> NoReturn:
    raise Boom("boom")


def raise_system_exit(*_: Any) -> NoReturn:
    raise SystemExit(3)


def raise_cancelled(*_: Any) -> NoReturn:
    raise asyncio.CancelledError


def raise_with_evil_context(*_: Any) -> NoReturn:
    try:
        raise EvilError
    except EvilError as error:
        raise ValueError("the last one") from error


def raise_surrogates(*_: Any) -> NoReturn:
    raise ValueError("\udc80 \ud800 \x00")


def raise_group(*_: Any) -> NoReturn:
    raise ExceptionGroup("several", [EvilError(), EvilTextError()])


def spoil_headers(*_: Any) -> NoReturn:
    _task().headers = {"a": object(), 3: "b"}
    raise ValueError("again")


def spoil_identity(*_: Any) -> NoReturn:
    task = _task()
    task.id, task.name, task.args, task.kwargs = "another", "unheard_of", (object(),), {"x": object()}
    raise ValueError("again")


def spoil_retries(*_: Any) -> NoReturn:
    task = _task()
    task.max_retries = "many"
    raise ValueError("again")


def spoil_delay(*_: Any) -> NoReturn:
    _task().retry_delay = float("nan")
    raise ValueError("again")


def spoil_negative_delay(*_: Any) -> NoReturn:
    _task().retry_delay = -5
    raise ValueError("again")


def spoil_huge_delay(*_: Any) -> NoReturn:
    _task().backoff = object()
    raise ValueError("again")


def spoil_priority(*_: Any) -> NoReturn:
    task = _task()
    task.priority = ["high"]
    task.timeout = object()
    task.current_retry = 0
    task.retry_delay = 0
    raise ValueError("again")


@dataclass(frozen=True)
class Case:
    """A misbehaviour, and how its task may end: with each kind of result backend as it can."""

    func: Callable[..., Any]
    outcomes: frozenset[str]
    works_in_a_process: bool = True

    @property
    def name(self) -> str:
        return self.func.__name__


_ANY = frozenset({"success", "failed"})
_FAILED = frozenset({"failed"})

CASES = [
    Case(spoil_arguments, frozenset({"success"})),
    Case(return_an_object, _ANY),
    Case(return_a_dict_that_raises, _ANY),
    Case(return_something_deep, _ANY),
    Case(return_itself, _ANY),
    Case(raise_evil_error, _FAILED),
    Case(raise_evil_text, _FAILED),
    Case(raise_evil_kind, _FAILED),
    Case(raise_evil_identity, _FAILED),
    Case(raise_boom, _FAILED),
    Case(raise_system_exit, _FAILED),
    Case(raise_cancelled, _FAILED),
    Case(raise_with_evil_context, _FAILED),
    Case(raise_surrogates, _FAILED),
    Case(raise_group, _FAILED),
    # In a worker process a task reaches only a copy of itself.
    Case(spoil_headers, _FAILED),
    Case(spoil_identity, _FAILED),
    Case(spoil_retries, _FAILED),
    Case(spoil_delay, _FAILED),
    Case(spoil_negative_delay, _FAILED),
    Case(spoil_huge_delay, _FAILED),
    Case(spoil_priority, _FAILED),
]
