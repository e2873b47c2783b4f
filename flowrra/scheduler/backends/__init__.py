"""Where schedules are kept. The stores, and SQLAlchemy with them, are imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flowrra.scheduler.backends.base import BaseSchedulerBackend

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def get_scheduler_backend(url: str | None = None) -> BaseSchedulerBackend:
    """The store at a URL: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, a plain path, ``postgresql://…``,
    ``mysql://…``; None is an SQLite file in the current folder.

    Raises:
        ValueError: The scheme is another one.
    """
    scheme, separator, rest = (url or "").partition("://")
    if not separator:
        from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend

        return SQLiteSchedulerBackend(url) if url else SQLiteSchedulerBackend()
    if scheme == "sqlite":
        from flowrra.scheduler.backends.sqlite import SQLiteSchedulerBackend

        return SQLiteSchedulerBackend(unquote(rest.removeprefix("/")) or ":memory:")
    if scheme in ("postgresql", "postgres"):
        from flowrra.scheduler.backends.postgresql import PostgreSQLSchedulerBackend

        return PostgreSQLSchedulerBackend(str(url))
    if scheme == "mysql":
        from flowrra.scheduler.backends.mysql import MySQLSchedulerBackend

        return MySQLSchedulerBackend(str(url))
    raise ValueError(f"Unsupported scheduler backend: {scheme}")
