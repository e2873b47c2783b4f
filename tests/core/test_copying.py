"""Copies: of plain data nothing is shared, of what stands for more than its value everything; nothing is refused."""

from __future__ import annotations

import asyncio
import collections
import copy
import datetime as dt
import sys
import threading
import types
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from flowrra.copying import copied


class Colour(Enum):
    RED = ["a", "mutable", "value"]  # noqa: RUF012


class Right(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    tags: list[str]


class Basket(list[Any]):
    """A list with an attribute."""

    owner: list[str]


class Registry(dict[str, Any]):
    """A dict whose constructor wants something."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = [name]


@dataclass
class Order:
    items: list[Any]
    note: Any = None


@dataclass(frozen=True, slots=True)
class Frozen:
    items: list[Any]
    late: list[Any] = field(init=False, default_factory=list)


@dataclass(slots=True)
class Slotted:
    items: list[Any]


@attrs.define
class Attrs:
    items: list[Any]


@attrs.frozen
class FrozenAttrs:
    items: list[Any]


class Model(pydantic.BaseModel):
    items: list[Any]
    _private: list[int] = pydantic.PrivateAttr(default_factory=lambda: [1])


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    items: list[Any]


class Grower:
    """Says itself how it is copied."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __deepcopy__(self, memo: dict[int, Any]) -> Grower:
        return Grower(copy.deepcopy(self.items, memo))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grower) and other.items == self.items

    __hash__ = None  # type: ignore[assignment]


class Boom(BaseException):
    """Something that nobody expects."""


class Base(MappedAsDataclass, DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)


UNCHANGEABLE = [
    1,
    2**100,
    1.5,
    1j,
    True,
    None,
    "text",
    b"bytes",
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.date(2026, 1, 1),
    dt.time(1),
    dt.timedelta(1),
    Decimal("1.5"),
    Fraction(1, 3),
    uuid.UUID(int=1),
    Colour.RED,
    Right.READ | Right.WRITE,
    (),
    (1, "a", None),
    ((1, 2), (3, ("a",))),
    frozenset({1}),
    range(3),
    ...,
]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
plain = st.recursive(
    scalars,
    lambda values: (
        st.lists(values)
        | st.dictionaries(keys, values)
        | st.lists(values).map(tuple)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.binary().map(bytearray)
        | st.lists(values).map(collections.deque)
        | st.dictionaries(keys, values).map(collections.OrderedDict)
        | st.dictionaries(keys, values).map(lambda each: collections.defaultdict(list, each))
        | st.dictionaries(keys, st.integers()).map(collections.Counter)
        | st.dictionaries(keys, values).map(collections.UserDict)
        | st.lists(values).map(collections.UserList)
        | st.builds(types.SimpleNamespace, value=values)
        | st.builds(Order, st.lists(values), values)
        | st.builds(Frozen, st.lists(values))
        | st.builds(Slotted, st.lists(values))
        | st.builds(Attrs, st.lists(values))
        | st.builds(FrozenAttrs, st.lists(values))
        | st.builds(PydanticDataclass, st.lists(values))
        | st.builds(Point, st.integers(), st.lists(st.text()))
        | st.builds(Grower, st.lists(values))
    ),
    max_leaves=20,
)
CHANGEABLE = (list, dict, set, bytearray, collections.deque, types.SimpleNamespace, Order, Slotted, Attrs, Grower)


def changeable(value: Any, found: dict[int, Any] | None = None) -> dict[int, Any]:
    """Everything changeable in a value, by id."""
    found = {} if found is None else found
    if id(value) in found:
        return found
    if isinstance(value, CHANGEABLE):
        found[id(value)] = value
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        parts = list(value)
    for name in ("items", "late", "note", "value", "data"):
        part = getattr(value, name, None)
        if part is not None and not callable(part):
            parts.append(part)
    for part in parts:
        changeable(part, found)
    return found


