"""Texts that only we can have written, for one user and one purpose, for a while. Nothing is kept of them.

What they are signed with comes from the web configuration: all replicas with the same one take each other's, and
whoever is given another password needs a new one.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode

from flowrra_exporter.web.access.web_config import WebConfig

_MAX_CHARACTERS = 4096


class Refused(Exception):
    """A text is not what we have written for this user and purpose; ``expired`` if it was until a while ago."""

    def __init__(self, expired: bool) -> None:
        super().__init__("it has expired" if expired else "it is not ours")
        self.expired = expired


class Tokens:
    """Signs texts, and reads what it has signed. Before ``use`` it knows no user."""

    def __init__(self) -> None:
        self._config = WebConfig()
        self._shared: bytes | None = None

    def use(self, config: WebConfig) -> None:
        """From now on, these are the users."""
        self._config = config

    def share(self, secret: bytes | None) -> None:
        """From now on, processes with the same secret take each other's texts; None is for one of the configuration."""
        self._shared = secret

    def sign(self, purpose: str, user: str, text: str, seconds: float) -> str:
        """``text`` for this user and purpose, which can be read for so many seconds; of characters that a URL has."""
        content = f"{int(time.time() + seconds)}.{urlsafe_b64encode(text.encode()).decode().rstrip('=')}"
        return f"{content}.{self._signature(purpose, user, content)}"

    def read(self, purpose: str, user: str, token: str) -> str:
        """What was signed.

        Raises:
            Refused: It was signed for somebody or something else, by nobody, or too long ago.
        """
        content, _, signature = token.rpartition(".")
        if len(token) > _MAX_CHARACTERS or not token.isascii():
            raise Refused(expired=False)
        if not hmac.compare_digest(signature, self._signature(purpose, user, content)):
            raise Refused(expired=False)
        until, _, encoded = content.partition(".")
        if time.time() > int(until):
            raise Refused(expired=True)
        return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()

    def _signature(self, purpose: str, user: str, content: str) -> str:
        """Of a user with a password by its hash, which nobody but the server knows; of one with a certificate by the
        server's private key."""
        secret = self._config.users.get(user, "").encode() or self._shared or self._config.secret
        key = hmac.digest(secret, b"flowrra-exporter token", hashlib.sha256)
        # The lengths stand before what they are of, so that no two messages are the same.
        parts = (purpose, user, content)
        message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
        return hmac.digest(key, message, hashlib.sha256).hex()
