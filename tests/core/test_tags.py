"""Tasks and records as text: every plain type comes back as it was, what JSON has stands there as it always did, and no
text from a server does anything but be read or refused."""

from __future__ import annotations

import datetime as dt
import json
import math
import string
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowrra import BackendError, SerializationError, TaskResult, TaskStatus, codec
from flowrra.tags import MARK
from flowrra.task import Task

ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"])
OFFSETS = st.timedeltas(dt.timedelta(hours=-23, minutes=-59), dt.timedelta(hours=23, minutes=59)).map(dt.timezone)
MOMENTS = st.datetimes(timezones=st.none() | ZONES.map(ZoneInfo) | OFFSETS)
FOLDS = st.sampled_from([0, 1])
PLAIN_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
TAGGED_SCALARS = (
    st.builds(lambda moment, fold: moment.replace(fold=fold), MOMENTS, FOLDS)
    | st.dates()
    | st.builds(lambda time, fold: time.replace(fold=fold), st.times(timezones=st.none() | OFFSETS), FOLDS)
    | st.times(timezones=ZONES.map(ZoneInfo))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.binary(max_size=8)
)
# Also what looks like a tag, and like what such a look-alike is escaped by.
KEYS = st.text(max_size=4) | st.sampled_from([MARK, "value", "zone", "fold"])
NAMES = st.sampled_from(["date", "dict", "tuple", "set", "nonsense"])
HASHABLE = st.recursive(
    PLAIN_SCALARS | TAGGED_SCALARS,
    lambda inner: st.frozensets(inner, max_size=3) | st.tuples(inner, inner) | st.just(()),
    max_leaves=4,
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(lambda name, value: {MARK: name, "value": value}, NAMES, inner)
    )


@dataclass(frozen=True)
class Spot:
    x: Any


class Pair(Enum):
    ONE_TWO = [1, 2]  # noqa: RUF012 - a value that can't be hashed
    ONE = 1


class HashableList(list[Any]):
    def __hash__(self) -> int:  # type: ignore[override]
        return len(self)


IN_SETS = st.recursive(
    HASHABLE | st.sampled_from(Pair) | st.lists(PLAIN_SCALARS, max_size=2).map(HashableList),
    lambda inner: inner.map(Spot) | st.frozensets(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=4,
)
VALUES = st.recursive(
    PLAIN_SCALARS
    | TAGGED_SCALARS
    | st.binary(max_size=4).map(bytearray)
    | st.sets(HASHABLE, max_size=3)
    | st.frozensets(HASHABLE, max_size=3),
    nested,
    max_leaves=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.digits + "-+:TZ.eEnNaAiI", max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.builds(
            lambda name, value, more: {MARK: name, "value": value, **more},
            st.sampled_from(["datetime", "date", "time", "timedelta", "uuid", "decimal", "bytes", "set", "tuple"])
            | st.text(max_size=5)
            | inner,
            inner,
            st.dictionaries(st.sampled_from(["zone", "fold", "other"]), inner, max_size=2),
        )
    ),
    max_leaves=10,
)


def travelled(*args: Any, **kwargs: Any) -> Task:
    """A task as its worker reads it."""
    call = codec.encode_call(args, kwargs, "work")
    text = codec.encode_task(Task("t1", "work", args, kwargs), None, call)
    read = codec.decode_task(text.encode())
    assert read.call == call
    return read.task


def queued(value: Any) -> bytes:
    """A task with one argument, as somebody else wrote it."""
    return json.dumps({"id": "t1", "name": "work", "args": [value], "kwargs": {}}).encode()


def stored(value: Any) -> Any:
    """A result as it is read from its record."""
    text = codec.encode_record(TaskResult("t1", TaskStatus.SUCCESS, "work", value)).text
    return codec.decode_record(text.encode()).result


def seen(value: Any) -> Any:
    """A value as text that tells all of it: its classes, and how its times look."""
    if isinstance(value, list | tuple):
        return type(value).__name__, [seen(each) for each in value]
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, map(seen, value)))
    if isinstance(value, dict):
        return {key: seen(each) for key, each in value.items()}
    return repr(value)


