"""Rebuilds, by the annotations of a task's function, what travels as plain data: data classes, pydantic's models,
members of enumerations, named tuples.

The annotations alone say which classes: what comes from a server names none.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from flowrra import tags
from flowrra.exceptions import SerializationError
from flowrra.signatures import function_of
from flowrra.tags import UnwritableError, Writer
from flowrra.task import TaskResult

if TYPE_CHECKING:
    from flowrra.registry import TaskRegistry

logger = logging.getLogger(__name__)

# Returns what a value is to be, given what it was written as; None stays None, and what is rebuilt already, as it is.
Builder = Callable[[Any], Any]

_MODULES_OF_CONTAINERS = ("builtins", "collections", "collections.abc")
# What `type X = ...` makes, from Python 3.12 on.
_ALIAS: Any = getattr(typing, "TypeAliasType", ())
_WRAPPERS = (typing.Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar)


class _Parameter(NamedTuple):
    name: str
    build: Builder | None
    # Why its annotation says nothing, if it does not.
    fault: str = "it has no annotation"


class _Annotations(NamedTuple):
    """What a function's annotations say of its parameters and its result.

    Attributes:
        positional: Those that can be given by position, in order.
        named: Those that can be given by name.
        further: ``*args`` and ``**kwargs``, if there are such.
        result: What rebuilds its result; None if it is plain data.
        rebuilds: Whether any argument is rebuilt.
    """

    positional: tuple[_Parameter, ...]
    named: dict[str, _Parameter]
    further: tuple[_Parameter | None, _Parameter | None]
    result: Builder | None
    rebuilds: bool

    def of_positional(self, count: int) -> Iterator[_Parameter]:
        """The parameters of so many arguments."""
        more = (self.further[0] or _Parameter(str(n), None) for n in range(len(self.positional), count))
        return chain(self.positional[:count], more)

    def of_keyword(self, name: str) -> _Parameter:
        """The parameter of a keyword argument."""
        found = self.named.get(name)
        if found is None and self.further[1] is not None:
            found = self.further[1]._replace(name=name)
        return found or _Parameter(name, None)


# ── a task's arguments and result ───────────────────────────────────────────────────────────────────────────


def written_call(
    args: Sequence[Any], kwargs: dict[str, Any], function: Callable[..., Any] | None
) -> tuple[list[Any], dict[str, Any]]:
    """A task's arguments as what JSON has.

    Args:
        args, kwargs: The arguments.
        function: What is called with them; None if it need not be, as only people read them.

    Raises:
        UnwritableError: One can't be written, or could not be rebuilt for the function.
        Exception: What a user's class raises.
    """
    known = _NOTHING_KNOWN if function is None else _annotations_of(function)
    for key in kwargs:
        if not isinstance(key, str):
            raise UnwritableError("is no keyword").within(repr(key))
    parameters = known.of_positional(len(args))
    is_called = function is not None
    return (
        [_written(parameter, value, is_called) for parameter, value in zip(parameters, args, strict=True)],
        {name: _written(known.of_keyword(name), value, is_called) for name, value in kwargs.items()},
    )


def _written(parameter: _Parameter, value: Any, is_called: bool) -> Any:
    writer = Writer()
    try:
        plain = writer.write(value)
        if is_called and writer.declared is not None:
            _check(parameter, value, plain, writer.declared)
    except UnwritableError as error:
        raise error.within(f"argument {parameter.name}") from None
    return plain


def _check(parameter: _Parameter, value: Any, plain: Any, declared: type) -> None:
    """Have a worker get what was given, or nothing: it rebuilds the argument just so."""
    kind = declared.__qualname__
    if parameter.build is None:
        raise UnwritableError(
            f"holds an instance of {kind}, which a worker rebuilds by the parameter's annotation only, and "
            f"{parameter.fault}: annotate it, as in `{parameter.name}: {kind}`, or pass plain data"
        )
    try:
        rebuilt = parameter.build(tags.read(plain))
    except Exception as error:
        raise UnwritableError(
            f"holds an instance of {kind}, and a worker could not rebuild it by the parameter's annotation: "
            f"{_described(error)}"
        ) from error
    if not _is_alike(value, rebuilt):
        raise UnwritableError(
            f"holds an instance of {kind}, and the parameter's annotation would make another value of it"
        )


def rebuilt_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A task's arguments, read from a server, as its function is to be called with them.

    Raises:
        SerializationError: One does not fit its annotation.
    """
    known = _annotations_of(function)
    if not known.rebuilds:
        return args, kwargs
    parameters = known.of_positional(len(args))
    return (
        tuple(_rebuilt(parameter, value) for parameter, value in zip(parameters, args, strict=True)),
        {name: _rebuilt(known.of_keyword(name), value) for name, value in kwargs.items()},
    )


