"""Forks: threads don't survive them, and connections can't be shared. What knows of this is told in the child.

In a forked child an app is stopped and has nothing to run: what the parent has started, and what waits there, stays the
parent's. The child closes its copies of the connections without sending anything.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import weakref
from typing import Any, Final, Protocol


class Forkable(Protocol):
    """What has to begin anew in a forked child."""

    def forked(self) -> None:
        """Called in the child, in the thread that forked, the only one there."""


# By id, as a user's class need not be hashable.
_forkables: weakref.WeakValueDictionary[int, Forkable] = weakref.WeakValueDictionary()
# What belongs to the parent, and must not be finalized here: its coroutines would clean up what they have not got.
_inherited: Final[list[Any]] = []


def tell_of_forks(forkable: Forkable) -> None:
    """Call ``forkable.forked()`` in each forked child, for as long as it lives."""
    _forkables[id(forkable)] = forkable


def leave_to_parent(*things: Any) -> None:
    """Keep things that were inherited by a fork as they are."""
    _inherited.extend(things)


def detach_loop(loop: asyncio.AbstractEventLoop, *, with_connections: bool) -> None:
    """Make sure that an inherited event loop, which can't run here, does nothing to its parent's.

    Args:
        loop: The event loop.
        with_connections: Whether to cut its connections as well, as nothing else in this process has a use for them.
    """
    leave_to_parent(loop, *asyncio.all_tasks(loop))
    selector = getattr(loop, "_selector", None)  # those of other packages, such as uvloop, hide it
    if selector is None:
        return
    if with_connections:
        ours, theirs = socket.socketpair()
        for descriptor in list(selector.get_map()):
            os.dup2(ours.fileno(), descriptor, inheritable=False)
        ours.close()
        theirs.close()
    if hasattr(select, "epoll"):
        # A child's descriptor means the parent's very epoll object: what it stopped watching would be lost on both.
        own = select.epoll()
        os.dup2(own.fileno(), selector.fileno(), inheritable=False)
        own.close()


def _after_fork() -> None:
    for forkable in list(_forkables.values()):
        forkable.forked()


os.register_at_fork(after_in_child=_after_fork)
