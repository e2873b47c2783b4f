"""A database of one's own on the servers of this machine: PostgreSQL and MariaDB or MySQL on their usual ports."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STORES = ("sqlite", "postgresql", "mysql")
PORTS = {"postgresql": 5432, "mysql": 3306}
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
ADMINISTRATORS = {"postgresql": ["su", "postgres", "-c", "psql -v ON_ERROR_STOP=1 -q"], "mysql": ["mysql", "-uroot"]}
CREATE = {
    "postgresql": "CREATE USER {name} PASSWORD '{password}'; CREATE DATABASE {name} OWNER {name};",
    "mysql": "CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{password}'; "
    "CREATE USER {name}@localhost IDENTIFIED BY '{password}'; CREATE DATABASE {name}; "
    "GRANT ALL ON {name}.* TO {name}@'127.0.0.1'; GRANT ALL ON {name}.* TO {name}@localhost;",
}
DROP = {
    "postgresql": "DROP DATABASE {name} WITH (FORCE); DROP USER {name};",
    "mysql": "DROP DATABASE {name}; DROP USER {name}@'127.0.0.1'; DROP USER {name}@localhost;",
}


class NotHere(Exception):
    """Why there is no such database on this machine."""


@contextmanager
def database(store: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database, which is removed afterwards.

    Raises:
        NotHere: No server listens, or this user may not make databases.
    """
    if store == "sqlite":
        yield f"sqlite:///{folder / 'schedules.db'}"
        return
    names = {"name": f"flowrra_{secrets.token_hex(6)}", "password": secrets.token_hex(12)}
    try:
        socket.create_connection(("127.0.0.1", PORTS[store]), 2).close()
    except OSError as error:
        raise NotHere(f"no {store} server listens on port {PORTS[store]}: {error}") from error
    _administer(store, CREATE[store].format(**names))
    try:
        yield f"{store}://{names['name']}:{names['password']}@127.0.0.1/{names['name']}"
    finally:
        _administer(store, DROP[store].format(**names))


def _administer(store: str, statements: str) -> None:
    # One at a time: PostgreSQL makes no database within a transaction.
    text = "\n".join(f"{statement.strip()};" for statement in statements.split(";") if statement.strip())
    try:
        subprocess.run(
            [*AS_ROOT, *ADMINISTRATORS[store]], input=text, text=True, check=True, capture_output=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip()
        raise NotHere(f"{store} databases can't be made here: {error} {said}") from error
