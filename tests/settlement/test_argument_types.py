"""A task gets what it was given and its caller gets what it returned, of the same classes wherever tasks and results
are kept; what a worker could not rebuild is refused when it is submitted."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from enum import Enum, Flag, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
import redis

from flowrra import Config, ExecutorConfig, Flowrra, SerializationError, codec, current_task, rebuilding
from flowrra.brokers.base import BaseBroker
from flowrra.management import FlowrraManager
from flowrra.task import Task
from tests.core.apps import final, record_of
from tests.core.test_polled_broker import ListBroker
from tests.redis.apps import old_task
from tests.settlement.test_misbehaving_tasks import PLACES, config_of

if TYPE_CHECKING:
    from somewhere import Nothing  # type: ignore[import-not-found]

PAGE = Path(__file__).parents[2] / "docs" / "types.md"


class Colour(Enum):
    RED = "red"
    BLUE = ("blue", 1)


class Size(StrEnum):
    SMALL = "small"


class Access(Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    shelf: int
    colour: Colour


@dataclass
class Line:
    product: UUID
    price: Decimal
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Order:
    id: int
    lines: list[Line]
    colours: dict[str, Colour] = field(default_factory=dict)
    parent: Order | None = None
    due: dt.datetime | None = None
    total: Decimal = field(default=Decimal(0), init=False)

    def __post_init__(self) -> None:
        if self.id < 0:
            raise ValueError("an order's id is positive")
        object.__setattr__(self, "total", sum((line.price for line in self.lines), Decimal(0)))


class Model(pydantic.BaseModel):
    number: int = pydantic.Field(alias="Number", ge=0)
    when: dt.datetime
    colour: Colour = Colour.RED
    site: pydantic.HttpUrl | None = None
    parts: tuple[Model, ...] = ()


class Changes(TypedDict, total=False):
    colour: Colour
    order: Order
    note: str


@dataclass
class Letter:
    text: str


@dataclass
class Postcard:
    text: str
    picture: str = "a cat"


@dataclass
class Telegram:
    text: str


@dataclass
class Base:
    a: int = 1


@dataclass
class Derived(Base):
    a: int = 1


OrderId = NewType("OrderId", int)

LINE = Line(UUID(int=5), Decimal("1.50"), Place(3, Colour.BLUE))
DUE = dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
ORDER = Order(1, [LINE, LINE], {"a": Colour.RED}, Order(2, []), DUE)
MODEL = Model(Number=1, when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), parts=(Model(Number=2, when=DUE),))
SITE = Model(Number=3, when=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), site="http://example.com/")  # type: ignore[arg-type]
PLAIN = [
    *(dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.date(2026, 1, 2), dt.time(3, 4), dt.timedelta(1, 2, 3), DUE),  # noqa: DTZ001
    *(UUID(int=1), Decimal("1.10"), b"\x00\xff", bytearray(b"a"), {1, 2}, frozenset({"a"}), (1, (2, [3]))),
]


async def plain(value: Any, *more: Any, **named: Any) -> Any:
    return [value, *more, named]


async def declared(
    order: Order, model: Model | None = None, *more: Colour | Order | None, size: Size, **named: Mapping[str, Place]
) -> list[Any]:
    return [order, model, *more, size, named]


async def nested(
    orders: list[Order],
    places: tuple[Place, ...],
    pair: tuple[Colour, int],
    access: Annotated[Access, "what for"],
    post: Sequence[Letter | Postcard],
    colours: frozenset[Colour],
    changes: Changes,
    number: OrderId,
    word: Literal["a"] | Colour,
    unknown: Nothing | None = None,
) -> list[Any]:
    return [orders, places, pair, access, post, colours, changes, number, word, unknown]


@dataclass(frozen=True)
class Spot:
    x: int
    colour: Colour = Colour.RED


async def gathered(
    spots: set[Spot], pairs: frozenset[tuple[Spot, int]], regions: dict[str, Set[frozenset[Spot]]]
) -> set[Spot]:
    return {*spots, *(spot for spot, _ in pairs), *(spot for each in regions["a"] for spot in each)}


SPOTS = {Spot(1), Spot(2, Colour.BLUE)}

CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    *((plain, (value,), {}) for value in PLAIN),
    (plain, (PLAIN, {"a": PLAIN}), {"named": tuple(PLAIN)}),
    (declared, (ORDER, MODEL, Colour.BLUE, ORDER, None), {"size": Size.SMALL, "spot": {"a": Place(1, Colour.RED)}}),
    (declared, (ORDER,), {"model": SITE, "size": Size.SMALL}),
    (
        nested,
        (
            *([ORDER, ORDER], (Place(1, Colour.RED),), (Colour.BLUE, 1), Access.READ | Access.WRITE),
            *([Letter("a"), Postcard("b")], frozenset({Colour.RED}), {"colour": Colour.RED, "order": ORDER}),
            *(OrderId(5), "a"),
        ),
        {},
    ),
    (gathered, (SPOTS, frozenset({(Spot(3), 1)})), {"regions": {"a": {frozenset({Spot(4)}), frozenset()}}}),
]


def told(value: Any) -> Any:
    """A value as text that tells its classes."""
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, dict):
        return {key: told(each) for key, each in value.items()}
    return [told(each) for each in value] if type(value) is list else repr(value)


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
async def test_a_task_gets_what_it_was_given(empty_servers: tuple[str, str], where: str) -> None:
    seen: list[Any] = []
    app = Flowrra(config_of(where, empty_servers))

    def keeping(func: Callable[..., Any]) -> Callable[..., Any]:
        async def task(*args: Any, **kwargs: Any) -> Any:
            shown = current_task()
            assert shown is not None
            seen.append((told(list(args)), told(kwargs), told(list(shown.args))))
            return await func(*args, **kwargs)

        task.__wrapped__ = func  # type: ignore[attr-defined] # as functools.wraps does
        task.__annotations__ = func.__annotations__
        return task

    tasks = {func: app.task(name=func.__name__)(keeping(func)) for func in (plain, declared, nested, gathered)}
    async with app:
        for func, args, kwargs in CALLS:
            record = await final(app, await app.submit(tasks[func], *args, **kwargs))
            assert record.error is None
            assert seen.pop() == (told(list(args)), told(kwargs), told(list(args)))
        many = [(tasks[func], args, kwargs) for func, args, kwargs in CALLS]
        for task_id in await app.submit_many(many):
            assert (await final(app, task_id)).error is None
        assert len(seen) == len(CALLS)


@pytest.mark.parametrize("where", PLACES)
async def test_a_caller_gets_what_was_returned(empty_servers: tuple[str, str], where: str) -> None:
    results = {"order": [ORDER], "model": [MODEL], "spots": SPOTS, "plain": PLAIN, "none": None}

    async def order() -> list[Order]:
        return results["order"]  # type: ignore[return-value]

    async def model() -> Sequence[Model]:
        return results["model"]  # type: ignore[return-value]

    async def spots() -> set[Spot] | None:
        return results["spots"]  # type: ignore[return-value]

    async def plain() -> list[Any]:
        return results["plain"]  # type: ignore[return-value]

    async def none() -> Order | None:
        return None

    app = Flowrra(config_of(where, empty_servers))
    async with app:
        for func in (order, model, spots, plain, none):
            app.task()(func)
            task_id = await app.submit(func)
            for record in (await final(app, task_id), await record_of(app, task_id)):
                assert record.error is None
                assert told(record.result) == told(results[func.__name__])
        known = await FlowrraManager(app).get_task_result(task_id)
        assert known is not None


async def test_records_show_objects(empty_servers: tuple[str, str]) -> None:
    app = Flowrra(config_of("server+server", empty_servers))
    app.task()(plain)
    async with app:
        task_id = await app.submit(plain, *PLAIN)
        await final(app, task_id)
        record = await record_of(app, task_id)
        assert told(list(record.args)) == told(PLAIN)
        (listed,) = await FlowrraManager(app).list_completed_tasks()
        assert told(list(listed["args"])) == told(PLAIN)
        assert told(listed["result"]) == told([*PLAIN, {}])


def priced(order: Order, at: Model) -> Order:
    assert (type(order), type(at), type(order.lines[0].place)) == (Order, Model, Place)
    return order


@pytest.mark.slow
@pytest.mark.parametrize("where", ["server+server", "server+memory"])
async def test_cpu_tasks_get_the_same(empty_servers: tuple[str, str], where: str) -> None:
    app = Flowrra(config_of(where, empty_servers))
    app.task(cpu_bound=True)(priced)
    async with app:
        record = await final(app, await app.submit(priced, ORDER, at=MODEL), within=30)
    assert (record.error, told(record.result)) == (None, told(ORDER))


class JsonBroker(BaseBroker):
    """A user's broker, which keeps tasks as the text that flowrra makes of them."""

    def __init__(self) -> None:
        self.texts: asyncio.Queue[str] = asyncio.Queue()

    async def push(self, task: Task) -> None:
        await self.texts.put(codec.encode_task(task, None, codec.encode_call(task.args, task.kwargs, task.name)))

    async def pop(self, timeout: float | None = None) -> Task | None:
        try:
            text = await asyncio.wait_for(self.texts.get(), timeout)
        except TimeoutError:
            return None
        return codec.decode_task(text.encode()).task

    async def size(self) -> int:
        return self.texts.qsize()


