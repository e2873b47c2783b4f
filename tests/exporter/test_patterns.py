"""Every regular expression, on a megabyte of the text that is worst for it: it takes no more than the text's length.

A pattern that tries again from each place, or in many ways, holds the interpreter for hours on a text that one line of
a task's error, of a peer's answer or of a file may hold.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import flowrra_exporter
import pytest
from flowrra_exporter.app.stall import innermost
from flowrra_exporter.logs import JsonFormatter, TextFormatter, bounded, mask_secrets

import flowrra
from tests.exporter.command.test_logs import record_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from re import _parser as parser  # type: ignore[attr-defined]

SHORT, LONG = 16 * 1024, 1024 * 1024
# What grows with the square of the length takes seconds for the short text, and hours for the long one.
SHORT_SECONDS, LONG_SECONDS = 0.5, 5.0
MODULE_FUNCTIONS = {"match", "search", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


class Use(NamedTuple):
    """A pattern, and the method by which it is applied."""

    where: str
    pattern: re.Pattern[str]
    method: str


def modules() -> Iterator[ModuleType]:
    for package in (flowrra, flowrra_exporter):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def uses() -> Iterator[Use]:
    for module in modules():
        patterns = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
        calls = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.Call)]
        for call in calls:
            function = call.func
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                name = function.value.id
                if name in patterns and function.attr in MODULE_FUNCTIONS:
                    yield Use(f"{module.__name__}.{name}", patterns[name], function.attr)


def _tree(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text(encoding="utf-8"))


USES = sorted(set(uses()))


@pytest.mark.slow
def test_every_pattern_is_a_constant_that_this_test_sees() -> None:
    hidden = [
        f"{module.__name__}:{node.lineno}"
        for module in modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute) and node.attr in MODULE_FUNCTIONS
        if isinstance(node.value, ast.Name) and node.value.id == "re"
    ]
    assert hidden == []
    assert len(USES) > 15


def _literals(parsed: Any) -> Iterator[str]:
    """The runs of literal characters of a pattern, and a character of each set, as the parser of ``re`` sees them."""
    run = ""
    for code, argument in parsed:
        name = str(code)
        if name == "LITERAL":
            run += chr(argument)
            continue
        if run:
            yield run
            run = ""
        yield from _inner(name, argument)
    if run:
        yield run


def _inner(name: str, argument: Any) -> Iterator[str]:
    if name == "IN":
        for kind, value in argument:
            if str(kind) == "LITERAL":
                yield chr(value)
            elif str(kind) == "RANGE":
                yield chr(value[0])
            elif str(kind) == "CATEGORY":
                yield {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}.get(str(value), "-")
    elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        yield from _literals(argument[2])
    elif name == "SUBPATTERN":
        yield from _literals(argument[3])
    elif name == "BRANCH":
        for branch in argument[1]:
            yield from _literals(branch)
    elif name in ("ASSERT", "ASSERT_NOT"):
        yield from _literals(argument[1])
    elif name == "NOT_LITERAL":
        yield chr(argument + 1)


def attacks(pattern: re.Pattern[str]) -> Iterator[Callable[[int], str]]:
    """Texts of any length that make a pattern begin again and again, and fail at the end."""
    parts = list(dict.fromkeys([*_literals(parser.parse(pattern.pattern, pattern.flags)), "a", "1"]))[:12]
    whole = "".join(parts)
    units = [*parts, whole, *(first + second for first in parts[:6] for second in parts[:6] if first != second)]
    for start in ("", parts[0], whole):
        for unit in units:
            for end in ("\x00", ""):
                yield lambda size, start=start, unit=unit, end=end: (  # type: ignore[misc]
                    start + unit * ((size - len(start) - len(end)) // len(unit)) + end
                )


def seconds(use: Use, text: str) -> float:
    began = time.process_time()
    found = use.pattern.sub("", text) if use.method == "sub" else getattr(use.pattern, use.method)(text)
    if use.method == "finditer":
        list(found)
    return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.where}.{use.method}")
def test_a_pattern_takes_no_longer_than_the_text_is_long(use: Use) -> None:
    taken = []
    for attack in attacks(use.pattern):
        taken.append((seconds(use, attack(SHORT)), attack))
        assert taken[-1][0] < SHORT_SECONDS, f"{use.pattern.pattern!r} on {attack(200)!r}"
    for _, attack in sorted(taken, key=lambda each: each[0], reverse=True)[:3]:
        assert seconds(use, attack(LONG)) < LONG_SECONDS, f"{use.pattern.pattern!r} on {attack(200)!r}"


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r'File "(.+)", line (\d+)', r"(?<=://)(?:[^/\s]*:\S*|[^/\s]+)@", r"(a+)+b"])
def test_the_attacks_find_what_is_too_slow(pattern: str) -> None:
    use = Use("", re.compile(pattern), "search")

    def slow(attack: Callable[[int], str]) -> bool:
        # For an exponential one even a short text is long, and a long one would never end.
        is_exponential = any(seconds(use, attack(size)) > 0.1 for size in range(16, 32, 2))
        return is_exponential or seconds(use, attack(32_768)) > 100 * seconds(use, attack(1024)) + 0.02

    assert any(map(slow, attacks(use.pattern)))


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "mask_secrets": mask_secrets,
    "bounded": bounded,
    "innermost": innermost,
    "text record": lambda text: TextFormatter().format(record_of(text)),
    "JSON record": lambda text: JsonFormatter().format(record_of(text)),
}


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize(
    "unit",
    [
        *("://", ":", "://:", "://a", "://@", "/:", ":/", "redis://u:p@h,", "redis://u:p@h/ ", "a://b/c://", "@", "\n"),
        *('"', "\\", "\x1b[2J", "\u2028", 'File "', 'File "a", line ', '  File "a", line 1, in b\n', "\ud800"),
    ],
    ids=ascii,
)
def test_a_text_from_outside_takes_no_longer_than_it_is_long(function: Callable[[str], object], unit: str) -> None:
    for start in ("", "://"):
        for size, limit in ((SHORT, SHORT_SECONDS), (LONG, LONG_SECONDS)):
            began = time.process_time()
            function(start + unit * (size // len(unit)))
            assert time.process_time() - began < limit
