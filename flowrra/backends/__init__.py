"""Where task results live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.factory import get_backend
from flowrra.backends.memory import InMemoryBackend

if TYPE_CHECKING:
    from flowrra.backends.redis import RedisBackend as RedisBackend

__all__ = ["BaseResultBackend", "InMemoryBackend", "get_backend"]


def __getattr__(name: str) -> Any:
    # Only who asks for it needs the redis package; so it isn't in __all__, either.
    if name != "RedisBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from flowrra.backends.redis import RedisBackend
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        # No AttributeError: ``from … import`` would not show its text.
        raise ModuleNotFoundError(
            f"{name} needs the redis package: pip install 'flowrra[redis]'", name="redis"
        ) from None
    return RedisBackend
