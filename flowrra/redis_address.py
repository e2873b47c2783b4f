"""Reads the address of a Redis or Valkey server and the options of its connections.

What the app needs it sets itself; what contradicts that is refused by name, and never with a part of a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import parse_url

from flowrra.exceptions import BackendError
from flowrra.redis_sending import cancellable
from flowrra.urls import CLUSTER_FORM, SENTINEL_FORM, scheme_of

_UNKNOWN_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")
_INVALID_VALUE = re.compile(r"Invalid value for '(\w+)' in connection URL\.")
_DATABASE = re.compile(r"/?\d*/?")
# Nothing in it may stand for itself that ends one of its parts.
_SENTINEL_URL = re.compile(
    r"\s*(?P<scheme>rediss?)\+sentinel://(?P<user>[^/?#@\s]*@)?(?P<sentinels>[^/?#@\s]+)/(?P<service>[^/?#@\s]+)"
    r"(?P<database>/\d*)?/?(?P<query>\?[^#\s]*)?\s*",
    re.IGNORECASE,
)
_CLUSTER_URL = re.compile(
    r"\s*(?P<scheme>rediss?)\+cluster://(?P<user>[^/?#@\s]*@)?(?P<nodes>[^/?#@\s]+)(?P<database>/\d*)?/?"
    r"(?P<query>\?[^#\s]*)?\s*",
    re.IGNORECASE,
)
SERVER_PORT = 6379
SENTINEL_PORT = 26379
# Where a server is: host and port.
Place = tuple[str, int]
_TRUE = frozenset({"true", "1", "yes", "on"})

# What each connection is given: the rest of the code understands nothing else.
FIXED: Mapping[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "strict",
    "health_check_interval": 0,
}
# What redis-py does unless it is told otherwise; not every version has the option.
_LEFT: Mapping[str, Any] = {"legacy_responses": True}
_TRIES = "Flowrra tries again by itself, and bears it"
_POOL = "Flowrra makes its connections itself: max_connections says how many"
# What the app decides, by the name that redis-py gives it, and what to do instead.
_REFUSED: Mapping[str, str] = {
    "protocol": "Flowrra speaks version 2 of the protocol, with every server",
    "decode_responses": "Flowrra reads bytes, and decodes them itself",
    "encoding": "all that Flowrra writes is UTF-8",
    "encoding_errors": "all that Flowrra writes is UTF-8",
    "health_check_interval": "Flowrra notices by itself when a connection is broken",
    "legacy_responses": "Flowrra reads answers as the protocol has them",
    "socket_timeout": "use socket_timeout of BrokerConfig or BackendConfig",
    "max_connections": "use max_connections of BrokerConfig or BackendConfig",
    "retry_on_timeout": "use retry_on_timeout of BrokerConfig or BackendConfig",
    "retry_on_error": _TRIES,
    "retry": _TRIES,
    "timeout": f"a request waits for a connection as long as socket_timeout says; {_POOL}",
    "single_connection_client": _POOL,
    "connection_pool": _POOL,
    "auto_close_connection_pool": _POOL,
    "connection_class": _POOL,
    "queue_class": _POOL,
    "parser_class": "Flowrra reads answers with the parser that redis-py chooses",
    "encoder_class": "all that Flowrra writes is UTF-8",
    "redis_connect_func": "Flowrra makes its connections itself",
    "event_dispatcher": "Flowrra makes its connections itself",
    "maint_notifications_config": "they need version 3 of the protocol, and Flowrra speaks version 2",
    "ssl": "begin the URL with rediss:// instead",
    "unix_socket_path": "begin the URL with unix:// instead",
}
# Options that a URL can say.
_IN_URL = frozenset(
    {
        "db",
        "username",
        "password",
        "client_name",
        "lib_name",
        "lib_version",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_read_size",
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_exclude_verify_flags",
        "ssl_include_verify_flags",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)
# Options for the connections to sentinels; a server's own user and password are not theirs.
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}
_PLACE = frozenset({"host", "port", "path"})
_VALID: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "db": (lambda value: int(value) >= 0, "the number of a database"),
    "port": (lambda value: 0 < int(value) < 65536, "the number of a port"),
    "socket_connect_timeout": (lambda value: value is None or 0 < value < inf, "a positive number of seconds"),
    "socket_read_size": (lambda value: value >= 1, "a positive number of bytes"),
}
_SECRET = ("password", "ssl_password", "sentinel_password")


class Sentinels(NamedTuple):
    """Who knows where the primary is.

    Attributes:
        places: Host and port of each, in an order that doesn't depend on the URL's.
        service: The name by which they know it.
        options: What connections to them are made with, besides their time limits.
    """

    places: tuple[Place, ...]
    service: str
    options: dict[str, Any]


class Address:
    """Where a server is, and how connections to it are made.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and options as redis-py reads them;
            or ``redis+sentinel://`` and ``rediss+sentinel://``, with the sentinels in the place of the host, and the
            service before the database; or ``redis+cluster://`` and ``rediss+cluster://``, with some nodes there.
        options: More options of redis-py's connections; what the URL says goes first, as with redis-py.
        limits: What the caller has decided of the options that the URL or ``options`` could say otherwise.

    Attributes:
        name: Which server and database this is, for comparing and for messages: without user and password.
        database: The number of the database.
        options: What each connection is made with, besides its time limits.
        sentinels: Whom to ask where the server is; None if they aren't.
        cluster: The nodes that the URL names, in an order that doesn't depend on it; None if it is no cluster.

    Raises:
        BackendError: The URL can't be read, or an option can't be used.
    """

    def __init__(self, url: str, options: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        found, of_cluster = _SENTINEL_URL.fullmatch(url), _CLUSTER_URL.fullmatch(url)
        for kind, form in (("+sentinel", SENTINEL_FORM), ("+cluster", CLUSTER_FORM)):
            if (found or of_cluster) is None and kind in scheme_of(url):
                raise BackendError(f"The Redis URL can't be read: {_problem_of_many(url, form)}")
        several = found or of_cluster
        parsed = _read(url if several is None else _as_if_plain(several))
        # As text it is an option of the URL, which is refused below.
        is_plain = not isinstance(parsed.get("connection_class"), type)
        connection_class = redis.asyncio.Connection if is_plain else parsed.pop("connection_class")
        decided = {**FIXED, **_LEFT, **limits}
        _refuse(parsed, decided, _IN_URL | _PLACE if found is None else _IN_URL | _PLACE | set(_OF_SENTINELS))
        _refuse(options, decided, None)
        known = {name: value for name, value in {**options, **parsed}.items() if name not in decided}
        _check_values(known)
        self._secrets = [secret for name in _SECRET if (secret := known.get(name))]
        self._class_name = connection_class.__name__
        self.sentinels = None if found is None else _sentinels(found, known, is_plain)
        self.cluster = None if of_cluster is None else _cluster(of_cluster, known)
        # A Unix socket has no such option.
        keepalive = {} if "path" in known else {"socket_keepalive": True}
        self.options: dict[str, Any] = {**keepalive, **known, **FIXED}
        place = known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        if self.sentinels is not None:
            place = f"{','.join(map(_named, self.sentinels.places))}/{self.sentinels.service}"
        self.database = int(known.get("db", 0))
        self.name = f"{place}/{self.database}"
        if self.cluster is not None:
            self.name = f"redis+cluster://{','.join(map(_named, self.cluster))}"
        self._try_out()

    @property
    def connection_class(self) -> Any:
        """The class of connections on an event loop."""
        return cancellable(getattr(redis.asyncio, self._class_name))

    @property
    def is_encrypted(self) -> bool:
        """Whether connections are made with TLS."""
        return issubclass(self.connection_class, redis.asyncio.SSLConnection)

    @property
    def thread_connection_class(self) -> Any:
        """The class of connections without an event loop."""
        return getattr(redis, self._class_name)

    def _try_out(self) -> None:
        """Make a connection of each class; none connects by that."""
        problem = None
        tries: list[Callable[[], Any]] = [
            lambda: self.connection_class(**self.options),
            lambda: self.thread_connection_class(**self.options),
        ]
        if self.sentinels is not None:
            of_sentinels = self.sentinels.options
            tries += [lambda: redis.asyncio.Redis(**of_sentinels), lambda: redis.Redis(**of_sentinels)]
        for make in tries:
            try:
                make()
            except Exception as error:  # noqa: BLE001 - whatever redis-py says of them is the answer
                problem = self._describe(error)
        if problem is not None:
            raise BackendError(f"Redis {self.name} can't be used: {problem}")

    def _describe(self, error: Exception) -> str:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        if unknown is None:
            return self.without_secrets(f"its options are refused: {error}")
        name = unknown.group(1)
        hint = (
            "; begin the URL with rediss://, rediss+sentinel:// or rediss+cluster:// for TLS"
            if name.startswith("ssl_")
            else ""
        )
        return f"there is no option '{name}' for such a connection{hint}"

    def without_secrets(self, text: str) -> str:
        """The text without the passwords of this address, should a server or the driver repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _read(url: str) -> dict[str, Any]:
    """What a URL says, as redis-py reads it. No error has a part of it: a password may have any character."""
    problem = _problem_of(url)
    parsed: dict[str, Any] = {}
    if problem is None:
        try:
            parsed = dict(parse_url(url))
        except ValueError as error:
            # It names the option, and not its value.
            named = _INVALID_VALUE.fullmatch(str(error))
            problem = f"the value of its option '{named.group(1)}' is not valid" if named else "it is no URL of Redis"
    if problem is not None:  # not in the handler above: the error there may show what stands in the URL
        raise BackendError(f"The Redis URL can't be read: {problem}")
    return parsed


