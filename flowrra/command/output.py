"""What the command prints: aligned tables, or rich's on a terminal, and JSON with ``--json``. Text from tasks can't
move the cursor."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, date, datetime, time
from enum import Enum
from typing import Any

import click

from flowrra.command.terminal import fits, print_rich_field, print_rich_mark, print_rich_table, rich_console
from flowrra.management.answers import TaskProgress
from flowrra.printable import printable, printable_lines

# Characters of a cell in a list; one task's own page has it all.
MOST_IN_CELL = 60
NOTHING = "-"


def print_json(answer: object, indent: int | None = 2) -> None:
    """Print an answer as JSON."""
    # What a stream can't encode is escaped here: the stream itself would do so in Python's way, which is no JSON.
    is_utf = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(writable(answer), indent=indent, ensure_ascii=not is_utf, allow_nan=False)
    click.echo("\n".join(map(_json_printable, text.split("\n"))))


def print_text(text: str) -> None:
    """Print text, of which no more than its lines is left to the terminal."""
    click.echo(printable_lines(text))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: numbers to the right, all else to the left."""
    rows = list(rows)
    to_right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(head))]
    cells = [[shown(value) for value in row] for row in rows]
    if (console := rich_console()) and fits(console, head, cells):
        print_rich_table(console, head, cells, to_right)
        return
    texts = [list(head), *([_shortened(text) for text in row] for row in cells)]
    widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        padded = [_padded(text, width, right) for text, width, right in zip(row, widths, to_right, strict=True)]
        click.echo("  ".join(padded).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one a line; those that are None are left out."""
    known = {name: shown(value) for name, value in fields.items() if value is not None}
    width = max(map(len, known), default=0) + 2
    console = rich_console()
    for name, text in known.items():
        if console is None:
            click.echo(f"{name:<{width}}{text}")
        else:
            print_rich_field(console, name, width, text)


def print_verdicts(verdicts: Mapping[str, tuple[bool, str]]) -> None:
    """Print of each thing whether it is well, and why, one a line."""
    console = rich_console()
    for name, (is_well, reason) in verdicts.items():
        mark, text = "ok  " if is_well else "FAIL", f"{name}: {shown(reason)}"
        if console is None:
            click.echo(f"{mark}  {text}")
        else:
            print_rich_mark(console, mark, text)


def shown(value: object) -> str:
    """A value as one line of text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, float):  # seconds that somebody reads
        return f"{value:.3g}"
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, int):
        return str(value)
    return printable(json.dumps(writable(value), ensure_ascii=False))


def described_progress(progress: TaskProgress | None) -> str | None:
    """How far a task is, as it tells."""
    return progress and f"{_counted(progress['done'])} of {_counted(progress['total'])} {progress['message']}"


def _counted(number: float | None) -> str:
    return NOTHING if number is None else f"{number:.12g}"


def _json_printable(line: str) -> str:
    """The same JSON; JSON itself escapes no more than ASCII's control characters."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_IN_CELL else text[: MOST_IN_CELL - 1] + "…"


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _padded(text: str, width: int, right: bool) -> str:
    gap = " " * (width - _width(text))
    return gap + text if right else text + gap


def _width(text: str) -> int:
    """How many columns of a terminal it takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def writable(value: Any) -> Any:
    """What JSON can hold: times in RFC 3339 with an offset, bytes in base64, what has no counterpart as text."""
    if isinstance(value, Enum):
        return writable(value.value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()  # lone surrogates
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return value.astimezone().isoformat() if value.tzinfo is None else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    return _writable_collection(value)


def _writable_collection(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: writable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {writable(str(key)): writable(each) for key, each in value.items()}
    if isinstance(value, Sequence | Set):
        return [writable(each) for each in value]
    return writable(str(value))
