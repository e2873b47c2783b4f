"""Makes a broker from a URL. Drivers are imported when they are asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flowrra.brokers.base import BaseBroker
from flowrra.exceptions import BackendError

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
    scheme = urlsplit(broker).scheme
    if scheme in REDIS_SCHEMES:
        raise BackendError(f"Brokers on {scheme}:// are not yet implemented in this release")
    if scheme in {"amqp", "amqps"}:
        raise BackendError(f"Brokers on {scheme}:// are not yet implemented")
    raise BackendError(f"Unsupported broker URL scheme '{scheme}'; expected redis, rediss or unix")
