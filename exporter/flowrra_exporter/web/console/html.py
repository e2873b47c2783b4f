"""HTML by construction: whatever isn't an element already is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

_VOID = ("hr", "input", "link", "meta")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Column(NamedTuple):
    """A column of a table; the cells of a numeric one stand to the right.

    Attributes:
        label: Its heading.
        numeric: Its cells are figures.
        sort_url: What sorts the table by this column; None if nothing does.
        order: ``ascending`` or ``descending``, if the table is sorted by it.
    """

    label: str
    numeric: bool = False
    sort_url: str | None = None
    order: str | None = None


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
    is_sortable = any(each.sort_url for each in columns)
    heads = [_head(each) for each in columns]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads, role="row"), role="rowgroup"),
        element("tbody", *rows, role="rowgroup"),
        role="table",
        class_=" ".join([*(["wide"] if wide else []), *(["sortable"] if is_sortable else [])]) or None,
    )


def _head(column: Column) -> Html:
    label = column.label if column.sort_url is None else element("a", column.label, href=column.sort_url)
    alignment = _alignment(column)
    return element("th", label, scope="col", role="columnheader", aria_sort=column.order, class_=alignment)


def row(columns: Sequence[Column], cells: Sequence[str], key: str | None = None) -> Html:
    """One row; its first cell is its heading. By its ``key`` the script knows it again where rows come and go."""
    first, *others = cells
    found = [element("th", first, scope="row", role="rowheader")]
    for column, cell in zip(columns[1:], others, strict=True):
        found.append(element("td", cell, role="cell", class_=_alignment(column), data_label=column.label))
    return element("tr", *found, role="row", data_key=key)


def _alignment(column: Column) -> str | None:
    return "number" if column.numeric else None


def _given(attributes: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in attributes.items() if value is not None]