@pytest.mark.slow
@settings(max_examples=150)
@given(args=st.lists(VALUES, max_size=3), kwargs=st.dictionaries(KEYS, VALUES, max_size=2))
def test_whatever_is_nested_in_whatever_comes_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    task = travelled(*args, **kwargs)
    assert seen(task.args) == seen(tuple(args))
    assert seen(task.kwargs) == seen(kwargs)


@settings(max_examples=100)
@given(value=VALUES)
@example(value=dt.datetime(2000, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))))
@example(value=dt.time(1, tzinfo=dt.timezone(-dt.timedelta(microseconds=1))))
def test_so_do_results(value: Any) -> None:
    assert seen(stored(value)) == seen(value)


@settings(max_examples=100)
@given(value=JSON)
def test_plain_json_stands_there_as_it_is(value: Any) -> None:
    text = codec.encode_call((value,), {}, "work")
    assert text == f'"args":{json.dumps([value], separators=(",", ":"))},"kwargs":{{}}'
    assert seen(codec.decode_task(queued(value)).task.args) == seen((value,))


@pytest.mark.slow
@settings(max_examples=150)
@given(value=HOSTILE)
def test_what_anybody_else_writes_is_read_or_refused(value: Any) -> None:
    for read in (lambda: codec.decode_task(queued(value)), lambda: codec.decode_record(record_with(value))):
        try:
            read()
        except (ValueError, BackendError):
            continue


def record_with(result: Any) -> bytes:
    return json.dumps({"task_id": "t1", "status": "success", "result": result}).encode()


def tag(name: Any, value: Any, **more: Any) -> dict[str, Any]:
    return {MARK: name, "value": value, **more}


COLLIDING = [n * (2**61 - 1) for n in range(1, 100_000)]


@pytest.mark.parametrize(
    "value",
    [
        tag("os.system", "true"),
        tag("builtins.eval", "1"),
        tag(["date"], "2026-01-01"),
        tag(None, None),
        {MARK: "date"},
        tag("date", "2026-13-01"),
        tag("date", 5),
        tag("date", "2026-01-01", extra=1),
        tag("datetime", "now"),
        tag("datetime", "2026-01-01T00:00:00+01:00", zone="../../etc/passwd"),
        tag("datetime", "2026-01-01T00:00:00+01:00", zone="/etc/localtime"),
        tag("datetime", "2026-01-01T00:00:00+01:00", zone=["UTC"]),
        tag("datetime", "2026-01-01T00:00:00", zone="UTC"),
        tag("datetime", "2026-01-01T00:00:00", fold=2),
        tag("datetime", "0001-01-01T00:00:00+14:00", zone="America/New_York"),
        tag("time", "00:00", zone="Nowhere/Atall"),
        tag("timedelta", [10**20, 0, 0]),
        tag("timedelta", [1e300, 0, 0]),
        tag("timedelta", [0, 0, True]),
        tag("timedelta", 5),
        tag("uuid", "x"),
        tag("uuid", 7),
        tag("decimal", "1e" + "9" * 30),
        tag("decimal", [1, [1], 0]),
        tag("decimal", "0x1"),
        tag("bytes", "§"),
        tag("bytes", "AAA"),
        tag("bytes", 100),
        tag("bytearray", 1_000_000_000),
        tag("set", "abc"),
        tag("set", COLLIDING),
        tag("tuple", {"a": 1}),
        tag("dict", [1]),
    ],
    ids=lambda value: repr(value)[:60],
)
class TestWhatIsNoValue:
    def test_is_no_argument(self, value: Any) -> None:
        assert_no_arguments(json.dumps(value))

    def test_is_left_in_a_record_as_it_is(self, value: Any) -> None:
        fields = {"args": [value, tag("date", "2026-01-02")], "kwargs": {"a": value}, "result": [value, {"b": [value]}]}
        record = codec.decode_record(json.dumps({"task_id": "t1", "status": "success", **fields}).encode())
        assert record.args == (value, dt.date(2026, 1, 2))
        assert record.kwargs == fields["kwargs"]
        assert record.result == fields["result"]

    def test_is_no_argument_of_another_run_either(self, value: Any) -> None:
        """What a record has of it travels as what it was, not as a dict that happens to look like it."""
        record = codec.decode_record(record_with(value))
        call = codec.encode_call((record.result,), {}, "work")
        assert json.loads("{" + call + "}")["args"] == [value]


