"""Who a client is: passwords against bcrypt hashes, in a time that tells nothing.

Guesses must not cost much either. A bcrypt check takes some fifty milliseconds of a core. It runs in a thread of its
own, so that the others are answered meanwhile; a password that was right once is known again by a keyed hash, and so
are the last wrong ones; and only a few wait for the thread at a time, whoever comes beyond is told to come again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_MOST_WAITING = 16
_REMEMBERED = 200
_BCRYPT_BYTES = 72
"""What bcrypt reads of a password; more was never part of any hash."""


class Busy(Exception):
    """Too many passwords are being checked already."""


class Credentials(NamedTuple):
    """What a client says it is."""

    user: str
    password: bytes


def parse_basic(header: str) -> Credentials | None:
    """The user and password of an Authorization header (RFC 7617), None if it has none."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return Credentials(user.decode("utf-8", "replace"), password) if colon else None


class Passwords:
    """Checks passwords of `users`, names to bcrypt hashes; there is at least one."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = dict(users)
        self._secret = secrets.token_bytes(32)
        # The right ones apart: no number of wrong guesses makes us forget a scraper that we know.
        self._right: dict[bytes, None] = {}
        self._wrong: dict[bytes, None] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowrra-exporter-bcrypt")

    async def check(self, credentials: Credentials) -> bool:
        """Whether they are right. Raises Busy."""
        key = self._key(credentials)
        if key in self._right:
            return True
        if key in self._wrong:
            return False
        if self._waiting >= _MOST_WAITING:
            raise Busy
        self._waiting += 1
        try:
            # A user that there isn't takes as long as one there is: any hash will do to spend the time on.
            hashed = self._users.get(credentials.user) or next(iter(self._users.values()))
            loop = asyncio.get_running_loop()
            matches = await loop.run_in_executor(self._thread, _matches, credentials.password, hashed)
        finally:
            self._waiting -= 1
        right = matches and credentials.user in self._users
        _remember(self._right if right else self._wrong, key)
        return right

    def close(self) -> None:
        """Lets the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _key(self, credentials: Credentials) -> bytes:
        """A hash under which no password can be found that isn't tried: the key dies with the process."""
        user = credentials.user.encode("utf-8", "surrogatepass")
        message = len(user).to_bytes(8, "big") + user + credentials.password
        return hmac.digest(self._secret, message, hashlib.sha256)


def _matches(password: bytes, hashed: str) -> bool:
    import bcrypt

    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode())
    except ValueError:  # a password that bcrypt can't have hashed
        return False


def _remember(keys: dict[bytes, None], key: bytes) -> None:
    keys[key] = None
    while len(keys) > _REMEMBERED:
        del keys[next(iter(keys))]
