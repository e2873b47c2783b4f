"""Reads the URL of a database. What is wrong with one is said without any part of it: a password may stand anywhere."""

from __future__ import annotations

import sqlalchemy as sa

_HINT = "in a password write / as %2F, ? as %3F, # as %23, : as %3A and @ as %40"


def read_url(url: str, driver: str) -> sa.URL:
    """The URL for SQLAlchemy, with this driver.

    Raises:
        ValueError: It can't be read, or is read as something else than is meant.
    """
    try:
        found = sa.make_url(url).set(drivername=driver)
    except (sa.exc.ArgumentError, ValueError):
        found = None
    if found is None:  # not in the handler above: the error there may show what stands in the URL
        raise ValueError(f"The URL of the schedule store can't be read; {_HINT}")
    options = [part for value in found.query.values() for part in ([value] if isinstance(value, str) else value)]
    if found.password is not None and any("@" in (part or "") for part in (found.host, found.database, *options)):
        raise ValueError(f"The URL of the schedule store has an '@' after its host; {_HINT}")
    return found
