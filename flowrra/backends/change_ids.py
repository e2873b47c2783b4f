"""Ids of changes on Redis: of those of one namespace, ``entry/number``, and of those of several that are merged.

The id of a merged change says how far each namespace had been read, so that a reader goes on there. With 64 of them, it
still has to fit in a header and in a URL: it is their number, a dot, and in base64 (RFC 4648, 5, without padding) three
varints for each, the numbers of its own id; zeros for a namespace of which nothing was known yet.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

_ID = re.compile(r"(\d+-\d+)/(\d+)", re.ASCII)
_MERGED = re.compile(r"([1-9]\d{0,2})\.([\w-]+)", re.ASCII)
_NUMBERS = 3  # of an id
_UNKNOWN = (0,) * _NUMBERS
# A server's numbers have 64 bits: ten bytes at most as a varint.
_MOST = 2**64 - 1
_MOST_BYTES = 10


def change_id(entry: str, number: int) -> str:
    """The id of a change: that of its entry in the stream, and its number."""
    return f"{entry}/{number}"


def parse_change_id(text: str) -> tuple[str, int]:
    """Read what :func:`change_id` wrote.

    Raises:
        ValueError: It is no such id.
    """
    found = _ID.fullmatch(text)
    if found is None:
        raise _refusal(text)
    return found[1], int(found[2])


class MergedPosition:
    """How far the changes of several namespaces have been read.

    Args:
        ids: Of the last change of each; None for what isn't known yet.
    """

    def __init__(self, ids: Sequence[str | None]) -> None:
        self._count = len(ids)
        self._varints = [_pack(_numbers(each)) for each in ids]

    def move(self, index: int, change_id: str) -> str:
        """Go on to a change of one of them. Returns the id of the merged change."""
        self._varints[index] = _pack(_numbers(change_id))
        return str(self)

    def __str__(self) -> str:
        return f"{self._count}.{urlsafe_b64encode(b''.join(self._varints)).rstrip(b'=').decode()}"


def parse_merged_id(text: str, count: int) -> list[str | None]:
    """How far each namespace had been read; None for one of which nothing was known.

    Args:
        text: The id of a merged change.
        count: How many namespaces there are.

    Raises:
        ValueError: It is no such id, or one of another number of namespaces.
    """
    found = _MERGED.fullmatch(text)
    if found is None:
        raise _refusal(text)
    if int(found[1]) != count:
        raise ValueError(f"after must be the id of a change of {count} partitions, not of {found[1]}: {text!r:.100}")
    numbers = _unpack(_decode(found[2], most=_NUMBERS * _MOST_BYTES * count))
    if len(numbers) != _NUMBERS * count:
        raise _refusal(text)
    ids = [_text(*numbers[first : first + _NUMBERS]) for first in range(0, len(numbers), _NUMBERS)]
    # Each has one form alone: no longer varint, no bits or bytes left over.
    if str(MergedPosition(ids)) != text:
        raise _refusal(text)
    return ids


def _decode(text: str, most: int) -> bytes:
    """The bytes of base64 without padding; none of what is no base64, or more than ``most``."""
    padding = -len(text) % 4
    if padding == 3 or len(text) * 6 // 8 > most:
        return b""
    return urlsafe_b64decode(text + "=" * padding)


def _numbers(change_id: str | None) -> tuple[int, ...]:
    return _UNKNOWN if change_id is None else tuple(map(int, change_id.replace("/", "-").split("-")))


def _text(milliseconds: int, sequence: int, number: int) -> str | None:
    if (milliseconds, sequence, number) == _UNKNOWN:
        return None
    return change_id(f"{milliseconds}-{sequence}", number)


def _pack(numbers: Sequence[int]) -> bytes:
    """The numbers as varints: seven bits in each byte, the lowest first; all but the last one are 128 or more."""
    packed = bytearray()
    for number in numbers:
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
    return bytes(packed)


def _unpack(packed: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(min(number, _MOST))
            number, shift = 0, 0
    return numbers


def _refusal(text: str) -> ValueError:
    return ValueError(f"after must be the id of a change, not {text!r:.100}")