def _as_if_plain(found: re.Match[str]) -> str:
    """The address of a server with the user, the database and the options of a URL with sentinels."""
    scheme, user, database, query = found.group("scheme", "user", "database", "query")
    return f"{scheme}://{user or ''}localhost{database or '/0'}{query or ''}"


def _problem_of_many(url: str, form: str) -> str:
    if "#" in url:
        return "there is a '#' in it; write it %23"
    return f"expected {form}, where in a user or a password / is written %2F, ? is %3F and @ is %40"


def _sentinels(found: re.Match[str], known: dict[str, Any], is_plain: bool) -> Sentinels:
    """The sentinels of a URL. What is only theirs is taken out of the options ``known``, and the host that is none."""
    places = _places("a sentinel", found.group("sentinels"), SENTINEL_PORT, SENTINEL_FORM)
    for name in _PLACE:
        known.pop(name, None)
    options = {as_theirs: known.pop(name) for name, as_theirs in _OF_SENTINELS.items() if name in known}
    if not is_plain:
        options |= {name: value for name, value in known.items() if name.startswith("ssl_")}
        options["ssl"] = True
    return Sentinels(places, unquote(found.group("service")), {**options, **FIXED})


def _cluster(found: re.Match[str], known: dict[str, Any]) -> tuple[Place, ...]:
    """The nodes of a URL. The host that is none is taken out of the options ``known``."""
    for name in _PLACE:
        known.pop(name, None)
    if int(known.pop("db", 0)) != 0:
        raise BackendError("The Redis URL can't be used: a cluster has no database but 0")
    return _places("a node", found.group("nodes"), SERVER_PORT, CLUSTER_FORM)


