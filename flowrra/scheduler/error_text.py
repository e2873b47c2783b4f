"""Errors as text that every schedule store takes, whatever they say."""

from __future__ import annotations

# Characters; the text columns of MySQL hold 65,535 bytes.
LONGEST_TEXT = 2_000


def describe(error: BaseException) -> str:
    """An error as it is recorded and logged: its type and text, as :func:`storable` writes them."""
    try:
        text = str(error)
    except BaseException as failure:  # noqa: BLE001 - it is user code
        text = f"its text can't be had, for {type(failure).__name__}"
    return storable(f"{type(error).__name__}: {text}")


def storable(text: str) -> str:
    """A text of bounded length, with escapes in place of NUL and lone surrogates, which no server takes."""
    text = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
    return text.replace("\0", r"\x00").encode(errors="backslashreplace").decode()


def in_ascii(text: str) -> str:
    """A text with escapes in place of all that is not ASCII, for a column of any character set."""
    return text.encode("ascii", "backslashreplace").decode()