# From 3.12 on, Python reads some thousand levels.
@pytest.mark.parametrize("depth", [50_000, 200_000])
@pytest.mark.parametrize("inner", ["1", '{"__flowrra__":"date","value":"2026-01-01"}'], ids=["plain", "tagged"])
def test_what_is_nested_too_deeply_is_unreadable(depth: int, inner: str) -> None:
    for text in ("[" * depth + inner + "]" * depth, '{"__flowrra__":"tuple","value":[' * depth + inner + "]}" * depth):
        assert_no_arguments(text)
        with pytest.raises(BackendError, match="can't be read"):
            codec.decode_record(b'{"task_id":"t1","status":"success","result":%b}' % text.encode())


def assert_no_arguments(text: str) -> None:
    with pytest.raises(ValueError):
        codec.decode_task(b'{"id":"t1","name":"work","args":[%b],"kwargs":{}}' % text.encode())
    with pytest.raises(ValueError):
        codec.decode_task(b'{"id":"t1","name":"work","args":[],"kwargs":{"a":%b}}' % text.encode())


def test_a_huge_exponent_costs_nothing() -> None:
    (value,) = codec.decode_task(queued(tag("decimal", "1E+999999999999999999"))).task.args
    assert value == Decimal("1E+999999999999999999")


@pytest.mark.parametrize("value", ["NaN", "-NaN123", "sNaN", "Infinity", "-Infinity", "-0", "0E-10", "1.10"])
def test_every_decimal(value: str) -> None:
    assert repr(stored(Decimal(value))) == repr(Decimal(value))


def test_floats_that_json_has_no_number_for() -> None:
    nan, *infinities = stored([math.nan, math.inf, -math.inf])
    assert math.isnan(nan)
    assert infinities == [math.inf, -math.inf]


class TestTimes:
    def test_the_doubled_hour_is_told_apart(self) -> None:
        for fold in (0, 1):
            moment = dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
            back = stored(moment)
            assert back.utcoffset() == moment.utcoffset()
            assert (back.tzinfo.key, back.fold) == ("Europe/Berlin", fold)
            assert stored(moment.replace(tzinfo=None)).fold == fold

    def test_a_zone_that_is_not_known_here_leaves_the_offset(self, caplog: pytest.LogCaptureFixture) -> None:
        (moment,) = codec.decode_task(queued(tag("datetime", "2026-01-01T00:00:00+05:00", zone="Moon/Base"))).task.args
        assert moment == dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))
        assert "Moon/Base" in caplog.text

    def test_where_a_zone_has_other_rules_now_the_instant_stays(self) -> None:
        (moment,) = codec.decode_task(queued(tag("datetime", "2026-01-01T00:00:00+05:00", zone="UTC"))).task.args
        assert moment == dt.datetime(2025, 12, 31, 19, tzinfo=dt.UTC)
        assert moment.tzinfo == ZoneInfo("UTC")

    def test_a_class_derived_from_a_plain_one_passes_if_it_says_no_more(self) -> None:
        class Moment(dt.datetime):
            pass

        class Stamp(dt.datetime):
            def __eq__(self, other: object) -> bool:
                return isinstance(other, Stamp)

            __hash__ = dt.datetime.__hash__

        assert seen(stored(Moment(2026, 1, 2))) == seen(dt.datetime(2026, 1, 2))  # noqa: DTZ001
        with pytest.raises(SerializationError, match="Stamp, and more than a datetime"):
            stored(Stamp(2026, 1, 2))


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Level.HIGH, 3),
        (Word.YES, "yes"),
        ({Word.YES: 1}, {"yes": 1}),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[(1,)]), {"a": [(1,)]}),
        (Counter("aab"), {"a": 2, "b": 1}),
    ],
    ids=repr,
)
def test_what_is_equal_to_a_plain_value_comes_as_that(value: Any, plain: Any) -> None:
    assert stored(value) == value
    assert seen(stored(value)) == seen(plain)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({1: "a"}, "has the key 1 (int)"),
        ({True: "a"}, "has the key True (bool)"),
        ({None: "a"}, "has the key None (NoneType)"),
        ({1.5: "a"}, "has the key 1.5 (float)"),
        ({("a", 1): "a"}, "has the key ('a', 1) (tuple)"),
        ({"a": [0, {"b": {2: 3}}]}, "['a'][1]['b'] has the key 2 (int)"),
        pytest.param([{"a": object()}], "[0]['a'] is an instance of object", id="object"),
    ],
    ids=repr,
)
def test_what_can_not_be_written_is_refused_and_named(value: Any, where: str) -> None:
    with pytest.raises(SerializationError, match="arguments of task 'work'") as refusal:
        codec.encode_call((0, value), {}, "work")
    assert f"argument 1{where}" in str(refusal.value).replace("argument 1 ", "argument 1")
    with pytest.raises(SerializationError) as refusal:
        codec.encode_call((), {"name": value}, "work")
    assert f"argument name{where}" in str(refusal.value).replace("argument name ", "argument name")
    with pytest.raises(SerializationError, match="record of task 'work'") as refusal:
        stored(value)
    assert f": {where if where.startswith('[') else f'it {where}'}" in str(refusal.value)


