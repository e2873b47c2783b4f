"""What the code says of the Management API: its methods, the types of their answers, and whether a value is of one."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flowrra.management import FlowrraManager, answers

METHODS = [name for name in vars(FlowrraManager) if not name.startswith("_")]
# The only answers whose times are naive, and local.
LOCAL = (answers.Schedule, answers.ScheduleDetails)


def signature_of(method: str) -> str:
    """How a method is called, and the type of its answer, as it is written in its source."""
    found = inspect.signature(getattr(FlowrraManager, method))
    without_self = found.replace(parameters=list(found.parameters.values())[1:])
    return method + re.sub(r"(: |-> )'(.*?)'", r"\1\2", str(without_self))


def type_of(method: str) -> Any:
    """The type of a method's answer."""
    return typing.get_type_hints(getattr(FlowrraManager, method))["return"]


def answer_types() -> list[Any]:
    """The types that answers are made of, in the order in which the methods need them."""
    found: dict[str, Any] = {}
    for method in METHODS:
        for each in _parts(type_of(method)):
            found.setdefault(each.__name__, each)
    return list(found.values())


def _is_not_required(answer: Any, key: str) -> bool:
    """Read from the text of the annotation: ``__required_keys__`` overlooks what is written as text."""
    return str(answer.__annotations__[key].__forward_arg__).startswith("NotRequired[")


def _parts(hint: Any) -> Iterator[Any]:
    if typing.is_typeddict(hint):
        yield hint
        for inner in typing.get_type_hints(hint).values():
            yield from _parts(inner)
    for inner in typing.get_args(hint):
        yield from _parts(inner)


def meanings_of(answer: Any) -> dict[str, str]:
    """What the docstring of a type says of each key, those of the types that it extends included."""
    found: dict[str, str] = {}
    keys = set(typing.get_type_hints(answer))
    for each in [*(other for other in answer_types() if set(typing.get_type_hints(other)) < keys), answer]:
        _, _, attributes = (inspect.getdoc(each) or "").partition("\nAttributes:\n")
        for key, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            found[key] = " ".join(text.split())
    return {key: found.get(key, "") for key in typing.get_type_hints(answer)}


def table_of(answer: Any) -> str:
    """A type of answers as the page shows it."""
    summary = (inspect.getdoc(answer) or "").partition("\n")[0].rstrip(".")
    lines = [f"**`{answer.__name__}`** · {summary}", "", "| key | type | |", "|---|---|---|"]
    for key, meaning in meanings_of(answer).items():
        written = answer.__annotations__[key].__forward_arg__
        kind = re.sub(r"^NotRequired\[(.*)\]$", r"\1", written).replace("|", "\\|")
        lines.append(f"| `{key}` | `{kind}` | {meaning.replace('``', '`')} |".replace(":class:", ""))
    return "\n".join(lines)


def mismatch(value: Any, hint: Any, where: str = "answer", *, is_local: bool = False) -> str | None:
    """What is wrong with a value of that type; None if nothing is."""
    if hint is Any:
        return None
    if typing.is_typeddict(hint):
        return _mismatch_of_keys(value, hint, where)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [mismatch(value, part, where, is_local=is_local) for part in parts]
        return None if None in found else found[0]
    if not isinstance(value, (int, float) if hint is float else origin or hint):
        return f"{where} is {value!r}, not a {hint}"
    if isinstance(value, bool) and hint is not bool:
        return f"{where} is {value!r}, not a {hint}"
    if isinstance(value, datetime) and (value.tzinfo is None) is not is_local:
        return f"{where} is {value!r}, which is {'aware' if value.tzinfo else 'naive'}"
    inner = value.items() if origin is dict else enumerate(value) if origin in (list, tuple) else ()
    problems = (mismatch(each, parts[origin is dict], f"{where}[{key!r}]", is_local=is_local) for key, each in inner)
    return next(filter(None, problems), None)


def _mismatch_of_keys(value: Any, answer: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is {value!r}, not a dict"
    hints = typing.get_type_hints(answer)
    required = {key for key in hints if not _is_not_required(answer, key)}
    if missing := required - set(value):
        return f"{where} has no {sorted(missing)}"
    if unknown := set(value) - set(hints):
        return f"{where} has {sorted(unknown)}, which {answer.__name__} has not"
    is_local = answer in LOCAL
    problems = (mismatch(each, hints[key], f"{where}[{key!r}]", is_local=is_local) for key, each in value.items())
    return next(filter(None, problems), None)
