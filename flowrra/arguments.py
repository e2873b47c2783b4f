"""Which texts and times are taken, wherever they come in: what is none is the caller's mistake, and is refused before
anybody is asked."""

from __future__ import annotations

from datetime import datetime

from flowrra.ranges import shown


def id_text(value: object) -> str:
    """The id of a task that is looked for: what is no text, such as a UUID, stands for its text."""
    return value if isinstance(value, str) else str(value)


def check_id(name: str, value: object) -> None:
    """Refuse what is no text; whether a server can have such an id, its backend says.

    Args:
        name: What it is the value of, for the message.
        value: The value.

    Raises:
        TypeError: It is no str.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, not {shown(value)}")


def check_text(name: str, value: object) -> None:
    """Refuse what is no text, or none that can be sent.

    Args:
        name: What it is the value of, for the message.
        value: The value.

    Raises:
        TypeError: It is no str.
        ValueError: It can't be written as UTF-8.
    """
    check_id(name, value)
    try:
        str(value).encode(errors="surrogateescape")  # what came as no text goes back unchanged
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be a text that UTF-8 can hold, not {shown(value)} ({error.reason})") from None


def check_time(name: str, value: object) -> None:
    """Refuse what is no time, or none that can be compared with others.

    Args:
        name: What it is the value of, for the message.
        value: The value; a naive time is local time.

    Raises:
        TypeError: It is no datetime.
        ValueError: It does not exist in UTC.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {shown(value)}")
    try:
        value.timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise ValueError(f"{name} must be a time that exists in UTC too, not {shown(value)}: {error}") from None
