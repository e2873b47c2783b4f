"""The configuration file: the flags as YAML, for what is too long for a command line.

A key is a flag without its dashes, a value what the flag takes, read as the flag would read it; a flag that may be
given several times, and a list of numbers, may be a YAML list. ``--print-config`` prints the same form. Nothing in
the file makes an object or runs code: only its texts are taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowrra_exporter.errors import UsageError, quoted, without_credentials
from flowrra_exporter.options import BOUNDS, Address, Kind, Option, refuse_unknown_variables
from flowrra_exporter.settings import OPTIONS, Settings, load_settings

if TYPE_CHECKING:
    import yaml

# Stands for a secret in what is printed. Read back, it would be taken for the secret itself.
HIDDEN = "***"

_MAX_BYTES = 1_000_000
_NULL = "tag:yaml.org,2002:null"


class ConfigFile(NamedTuple):
    """What a file says: the settings' fields that it has values for, and a sentence for each mistake in it."""

    path: str
    values: Mapping[str, Any]
    mistakes: Sequence[str]

    def valid_values(self) -> Mapping[str, Any]:
        """The values.

        Raises:
            UsageError: There are mistakes. The message has the first.
        """
        if self.mistakes:
            more = len(self.mistakes) - 1
            raise UsageError(self.mistakes[0] + (f" (and {more} more: flowrra-exporter check lists all)" * bool(more)))
        return self.values


class _Mistake(Exception):
    """A mistake in the file, and its line (counted from 1; 0 if it has none)."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


CONFIG_FILE = Option(
    "--config.file",
    Kind("the name of a YAML file", "FILE", str, lambda path: bool(path.strip())),
    "YAML file with flags, without their dashes, as keys. A flag or variable wins.",
    unset="none",
)
# Those that are known, of all that begin with the exporter's prefix.
VARIABLES = [option.variable for option in (CONFIG_FILE, *OPTIONS)]


def load_all_settings(given: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> Settings:
    """The settings that are in force: of flags, variables and the configuration file that one of them names.

    Args:
        given: The texts of flags, by the option's name.
        environment: The environment variables.

    Raises:
        UsageError: A value makes no sense, or a variable with the exporter's prefix is none of its own.
    """
    refuse_unknown_variables(environment, VARIABLES)
    path = CONFIG_FILE.value(given.get(CONFIG_FILE.name, ()), environment)
    return load_settings(given, environment, read_config_file(path).valid_values() if path else None)


def read_config_file(path: str) -> ConfigFile:
    """The file's values and mistakes. A file that can't be read is a mistake too, so this raises nothing."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    seen: set[str] = set()
    try:
        for key, value, line in _entries(_text(path)):
            try:
                option = _option(key, line)
                if key in seen:
                    raise _Mistake(f"{key}: stands here a second time; expected each key once", line)
                seen.add(key)
                values[option.name] = _value(option, value)
            except _Mistake as mistake:
                mistakes.append(_located(path, mistake))
    except _Mistake as mistake:
        mistakes.append(_located(path, mistake))
    return ConfigFile(path, {name: value for name, value in values.items() if value is not None}, mistakes)


def _located(path: str, mistake: _Mistake) -> str:
    return f"{path}:{mistake.line}: {mistake}" if mistake.line else f"{path}: {mistake}"


def _text(path: str) -> str:
    try:
        with Path(path).open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise _Mistake(f"is larger than {_MAX_BYTES} bytes; expected a few lines of YAML")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise _Mistake(f"can't be read: {error.strerror or error}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise _Mistake(f"is not UTF-8 at byte {error.start}; expected a YAML file") from error


def _entries(text: str) -> Iterator[tuple[str, yaml.Node, int]]:
    """Each key with its value's node and its line. An empty file has none."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = 0 if error.problem_mark is None else error.problem_mark.line + 1
        raise _Mistake(f"is no YAML: {error.problem}; expected lines such as 'max-series: 500'", line) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _Mistake(f"is no YAML: {type(error).__name__}; expected lines such as 'max-series: 500'") from error
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _NULL):
        return
    if not isinstance(root, yaml.MappingNode):
        raise _Mistake(f"holds {_kind(root)}; expected a mapping of flags, such as 'max-series: 500'", _line(root))
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else _kind(key)
        yield name, value, _line(key)


def _option(key: str, line: int) -> Option:
    for option in OPTIONS:
        if option.flag == f"--{key}":
            return option
    keys = [option.flag.removeprefix("--") for option in OPTIONS]
    close = difflib.get_close_matches(key.removeprefix("--").removeprefix("no-"), keys, 1)
    expected = repr(close[0]) if close else "a flag without its dashes, as --print-config prints them"
    raise _Mistake(f"{key!r:.200}: no such key; expected {expected}", line)


def _value(option: Option, node: yaml.Node) -> Any:
    """The value of the option's field; None, which counts as not given, where null is the default."""
    import yaml

    key = option.flag.removeprefix("--")
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        if option.default is None:
            return None
        raise _Mistake(f"{key}: got nothing; expected {option.kind.expected}", _line(node))
    takes_list = option.repeatable or option.kind is BOUNDS
    items = node.value if isinstance(node, yaml.SequenceNode) and takes_list else [node]
    if not items and option.default:
        raise _Mistake(f"{key}: got an empty list; expected {option.kind.expected}", _line(node))
    for item in items:
        if not isinstance(item, yaml.ScalarNode):
            raise _Mistake(f"{key}: got {_kind(item)}; expected {option.kind.expected}", _line(item))
    texts = [item.value.strip() for item in items]
    if option.kind is BOUNDS:
        texts = [",".join(texts)]
    values = tuple(_parsed(option, text, _line(node)) for text in texts)
    return values if option.repeatable else values[0]


def _parsed(option: Option, text: str, line: int) -> Any:
    key = option.flag.removeprefix("--")
    if HIDDEN in text:
        raise _Mistake(f"{key}: got {HIDDEN}, which stands for a secret; expected the secret itself", line)
    try:
        return option.kind.parse(text)
    except ValueError:
        raise _Mistake(f"{key}: got {quoted(text)}; expected {option.kind.expected}", line) from None


def _kind(node: yaml.Node) -> str:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a text"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def effective_config(settings: Settings) -> str:
    """The settings as YAML. What isn't set, and has no default of the exporter's, is null."""
    import yaml

    values = {option.flag.removeprefix("--"): _plain(getattr(settings, option.name)) for option in OPTIONS}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return without_credentials(value)
    return value