def _rebuilt(parameter: _Parameter, value: Any) -> Any:
    if parameter.build is None:
        return value
    try:
        return parameter.build(value)
    except Exception as error:
        raise SerializationError(
            f"the argument {parameter.name} does not fit its annotation: {_described(error)}"
        ) from error


def rebuild_result(record: TaskResult, registry: TaskRegistry) -> None:
    """Make of a result, read from a server, what the task's function returned, if it is registered here and its return
    annotation tells. What doesn't fit stays plain data."""
    name = record.task_name
    definition = registry.by_name.get(name) if isinstance(name, str) else None
    if definition is None or record.result is None:
        return
    build = _annotations_of(definition.func).result
    if build is None:
        return
    try:
        record.result = build(record.result)
    except Exception as error:  # noqa: BLE001 - it is user code, and may raise anything
        logger.warning(
            "result does not fit its annotation, left as plain data task=%s id=%s error=%s",
            name,
            record.task_id,
            _described(error),
        )


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is_alike(value: Any, other: Any) -> bool:
    """Whether two values are equal and of the same classes, but for classes whose values are equal to plain ones."""
    kind = type(value)
    if kind is not type(other) and tags.is_declared(kind):
        return False
    if dataclasses.is_dataclass(kind):
        return all(
            _is_alike(getattr(value, field.name), getattr(other, field.name)) for field in dataclasses.fields(value)
        )
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(_is_alike, value, other))
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_is_alike(each, other[key]) for key, each in value.items())
    if isinstance(value, set | frozenset):
        return bool(value == other) and {*map(type, value)} == {*map(type, other)}
    return bool(value == other) or (value != value and other != other)


# ── annotations ─────────────────────────────────────────────────────────────────────────────────────────────

_NOTHING_KNOWN = _Annotations((), {}, (None, None), None, False)


@lru_cache(maxsize=1024)
def _annotations_of(function: Callable[..., Any]) -> _Annotations:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it is written in C, and says nothing
        return _NOTHING_KNOWN
    hints, faults = _hints(written := function_of(function))
    if faults:
        logger.info("annotations not resolved function=%s names=%s", written.__qualname__, ", ".join(faults))
    builders = {name: _builder(hint) for name, hint in hints.items()}

    def parameter(each: inspect.Parameter) -> _Parameter:
        fault = faults.get(each.name) or f"it is annotated as {each.annotation}"
        if each.annotation is each.empty:
            fault = "it has no annotation"
        return _Parameter(each.name, builders.get(each.name), fault)

    def of_kinds(*kinds: Any) -> list[_Parameter]:
        return [parameter(each) for each in parameters if each.kind in kinds]

    kind = inspect.Parameter
    further = tuple(next(iter(of_kinds(each)), None) for each in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD))
    return _Annotations(
        tuple(of_kinds(kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)),
        {each.name: each for each in of_kinds(kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY)},
        (further[0], further[1]),
        builders.get("return"),
        any(build is not None for name, build in builders.items() if name != "return"),
    )