def _named(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _places(what: str, text: str, default_port: int, form: str) -> tuple[Place, ...]:
    """The places of a URL, each once, in an order that doesn't depend on the URL's."""
    places = set[Place]()
    for each in text.split(","):
        try:
            parts = urlsplit(f"//{each}")
            host, port = parts.hostname, default_port if parts.port is None else parts.port
        except ValueError:
            host, port = None, 0
        if not host or not port:  # not what stands there: it may be a part of a password
            raise BackendError(
                f"The Redis URL can't be read: {what} in it has no host, or its port is no number; expected {form}"
            )
        places.add((host, port))
    return tuple(sorted(places))


def _problem_of(url: str) -> str | None:
    """What is wrong with a URL in itself; None if nothing is."""
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return "its port is no number, or a character in it has to be written as %.. (in a password / is %2F, @ is %40)"
    if not port_is_valid:
        return "its port is 0"
    # redis-py would connect to something else than is meant.
    if any(character in url.strip("\r\n") for character in "\t\r\n"):
        return "there is a tab or a line break in it"
    if "#" in url:
        return "there is a '#' in it; write it %23"
    if parts.scheme == "unix":
        if parts.netloc and "@" not in parts.netloc:
            return "a path begins with unix:///; in a password / is written %2F"
        if parts.netloc and "@" in parts.path:
            return "there is an '@' in its path; write it %40, and in a password / is %2F"
    elif "@" in parts.path or "@" in parts.query:
        return "there is an '@' after its host; write it %40, and in a password / is %2F and ? is %3F"
    elif not _DATABASE.fullmatch(parts.path.strip()):
        return "its path is no number of a database"
    # redis-py drops an option without a value: what follows an & in a password would be lost unseen.
    if any(option and not all(option.partition("=")) for option in parts.query.split("&")):
        return "what follows the '?' is not of the form name=value; in a password & is written %26"
    return None


def _refuse(given: Mapping[str, Any], decided: Mapping[str, Any], known: frozenset[str] | None) -> None:
    """Raise BackendError for an option that says something else than what was decided, or that is not known."""
    for name, value in given.items():
        if name in decided:
            if not _is_same(value, decided[name]):
                raise BackendError(f"The Redis option '{name}' can't be used: {_REFUSED[name]}")
        elif name in _REFUSED:
            raise BackendError(f"The Redis option '{name}' can't be used: {_REFUSED[name]}")
        elif known is not None and name not in known:
            # Its name may be a part of a password in which an & was not written %26.
            can_say = ", ".join(sorted(known - _PLACE))
            raise BackendError(
                f"The Redis URL has an option that is not known; a URL can say {can_say}, and RedisBroker and "
                "RedisBackend take more as arguments"
            )


def _is_same(value: Any, decided: Any) -> bool:
    if isinstance(decided, bool):
        return (value.lower() in _TRUE if isinstance(value, str) else bool(value)) is decided
    if isinstance(decided, str):
        return str(value).lower().replace("utf8", "utf-8") == decided
    return bool((value or None) == (decided or None))  # no time limit is either


def _check_values(options: Mapping[str, Any]) -> None:
    for name, (is_valid, expected) in _VALID.items():
        if name not in options:
            continue
        try:
            valid = is_valid(options[name])
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise BackendError(f"The Redis option '{name}' must be {expected}")
