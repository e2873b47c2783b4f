"""What a setting can be: the kinds of values, and the option by which one is given, as a flag or as a variable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flowrra_exporter.errors import UsageError, did_you_mean, may_be_url, quoted
from flowrra_exporter.paths import is_taken

ENVIRONMENT_PREFIX = "FLOWRRA_EXPORTER_"
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# The names of Services and of their ports have at most 63 characters: without a bound, a long name would take for ever.
_OF_A_SERVICE = re.compile(
    r"FLOWRRA_EXPORTER(_\w{1,63})?_(SERVICE_HOST|SERVICE_PORT(_\w{1,63})?|PORT_\d{1,5}_\w{1,63})"
)
_PORT_OF_A_SERVICE = re.compile(r"FLOWRRA_EXPORTER(_\w{1,63})?_PORT")
_LINK = re.compile(r"(tcp|udp|sctp)://")


class Address(NamedTuple):
    """Where to listen. An empty host is every interface, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        expected: Completes "expected …" in the text of an error.
        metavar: Stands for a value in the help; empty for a switch, which has none.
        read: Makes a value of a text. Raises ValueError for a text that is none.
        valid: Whether a value may be used.
        types: What a program may give.
    """

    expected: str
    metavar: str
    read: Callable[[str], Any]
    valid: Callable[[Any], bool] = lambda _: True
    types: tuple[type, ...] = (str,)

    def parse(self, text: str) -> Any:
        """The value of a text.

        Raises:
            ValueError: It has none that may be used.
        """
        value = self.read(text)
        if not self.valid(value):
            raise ValueError(text)
        return value

    def takes(self, value: Any) -> bool:
        """Whether a program may give this value. A bool is no number, though Python has it as one."""
        is_of_type = isinstance(value, self.types) and (bool in self.types or not isinstance(value, bool))
        return is_of_type and self.valid(value)


def _read_switch(text: str) -> bool:
    word = text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError(text)


def _read_address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    elif ":" in host or "[" in host or "]" in host:
        raise ValueError(text)
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT or (bracketed and not host):
        raise ValueError(text)
    return Address(host, int(port))


def _read_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(text)
    return int(text)


def _is_url(text: str) -> bool:
    """With an ``@`` in its path, what looks like its host may well be a user, and the path a password."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError for one out of range
    except ValueError:
        return False
    unwanted = parts.query or parts.fragment or "@" in parts.path
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not unwanted


def _are_bounds(bounds: Sequence[Any]) -> bool:
    return (
        all(isinstance(each, int | float) and not isinstance(each, bool) for each in bounds)
        and all(map(math.isfinite, bounds))
        and all(a < b for a, b in pairwise((0.0, *bounds)))
    )


def _is_address(address: tuple[Any, Any]) -> bool:
    host, port = address
    return isinstance(host, str) and isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= _HIGHEST_PORT


# Some 30 years: what waits for longer, a thread or a socket, raises an error as soon as it begins to wait.
_LONGEST_SECONDS = 1e9
_HIGHEST_PORT = 65535

SWITCH = Kind("true or false", "", _read_switch, types=(bool,))
ADDRESS = Kind(
    "host:port, such as ':9464', '127.0.0.1:9464' or '[::]:9464'", "ADDRESS", _read_address, _is_address, (Address,)
)
PATH = Kind(
    "a path such as '/metrics' that no other route has",
    "PATH",
    str,
    lambda path: _PATH.fullmatch(path) is not None and not is_taken(path),
)
FILE = Kind("a path, in Python a pathlib.Path", "FILE", Path, types=(Path,))
SECONDS = Kind(
    f"a number of seconds above 0, and at most {_LONGEST_SECONDS:g}",
    "SECONDS",
    float,
    lambda value: 0 < value <= _LONGEST_SECONDS,
    (float, int),
)
GRACE = Kind(
    f"a number of seconds from 0 to {_LONGEST_SECONDS:g}",
    "SECONDS",
    float,
    lambda value: 0 <= value <= _LONGEST_SECONDS,
    (float, int),
)
COUNT = Kind("a whole number above 0", "NUMBER", _read_count, lambda value: value > 0, (int,))
BOUNDS = Kind(
    "numbers of seconds above 0 in ascending order, such as '0.1,1,10'",
    "SECONDS,…",
    lambda text: tuple(map(float, text.split(","))),
    _are_bounds,
    (tuple, list),
)
URL = Kind("a URL such as 'http://collector:4318'", "URL", str, _is_url)
PUBLIC_URL = Kind(
    "a URL such as 'https://flowrra.example.com'", "URL", str, lambda url: "@" not in url and _is_url(url)
)