def _hints(owner: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The annotations of a function or a class by name, and for those that can't be resolved, why."""
    try:
        return typing.get_type_hints(owner), {}
    except Exception:  # noqa: BLE001 - it evaluates text; one by one the others are found
        hints: dict[str, Any] = {}
        faults: dict[str, str] = {}
        for scope in reversed(owner.__mro__) if isinstance(owner, type) else (inspect.unwrap(owner),):
            names = getattr(sys.modules.get(scope.__module__), "__dict__", {})
            for name, annotation in inspect.get_annotations(scope).items():
                alone = types.SimpleNamespace(__annotations__={name: annotation})
                try:
                    hints |= typing.get_type_hints(alone, globalns=names)
                except Exception as error:  # noqa: BLE001 - kept, for whoever needs that annotation
                    faults[name] = f"its annotation {annotation!r} can't be resolved ({_described(error)})"
        return hints, faults


def _builder(hint: Any) -> Builder | None:
    """What rebuilds values by an annotation; None if they stay what they are."""
    build = _builder_of_plain(hint)
    if build is None:
        return None
    # Of another class, it was never written: a broker of the user's own hands on the objects that it was given.
    return lambda value: build(value) if type(value) in tags.READ_TYPES else value


def _builder_of_plain(hint: Any) -> Builder | None:
    """The same for what was read, which is plain data."""
    if isinstance(hint, typing.NewType):
        return _builder(hint.__supertype__)
    if isinstance(hint, _ALIAS):
        return lambda value: value if (build := _alias_builder(hint)) is None else build(value)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _class_builder(hint) if isinstance(hint, type) else None
    if origin in _WRAPPERS:
        return _builder(args[0])
    if origin in (typing.Union, types.UnionType):
        return _union_builder(args)
    if not isinstance(origin, type):
        return None
    if origin is tuple:
        return _items_builder(args[0]) if args[1:] == (...,) else _tuple_builder(args)
    if origin.__module__ in _MODULES_OF_CONTAINERS:
        if issubclass(origin, Mapping) and len(args) == 2:
            return _values_builder(args[1])
        return _items_builder(args[0]) if issubclass(origin, Iterable) and len(args) == 1 else None
    return _class_builder(origin)


@lru_cache(maxsize=1024)
def _alias_builder(alias: Any) -> Builder | None:
    """Made when the first value is, as an alias may name itself."""
    return _builder(alias.__value__)


def _expected(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"a {kinds[0].__name__} was expected, not a {type(value).__name__}")
    return value


def _items_builder(hint: Any) -> Builder | None:
    build = _builder(hint)
    if build is None:
        return None

    def rebuild(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tags.ItemsOfSet):
            return tags.set_of(value.kind, list(map(build, value)))
        return type(_expected(value, list, tuple, set, frozenset))(map(build, value))

    return rebuild


def _tuple_builder(hints: tuple[Any, ...]) -> Builder | None:
    builders = [_builder(hint) for hint in hints]
    if not any(builders):
        return None

    def rebuild(value: Any) -> Any:
        if value is None:
            return None
        items = zip(_expected(value, tuple, list), builders, strict=True)
        return type(value)(each if build is None else build(each) for each, build in items)

    return rebuild


def _values_builder(hint: Any) -> Builder | None:
    build = _builder(hint)
    if build is None:
        return None

    def rebuild(value: Any) -> Any:
        return None if value is None else {key: build(each) for key, each in _expected(value, dict).items()}

    return rebuild


def _union_builder(hints: tuple[Any, ...]) -> Builder | None:
    found = [(hint, _builder(hint)) for hint in hints]
    builders = [build for _, build in found if build is not None]
    plain = [hint for hint, build in found if build is None]
    if not builders:
        return None

    def rebuild(value: Any) -> Any:
        if value is None or any(_is_one(value, hint) for hint in plain):
            return value
        return _the_only_one(value, builders)

    return rebuild


def _is_one(value: Any, hint: Any) -> bool:
    """Whether plain data is what an annotation says that makes nothing else of it."""
    kind = typing.get_origin(hint) or hint
    if kind is typing.Literal:
        return value in typing.get_args(hint)
    if not isinstance(kind, type):
        return True  # Any, or a variable
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _the_only_one(value: Any, builders: list[Builder]) -> Any:
    found, faults = [], []
    for build in builders:
        try:
            found.append(build(value))
        except Exception as error:  # noqa: BLE001 - told if no other one can
            faults.append(_described(error))
    if len(found) > 1:  # who leaves fields out or adds some says it worse
        found = [each for each in found if tags.read(Writer().write(each)) == value] or found
    if not found:
        raise ValueError(f"it is none of what its annotation names: {'; '.join(faults)}")
    if len(found) > 1:
        kinds = " and a ".join(type(each).__qualname__ for each in found)
        raise ValueError(f"it could be a {kinds}")
    return found[0]


@lru_cache(maxsize=1024)
def _class_builder(kind: type) -> Builder | None:
    if typing.is_typeddict(kind):
        return lambda value: _fields_of(kind, value) if type(value) is dict else value
    make = _maker(kind)
    if make is None:
        return None
    return lambda value: None if value is None else make(value)


def _maker(kind: Any) -> Builder | None:
    if issubclass(kind, Enum):
        return lambda value: kind(value)
    if dataclasses.is_dataclass(kind):
        return lambda value: _make_dataclass(kind, value)
    if tags.is_model(kind):
        return lambda value: tags.validated(kind, value)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return lambda value: _make_named_tuple(kind, value)
    return None


@lru_cache(maxsize=1024)
def _field_builders(kind: type) -> dict[str, Builder | None]:
    """Made when the first value is, as a class may have fields of its own kind."""
    return {name: _builder(hint) for name, hint in _hints(kind)[0].items()}


def _fields_of(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    builders = _field_builders(kind)
    return {name: each if (build := builders.get(name)) is None else build(each) for name, each in value.items()}


def _make_dataclass(kind: Any, value: Any) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = _fields_of(kind, _expected(value, dict))
    unknown = values.keys() - fields.keys()
    if unknown:
        raise ValueError(f"{kind.__qualname__} has no field {', '.join(map(repr, sorted(unknown)))}")
    made = kind(**{name: each for name, each in values.items() if fields[name].init})
    for name, each in values.items():
        if not fields[name].init:
            object.__setattr__(made, name, each)  # also of a frozen class
    return made


def _make_named_tuple(kind: Any, value: Any) -> Any:
    builders = map(_field_builders(kind).get, kind._fields)
    items = zip(_expected(value, tuple, list), builders, strict=True)
    return kind._make(each if build is None else build(each) for each, build in items)
