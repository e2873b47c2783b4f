"""Forms: those that choose what a list shows, and those that act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowrra_exporter.web.console.context import NO_REFRESH, REFRESH_PARAMETER, Context
from flowrra_exporter.web.console.html import Html, element


def filter_form(context: Context, label: str, *fields: Html, keep: Sequence[str] = ()) -> Html:
    """A form that asks for this page anew with what was chosen.

    Args:
        label: What the form is called.
        fields: Made by ``text_field`` and ``choice_field``.
        keep: Parameters that stay as they are, such as the order.
    """
    kept = {each: context.query[each] for each in keep if context.query.get(each)}
    if not context.refresh:
        kept[REFRESH_PARAMETER] = NO_REFRESH
    button = element("button", "Show", type="submit")
    own = f"./{context.path.rpartition('/')[2]}"
    return element(
        "form",
        *_hidden(kept),
        *fields,
        button,
        method="get",
        action=own,
        class_="filter",
        role="search",
        aria_label=label,
    )


def text_field(context: Context, parameter: str, label: str, placeholder: str = "") -> Html:
    """A line of text, with what is chosen now."""
    field = element(
        "input",
        type="search",
        name=parameter,
        id=f"filter-{parameter}",
        value=context.query.get(parameter, ""),
        placeholder=placeholder or None,
        dir="auto",
        autocomplete="off",
        spellcheck="false",
    )
    return element("span", element("label", label, for_=f"filter-{parameter}"), field, class_="field")


def choice_field(context: Context, parameter: str, label: str, choices: Mapping[str, str], default: str = "") -> Html:
    """One of several values, each with what it's called."""
    chosen = context.query.get(parameter, default)
    options = [
        element("option", text, value=value, selected="" if value == chosen else None)
        for value, text in choices.items()
    ]
    field = element("select", *options, name=parameter, id=f"filter-{parameter}")
    return element("span", element("label", label, for_=f"filter-{parameter}"), field, class_="field")


def action_form(
    context: Context,
    action: str,
    label: str,
    fields: Mapping[str, str],
    about: str = "",
    destroys: bool = False,
    back: str | None = None,
) -> Html:
    """A button that acts, by POST, with the token that shows that this page sent it.

    Args:
        action: The path below the console, such as ``/actions/retry-task``.
        label: What the button says.
        fields: What the action is told.
        about: What is said besides to those who hear the button alone, such as a task's name.
        destroys: The button is marked as one that can't be undone.
        back: The page that comes next, from the console's root; this one if None.
    """
    more = element("span", f" {about}", class_="visually-hidden") if about else ""
    button = element("button", label, more, type="submit", class_="destroys" if destroys else None)
    hidden = _hidden({**fields, "token": context.token, "back": context.back if back is None else back})
    return element("form", *hidden, button, method="post", action=context.link(action), class_="action")


def _hidden(fields: Mapping[str, str]) -> list[Html]:
    return [element("input", type="hidden", name=field, value=value) for field, value in fields.items()]