def one_of(words: Sequence[str], metavar: str) -> Kind:
    """The kind of these words, in any case."""
    expected = f"one of {', '.join(words)}" if len(words) > 2 else " or ".join(map(repr, words))
    return Kind(expected, metavar, str.lower, lambda word: word.lower() in words)


@dataclass(frozen=True)
class Option:
    """How a setting is given from outside.

    Attributes:
        flag: The flag; empty for a setting that can be given by programs alone.
        kind: What values it has; one that is ``repeatable`` has a tuple of them.
        text: What it is for; ``help`` adds the default.
        default: The setting's default.
        unset: What holds while the default is no value, for the help.
    """

    flag: str
    kind: Kind
    text: str
    default: Any = None
    unset: str = ""
    repeatable: bool = False

    @property
    def name(self) -> str:
        """The field of Settings."""
        return self.flag.removeprefix("--").replace(".", "_").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.kind is SWITCH

    @property
    def negatable(self) -> bool:
        """Whether the flag has a second form that switches off what is on by default, as in ``--no-web.api``."""
        return self.default is True

    @property
    def help(self) -> str:
        """What it is for, and its default."""
        default = self._default()
        return f"{self.text} [default: {default}]" if default else self.text

    def _default(self) -> str:
        if self.switch and self.default is not None:
            return "yes" if self.default else ""
        if self.default is None or self.default == ():
            return self.unset
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return ", ".join(map(str, self.default)) if self.repeatable else str(self.default)

    def refusal(self, value: Any) -> str | None:
        """What is wrong with a value that a program gives; None if nothing is."""
        if value is None and self.default is None:
            return None
        if not self.repeatable:
            return None if self.kind.takes(value) else self._refused(value)
        if not isinstance(value, list) and type(value) is not tuple:  # an Address is a tuple, too
            return f"{self._refused(value)}, in a tuple"
        wrong = [each for each in value if not self.kind.takes(each)]
        return f"{self._refused(wrong[0])}, each an {Address.__name__}" if wrong else None

    def _refused(self, value: Any) -> str:
        return f"is {quoted(value) if isinstance(value, str) else f'{value!r:.200}'}; expected {self.kind.expected}"

    def value(self, given: Sequence[str], environment: Mapping[str, str]) -> Any:
        """The field's value from the flag, else from the variable; None if neither is given.

        Raises:
            UsageError: The text is of another kind. The message names the flag or variable.
        """
        values = [self._parse(self.flag, text, text) for text in given] or self._from_variable(environment)
        if not values:
            return None
        return tuple(values) if self.repeatable else values[-1]

    def _from_variable(self, environment: Mapping[str, str]) -> list[Any]:
        whole = environment.get(self.variable, "").strip()
        texts = whole.replace(",", " ").split() if self.repeatable else [whole] if whole else []
        return [self._parse(self.variable, text, whole) for text in texts]

    def _parse(self, source: str, text: str, whole: str) -> Any:
        """The value of ``text``, which is a part of what was given or all of it."""
        try:
            return self.kind.parse(text)
        except ValueError:
            # A part of a URL doesn't look like one.
            shown = quoted(whole if may_be_url(whole) else text)
            raise UsageError(f"{source}: got {shown}; expected {self.kind.expected}") from None


def unknown_variables(environment: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """The names with the exporter's prefix that are not known.

    But for what Kubernetes sets in each container beside a Service named flowrra-exporter:
    https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    """
    return [
        name
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known and not _is_of_a_service(name, environment[name])
    ]


def unknown_variable(name: str, known: Sequence[str]) -> str:
    """What is said of one."""
    return f"the variable {name} is none of the exporter's{did_you_mean(name, known)}"


def refuse_unknown_variables(environment: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuses what was meant as a setting and would have no effect, such as a limit that nobody keeps.

    Raises:
        UsageError: There are variables with the exporter's prefix that are not known. The message has the first, and
            the known one that is nearest.
    """
    unknown = unknown_variables(environment, known)
    if unknown:
        more = len(unknown) - 1
        rest = f" (and {more} more: flowrra-exporter check lists all)" if more else ""
        raise UsageError(unknown_variable(unknown[0], known) + rest)


def _is_of_a_service(name: str, value: str) -> bool:
    return bool(_OF_A_SERVICE.fullmatch(name) or (_PORT_OF_A_SERVICE.fullmatch(name) and _LINK.match(value)))
