"""Who a client is: passwords against bcrypt hashes, in a time that tells nothing.

Guesses must not cost much either. A bcrypt check takes some fifty milliseconds of a core. It runs in a thread of its
own, so that the others are answered meanwhile; a password that was right once is known again by a keyed hash, and so
are the last wrong ones; and only a few of each client wait for the thread at a time, whoever comes beyond is told to
come again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from flowrra_exporter.logs import ThrottledWarning

logger = logging.getLogger(__name__)

_MOST_WAITING = 64
_MOST_WAITING_OF_ONE = 4
_REMEMBERED = 200
# What bcrypt reads of a password; more was never part of any hash.
_BCRYPT_BYTES = 72


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
    """Checks passwords against bcrypt hashes.

    Each client has a few places in the queue for the thread, so that one who guesses keeps nobody else out; and who
    comes with what is being checked already takes none.
    """

    def __init__(self) -> None:
        self._users: Mapping[str, str] = {}
        self._secret = secrets.token_bytes(32)
        # The right ones apart, with the user: no number of wrong guesses makes us forget a scraper that we know.
        self._right: dict[bytes, str] = {}
        self._wrong: dict[bytes, str] = {}
        self._checking: dict[bytes, asyncio.Future[bool]] = {}
        self._places: Counter[str] = Counter()
        self._unchecked = ThrottledWarning(logger, "could not check %d passwords: %s")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flowrra-exporter-bcrypt")

    def use(self, users: Mapping[str, str]) -> None:
        """From now on, these are the users: names to hashes. Who was known stays known while their hash is the same.

        What is being checked is judged by the users that there were when it came.
        """
        users, before = dict(users), self._users
        if users == before:
            return
        self._users = users
        self._right = {key: user for key, user in self._right.items() if users.get(user) == before.get(user)}
        self._wrong = {}
        self._checking = {}

    def knows(self, credentials: Credentials) -> bool:
        """Whether they were found right before: then no check is needed."""
        return self._key(credentials) in self._right

    async def check(self, credentials: Credentials, client: str) -> bool:
        """Whether they are right; there is at least one user.

        Args:
            credentials: What the client says it is.
            client: Whose place in the queue it takes.

        Raises:
            Busy: Too many passwords are being checked already.
        """
        key = self._key(credentials)
        if key in self._right:
            return True
        if key in self._wrong:
            return False
        checking = self._checking.get(key)
        if checking is None:
            if self._places[client] >= _MOST_WAITING_OF_ONE or self._places.total() >= _MOST_WAITING:
                raise Busy
            self._places[client] += 1
            checking = self._checking[key] = asyncio.ensure_future(
                self._find_out(self._users, credentials, client, key)
            )
        # Whoever gives up takes the answer from nobody else who waits for it.
        return await asyncio.shield(checking)

    async def _find_out(self, users: Mapping[str, str], credentials: Credentials, client: str, key: bytes) -> bool:
        user = credentials.user
        # A user that there isn't takes as long as one there is: it has always the same hash, of whichever cost.
        hashed = users.get(user) or list(users.values())[self._any_number(user) % len(users)]
        try:
            loop = asyncio.get_running_loop()
            matches = await loop.run_in_executor(self._thread, _matches, credentials.password, hashed)
        except RuntimeError as error:  # the system has no thread left, or the exporter stops
            self._unchecked.warn(error)
            raise Busy from error
        finally:
            self._places[client] -= 1
            if not self._places[client]:
                del self._places[client]
            if self._users is users:
                self._checking.pop(key, None)
        right = matches and user in users
        if self._users is users:
            _remember(self._right if right else self._wrong, key, user)
        return right

    def close(self) -> None:
        """Lets the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _any_number(self, user: str) -> int:
        """The same for each user, and known to nobody."""
        return int.from_bytes(
            hmac.digest(self._secret, user.encode("utf-8", "surrogatepass"), hashlib.sha256)[:8], "big"
        )

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


def _remember(keys: dict[bytes, str], key: bytes, user: str) -> None:
    keys[key] = user
    while len(keys) > _REMEMBERED:
        del keys[next(iter(keys))]
