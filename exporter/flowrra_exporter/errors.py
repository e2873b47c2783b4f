"""What ends the command with one line on standard error and exit status 2, and what may stand in that line.

A value that can't be used may be a URL with a password, which can have any character and stand where it isn't expected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_OPTION = re.compile(r"(?<=[?&])([\w.-]{1,40})=[^&#\s'\"]+")
_OF_SECRETS = re.compile("password|passwd|pwd|secret|token", re.IGNORECASE)
_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class UsageError(Exception):
    """A wrong flag, variable, address or target. Its text is the one line that the user sees."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'that'?`` with the known name that is closest; empty if none is close."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def quoted(text: str) -> str:
    """A value that can't be used, for an error's text; of one that may be meant as a URL no more than its scheme."""
    if not may_be_url(text):
        return f"{text!r:.200}"
    found = _SCHEME.match(text)
    return f"'{found[1].lower()}://…'" if found else "a text that may have a password in it"


def may_be_url(text: str) -> bool:
    """Whether a text could have been meant as a URL with a password, or with a token in its query."""
    return "://" in text or "@" in text or ("?" in text and "=" in text)


def without_credentials(url: str) -> str:
    """A whole URL, with ``***`` for its user and password, and for options that are named like one."""
    scheme, separator, rest = url.partition("://")
    _, at, place = rest.rpartition("@")
    return without_secret_options(f"{scheme}{separator}***@{place}" if separator and at else url)


def without_secret_options(text: str) -> str:
    """Text with ``***`` for the values of URLs' options that are named like a password or a token."""
    return _OPTION.sub(lambda option: f"{option[1]}=***" if _OF_SECRETS.search(option[1]) else option[0], text)
