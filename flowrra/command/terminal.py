"""What a terminal gets beyond plain text: tables and colours by rich, where the extra ``cli`` is installed, and bars
that tell how far a long call is. Whatever is not a terminal gets none of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

# Is told how much is done so far.
Tell = Callable[[float], None]
# A call that acts on fewer tasks is over before a bar could be read.
FEWEST_WITH_BAR = 100
_STYLES = {
    "success": "green",
    "ok": "green",
    "submitted": "green",
    "running": "cyan",
    "retrying": "yellow",
    "released": "yellow",
    "missed": "yellow",
    "skipped": "yellow",
    "collapsed": "yellow",
    "failed": "bold red",
    "lost": "bold red",
    "FAIL": "bold red",
    "cancelled": "dim",
}
# Characters of a cell that is not broken where there is room, such as a time.
LONGEST_WORD = 20
# Columns of the terminal that a longer text gets at the least, and those between two cells.
_NARROWEST = 12
# With fewer for each, a table falls to pieces.
_FEWEST = 4
_GAP = 2
# A bar is full at so many steps: percents.
_FULL = 100
# The columns and fields whose words have a colour.
_COLOURED = {"STATUS", "OUTCOME", "RESULT", "Status"}


def rich_console() -> Console | None:
    """Writes to standard output with rich; None where that is no terminal, or rich is not installed. It leaves colours
    out where NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(highlight=False, markup=False, emoji=False)


def fits(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table can be as wide as the terminal, with what names each row whole."""
    first, *others = (max(map(len, column)) for column in zip(head, *rows, strict=True))
    return first + sum(min(width, _FEWEST) + _GAP for width in others) <= console.width


def print_rich_table(
    console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], to_right: Sequence[bool]
) -> None:
    """Print a table as wide as the terminal: a longer text goes on in the next line, what names the row never does."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    whole = [at == 0 or width <= LONGEST_WORD for at, width in enumerate(widths)]
    wanted = sum(width if is_whole else _NARROWEST for width, is_whole in zip(widths, whole, strict=True))
    has_room = wanted + _GAP * len(widths) <= console.width
    for at, (name, right) in enumerate(zip(head, to_right, strict=True)):
        is_whole = at == 0 or (has_room and whole[at])
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=is_whole)
    for row in rows:
        table.add_row(*(Text(text, _style(name, text)) for name, text in zip(head, row, strict=True)))
    console.print(table)


def print_rich_field(console: Console, name: str, width: int, text: str) -> None:
    """Print a name, as wide as that, and what it has."""
    from rich.text import Text

    line = Text(f"{name:<{width}}", "bold")
    console.print(line.append(text, _style(name, text)), soft_wrap=True)


def print_rich_mark(console: Console, mark: str, text: str) -> None:
    """Print a line that begins with a coloured word."""
    from rich.text import Text

    console.print(Text(mark, _STYLES.get(mark.strip(), "")).append(f"  {text}", ""), soft_wrap=True)


def _style(name: str, text: str) -> str:
    return _STYLES.get(text, "") if name in _COLOURED else ""


def has_bars() -> bool:
    """Whether bars are shown."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar(label: str, most: float, fewest: float = FEWEST_WITH_BAR) -> Iterator[Tell]:
    """A bar on standard error for as long as the context lasts, if that is a terminal. It gives what to call with how
    much is done so far.

    Args:
        label: What is done.
        most: How much there is to do.
        fewest: With less than that there is no bar.
    """
    if most < fewest or not has_bars():
        yield lambda _done: None
        return
    with click.progressbar(length=_FULL, label=label, file=sys.stderr, show_eta=False) as bar:
        yield lambda done: bar.update(round(_FULL * min(1.0, done / most)) - bar.pos)
