"""The web configuration file: TLS, users, headers and a rate limit, in the format of Prometheus' exporter-toolkit.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md has the format. What Python's TLS
or aiohttp doesn't carry is refused by name, instead of being ignored: a file that looks protective has to protect.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Settings
from flowrra_exporter.web.access.fields import Fields, shown
from flowrra_exporter.web.access.limits import Rate
from flowrra_exporter.web.access.tls import TlsConfig, make_context, read_tls

_USERS = "basic_auth_users"
_TLS = "tls_server_config"
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
# 2**16 rounds take seconds for each password that someone tries; more would only ever hurt us.
_MOST_ROUNDS = 16
# The headers that may be set, and their values where only some make sense.
_HEADERS: Mapping[str, Sequence[str] | None] = {
    "Content-Security-Policy": None,
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": None,
    "Strict-Transport-Security": None,
}
_MOST_BURST = 1_000_000
_MAX_BYTES = 1_000_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ns|us|µs|ms|s|m|h)")
_DURATION = re.compile(f"(?:{_PART.pattern})+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class WebConfig:
    """What the file says. ``files`` are all that it was read from: when one of them changes, it's to be read again.

    ``secret`` is a hash of the server's private key, for what is to be signed; random where there is none.
    """

    tls: TlsConfig | None = None
    context: ssl.SSLContext | None = None
    users: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rate: Rate | None = None
    files: Sequence[Path] = ()
    secret: bytes = field(default_factory=partial(secrets.token_bytes, 32), repr=False, compare=False)
    # The sections that the file has, were they empty.
    sections: frozenset[str] = frozenset()

    @property
    def authenticates(self) -> bool:
        """Whether clients have to prove who they are, by a password or a certificate."""
        return bool(self.users) or (self.tls is not None and self.tls.requires_client_certificate)

    def without_a_word(self, before: WebConfig) -> str:
        """The section that protected clients ``before``, and that the file doesn't have any more; empty if none.

        A file that was emptied or is half written has no section; one that is to protect no more has an empty section.
        """
        for section, protected in ((_USERS, bool(before.users)), (_TLS, before.tls is not None)):
            if protected and section not in self.sections:
                return section
        return ""


def flags_without_authentication(settings: Settings, config: WebConfig, identified: bool = False) -> list[str]:
    """The flags that are set, and are for clients that prove who they are, which none does under this configuration,
    unless the program has found out who they are (``identified``)."""
    if config.authenticates or identified:
        return []
    flags = {"--web.show-task-data": settings.web_show_task_data, "--web.actions": settings.web_actions}
    return [flag for flag, is_set in flags.items() if is_set]


def load_web_config(path: Path) -> WebConfig:
    """Reads the file and what it names.

    Raises:
        UsageError: Something is wrong. The message says what, and where.
    """
    try:
        return _load(path)
    except (ValueError, ArithmeticError, LookupError, TypeError) as error:
        # Nothing of the file is quoted: it might be a password.
        raise UsageError(f"{path}: can't be used: {type(error).__name__} when it was read") from error


def _load(path: Path) -> WebConfig:
    source = str(path)
    content = _read_yaml(path)
    top = Fields(source, "", content)
    tls_fields = top.section(_TLS)
    tls = read_tls(tls_fields, path.parent) if tls_fields else None
    config = WebConfig(
        tls=tls,
        context=None if tls is None else make_context(tls, source),
        users=_users(top.section(_USERS, secret=True)),
        headers=_headers(top.section("http_server_config")),
        rate=_rate(top.section("rate_limit")),
        files=(path, *(() if tls is None else tls.files)),
        sections=frozenset(name for name in (_USERS, _TLS) if name in top),
    )
    top.nothing_else()
    return config if tls is None else replace(config, secret=hashlib.sha256(tls.key_file.read_bytes()).digest())


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        with path.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{str(path)!r:.200} is no path: {error}") from error
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{path}: is larger than {_MAX_BYTES} bytes; expected a few lines of YAML")
    try:
        content = yaml.load(text, Loader=_strict_loader())  # noqa: S506 - it makes no objects, as SafeLoader doesn't
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UsageError(f"{path}{where}: no YAML: {problem}") from None
    except ValueError as error:
        # What looks like a date or a number, and is none: YAML's own type for it can't be made.
        raise UsageError(
            f"{path}: no YAML: a value looks like a date or a number, and is none: {error!s:.100}"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise UsageError(f"{path}: got {type(content).__name__}; expected keys such as 'tls_server_config:'")
    return content


def _strict_loader() -> Any:
    import yaml

    class StrictLoader(yaml.SafeLoader):
        """Refuses a key that stands there a second time: YAML's own loader takes the last one, and says nothing."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None,
                        None,
                        f"{shown(key.value)} stands here a second time; expected each key once",
                        key.start_mark,
                    )
                if isinstance(key, yaml.ScalarNode):
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    return StrictLoader


def _users(found: Fields | None) -> dict[str, str]:
    users: dict[str, str] = {}
    if found is None:
        return users
    for name in list(found):
        # The value is not quoted in an error: it might be the password itself.
        value = found.text(name, secret=True)
        if not name or ":" in name or _CONTROL.search(name):
            raise found.error(name, "is no user name; expected text without a colon")
        if not _BCRYPT.fullmatch(value):
            raise found.error(name, "is no bcrypt hash; expected one as 'htpasswd -nBC 10' makes it: '$2y$10$…'")
        if int(value[4:6]) > _MOST_ROUNDS:
            raise found.error(name, f"has cost {int(value[4:6])}; expected at most {_MOST_ROUNDS}")
        users[name] = value
    return users


def _headers(found: Fields | None) -> dict[str, str]:
    if found is None:
        return {}
    if found.flag("http2", default=False):
        raise found.error("http2", "is true, which isn't supported; expected false: the exporter speaks HTTP/1.1")
    given = found.section("headers")
    found.nothing_else()
    headers: dict[str, str] = {}
    if given is None:
        return headers
    for name in given:
        canonical = {known.lower(): known for known in _HEADERS}.get(name.lower())
        if canonical is None:
            raise given.error(name, f"can't be set; expected one of {', '.join(_HEADERS)}")
        value = given.text(name)
        allowed = _HEADERS[canonical]
        if _CONTROL.search(value) or not value.isascii():
            raise given.error(name, f"is {shown(value)}; expected printable ASCII text")
        if allowed is not None and value.lower() not in allowed:
            raise given.error(name, f"is {shown(value)}; expected {' or '.join(allowed)}")
        headers[canonical] = value
    return headers


def _rate(found: Fields | None) -> Rate | None:
    if found is None:
        return None
    interval, burst = _seconds(found, "interval"), found.number("burst", default=0)
    found.nothing_else()
    if interval == 0:
        return None
    if not 1 <= burst <= _MOST_BURST:
        problem = (
            f"is {shown(burst)}; expected at least 1, or nothing would ever be answered, and at most {_MOST_BURST}"
        )
        raise found.error("burst", problem)
    return Rate(interval, burst)


def _seconds(found: Fields, key: str) -> float:
    """A duration as Go writes it: ``1s``, ``500ms``, ``1m30s``; 0 if there is none."""
    text = found.text(key, default="0", numbers=True)
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise found.error(key, f"is {shown(text)}; expected a duration such as '1s' or '500ms'")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
