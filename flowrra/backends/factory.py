"""Makes a result backend from a URL. Drivers are imported when they are asked for."""

from __future__ import annotations

from typing import Any

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.exceptions import BackendError
from flowrra.urls import scheme_of

REDIS_SCHEMES = frozenset({"redis", "rediss", "unix"})


def get_backend(backend: str | BaseResultBackend | None = None, **options: Any) -> BaseResultBackend:
    """A result backend for ``backend``: None is in memory, an instance is returned as it is, a URL's scheme decides.

    Raises:
        BackendError: The URL's scheme is unknown, or there is no driver for it.
    """
    if backend is None:
        return InMemoryBackend(**options)
    if isinstance(backend, BaseResultBackend):
        return backend
    if not isinstance(backend, str):
        raise BackendError(
            f"A result backend must be a connection string or a BaseResultBackend, not {type(backend).__name__}"
        )
    scheme = scheme_of(backend)
    if scheme in REDIS_SCHEMES:
        return _redis_backend(backend, options)
    raise BackendError(f"Unsupported backend URL scheme '{scheme}'; expected redis, rediss or unix")


def _redis_backend(url: str, options: dict[str, Any]) -> BaseResultBackend:
    try:
        from flowrra.backends.redis import RedisBackend
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise BackendError("A result backend on Redis requires redis package: pip install 'flowrra[redis]'") from None
    return RedisBackend(url, **options)
