"""Configuration: plain dataclasses, checked when they are made, read from code or from the environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

from flowrra import ranges
from flowrra.backends.base import BaseResultBackend
from flowrra.backends.factory import cell_namespaces, get_backend
from flowrra.backends.memory import InMemoryBackend
from flowrra.brokers.base import BaseBroker, LeasingBroker
from flowrra.brokers.factory import get_broker
from flowrra.partitions import MAX_PARTITIONS
from flowrra.queue_names import checked_queue
from flowrra.ranges import MAX_DELAY, Range
from flowrra.urls import quoted

if TYPE_CHECKING:
    from flowrra.scheduler.backends.base import BaseSchedulerBackend

Value = TypeVar("Value")
# Names of queues, the preferred one first; or their shares by name.
Queues = Sequence[str] | Mapping[str, int]

DEFAULT_NAMESPACE = "flowrra"
# Seconds: a lease must outlive a few renewals, and those a few moments in which the machine does something else.
MIN_LEASE = 1.0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _text(what: str, value: object, *, required: str | None = None) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not a {type(value).__name__}")
    _require(bool(value) or required is None, required or "")


def _part(what: str, value: object, kinds: tuple[type, ...], expected: str) -> None:
    if value is not None and not isinstance(value, kinds):  # by its class alone: a URL may hold a password
        raise TypeError(f"{what} must be {expected}, not a {type(value).__name__}")


def _switch(what: str, value: object) -> None:
    if value not in (True, False):  # a text such as "no" would count as True
        raise TypeError(f"{what} must be True or False, not {ranges.shown(value)}")


_NUMBERS = {
    "max_connections": ranges.COUNT,
    "socket_timeout": ranges.SECONDS,
    "lease": Range(MIN_LEASE, MAX_DELAY, unit="seconds"),
    "max_deliveries": ranges.COUNT,
    "unknown_ttl": ranges.SOME_SECONDS,
    "min_replicas": ranges.RETRIES,
    "replication_timeout": ranges.SOME_SECONDS,
    "partitions": Range(1, MAX_PARTITIONS, is_whole=True),
    "ttl": Range(1, MAX_DELAY, unit="second"),
    "io_workers": ranges.COUNT,
    "num_workers": ranges.COUNT,
    "cpu_workers": ranges.COUNT,
    "max_queue_size": ranges.COUNT,
    "max_retries": ranges.RETRIES,
    "retry_delay": ranges.SECONDS,
    "max_tasks_per_child": ranges.COUNT,
    "check_interval": ranges.SOME_SECONDS,
    "weight": Range(1, 1000, is_whole=True),
}
_OPTIONAL = ("ttl", "max_tasks_per_child")


def _checked_queues(queues: Queues) -> Queues:
    """A copy that the caller can't change.

    Raises:
        TypeError: They are no sequence, or no dict, of names.
        ValueError: None is named, one twice, or a name or a share can't be.
    """
    if isinstance(queues, str) or not isinstance(queues, Sequence | Mapping):
        raise TypeError(f"queues must be a tuple of names or a dict of their shares, not {ranges.shown(queues)}")
    names = [checked_queue(name) for name in queues]
    _require(bool(names), "queues must name at least one queue")
    _require(len(set(names)) == len(names), f"queues must name each queue once, not {ranges.shown(queues)}")
    if not isinstance(queues, Mapping):
        return tuple(names)
    for name, weight in queues.items():
        _NUMBERS["weight"].check(f"the share of queue '{name}'", weight)
    return dict(queues)


def _check_numbers(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None or name not in _OPTIONAL:
            _NUMBERS[name].check(name, value)


@dataclass
class BrokerConfig:
    """Where waiting tasks live when several processes share them.

    Attributes:
        url: Such as ``redis://host:6379/0``.
        max_connections: Size of the connection pool.
        socket_timeout: Seconds to wait for the server.
        retry_on_timeout: Whether to try again when it did not answer in time.
        queue_key: Name of the queue; the kind of task is appended to it. Default ``<namespace>:queue``.
        namespace: What all names begin with; apps with different ones don't meet on one database. Give the result
            backend the same one.
        lease: Seconds after which a task is given to another worker if its holder is not heard of.
        max_deliveries: How often a task is given to a worker that is not heard of any more before it is put aside as
            dead.
        unknown_ttl: Seconds for which a task whose name no worker that lives knows is kept for one that does.
        min_replicas: Replicas that must have a submission before it is accepted, an outcome before it is settled, and
            what operators ask before it is answered, so that a failover loses none of it; 0 waits for none.
        replication_timeout: Seconds that they may take; then a submission, a cancellation, a pause and the like raise
            NotReplicatedError, and an outcome is told again.
        partitions: Over how many parts the queues are spread, at most 64, each of which may lie on another node of a
            cluster. Order and priorities hold within one, and a task's id says in which it is. All processes must have
            the same number, and so should the result backend. With 1 there are none, but on a cluster.
    """

    url: str = field(repr=False)  # it may hold a password
    max_connections: int = 50
    socket_timeout: float = 5.0
    retry_on_timeout: bool = True
    queue_key: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    lease: float = 20.0
    max_deliveries: int = 5
    unknown_ttl: float = 24 * 3600.0
    min_replicas: int = 0
    replication_timeout: float = 1.0
    partitions: int = 1

    def __post_init__(self) -> None:
        _text("Broker URL", self.url, required="Broker URL is required")
        _text("namespace", self.namespace, required="namespace must not be empty")
        _text("queue_key", self.queue_key)
        _check_numbers(self, "max_connections", "socket_timeout", "lease", "max_deliveries", "unknown_ttl")
        _check_numbers(self, "min_replicas", "replication_timeout", "partitions")
        cell_namespaces(self.url, self.namespace, self.partitions)
        _switch("retry_on_timeout", self.retry_on_timeout)

    def create_broker(self, queue_suffix: str = "") -> BaseBroker:
        """A broker for this configuration; nothing is connected yet.

        Args:
            queue_suffix: ``:io`` or ``:cpu``; appended to the queue's name, so that the two kinds don't mix.

        Raises:
            BackendError: The URL's scheme is unknown, or its driver is not installed.
        """
        broker = get_broker(
            self.url,
            max_connections=self.max_connections,
            socket_timeout=self.socket_timeout,
            retry_on_timeout=self.retry_on_timeout,
            queue_key=(self.queue_key or f"{self.namespace}:queue") + queue_suffix,
            namespace=self.namespace,
            lease=self.lease,
            max_deliveries=self.max_deliveries,
            unknown_ttl=self.unknown_ttl,
            min_replicas=self.min_replicas,
            replication_timeout=self.replication_timeout,
            partitions=self.partitions,
        )
        assert broker is not None  # noqa: S101 - only None gives None, and the URL is not empty
        return broker


@dataclass
class BackendConfig:
    """Where task results are kept when other processes need them.

    Attributes:
        url: Such as ``redis://host:6379/1``.
        ttl: Seconds that a finished result is kept; None is one day. Unfinished ones are kept for as long as they last.
        max_connections, socket_timeout, retry_on_timeout, namespace, partitions: As in :class:`BrokerConfig`. With the
            broker's namespace and partitions, on the same server, records are kept in the same step as tasks.
    """

    url: str = field(repr=False)  # it may hold a password
    ttl: int | None = None
    max_connections: int = 50
    socket_timeout: float = 5.0
    retry_on_timeout: bool = True
    namespace: str = DEFAULT_NAMESPACE
    partitions: int = 1

    def __post_init__(self) -> None:
        _text("Backend URL", self.url, required="Backend URL is required")
        _text("namespace", self.namespace, required="namespace must not be empty")
        _check_numbers(self, "ttl", "max_connections", "socket_timeout", "partitions")
        cell_namespaces(self.url, self.namespace, self.partitions)
        _switch("retry_on_timeout", self.retry_on_timeout)

    def create_backend(self) -> BaseResultBackend:
        """A result backend for this configuration; nothing is connected yet.

        Raises:
            BackendError: The URL's scheme is unknown, or its driver is not installed.
        """
        return get_backend(
            self.url,
            ttl=self.ttl,
            max_connections=self.max_connections,
            socket_timeout=self.socket_timeout,
            retry_on_timeout=self.retry_on_timeout,
            namespace=self.namespace,
            partitions=self.partitions,
        )


@dataclass(init=False)
class ExecutorConfig:
    """How tasks run.

    Attributes:
        io_workers: Async tasks that run at once.
        cpu_workers: Processes for CPU-bound tasks; None is the number of CPUs.
        max_queue_size: Tasks that may wait in memory before ``submit`` itself waits.
        max_retries, retry_delay: Used by tasks that set none of their own; the delay is in seconds.
        max_tasks_per_child: Tasks after which a process is replaced, such as for a library that leaks; None is never.
        consume: Whether this process runs tasks from the broker; False in one that only submits and waits, such as a
            web server. Without a broker tasks are run where they are submitted.
        queues: The names of the queues that this process takes tasks from. A sequence is an order of preference: a
            queue is taken from only while those before it have nothing that is due. A dict gives each one's share of
            what is taken while several have work, such as ``{"mail": 3, "default": 1}``. None is ``default`` and those
            that its own tasks name, in equal shares. Without a broker all queues are served where tasks are submitted,
            those that are not named here last.
    """

    io_workers: int = 4
    cpu_workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    max_queue_size: int = 1000
    max_retries: int = 3
    retry_delay: float = 1.0
    max_tasks_per_child: int | None = None
    consume: bool = True
    queues: Queues | None = None

    # Written out rather than generated, for the sake of the old name `num_workers`.
    def __init__(
        self,
        io_workers: int = 4,
        cpu_workers: int | None = None,
        max_queue_size: int = 1000,
        max_retries: int = 3,
        retry_delay: float = 1.0,
        max_tasks_per_child: int | None = None,
        consume: bool = True,
        queues: Queues | None = None,
        *,
        num_workers: int | None = None,
    ) -> None:
        if num_workers is not None:
            warnings.warn("num_workers is called io_workers now", DeprecationWarning, stacklevel=2)
            io_workers = num_workers
        self.io_workers = io_workers
        self.cpu_workers = (os.cpu_count() or 1) if cpu_workers is None else cpu_workers
        self.max_queue_size = max_queue_size
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self.max_tasks_per_child = max_tasks_per_child
        self.consume = consume
        _check_numbers(self, "io_workers", "cpu_workers", "max_queue_size", "max_retries", "retry_delay")
        _check_numbers(self, "max_tasks_per_child")
        _switch("consume", consume)
        self.queues = None if queues is None else _checked_queues(queues)

    @property
    def num_workers(self) -> int:
        """The former name of ``io_workers``."""
        return self.io_workers


@dataclass
class SchedulerConfig:
    """When tasks are submitted by the clock.

    Attributes:
        database_url: The schedule store; None is an SQLite file in the current folder.
        check_interval: Seconds after which changes made by other processes are noticed.
        enabled: Whether the app runs a scheduler.
        timezone: The name of the zone that cron expressions are read in; None is the server's.
    """

    database_url: str | None = field(default=None, repr=False)  # it may hold a password
    check_interval: float = 60.0
    enabled: bool = False
    timezone: str | None = None

    def __post_init__(self) -> None:
        _check_numbers(self, "check_interval")
        _switch("enabled", self.enabled)
        _text("database_url", self.database_url)
        _text("timezone", self.timezone)
        if self.timezone is not None:
            try:
                ZoneInfo(self.timezone)
            except (KeyError, ValueError, OSError):
                raise ValueError(f"timezone is not known: {quoted(self.timezone)}") from None

    def create_backend(self) -> BaseSchedulerBackend:
        """The schedule store.

        Raises:
            ValueError: The URL's scheme is not supported.
        """
        # Here, as it brings SQLAlchemy with it.
        from flowrra.scheduler.backends import get_scheduler_backend

        return get_scheduler_backend(self.database_url)


@dataclass
class Config:
    """The configuration of an app.

    Attributes:
        broker: A configuration or a broker instance; None keeps waiting tasks in memory.
        backend: A configuration or a result backend instance; None keeps results in memory.
        executor: How tasks run.
        scheduler: When tasks are submitted by the clock; None is never.

    Raises:
        TypeError: One of them is of another type.
    """

    broker: BrokerConfig | BaseBroker | None = None
    backend: BackendConfig | BaseResultBackend | None = None
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    scheduler: SchedulerConfig | None = None

    def __post_init__(self) -> None:
        if self.executor is None:
            self.executor = ExecutorConfig()
        brokers, backends = (BrokerConfig, BaseBroker), (BackendConfig, BaseResultBackend)
        _part("broker", self.broker, brokers, "a BrokerConfig(url=…), a BaseBroker or None")
        _part("backend", self.backend, backends, "a BackendConfig(url=…), a BaseResultBackend or None")
        _part("executor", self.executor, (ExecutorConfig,), "an ExecutorConfig or None")
        _part("scheduler", self.scheduler, (SchedulerConfig,), "a SchedulerConfig(enabled=True, …) or None")

    def create_broker(self, queue_suffix: str = "") -> BaseBroker | None:
        """The broker for one kind of task; None if waiting tasks stay in memory."""
        if isinstance(self.broker, BrokerConfig):
            return self.broker.create_broker(queue_suffix)
        if isinstance(self.broker, LeasingBroker):
            return self.broker.with_suffix(queue_suffix)
        return self.broker

    def create_backend(self) -> BaseResultBackend:
        """The result backend; in memory if none is configured."""
        if self.backend is None:
            return InMemoryBackend()
        if isinstance(self.backend, BackendConfig):
            return self.backend.create_backend()
        return self.backend

    def create_scheduler_backend(self) -> BaseSchedulerBackend | None:
        """The schedule store; None unless a scheduler is enabled."""
        if self.scheduler is None or not self.scheduler.enabled:
            return None
        return self.scheduler.create_backend()

    @classmethod
    def from_env(cls, prefix: str = "FLOWRRA_") -> Config:
        """Read the configuration from environment variables such as ``FLOWRRA_BROKER_URL``.

        Every field of the other classes has one: the prefix, the part (``BROKER``, ``BACKEND``, ``EXECUTOR``,
        ``SCHEDULER``) and the field's name in capitals. Without (or with an empty) ``…_URL`` there is no broker or
        backend; without ``SCHEDULER_ENABLED`` there is no scheduler. Booleans are true, 1, yes or on in any case.

        Raises:
            ValueError: A value is no number or out of range; the message names the variable.
        """
        env = _Environment(prefix, os.environ)
        executor = env.section(
            "EXECUTOR_",
            io_workers=int,
            num_workers=int,
            cpu_workers=int,
            max_queue_size=int,
            max_retries=int,
            retry_delay=float,
            max_tasks_per_child=int,
            consume=_boolean,
            queues=read_queues,
        )
        if "io_workers" in executor:  # the present name wins over the former one
            executor.pop("num_workers", None)
        connection: dict[str, Callable[[str], Any]] = {
            "url": str,
            "max_connections": int,
            "socket_timeout": float,
            "retry_on_timeout": _boolean,
            "namespace": str,
            "partitions": int,
        }
        broker = env.section(
            "BROKER_",
            **connection,
            queue_key=str,
            lease=float,
            max_deliveries=int,
            unknown_ttl=float,
            min_replicas=int,
            replication_timeout=float,
        )
        backend = env.section("BACKEND_", **connection, ttl=int)
        scheduler = env.section("SCHEDULER_", database_url=str, check_interval=float, enabled=_boolean, timezone=str)
        return cls(
            broker=BrokerConfig(**broker) if "url" in broker else None,
            backend=BackendConfig(**backend) if "url" in backend else None,
            executor=ExecutorConfig(**executor),
            scheduler=SchedulerConfig(**scheduler) if scheduler.get("enabled") else None,
        )


def _boolean(text: str) -> bool:
    return text.strip().lower() in {"true", "1", "yes", "on"}


QUEUES_AS_TEXT = "names of queues, such as 'mail,default', or their shares, such as 'mail=3,default=1'"


def read_queues(text: str) -> Queues:
    """What :attr:`ExecutorConfig.queues` is, from a text.

    Raises:
        ValueError: It is neither of its forms.
    """
    parts = [part.strip() for part in text.split(",")]
    if "=" not in text:
        return _checked_queues(parts)
    shares = [part.split("=") for part in parts]
    if len({name for name, *_ in shares}) != len(shares):
        raise ValueError("a queue is named twice")
    return _checked_queues({name.strip(): int(weight) for name, weight in shares})


class _Environment:
    """Typed values from variables with a common prefix; an empty variable counts as unset."""

    def __init__(self, prefix: str, variables: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._variables = variables

    def section(self, part: str, **fields: Callable[[str], Any]) -> dict[str, Any]:
        values = {}
        for name, parse in fields.items():
            variable = self._prefix + part + name.upper()
            text = self._variables.get(variable, "")
            if text:
                values[name] = self._parse(variable, name, text, parse)
        return values

    def _parse(self, variable: str, name: str, text: str, parse: Callable[[str], Value]) -> Value:
        try:
            value = parse(text)
        except ValueError:
            expected = {"int": "an integer", "float": "a number", "read_queues": QUEUES_AS_TEXT}.get(
                parse.__name__, "a value"
            )
            raise ValueError(f"{variable} must be {expected}, not {quoted(text)}") from None
        if name in _NUMBERS:
            _NUMBERS[name].check(f"{variable}: {name}", value)
        return value
