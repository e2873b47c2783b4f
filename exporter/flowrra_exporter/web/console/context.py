"""What a page is made from: what was asked for, what the client may see, and the door to the Management API."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from flowrra_exporter.app.loop import CallTimeout, LoopUnavailable
from flowrra_exporter.app.management import Management, NoSuchMethod
from flowrra_exporter.logs import ThrottledWarning, mask_secrets
from flowrra_exporter.web.actions import Outcome
from flowrra_exporter.web.actions.requests import LONGEST_BACK
from flowrra_exporter.web.console.view import View
from flowrra_exporter.web.refusals import is_of_flowrra, text_of

logger = logging.getLogger(__name__)

# How often a page brings itself up to date, and the parameter by which it doesn't.
REFRESH_PARAMETER, NO_REFRESH = "refresh", "off"
# The most that a page waits for one answer, in seconds.
_WAIT_SECONDS = 1.0


class NotKnown(Exception):
    """What a part of a page needs can't be had at the moment; the text says why."""


@dataclass(frozen=True)
class Context:
    """One request for a page.

    Attributes:
        view: What all pages are made from.
        path: The path that was asked for, as it stands in the URL.
        parts: What stands in the places of the page's path, decoded.
        query: The parameters that the page takes, decoded and bounded in length.
        refresh: Whether the page brings itself up to date.
        task_data: The client may see what tasks were given and what they raised.
        actions: The client may act, so that forms are to be shown.
        token: What a form sends in its field ``token``; empty without actions.
        outcome: What came of the action that has led here; None if none has.
        management: The Management API, None before there is an app.
        failed: Where it's noted that a method of it has failed.
        pages: The paths of the pages that there are for this app: nothing else may be linked to.
    """

    view: View
    path: str
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    refresh: bool = True
    task_data: bool = False
    actions: bool = False
    token: str = ""
    outcome: Outcome | None = None
    management: Management | None = None
    failed: Callable[[str], ThrottledWarning] | None = None
    pages: frozenset[str] = frozenset()

    async def ask(self, method: str, **arguments: Any) -> Any:
        """What the Management API answers on the app's loop, within about a second.

        Raises:
            NotKnown: There is no answer; the text is a sentence for the page.
        """
        return await self._answer(method, arguments, read=False)

    async def read(self, method: str, **arguments: Any) -> Any:
        """The same for plain numbers, which are read in this thread even while the app's loop is blocked."""
        return await self._answer(method, arguments, read=True)

    async def _answer(self, method: str, arguments: Mapping[str, Any], read: bool) -> Any:
        if self.management is None:
            raise NotKnown("the app is starting")
        try:
            if read:
                if not self.management.has(method):
                    raise NoSuchMethod(f"this app has no {method}()")
                return self.management.read(method, **arguments)
            return await self.management.ask(method, _WAIT_SECONDS, **arguments)
        except (LoopUnavailable, CallTimeout, NoSuchMethod) as error:
            raise NotKnown(mask_secrets(str(error))) from error
        except Exception as error:
            # What a client asked for may be nothing, such as a cursor that is none.
            if isinstance(error, ValueError) and is_of_flowrra(error):
                raise NotKnown(text_of(method, error, self.task_data)) from error
            if self.failed is not None:
                self.failed(method).warn(error=error)
            raise NotKnown(f"{method}() failed: {type(error).__name__}") from error

    def has(self, method: str) -> bool:
        """Whether the Management API has this method."""
        return self.view.has(method)

    @property
    def root(self) -> str:
        """The console's root, relative to this page: ``./`` or ``../``."""
        return "../" * (self.path.count("/") - 1) or "./"

    def link(self, /, *path: str, **query: str | None) -> str:
        """A URL of the console, relative to this page, so that it holds below any prefix.

        Args:
            path: The page's path; what follows it are further parts, each quoted: ``link("/tasks", task_id)``.
            query: Parameters, which may have any name; one that is None or empty is left out.
        """
        first, *others = path
        target = "/".join([first.lstrip("/"), *(quote(part, safe="") for part in others)])
        if not self.refresh:
            query = {REFRESH_PARAMETER: NO_REFRESH, **query}
        return f"{self.root}{target}{_query(query)}"

    def here(self, /, **changes: str | None) -> str:
        """This page's own URL with its parameters changed; one that is None is left out."""
        given: dict[str, str | None] = {**self.query, **changes}
        if not self.refresh and REFRESH_PARAMETER not in changes:
            given[REFRESH_PARAMETER] = NO_REFRESH
        return f"./{self.path.rpartition('/')[2]}{_query(given)}"

    @property
    def back(self) -> str:
        """This page with its parameters, from the console's root: where an action leads back to. Without parameters
        that are too long for that, as an id may be."""
        path = self.path.lstrip("/")
        whole = f"{path}{_query(self.query)}"
        return whole if len(whole) <= LONGEST_BACK else path


def _query(parameters: Mapping[str, str | None]) -> str:
    given = [(name.rstrip("_"), value) for name, value in parameters.items() if value]
    return f"?{urlencode(given)}" if given else ""