def test_keywords_are_text() -> None:
    with pytest.raises(SerializationError, match="JSON: 1 is no keyword"):
        codec.encode_call((), {1: 2}, "work")  # type: ignore[dict-item]


def test_what_contains_itself_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    tagged: list[Any] = [dt.date(2026, 1, 1)]
    tagged.append((tagged,))
    for value in (cycle, tagged):
        with pytest.raises(SerializationError, match="contain"):
            travelled(value)


def test_what_needs_tags_is_read_however_deep_it_was_written() -> None:
    value: Any = dt.date(2026, 1, 1)
    for _ in range(99):
        value = (value,)
    assert stored(value) == value
    with pytest.raises(SerializationError, match="more than 100 levels"):
        stored((((value,),),))


class TestSets:
    def test_equal_ones_are_written_equally(self) -> None:
        one, other = {"a", "b", "c", "d"}, {"d", "c", "b", "a"}
        assert codec.encode_call((one,), {}, "work") == codec.encode_call((other,), {}, "work")

    @pytest.mark.parametrize(
        ("value", "items"),
        [
            ({Spot(1)}, [{"x": 1}]),
            (frozenset({Spot(1)}), [{"x": 1}]),
            ({(Spot(1), 2)}, [({"x": 1}, 2)]),
            ({Pair.ONE_TWO}, [[1, 2]]),
            ({frozenset({Spot(1)})}, [[{"x": 1}]]),
            ([1, {"deep": {Spot(1)}}], [1, {"deep": [{"x": 1}]}]),
        ],
        ids=repr,
    )
    def test_of_what_an_annotation_rebuilds_are_lists_before_that(self, value: Any, items: Any) -> None:
        assert stored(value) == items
        # And sets again, wherever they are written once more.
        assert codec.encode_call((stored(value),), {}, "work") == codec.encode_call((value,), {}, "work")

    @pytest.mark.parametrize("items", [[[1]], [tag("decimal", "sNaN")]], ids=repr)
    def test_of_what_can_be_in_none_are_lists(self, items: list[Any]) -> None:
        (found,) = codec.decode_task(queued(tag("set", items))).task.args
        assert isinstance(found, list)
        assert len(found) == 1

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ({HashableList([1])}, "is a set of items that are written as what can't be in one"),
            (frozenset({HashableList([1])}), "is a frozenset of items that are written as what can't be in one"),
            ({n * (2**61 - 1) for n in range(1, 5)}, "is a set that could not be read: .* or collide"),
        ],
        ids=repr,
    )
    def test_that_could_not_be_read_are_refused(self, value: Any, why: str) -> None:
        with pytest.raises(SerializationError, match=rf"record of task .*\['a'\] {why}"):
            stored({"a": value})
        with pytest.raises(SerializationError, match=f"argument 0 {why}"):
            travelled(value)


@pytest.mark.slow
@settings(max_examples=150)
@given(value=st.lists(st.sets(IN_SETS, max_size=5) | st.frozensets(IN_SETS, max_size=5), max_size=3))
def test_every_record_that_is_written_can_be_read(value: Any) -> None:
    try:
        text = codec.encode_record(TaskResult("t1", TaskStatus.SUCCESS, "work", value, args=(value,))).text
    except SerializationError:
        return
    found = codec.decode_record(text.encode())
    assert MARK not in repr((found.result, found.args))
    assert list(map(len, found.result)) == list(map(len, found.args[0]))
