"""Where schedules are kept. The stores, and SQLAlchemy with them, are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flowrra.scheduler.backends.base import BaseSchedulerBackend
from flowrra.urls import scheme_of

if TYPE_CHECKING:
    from flowrra.scheduler.backends.mysql import MySQLSchedulerBackend
    from flowrra.scheduler.backends.postgresql import PostgreSQLSchedulerBackend
    from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend

__all__ = [
    "BaseSchedulerBackend",
    "MySQLSchedulerBackend",
    "PostgreSQLSchedulerBackend",
    "SQLiteSchedulerBackend",
    "get_scheduler_backend",
]

_MODULES = {
    "MySQLSchedulerBackend": "mysql",
    "PostgreSQLSchedulerBackend": "postgresql",
    "SQLiteSchedulerBackend": "sqlite",
}
_POSTGRESQL = ("postgresql", "postgres")
_MYSQL = ("mysql",)
_SCHEMES = ("sqlite", *_POSTGRESQL, *_MYSQL)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def get_scheduler_backend(url: str | None = None) -> BaseSchedulerBackend:
    """The store at a URL: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, a plain path, ``postgresql://…``,
    ``mysql://…``; None, or ``sqlite://`` without a path, is an SQLite file in the current folder.

    Raises:
        ValueError: The scheme is another one.
    """
    before, separator, rest = (url or "").partition("://")
    scheme = before.partition(":")[0].lower()
    if not separator and scheme in _SCHEMES:
        raise ValueError("The URL of the schedule store lacks the // after its scheme")
    if not separator:
        from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend

        return SQLiteSchedulerBackend(url) if url else SQLiteSchedulerBackend()
    if scheme == "sqlite":
        from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend

        # A file has no options; those of a URL are not a part of its name.
        path = unquote(rest.partition("?")[0].removeprefix("/"))
        return SQLiteSchedulerBackend(path) if path else SQLiteSchedulerBackend()
    if scheme in _POSTGRESQL:
        from flowrra.scheduler.backends.postgresql import PostgreSQLSchedulerBackend

        return PostgreSQLSchedulerBackend(str(url))
    if scheme in _MYSQL:
        from flowrra.scheduler.backends.mysql import MySQLSchedulerBackend

        return MySQLSchedulerBackend(str(url))
    raise ValueError(f"Unsupported scheduler backend: {scheme_of(str(url)) or 'a URL without a scheme'}")
