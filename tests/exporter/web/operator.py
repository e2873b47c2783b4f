"""An operator without a browser: reads the console's pages, follows their links, sends their forms."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import bcrypt
import httpx

USER, PASSWORD = "anna", "right"
_VOID = frozenset({"meta", "link", "input", "hr", "br"})
_BLOCKS = frozenset(
    {"p", "div", "section", "dt", "dd", "li", "h1", "h2", "th", "td", "summary", "pre", "label", "option"}
)

_MOST_LOOKS = 10
_TOO_SLOW = re.compile(r"Not known at the moment: \S+ (did not answer within|has not answered for)")


def web_config(folder: Path) -> Path:
    """A web configuration file with one user."""
    path = folder / "web.yml"
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    path.write_text(f"basic_auth_users:\n  {USER}: {hashed}\n")
    return path


def operated(folder: Path) -> dict[str, Any]:
    """The settings of an exporter whose authenticated users see and do everything."""
    return {"web_config_file": web_config(folder), "web_actions": True, "web_show_task_data": True}


@dataclass
class Form:
    """A form: where it leads, what it sends, and what stands on its button."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    button: str = ""


class Page(HTMLParser):
    """A page as an operator reads it; tags that don't match are refused."""

    def __init__(self, url: str, status: int, html: str) -> None:
        super().__init__()
        self.url, self.status, self.html = url, status, html
        self.text = ""
        self.links: dict[str, str] = {}
        self.forms: list[Form] = []
        self.rows: list[str] = []
        self._open: list[str] = []
        self._link: str | None = None
        self._words = ""
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append(tag)
        if tag in _BLOCKS:
            self.text += "\n"
        if tag == "a":
            self._link, self._words = urljoin(self.url, given["href"]), ""
        elif tag == "form":
            self.forms.append(Form(given["method"], urljoin(self.url, given["action"])))
        elif tag in ("input", "select") and "form" in self._open:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "tr":
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "a" and self._link is not None:
            self.links[" ".join(self._words.split())] = self._link
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._open[-1:] in (["script"], ["style"]):
            return
        self.text += data
        self._words += data
        if "tr" in self._open:
            self.rows[-1] += f"{data} "
        if "button" in self._open and "form" in self._open:
            self.forms[-1].button += data

    @property
    def words(self) -> str:
        """All text, with single spaces."""
        return " ".join(self.text.split())

    def row(self, words: str) -> str:
        """The only row that has these words in it."""
        (found,) = [" ".join(row.split()) for row in self.rows if words in row]
        return found

    def form(self, button: str, **fields: str) -> Form:
        """The only form with that on its button, and with these fields."""
        (found,) = [
            each
            for each in self.forms
            if " ".join(each.button.split()).startswith(button) and fields.items() <= each.fields.items()
        ]
        return found


class Operator:
    """Goes from page to page as a browser without JavaScript does.

    Looks again where the app was too slow for a page, as on a machine that does a lot besides.
    """

    def __init__(self, client: httpx.AsyncClient, root: str) -> None:
        self._client = client
        self._root = root

    async def get(self, path: str, **query: str) -> Page:
        """A page by its path below the console's root, or by its whole URL."""
        return await self._seen(await self._client.get(urljoin(self._root, path), params=query or None))

    async def follow(self, page: Page, words: str) -> Page:
        """The page that the link of these words leads to, or the only one that has them among others."""
        if words in page.links:
            return await self.get(page.links[words])
        (url,) = {url for text, url in page.links.items() if words in text}
        return await self.get(url)

    async def send(self, form: Form, **fields: str) -> Page:
        """The page that comes after a form was sent."""
        given = {**form.fields, **fields}
        if form.method == "get":
            return await self._seen(await self._client.get(form.action, params=given))
        return await self._seen(await self._client.post(form.action, data=given))

    async def _seen(self, response: httpx.Response) -> Page:
        for _ in range(_MOST_LOOKS):
            if not _TOO_SLOW.search(response.text):
                break
            response = await self._client.get(response.url)
        return _page(response)


def _page(response: httpx.Response) -> Page:
    assert re.match("text/html", response.headers["Content-Type"]), (response.status_code, response.text[:500])
    return Page(str(response.url), response.status_code, response.text)


@asynccontextmanager
async def _operator(root: str, known: bool = True) -> AsyncIterator[Operator]:
    auth = (USER, PASSWORD) if known else None
    async with httpx.AsyncClient(auth=auth, follow_redirects=True, timeout=15, trust_env=False) as client:
        yield Operator(client, f"{root.rstrip('/')}/")


operator: Callable[..., AbstractAsyncContextManager[Operator]] = _operator
