"""Reads of a URL no more than its scheme, and shows no more of it."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """The scheme of a URL in small letters; empty if it has none.

    Never an error, as ``urlsplit`` raises, whose text may have a part of the password.
    """
    found = _SCHEME.match(url)
    return "" if found is None else found.group(1).lower()


def quoted(text: str) -> str:
    """A value for an error's text; of what may be a URL, and may so have a password, no more than the scheme."""
    if "://" not in text and "@" not in text:
        return f"{text!r:.200}"
    return f"'{scheme_of(text)}://…'" if scheme_of(text) else "a text that may have a password in it"
