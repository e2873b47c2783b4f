"""HTML by construction: whatever isn't an element already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

_VOID = ("link", "meta", "rect")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Column(NamedTuple):
    """A column of a table; the cells of a numeric one stand to the right."""

    label: str
    numeric: bool = False


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """``<tag …>children</tag>``.

    Children that aren't Html are escaped. An attribute that is None is left out; ``class_`` stands for
    ``class``, and other underscores for dashes.
    """
    pairs = [f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in _given(attributes)]
    start = f"<{tag}{''.join(pairs)}>"
    return Html(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def join(children: Iterable[str], separator: str = "") -> Html:
    """The children, one after the other; those that aren't Html are escaped."""
    return Html(separator.join(child if isinstance(child, Html) else escape(child) for child in children))


def table(caption: str, columns: Sequence[Column], rows: Iterable[str], wide: bool = False) -> Html:
    """A table of rows made by ``row``.

    On a narrow screen the style sheet makes blocks of the rows of a ``wide`` one. The roles are spelt out because
    browsers forget then that it's a table.
    """
    heads = [element("th", each.label, scope="col", role="columnheader", class_=_alignment(each)) for each in columns]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads, role="row"), role="rowgroup"),
        element("tbody", *rows, role="rowgroup"),
        role="table",
        class_="wide" if wide else None,
    )


def row(columns: Sequence[Column], cells: Sequence[str]) -> Html:
    """One row; its first cell is its heading."""
    first, *others = cells
    found = [element("th", first, scope="row", role="rowheader")]
    for column, cell in zip(columns[1:], others, strict=True):
        found.append(element("td", cell, role="cell", class_=_alignment(column), data_label=column.label))
    return element("tr", *found, role="row")


def _alignment(column: Column) -> str | None:
    return "number" if column.numeric else None


def _given(attributes: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in attributes.items() if value is not None]
