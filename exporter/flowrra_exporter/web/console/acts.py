"""The buttons by which a page acts. What destroys asks first, on a page of its own, so that it needs no JavaScript."""

from __future__ import annotations

from collections.abc import Mapping

from flowrra_exporter.web.actions import ACTIONS_BY_NAME
from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.forms import action_form
from flowrra_exporter.web.console.html import Html, element


def may(context: Context, action: str) -> bool:
    """Whether the client may do it, and the app can."""
    return context.actions and context.has(ACTIONS_BY_NAME[action].method)


def button(
    context: Context, action: str, label: str, fields: Mapping[str, str], about: str = "", asks: bool = False
) -> Html:
    """A button that does it, or that leads to where it is confirmed; nothing if it can't be done.

    Args:
        action: Its name in ``ACTIONS_BY_NAME``.
        label: What the button says.
        fields: What the action is told.
        about: What it is about, for those who hear the button alone.
        asks: It is to be confirmed, though it doesn't destroy anything.
    """
    if not may(context, action):
        return Html("")
    destroys = ACTIONS_BY_NAME[action].destroys
    if not (destroys or asks):
        return action_form(context, f"/actions/{action}", label, fields, about)
    more = element("span", f" {about}", class_="visually-hidden") if about else ""
    url = context.link("/confirm", action, **fields, back=context.back)
    return element("a", f"{label}…", more, href=url, class_="button destroys" if destroys else "button")


def buttons(*made: Html) -> Html:
    """Buttons beside each other; nothing if there is none."""
    found = [each for each in made if each]
    return element("div", *found, class_="actions") if found else Html("")
