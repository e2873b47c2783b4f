"""Makes a result backend from a URL. Drivers are imported when they are asked for."""

from __future__ import annotations

from typing import Any

from flowrra.backends.base import BaseResultBackend
from flowrra.backends.memory import InMemoryBackend
from flowrra.exceptions import BackendError
from flowrra.partitions import cell_namespace
from flowrra.urls import REDIS_SCHEMES, is_cluster, scheme_of, unsupported


def get_backend(
    backend: str | BaseResultBackend | None = None, *, partitions: int = 1, **options: Any
) -> BaseResultBackend:
    """A result backend for ``backend``: None is in memory, an instance is returned as it is, a URL's scheme decides.

    Args:
        backend: See above.
        partitions: How many cells it has, if it is made here; on a cluster there is at least one.
        **options: As the backend takes them.

    Raises:
        BackendError: The URL's scheme is unknown, or there is no driver for it.
        ValueError: An option is out of range, or the namespace can't be that of cells.
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
        return _redis_backend(backend, partitions, options)
    raise BackendError(unsupported("backend", scheme))


def cell_namespaces(url: str, namespace: str, partitions: int) -> list[str]:
    """The namespaces of the cells at a URL; empty if there are none, and all keys just begin with the namespace.

    Raises:
        ValueError: The namespace can't be that of cells.
    """
    if partitions == 1 and not is_cluster(url):
        return []
    return [cell_namespace(namespace, partition, partitions) for partition in range(partitions)]


def _redis_backend(url: str, partitions: int, options: dict[str, Any]) -> BaseResultBackend:
    try:
        from flowrra.backends.partitioned import PartitionedBackend
        from flowrra.backends.redis import RedisBackend
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise BackendError("A result backend on Redis requires redis package: pip install 'flowrra[redis]'") from None
    namespace = options.pop("namespace", "flowrra")
    spaces = cell_namespaces(url, namespace, partitions)
    cells = [RedisBackend(url, namespace=space, **options) for space in spaces or [namespace]]
    return cells[0] if len(cells) == 1 else PartitionedBackend(cells)
