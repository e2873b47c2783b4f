"""A page as a whole: head, header, navigation, main, footer, and the policy under which a browser shows it."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote

from flowrra_exporter._version import __version__
from flowrra_exporter.metrics import catalog
from flowrra_exporter.paths import API, EVENTS, PAGE
from flowrra_exporter.web.actions import Outcome
from flowrra_exporter.web.console import words
from flowrra_exporter.web.console.context import NO_REFRESH, REFRESH_PARAMETER, Context
from flowrra_exporter.web.console.findings import Level
from flowrra_exporter.web.console.html import Html, element, join
from flowrra_exporter.web.console.page import Content, Page
from flowrra_exporter.web.console.parts import name
from flowrra_exporter.web.console.view import View

# How often a page is brought up to date, in seconds.
REFRESH_SECONDS = 5


class Endpoint(NamedTuple):
    """A path with what it leads to. It's linked where the Management API has the method, if it needs one."""

    path: str
    text: str
    method: str = ""


class Surroundings(NamedTuple):
    """What stands around every page: the pages of the navigation, and what else there is to ask."""

    pages: Sequence[Page]
    endpoints: Sequence[Endpoint]


def _asset(filename: str) -> Html:
    """A file of this folder; ours, and so it's put in as it stands."""
    return Html(f"\n{(files(__package__) / filename).read_text(encoding='utf-8')}")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _asset("style.css"), _asset("live.js")

# The Content-Security-Policy: this script, this style, and nothing from elsewhere.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)

_COLOURS: Mapping[Level, str] = {"good": "#1a7f37", "busy": "#9a6700", "bad": "#cf222e"}


def document(context: Context, page: Page, content: Content, surroundings: Surroundings) -> str:
    """The page as a browser gets it."""
    # The overview begins with what is wrong: its heading is heard and not seen.
    is_seen = page.path != PAGE
    heading = element("h1", content.heading or page.title, dir="auto", class_=None if is_seen else "visually-hidden")
    message = [] if context.outcome is None else [_said(context.outcome)]
    silence = element("p", id="silence", class_="notice bad", role="alert", hidden="")
    parts = element(
        "div",
        _header(context, page, surroundings),
        element("main", heading, *message, content.main, id="main", tabindex="-1"),
        _footer(context, surroundings),
        id="page",
        data_level=context.view.headline.level,
    )
    body = element(
        "body",
        element("a", "Skip to content", href="#main", class_="skip"),
        silence,
        parts,
        data_page=page.path.strip("/").partition("/")[0] or "overview",
    )
    refresh = str(REFRESH_SECONDS) if context.refresh else None
    html = element(
        "html",
        _head(context, page, content),
        body,
        lang="en",
        data_refresh=refresh,
        data_events=_events(context, surroundings.endpoints),
    )
    return f"<!DOCTYPE html>\n{html}\n"


def _said(outcome: Outcome) -> Html:
    """What came of an action; a screen reader says it once the page is there."""
    level = "good" if outcome.is_done else "bad"
    return element("p", outcome.message, ".", class_=f"notice said {level}", role="status", id="outcome", dir="auto")


def _events(context: Context, endpoints: Sequence[Endpoint]) -> str | None:
    """Where changes of tasks are told as they happen, for this app; None if nowhere."""
    is_told = any(each.path.startswith(API) for each in endpoints) and context.has("watch")
    return f"{context.root}{EVENTS.lstrip('/')}" if is_told else None


def _head(context: Context, page: Page, content: Content) -> Html:
    headline = context.view.headline
    title = f"{headline.words} · {content.heading or page.title} · {context.view.identity.name}"
    tags = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="icon", href=_icon(headline.level)),
        element("style", _STYLE),
    ]
    if context.refresh:
        if page.reloads:
            reload = element("meta", http_equiv="refresh", content=str(REFRESH_SECONDS))
            tags.append(element("noscript", reload))
        tags.append(element("script", _SCRIPT))
    return element("head", *tags)


def _icon(level: Level) -> str:
    """A dot in the colour of the state, for the browser's tab."""
    dot = f'<circle cx="4" cy="4" r="4" fill="{_COLOURS[level]}"/>'
    dot = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{dot}</svg>'
    return f"data:image/svg+xml,{quote(dot)}"


def _header(context: Context, page: Page, surroundings: Surroundings) -> Html:
    view = context.view
    home = element(
        "a", element("span", "Flowrra ", class_="product"), name(view.identity.name), href=context.link(PAGE)
    )
    # A screen reader tells of changes of the words alone; the sentence may have figures that always change.
    state = element("span", view.headline.words, id="state", role="status", class_=f"pill {view.headline.level}")
    top = element("div", element("p", home, class_="brand"), state, _as_of(context), class_="bar-of-state")
    return element("header", top, _navigation(context, page, surroundings.pages), *_alert(context, page))


def _alert(context: Context, page: Page) -> list[Html]:
    """What is wrong, on every page but the overview, which says it at length."""
    found = context.view.findings
    if not found or page.path == PAGE:
        return []
    others = f" And {len(found) - 1:,} more." if len(found) > 1 else ""
    link = element("a", "Overview", href=context.link(PAGE))
    return [
        element(
            "p", element("span", found[0].sentence), others, " ", link, id="alert", class_=f"notice {found[0].level}"
        )
    ]


def _as_of(context: Context) -> Html:
    as_of = element("span", "As of ", words.moment(context.view.at, context.view.at), id="as-of")
    if context.refresh:
        how, link = element("span", f", every {REFRESH_SECONDS} s", id="live"), "Stop"
        url = context.here(**{REFRESH_PARAMETER: NO_REFRESH})
        return element("p", as_of, how, ". ", element("a", link, " refreshing", href=url), class_="note as-of")
    url = context.here(**{REFRESH_PARAMETER: None})
    return element("p", as_of, ", not refreshed. ", element("a", "Refresh again", href=url), class_="note as-of")


def _navigation(context: Context, current: Page, pages: Sequence[Page]) -> Html:
    """The pages, those of a group together."""
    groups = [
        element("ul", *(_entry(context, current, page) for page in group), role="list")
        for _, group in groupby(pages, key=lambda page: page.group)
    ]
    return element("nav", *groups, aria_label="Pages", class_="pages")


def _entry(context: Context, current: Page, page: Page) -> Html:
    # A page about one thing belongs to the list of them.
    below = page.path != PAGE and current.path.startswith(f"{page.path}/")
    mark = "page" if page is current else ("true" if below else None)
    return element("li", element("a", page.title, href=context.link(page.path), aria_current=mark))


def _footer(context: Context, surroundings: Surroundings) -> Html:
    items = [
        element(
            "li",
            element("a", each.path, href=f"{context.root}{each.path.lstrip('/')}"),
            element("span", f" {each.text}", class_="detail"),
        )
        for each in surroundings.endpoints
        if not each.method or context.has(each.method)
    ]
    more = element("details", element("summary", f"Endpoints: {len(items)}"), element("ul", *items), id="endpoints")
    nav = element("nav", more, aria_label="Endpoints")
    return element("footer", nav, element("p", _versions(context.view), class_="note", id="versions"))


def _versions(view: View) -> Html:
    parts = [f"Exporter {__version__}"]
    for version, python_version in view.figures.numbers(catalog.BUILD_INFO):
        parts = [f"Flowrra {version}", *parts, f"Python {python_version}"]
    return join([" · ".join(parts)])
