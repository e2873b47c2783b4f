"""A page of the console: the small interface that each of them fills in a file of its own in ``pages``."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, NamedTuple

from flowrra_exporter.logs import ThrottledWarning
from flowrra_exporter.web.console.context import Context, NotKnown
from flowrra_exporter.web.console.html import Html
from flowrra_exporter.web.console.parts import notice, section
from flowrra_exporter.web.console.view import View

logger = logging.getLogger(__name__)

_failed = ThrottledWarning(logger, "parts of pages could not be made %d times, the last of them “%s”")


class Content(NamedTuple):
    """What a page shows.

    Attributes:
        main: The sections below the heading.
        heading: The heading, if it isn't the page's title.
        status: The HTTP status: 404 for a page about something that isn't there.
        location: The page to go to instead, relative to this one; empty to stay.
    """

    main: Html
    heading: str = ""
    status: int = 200
    location: str = ""


class Page(ABC):
    """One page.

    Attributes:
        path: Where it is, in the router's syntax: ``/tasks/{id}``.
        title: Its heading, and its name in the navigation.
        group: The pages of a group stand together in the navigation; None keeps it out of it.
        parameters: The parameters that it takes from the query; no other reaches it.
        reloads: Whether a browser without JavaScript loads it anew every few seconds: not where people fill in forms.
        is_kept: Whether it's kept for the second in which others may ask for it, too.
    """

    path: ClassVar[str]
    title: ClassVar[str]
    group: ClassVar[str | None] = None
    parameters: ClassVar[tuple[str, ...]] = ()
    reloads: ClassVar[bool] = True
    is_kept: ClassVar[bool] = True

    def available(self, view: View) -> bool:
        """Whether this app has what the page shows; without it, it's neither linked nor there."""
        return True

    @abstractmethod
    async def render(self, context: Context) -> Content:
        """What the page shows. What can't be known costs its own part: see ``part``."""


async def part(name: str, title: str, make: Callable[[], Awaitable[Html]]) -> Html:
    """A section made by ``make``; if that raises, a section that says why there is nothing to see."""
    try:
        return await make()
    except NotKnown as error:
        return section(name, title, notice("busy", f"Not known at the moment: {error}."))
    except Exception as error:  # noqa: BLE001 - what an app answers may be anything, and costs no more than its part
        return section(name, title, cannot_be_shown(title, error))


def cannot_be_shown(title: str, error: Exception) -> Html:
    """What stands in the place of something that can't be made. The log says why."""
    _failed.warn(title, error=error)
    return notice("bad", f"This can't be shown: {type(error).__name__}. The exporter's log says more.")
