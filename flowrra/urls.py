"""Reads of a URL no more than its scheme, and shows no more of it than is no secret."""

from __future__ import annotations

import re

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
SENTINEL_FORM = "redis+sentinel://[user:password@]host:port,host:port/service/database"
CLUSTER_FORM = "redis+cluster://[user:password@]host:port,host:port"

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

_OPTION = re.compile(r"(?<=[?&])([\w.-]{1,40})=[^&#]+")
_OF_SECRETS = re.compile("password|passwd|pwd|secret|token", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<=://)[^\s'\"]+")


def scheme_of(url: str) -> str:
    """The scheme of a URL in small letters; empty if it has none.

    Never an error, as ``urlsplit`` raises, whose text may have a part of the password.
    """
    found = _SCHEME.match(url)
    return "" if found is None else found.group(1).lower()


def is_cluster(url: str) -> bool:
    """Whether a URL leads to the nodes of a Redis cluster."""
    return scheme_of(url).endswith("+cluster")


def unsupported(what: str, scheme: str) -> str:
    """The text of an error about the URL of ``what``, whose scheme is none of a driver's."""
    expected = f"{', '.join(REDIS_SCHEMES[:-1])} or {REDIS_SCHEMES[-1]}"
    if "sentinel" in scheme:
        expected = f"{SENTINEL_FORM}, or rediss+sentinel:// for TLS"
    if "cluster" in scheme:
        expected = f"{CLUSTER_FORM}, or rediss+cluster:// for TLS"
    return f"Unsupported {what} URL scheme '{scheme}'; expected {expected}"


def quoted(text: str) -> str:
    """A value for an error's text; of what may be a URL, and may so have a password, no more than the scheme."""
    if "://" not in text and "@" not in text:
        return f"{text!r:.200}"
    return f"'{scheme_of(text)}://…'" if scheme_of(text) else "a text that may have a password in it"


def without_credentials(text: str) -> str:
    """Text with ``***`` for the user and password of each URL in it, and for its options that are named like one:
    rather too much than too little."""
    return _ADDRESS.sub(_without_secrets, text)


def _without_secrets(address: re.Match[str]) -> str:
    # Looked for only in what was found, from its end: a text that is all beginnings of URLs is read once.
    _, at, rest = address[0].rpartition("@")
    shown = f"***@{rest}" if at else address[0]
    return _OPTION.sub(lambda option: f"{option[1]}=***" if _OF_SECRETS.search(option[1]) else option[0], shown)
