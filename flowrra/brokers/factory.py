"""Makes a broker from a URL. Drivers are imported when they are asked for."""

from __future__ import annotations

from typing import Any

from flowrra.backends.factory import cell_namespaces
from flowrra.brokers.base import BaseBroker
from flowrra.exceptions import BackendError
from flowrra.urls import REDIS_SCHEMES, is_cluster, scheme_of, unsupported


def get_broker(broker: str | BaseBroker | None, *, partitions: int = 1, **options: Any) -> BaseBroker | None:
    """A broker for ``broker``: None gives None, an instance is returned as it is, a URL's scheme decides.

    Args:
        broker: See above.
        partitions: How many cells it has, if it is made here; on a cluster there is at least one.
        **options: As the broker takes them.

    Raises:
        BackendError: The URL's scheme is unknown, or there is no driver for it.
        ValueError: An option is out of range, or the namespace can't be that of cells.
    """
    if broker is None or isinstance(broker, BaseBroker):
        return broker
    if not isinstance(broker, str):
        raise BackendError(f"A broker must be a connection string or a BaseBroker, not {type(broker).__name__}")
    scheme = scheme_of(broker)
    if scheme in REDIS_SCHEMES:
        return _redis_broker(broker, partitions, options)
    if scheme in {"amqp", "amqps"}:
        raise BackendError(f"Brokers on {scheme}:// are not yet implemented")
    raise BackendError(unsupported("broker", scheme))


def _redis_broker(url: str, partitions: int, options: dict[str, Any]) -> BaseBroker:
    try:
        from flowrra.brokers.partitioned import PartitionedBroker
        from flowrra.brokers.redis import DEFAULT_QUEUE_KEY, RedisBroker
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise BackendError("A broker on Redis requires redis package: pip install 'flowrra[redis]'") from None
    namespace, queue_key = options.pop("namespace", "flowrra"), options.pop("queue_key", DEFAULT_QUEUE_KEY)
    spaces = cell_namespaces(url, namespace, partitions)
    if not spaces:
        return RedisBroker(url, namespace=namespace, queue_key=queue_key, **options)
    # The key of a cell begins with the hash tag, whatever it would begin with without cells.
    own = queue_key.removeprefix(f"{namespace}:")
    cells = [RedisBroker(url, namespace=space, queue_key=f"{space}:{own}", **options) for space in spaces]
    return PartitionedBroker(cells, namespace, None if is_cluster(url) else queue_key)
