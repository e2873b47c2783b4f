"""Lists that are sorted and paged by plain links, so that they work without JavaScript."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.html import Column, Html, element, row, table
from flowrra_exporter.web.console.parts import note

Item = TypeVar("Item")

SORT, PAGE = "sort", "page"
# The parameters that a page with a listing takes.
PARAMETERS = (SORT, PAGE)
PER_PAGE = 25


@dataclass(frozen=True)
class Sortable(Generic[Item]):
    """A column of a list.

    Attributes:
        key: What stands for it in the URL.
        label: Its heading.
        cell: What it shows of an item.
        order: By what items are sorted: None, if it isn't known of an item, comes last either way. Without it, the
            column can't be sorted by.
        numeric: Its cells stand to the right, and are sorted from the largest on.
    """

    key: str
    label: str
    cell: Callable[[Item], str]
    order: Callable[[Item], Any] | None = None
    numeric: bool = False


def sorted_by(context: Context, columns: Sequence[Sortable[Item]], items: Sequence[Item]) -> list[Item]:
    """The items in the order that the query asks for; as they are if it asks for none that there is."""
    chosen, falling = _chosen(context, columns)
    if chosen is None or chosen.order is None:
        return list(items)
    order = chosen.order
    known = [item for item in items if order(item) is not None]
    known.sort(key=order, reverse=falling)
    return [*known, *(item for item in items if order(item) is None)]


def listing(
    context: Context,
    caption: str,
    columns: Sequence[Sortable[Item]],
    items: Sequence[Item],
    noun: str,
    per_page: int = PER_PAGE,
) -> Html:
    """A table of the items of one page, in the order that is asked for, and links to the other pages.

    Args:
        caption: What the table shows.
        columns: Its columns; the first is the heading of each row.
        items: All items, in the order that holds if none is asked for.
        noun: What the items are called, such as ``tasks``.
        per_page: How many items a page has.
    """
    ordered = sorted_by(context, columns, items)
    pages = max(1, math.ceil(len(ordered) / per_page))
    asked = context.query.get(PAGE, "1")
    number = min(int(asked), pages) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 1
    number = max(number, 1)
    first = (number - 1) * per_page
    shown = ordered[first : first + per_page]
    heads = [Column(each.label, each.numeric) for each in columns]
    rows = [row(heads, [each.cell(item) for each in columns]) for item in shown]
    made = table(caption, [_head(context, columns, each) for each in columns], rows, wide=True)
    if pages == 1:
        return made
    return element(
        "div", made, _pager(context, number, pages, f"{first + 1:,} to {first + len(shown):,}", len(ordered), noun)
    )


def _head(context: Context, columns: Sequence[Sortable[Item]], column: Sortable[Item]) -> Column:
    if column.order is None:
        return Column(column.label, column.numeric)
    chosen, falling = _chosen(context, columns)
    is_chosen = chosen is column
    turned = not falling if is_chosen else column.numeric
    url = context.here(**{SORT: f"-{column.key}" if turned else column.key, PAGE: None})
    order = ("descending" if falling else "ascending") if is_chosen else None
    return Column(column.label, column.numeric, url, order)


def _chosen(context: Context, columns: Sequence[Sortable[Item]]) -> tuple[Sortable[Item] | None, bool]:
    asked = context.query.get(SORT, "")
    falling = asked.startswith("-")
    key = asked.removeprefix("-")
    return next((each for each in columns if each.key == key and each.order is not None), None), falling


def _pager(context: Context, number: int, pages: int, span: str, total: int, noun: str) -> Html:
    links = []
    if number > 1:
        links.append(element("a", "Previous", href=context.here(**{PAGE: str(number - 1)}), rel="prev"))
    if number < pages:
        links.append(element("a", "Next", href=context.here(**{PAGE: str(number + 1)}), rel="next"))
    where = note(f"{span} of {total:,} {noun}")
    return element("nav", where, *links, class_="pager", aria_label=f"Pages of {noun}")
