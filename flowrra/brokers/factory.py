"""Makes a broker from a URL. Drivers are imported when they are asked for."""

from __future__ import annotations

from typing import Any

from flowrra.brokers.base import BaseBroker
from flowrra.exceptions import BackendError
from flowrra.urls import scheme_of

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})


def get_broker(broker: str | BaseBroker | None, **options: Any) -> BaseBroker | None:
    """A broker for ``broker``: None gives None, an instance is returned as it is, a URL's scheme decides.

    Raises:
        BackendError: The URL's scheme is unknown, or there is no driver for it.
    """
    if broker is None or isinstance(broker, BaseBroker):
        return broker
    if not isinstance(broker, str):
        raise BackendError(f"A broker must be a connection string or a BaseBroker, not {type(broker).__name__}")
    scheme = scheme_of(broker)
    if scheme in REDIS_SCHEMES:
        return _redis_broker(broker, options)
    if scheme in {"amqp", "amqps"}:
        raise BackendError(f"Brokers on {scheme}:// are not yet implemented")
    raise BackendError(f"Unsupported broker URL scheme '{scheme}'; expected redis, rediss or unix")


def _redis_broker(url: str, options: dict[str, Any]) -> BaseBroker:
    try:
        from flowrra.brokers.redis import RedisBroker
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise BackendError("A broker on Redis requires redis package: pip install 'flowrra[redis]'") from None
    return RedisBroker(url, **options)
