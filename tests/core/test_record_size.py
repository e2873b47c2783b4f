"""What a record is taken to weigh: the sum of its parts, each counted once, and of a large one the sum of a few."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from sys import getsizeof
from typing import Any

import pytest

from flowrra import TaskResult, TaskStatus
from flowrra.backends.record_size import (
    FEW_ARGUMENTS,
    FEW_PARTS,
    MAX_DESCENTS,
    MAX_PARTS,
    MAX_VISITS,
    RECORD_SIZE,
    SHORT_LENGTH,
    SHORT_SIZE,
    SMALL_SIZE,
    is_small,
    record_size,
    value_size,
)
from flowrra.task import Attempt, AttemptEnd

SHORT, LONG = "x" * SHORT_LENGTH, "x" * (SHORT_LENGTH + 1)
MANY = FEW_PARTS + 1


class Buffer:
    """As an array of numpy: small itself, and stands for much."""

    nbytes = 100_000


class Slotted:
    __slots__ = ("filled", "missing")

    def __init__(self) -> None:
        self.filled = LONG


class Lying:
    """Can't be asked for its size."""

    def __sizeof__(self) -> int:
        raise Unexpected

    @property
    def nbytes(self) -> int:
        raise Unexpected


class Unexpected(BaseException):
    pass


class Interrupted:
    """Ctrl-C is pressed while its size is asked for."""

    def __sizeof__(self) -> int:
        raise KeyboardInterrupt


class InterruptedInside:
    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise KeyboardInterrupt


BUFFER, SLOTTED, INNER = Buffer(), Slotted(), [1, SHORT]

# A value, and what it weighs beside its own object.
SIZES: dict[str, tuple[Any, int]] = {
    "text": (LONG, 0),
    "short text": ("", 0),
    "few numbers": ([1, 2.5, True], 3 * SMALL_SIZE),
    "keys and values": ({"a": 1}, SHORT_SIZE + SMALL_SIZE),
    "short texts": ([SHORT, b""], 2 * SHORT_SIZE),
    "a long text": ([LONG, 1], getsizeof(LONG) + SMALL_SIZE),
    "as many as are few": (tuple([1] * FEW_PARTS), FEW_PARTS * SMALL_SIZE),
    "the same text often": ([SHORT] * MANY, SHORT_SIZE),
    "different texts": ([SHORT, LONG, *[1] * MANY], SHORT_SIZE + getsizeof(LONG) + MANY * SMALL_SIZE),
    "a list in a list, twice": ([INNER, INNER], getsizeof(INNER) + SMALL_SIZE + SHORT_SIZE),
    "so many that some stand for all": ([1] * 5000, 5000 * SMALL_SIZE),
    "a list of a buffer": ([BUFFER], 100_000),
    "an array": (array("d", [0.0] * 1000), 0),
    "slots, one of them empty": (SLOTTED, getsizeof(LONG)),
}


@pytest.mark.parametrize(("value", "parts"), SIZES.values(), ids=SIZES)
def test_a_value_weighs_what_its_parts_do(value: Any, parts: int) -> None:
    assert value_size(value) == getsizeof(value) + parts


@pytest.mark.parametrize("value", [7, None, 2.5])
def test_a_number_weighs_as_any_other(value: object) -> None:
    assert value_size(value) == SMALL_SIZE


def test_what_can_not_be_asked_weighs_as_a_bare_object() -> None:
    lying = Lying()
    assert value_size([lying]) == getsizeof([lying]) + object.__sizeof__(lying)


@pytest.mark.parametrize("make", [Interrupted, InterruptedInside])
def test_ctrl_c_is_passed_on(make: Callable[[], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        value_size([make()])


class TestRecord:
    def test_of_small_values_needs_no_look_at_them(self) -> None:
        few = tuple(range(FEW_ARGUMENTS))
        assert is_small(TaskResult("t", TaskStatus.SUCCESS, result=SHORT, args=few))
        assert is_small(
            TaskResult("t", TaskStatus.SUCCESS, result=1, args=(SHORT, b""), kwargs={"a": None, "b": SHORT})
        )

    @pytest.mark.parametrize(
        "large",
        [
            {"result": LONG},
            {"result": [1]},
            {"args": (LONG,)},
            {"args": ([1],)},
            {"kwargs": {"a": LONG}},
            {"args": tuple(range(FEW_ARGUMENTS + 1))},
            {"args": tuple(range(FEW_ARGUMENTS)), "kwargs": {"a": 1}},
            {"error": "ValueError"},
            {"attempts": [Attempt(1, None, None, None, AttemptEnd.FAILED)]},
        ],
    )
    def test_of_anything_else_is_looked_at(self, large: dict[str, Any]) -> None:
        assert not is_small(TaskResult("t", TaskStatus.SUCCESS, **large))

    def test_weighs_what_it_carries(self) -> None:
        record = TaskResult("t", TaskStatus.SUCCESS, result=1, args=(LONG,), kwargs={"a": 2})
        assert record_size(record) == RECORD_SIZE + 2 * SMALL_SIZE + getsizeof(LONG)

    def test_weighs_its_error_and_what_is_told_of_its_attempts(self) -> None:
        record = TaskResult("t", TaskStatus.FAILED, error=LONG, traceback=LONG * 9)
        own = RECORD_SIZE + SMALL_SIZE
        assert record_size(record) == own + getsizeof(LONG) + getsizeof(LONG * 9)
        attempt = Attempt(1, None, None, None, AttemptEnd.FAILED, error=LONG, traceback=LONG * 9)
        record.attempts = [attempt]
        assert record_size(record) - own > 2 * (getsizeof(LONG) + getsizeof(LONG * 9))


class TestLargeValue:
    """Whatever its size, only so much of it is looked at."""

    @pytest.mark.parametrize(
        ("make", "least", "most"),
        [
            (lambda: [LONG + str(n) for n in range(20 * MAX_PARTS)], MAX_PARTS - 10, MAX_PARTS + 1),
            (lambda: [[LONG + str(n)] for n in range(MAX_PARTS)], MAX_DESCENTS, 2 * MAX_DESCENTS + 1),
            (lambda: [[[LONG] * 50 for _ in range(50)] for _ in range(50)], 1, MAX_VISITS / 10),
        ],
        ids=["wide", "wide and deep", "deep"],
    )
    def test_is_looked_at_in_part(self, make: Callable[[], Any], least: float, most: float) -> None:
        value = make()
        asked = 0

        def count(_: object, event: str, called: object) -> None:
            nonlocal asked
            asked += event == "c_call" and called is getsizeof

        sys.setprofile(count)
        try:
            value_size(value)
        finally:
            sys.setprofile(None)

        assert least <= asked <= most

    def test_weighs_as_if_all_were_like_that(self) -> None:
        rows = [[LONG + str(n), n] for n in range(MAX_PARTS)]
        whole = getsizeof(rows) + sum(getsizeof(row) + getsizeof(row[0]) + SMALL_SIZE for row in rows)
        assert 0.9 * whole < value_size(rows) < 1.1 * whole
        boxes = [[[LONG + str(n)] for n in range(50)] for _ in range(50)]
        whole = getsizeof(boxes) + sum(
            getsizeof(box) + sum(getsizeof(inner) + getsizeof(inner[0]) for inner in box) for box in boxes
        )
        assert 0.5 * whole < value_size(boxes) < 2.5 * whole