class TestPlainData:
    @pytest.mark.slow
    @given(plain)
    def test_is_equal_and_has_nothing_changeable_in_common(self, value: Any) -> None:
        twin = copied(value)

        assert twin == value
        assert type(twin) is type(value)
        assert not changeable(twin).keys() & changeable(value).keys()
        assert len(changeable(twin)) == len(changeable(value))

    @pytest.mark.parametrize("value", UNCHANGEABLE, ids=repr)
    def test_that_nothing_can_change_is_its_own_copy(self, value: Any) -> None:
        assert copied(value) is value
        assert copied([value])[0] is value

    def test_keeps_what_a_container_is_besides_its_content(self) -> None:
        basket = Basket([[1], [2]])
        basket.owner = ["me"]
        registry = Registry("here")
        registry["a"] = [1]
        recent = collections.deque([[1], [2]], maxlen=2)

        other, again, latest = copied((basket, registry, recent))

        assert (other, other.owner) == ([[1], [2]], ["me"])
        assert other[0] is not basket[0]
        assert other.owner is not basket.owner
        assert (dict(again), again.name) == ({"a": [1]}, ["here"])
        assert again.name is not registry.name
        assert latest.maxlen == 2
        assert copied(collections.defaultdict(list))["new"] == []

    @pytest.mark.parametrize(
        "make",
        [Order, Frozen, Slotted, Attrs, FrozenAttrs, PydanticDataclass, lambda items: Model(items=items), Grower],
        ids=["dataclass", "frozen", "slots", "attrs", "frozen attrs", "pydantic dataclass", "pydantic", "__deepcopy__"],
    )
    def test_of_a_declared_class(self, make: Any) -> None:
        value = make([1, [2]])
        twin = copied(value)
        twin.items[1].append(3)

        assert type(twin) is type(value)
        assert value.items == [1, [2]]
        assert twin.items == [1, [2, 3]]

    def test_shared_parts_and_cycles_stay_what_they_are(self) -> None:
        row = [1, [2]]
        order = Order([row])
        order.note = order
        ring: list[Any] = [row, row, order]
        ring.append((ring, {"ring": ring}))

        twin = copied(ring)

        assert twin is not ring
        assert twin[0] is twin[1] is twin[2].items[0]
        assert twin[0] is not row
        assert twin[2].note is twin[2]
        assert twin[3][0] is twin[3][1]["ring"] is twin


class TestWhatIsShared:
    @pytest.mark.parametrize(
        "value",
        [
            asyncio.Event(),
            threading.Lock(),
            threading.Event(),
            object(),
            print,
            lambda: None,
            types,
            Order,
            Model,
            Colour,
            Path("a"),
            ValueError("a"),
            iter([1]),
            (n for n in [1]),
            memoryview(b"a"),
            Row(id=1),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_stands_for_more_than_its_value(self, value: Any) -> None:
        twin = copied({"a": [value], "b": Order([value]), "c": (value, [1])})

        assert copied(value) is value
        assert twin["a"][0] is twin["b"].items[0] is twin["c"][0] is value

    @pytest.mark.parametrize(
        "error", [ValueError("no"), SystemExit("no"), asyncio.CancelledError(), GeneratorExit(), Boom("no")], ids=repr
    )
    def test_is_what_can_not_be_copied_and_nothing_beside_it(self, error: BaseException) -> None:
        class Refusing:
            def __deepcopy__(self, memo: Any) -> Any:
                raise error

        class Unpicklable(dict[str, Any]):
            def __reduce_ex__(self, protocol: Any) -> Any:
                raise error

        @dataclass
        class Stubborn:
            items: list[Any]

            def __setstate__(self, state: Any) -> None:
                raise error

        class Iterating(dict[str, Any]):
            def items(self) -> Any:
                raise error

        for value in (Refusing(), Unpicklable(), Stubborn([1]), Iterating(a=1)):
            beside = [1]
            twin = copied([value, beside, {"key": value}])

            assert twin[0] is twin[2]["key"] is value
            assert twin[1] == beside
            assert twin[1] is not beside

    def test_is_nothing_of_what_a_class_makes_while_it_is_gone_through(self) -> None:
        """Each such item may lie where the one before the last one did."""

        def shown(n: int) -> Any:
            return {"n": n, "more": []} if n % 2 else [n, []]

        class Rows(list[Any]):
            def __iter__(self) -> Any:
                return (shown(n) for n in super().__iter__())

        class Shown(dict[str, Any]):
            def items(self) -> Any:
                return ((key, shown(int(key))) for key in self)

        count = range(20)
        rows, pairs = copied(Rows(count)), copied(Shown({str(n): n for n in count}))
        assert list(list.__iter__(rows)) == list(dict.values(pairs)) == [shown(n) for n in count]

    def test_is_what_is_nested_too_deeply(self) -> None:
        deep: list[Any] = []
        for _ in range(10 * sys.getrecursionlimit()):
            deep = [deep]

        assert copied(deep) is deep

    def test_is_not_what_is_nested_as_deeply_as_json_can_be(self) -> None:
        deep: list[Any] = []
        value = deep
        for n in range(sys.getrecursionlimit() // 2):
            value = [value] if n % 2 else {"a": value}  # type: ignore[assignment]
        twin = copied(value)
        while twin:
            twin = twin[0] if isinstance(twin, list) else twin["a"]

        assert twin == []
        assert twin is not deep

    def test_is_what_another_thread_changes_all_the_time(self) -> None:
        changing: dict[str, list[int]] = {}
        done = threading.Event()

        def change() -> None:
            n = 0
            while not done.is_set():
                changing[str(n := (n + 1) % 1000)] = [n]
                changing.pop(str((n * 7) % 1000), None)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(200):
                assert isinstance(copied(changing), dict)
        finally:
            done.set()
            thread.join()