@pytest.mark.slow
async def test_a_users_own_broker_may_keep_text(empty_servers: tuple[str, str]) -> None:
    app = Flowrra(Config(broker=JsonBroker()))  # type: ignore[arg-type]
    runs: list[str] = []

    @app.task(max_retries=1, retry_delay=0.0)
    async def ship(order: Order) -> None:
        runs.append(told(order))
        raise ValueError("again")

    async with app:
        record = await final(app, await app.submit(ship, ORDER))
    assert record.error == "ValueError: again"
    assert runs == [told(ORDER)] * 2


class Shelf(list[Any]):
    """A list that says more than its items."""


async def by_dict(value: dict[str, Letter]) -> None: ...
async def by_mapping(value: Mapping[str, Letter]) -> None: ...
async def by_deque(value: deque[Letter]) -> None: ...
async def by_items(value: Iterable[Letter]) -> None: ...
async def by_list(value: list[Letter]) -> None: ...
async def by_tuple(value: tuple[Colour, int]) -> None: ...
async def by_union(value: Base | Derived) -> None: ...
async def by_unions(value: list[Letter | Telegram] | None) -> None: ...
async def by_class(value: Letter) -> None: ...


LETTER = Letter("a")


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (by_dict, OrderedDict(a=LETTER)),
        (by_mapping, defaultdict(Letter, a=LETTER)),
        (by_deque, deque([LETTER], maxlen=3)),
        (by_items, {LETTER.text: LETTER}.values()),
        (by_list, Shelf([LETTER])),
        (by_tuple, Place(1, Colour.RED)),
        (by_union, Derived()),
        (by_unions, [LETTER, Telegram("a")]),
        (by_class, types.SimpleNamespace(text="a letter to whoever asks for its text")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_users_own_broker_may_keep_objects(function: Callable[..., Any], value: Any) -> None:
    app = Flowrra(Config(broker=ListBroker()))
    got: list[Any] = []

    async def task(value: Any) -> None:
        got.append(value)

    task.__annotations__ = function.__annotations__
    app.task(name="task", max_retries=0)(task)
    async with app:
        record = await final(app, await app.submit(task, value))
    assert record.error is None
    assert told(got) == told([value])


# ── what does not fit ───────────────────────────────────────────────────────────────────────────────────────


async def unannotated(value): ...  # type: ignore[no-untyped-def]
async def anything(value: Any) -> None: ...
async def of_a_text(value: str) -> None: ...
async def not_resolved(value: Nothing) -> None: ...
async def of_either(value: Letter | Telegram) -> None: ...
async def of_data_or_object(value: Letter | dict[str, str]) -> None: ...
async def of_a_colour_or_text(value: Colour | str) -> None: ...
async def of_an_object(value: object) -> None: ...


async def of_a_base(value: Base) -> None: ...


@dataclass
class Incomplete:
    seed: InitVar[int]
    a: int = 1


async def of_an_incomplete(value: Incomplete) -> None: ...


class Secret(pydantic.BaseModel):
    word: pydantic.SecretStr


async def of_a_secret(value: Secret) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "value", "why"),
    [
        (unannotated, ORDER, "holds an instance of Order, .* has no annotation: annotate it, as in `value: Order`"),
        (unannotated, [{"a": Colour.RED}], "holds an instance of Colour"),
        (unannotated, SPOTS, "holds an instance of Spot"),
        (unannotated, MODEL, "holds an instance of Model"),
        (anything, ORDER, "it is annotated as Any"),
        (of_an_object, ORDER, "it is annotated as object"),
        (of_a_text, ORDER, "it is annotated as str"),
        (not_resolved, ORDER, "'Nothing' can't be resolved .NameError: name 'Nothing' is not defined"),
        (of_either, Letter("a"), "it could be a Letter and a Telegram"),
        (of_data_or_object, Letter("a"), "would make another value of it"),
        (of_a_colour_or_text, Colour.RED, "would make another value of it"),
        (of_a_base, Derived(), "would make another value of it"),
        (of_an_incomplete, Incomplete(1), "could not rebuild it .*seed"),
        (of_a_secret, Secret(word="x"), r"\['word'\] is an instance of SecretStr"),  # type: ignore[arg-type]
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_a_worker_could_not_rebuild_is_refused_at_submit(
    empty_servers: tuple[str, str], function: Callable[..., Any], value: Any, why: str
) -> None:
    app = Flowrra(config_of("server+server", empty_servers))
    app.task()(function)
    async with app:
        with pytest.raises(SerializationError, match=f"'{function.__name__}' .*argument value.*{why}"):
            await app.submit(function, value)
        with pytest.raises(SerializationError, match="argument value"):
            await app.submit_many([(function, (), {"value": value})])
        queues = await FlowrraManager(app).get_queue_stats()
        assert queues["io"] is not None
        assert queues["io"]["pending"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([{"id": 1}], "missing 1 required"),
        ([{"id": 1, "lines": [], "extra": 1}], "Order has no field 'extra'"),
        ([{"id": -1, "lines": []}], "ValueError: an order's id is positive"),
        ([{"id": 1, "lines": {"a": 1}}], "a list was expected, not a dict"),
        ([{"id": 1, "lines": [], "colours": {"a": "purple"}}], "'purple' is not a valid Colour"),
        (["an order"], "a dict was expected, not a str"),
        ([[1]], "a dict was expected, not a list"),
        ([{"id": 1, "lines": []}, {"Number": -1, "when": "now"}], "argument model .* 2 validation errors"),
        ([{"id": 1, "lines": []}, None, "purple"], "argument more .* none of what its annotation names"),
    ],
    ids=repr,
)
async def test_what_does_not_fit_fails_its_task_at_once(
    empty_servers: tuple[str, str], args: list[Any], why: str
) -> None:
    app = Flowrra(config_of("server+server", empty_servers))
    app.task(max_retries=3)(declared)
    app.task()(plain)
    async with app:
        with redis.Redis.from_url(empty_servers[0]) as look:
            look.lpush("flowrra:queue:io", old_task("t1", "declared", *args, kwargs={"size": "small"}))
        record = await app.executors["io"].wait_for_result("t1", 5)
        assert (record.status.value, record.retries) == ("failed", 0)
        assert str(record.error).startswith("SerializationError: the argument ")
        assert "does not fit its annotation" in str(record.error)

        assert re.search(why, str(record.error), re.DOTALL), record.error
        # The worker goes on.
        assert (await final(app, await app.submit(plain, 1))).result == [1, {}]


