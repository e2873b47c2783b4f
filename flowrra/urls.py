"""Reads of a URL no more than its scheme."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """The scheme of a URL in small letters; empty if it has none.

    Never an error, as ``urlsplit`` raises, whose text may have a part of the password.
    """
    found = _SCHEME.match(url)
    return "" if found is None else found.group(1).lower()
