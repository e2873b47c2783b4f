"""The page as a whole: head, header, sections, footer, and the policy under which a browser shows it."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import quote

from flowrra_exporter._version import __version__
from flowrra_exporter.metrics import catalog
from flowrra_exporter.web.page import sections, words
from flowrra_exporter.web.page.html import Html, element, join
from flowrra_exporter.web.page.view import Level, View

# How often the page is brought up to date.
REFRESH_SECONDS = 5
REFRESH_PARAMETER = "refresh"
NO_REFRESH = "off"


def _asset(name: str) -> Html:
    """A file of this folder; ours, and so it's put in as it stands."""
    return Html(f"\n{(files(__package__) / name).read_text(encoding='utf-8')}")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _asset("style.css"), _asset("refresh.js")

# The Content-Security-Policy: this script, this style, and nothing from elsewhere.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

_COLOURS: Mapping[Level, str] = {"good": "#1a7f37", "busy": "#9a6700", "bad": "#cf222e"}


class Form(NamedTuple):
    """How the page is wanted: whether it refreshes itself, and whether it shows what tasks were given and raised."""

    refresh: bool
    task_data: bool


async def document(view: View, form: Form, links: Mapping[str, str], max_series: int | None) -> str:
    """The page. ``links`` are paths with what they lead to; ``max_series`` is None without a limit."""
    main = await _main(view, form, max_series)
    body = element("body", _header(view, form), main, _footer(view, links))
    refresh = str(REFRESH_SECONDS) if form.refresh else None
    return f"<!DOCTYPE html>\n{element('html', _head(view, form), body, lang='en', data_refresh=refresh)}\n"


def _head(view: View, form: Form) -> Html:
    tags = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{view.headline.words} · Flowrra"),
        element("link", rel="icon", href=_icon(view.headline.level)),
        element("style", _STYLE),
    ]
    if form.refresh:
        reload = element("meta", http_equiv="refresh", content=str(REFRESH_SECONDS))
        tags += [element("noscript", reload), element("script", _SCRIPT)]
    return element("head", *tags)


def _icon(level: Level) -> str:
    """A dot in the colour of the state, for the browser's tab."""
    dot = f'<circle cx="4" cy="4" r="4" fill="{_COLOURS[level]}"/>'
    dot = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{dot}</svg>'
    return f"data:image/svg+xml,{quote(dot)}"


def _header(view: View, form: Form) -> Html:
    headline = view.headline
    # A screen reader tells of changes of the words alone; the sentence may have figures that always change.
    state = element(
        "p",
        element("span", headline.words, id="state", role="status", class_=f"pill {headline.level}"),
        " ",
        element("span", f"{headline.sentence[:1].upper()}{headline.sentence[1:]}.", id="sentence"),
    )
    as_of = element("span", "As of ", words.moment(view.at, view.at), id="as-of")
    if form.refresh:
        every = f", refreshed every {REFRESH_SECONDS} s. "
        link = element("a", "Stop refreshing", href=f"?{REFRESH_PARAMETER}={NO_REFRESH}")
    else:
        every, link = ", not refreshed. ", element("a", "Refresh again", href="./")
    silence = element("p", id="silence", class_="notice bad", role="alert", hidden="")
    refreshing = element("p", as_of, every, link, class_="note")
    top = element("div", element("h1", "Flowrra"), state, refreshing, class_="bar-of-state")
    return element("header", top, silence)


async def _main(view: View, form: Form, max_series: int | None) -> Html:
    parts: list[Html] = []
    if view.blocked is not None:
        parts.append(element("div", sections.blocked(view.blocked), id="blocked"))
    if not view.attached:
        parts.append(element("div", sections.notice(view.headline.level, _before(view)), id="before"))
        parts.append(sections.exporter(view, max_series))
        return element("main", *parts, id="main")
    if view.observed:
        parts += [
            sections.shared_overview(view),
            sections.queues(view),
            _columns(sections.failures(view, form.task_data), sections.health(view)),
            sections.exporter(view, max_series),
        ]
        return element("main", *parts, id="main")
    parts += [
        sections.overview(view),
        _columns(sections.executors(view), sections.queues(view)),
        await sections.tasks(view),
        *([] if (schedules := sections.schedules(view)) is None else [schedules]),
        _columns(
            _stack(sections.failures(view, form.task_data), sections.event_loop(view)),
            _stack(sections.health(view), sections.exporter(view, max_series)),
        ),
    ]
    return element("main", *parts, id="main")


def _columns(*parts: Html) -> Html:
    return element("div", *parts, class_="columns")


def _stack(*parts: Html) -> Html:
    return element("div", *parts, class_="stack")


def _before(view: View) -> str:
    return f"There are no figures yet: {view.headline.sentence}."


def _footer(view: View, links: Mapping[str, str]) -> Html:
    # Relative, as a proxy may serve this page below a prefix.
    items = [
        element("li", element("a", path, href=path.removeprefix("/")), element("span", f" {text}", class_="detail"))
        for path, text in links.items()
    ]
    nav = element("nav", element("h2", "More"), element("ul", *items), aria_label="Endpoints")
    return element("footer", nav, element("p", _versions(view), class_="note", id="versions"))


def _versions(view: View) -> Html:
    parts = [f"Exporter {__version__}"]
    for version, python_version in view.figures.numbers(catalog.BUILD_INFO):
        parts = [f"Flowrra {version}", *parts, f"Python {python_version}"]
    return join([" · ".join(parts)])