async def test_plain_data_of_other_languages_is_rebuilt(empty_servers: tuple[str, str]) -> None:
    app = Flowrra(config_of("server+server", empty_servers))
    app.task()(declared)
    async with app:
        order = {"id": 1, "lines": [], "colours": {"a": "red"}}
        model = {"Number": 1, "when": "2026-01-02T00:00:00Z"}
        with redis.Redis.from_url(empty_servers[0]) as look:
            look.lpush("flowrra:queue:io", old_task("t1", "declared", order, model, kwargs={"size": "small"}))
        record = await app.executors["io"].wait_for_result("t1", 5)
    assert record.args == (order, model)
    with redis.Redis.from_url(empty_servers[0]) as look:
        kept = json.loads(look.get("flowrra:task:t1"))  # type: ignore[arg-type]
    assert kept["args"] == [order, model]
    assert kept["result"][2] == "small"


async def test_a_result_with_a_key_that_is_no_text_fails_its_task(empty_servers: tuple[str, str]) -> None:
    for where in ("server+server", "server+elsewhere", "memory+elsewhere"):
        app = Flowrra(config_of(where, empty_servers))

        @app.task()
        async def count() -> dict[int, int]:
            return {1: 2}

        async with app:
            record = await final(app, await app.submit(count))
        assert record.status.value == "failed"
        assert "SerializationError" in str(record.error)
        assert "has the key 1 (int)" in str(record.error)


