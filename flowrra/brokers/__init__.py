"""Where waiting tasks live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowrra.brokers.base import BaseBroker

if TYPE_CHECKING:
    from flowrra.brokers.redis import RedisBroker as RedisBroker

__all__ = ["BaseBroker"]


def __getattr__(name: str) -> Any:
    # Only who asks for it needs the redis package; so it isn't in __all__, either.
    if name != "RedisBroker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from flowrra.brokers.redis import RedisBroker
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        # No AttributeError: ``from … import`` would not show its text.
        raise ModuleNotFoundError(
            f"{name} needs the redis package: pip install 'flowrra[redis]'", name="redis"
        ) from None
    return RedisBroker
