"""Instants as microseconds since 1970, and as the naive local times that schedules show."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo


class LocalZone(tzinfo):
    """The server's own zone, with its daylight saving."""

    def utcoffset(self, dt: datetime | None) -> timedelta:
        """The offset at that local time: in a gap, which clocks skip, the one before it if ``fold`` is 0, else the one
        after; in a doubled hour that of its first pass, or its second."""
        if dt is None:
            return timedelta(seconds=time.localtime().tm_gmtoff)
        clock = dt.replace(tzinfo=UTC).timestamp()
        return timedelta(seconds=round(clock - dt.replace(tzinfo=None).timestamp()))

    def dst(self, dt: datetime | None) -> None:
        """Unknown."""

    def tzname(self, dt: datetime | None) -> str:
        """It has no name that would tell one server's from another's."""
        return "local"

    def fromutc(self, dt: datetime) -> datetime:
        """That instant as the server's clock shows it."""
        local = datetime.fromtimestamp(dt.replace(tzinfo=UTC).timestamp())  # noqa: DTZ006 - it is meant to be local
        return local.replace(tzinfo=self)


LOCAL = LocalZone()


def micros(at: datetime) -> int:
    """Microseconds since 1970; a naive datetime is local."""
    return round(at.timestamp() * 1_000_000)


def local(instant: int) -> datetime:
    """That instant as a naive local time; ``fold`` tells the two passes of a doubled hour apart."""
    return datetime.fromtimestamp(instant / 1_000_000)  # noqa: DTZ006 - the public datetimes of schedules are local


def zone_named(name: str) -> ZoneInfo:
    """The zone of that name; ValueError if this host knows none, whatever else ``ZoneInfo`` raises then."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"timezone is not known: {name!r}") from error