async def test_a_result_that_does_not_fit_stays_plain_data(
    empty_servers: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = Flowrra(config_of("server+server", empty_servers))

    @app.task()
    async def wrong() -> Order:
        return {"id": "one"}  # type: ignore[return-value]

    @app.task()
    async def silent():  # type: ignore[no-untyped-def]
        return Letter("a")

    async with app:
        record = await final(app, await app.submit(wrong))
        assert (record.error, record.result) == (None, {"id": "one"})
        assert "result does not fit its annotation" in caplog.text
        record = await final(app, await app.submit(silent))
        assert (record.error, record.result) == (None, {"text": "a"})


def test_in_memory_nothing_is_looked_at() -> None:
    rebuilding._annotations_of.cache_clear()

    async def run() -> None:
        app = Flowrra(Config(executor=ExecutorConfig(io_workers=1)))
        app.task()(declared)
        async with app:
            record = await final(app, await app.submit(declared, "no order", size=1))
            assert record.result == ["no order", None, 1, {}]

    asyncio.run(run())
    assert rebuilding._annotations_of.cache_info().currsize == 0


@pytest.mark.parametrize("where", ["memory+memory", "server+server"])
def test_the_program_of_the_documentation_runs(
    empty_servers: tuple[str, str], where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (promised,) = re.findall(r"print\(.*\)  # (.*)", program)
    module = types.ModuleType("documented")
    module.config = config_of(where, empty_servers)  # type: ignore[attr-defined]
    sys.modules["documented"] = module
    try:
        exec(program.replace("Flowrra()", "Flowrra(config)"), vars(module))
    finally:
        del sys.modules["documented"]
    assert capsys.readouterr().out.strip() == promised


if sys.version_info >= (3, 12):  # `type X = ...` is no syntax before

    def test_an_alias_is_what_it_stands_for_even_if_it_names_itself() -> None:
        names: dict[str, Any] = {"Letter": Letter, "Any": Any}
        exec("type Tree = dict[str, Tree] | list[Tree] | str | Letter | None\nasync def f(a: Tree) -> None: ...", names)
        tree = {"a": ["x", None, {"b": "y"}]}
        codec.encode_call((tree,), {}, "f", names["f"])
        assert rebuilding.rebuilt_call(names["f"], (tree,), {}) == ((tree,), {})
