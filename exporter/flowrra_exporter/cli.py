"""Parses the command line and runs the command; turns errors into one line on standard error and status 2."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowrra_exporter._version import __version__
from flowrra_exporter.config_file import CONFIG_FILE, effective_config, load_all_settings
from flowrra_exporter.errors import UsageError, did_you_mean, quoted
from flowrra_exporter.logs import mask_secrets
from flowrra_exporter.options import SECONDS, Option
from flowrra_exporter.settings import OPTIONS, Settings

if TYPE_CHECKING:
    import click

PROGRAM = "flowrra-exporter"
USAGE_ERROR = 2
# The first argument that asks for a check. An app can't be meant: that would have a colon.
CHECK = "check"
_HELP = {"help_option_names": ["-h", "--help"]}
_EXTRA = ("aiohttp", "click", "prometheus_client", "opentelemetry", "yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with these arguments (the process's own by default); returns the exit status."""
    _open_closed_streams()
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        return _fail(f"{error.name} is not installed; run: pip install 'flowrra[exporter]'")


def _open_closed_streams() -> None:
    """What the caller has closed (``>&-``) is there and leads nowhere, and no connection gets its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _run(arguments: Sequence[str] | None) -> int:
    import click

    words = list(sys.argv[1:] if arguments is None else arguments)
    checks = words[:1] == [CHECK]
    parser, name = (_check_parser(), f"{PROGRAM} {CHECK}") if checks else (_parser(), PROGRAM)
    try:
        return int(parser.main(args=words[checks:], prog_name=name, standalone_mode=False) or 0)
    except click.Abort:
        return _fail("aborted")
    except click.ClickException as error:
        return _fail(error.format_message())


def _parser() -> click.Command:
    import click

    print_config = "Print the settings in force as YAML, secrets hidden, and exit."
    command = click.Command(
        PROGRAM,
        params=[
            *_settings_options(),
            click.Option(["--print-config"], is_flag=True, help=print_config),
            click.Argument(["target"], metavar="MODULE:APP", required=False),
        ],
        callback=_start,
        context_settings=_HELP,
        help="Runs the Flowrra app MODULE:APP, and serves its metrics and health. MODULE:APP is an app, or a "
        "function that returns one. Each flag is also an environment variable: --web.listen-address is "
        "FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS.",
        epilog=f"'{PROGRAM} {CHECK} MODULE:APP' says what is wrong with flags, configuration file and app, or with an "
        f"endpoint that is served already: see '{PROGRAM} {CHECK} --help'.",
    )
    return click.version_option(__version__, prog_name=PROGRAM)(command)


def _check_parser() -> click.Command:
    import click

    strict = "Count a warning as an error."
    return click.Command(
        CHECK,
        params=[
            click.Option(["--url"], metavar="URL", help="Check the metrics that are served there, and the probes."),
            click.Option(["--timeout"], metavar="SECONDS", default="10", help="Time for each answer. [default: 10]"),
            click.Option(["--strict"], is_flag=True, help=strict),
            *_settings_options(),
            click.Argument(["target"], metavar="[MODULE:APP]", required=False),
        ],
        callback=_check,
        context_settings=_HELP,
        help="Says line by line what is right and what is wrong: with the settings (flags, variables, configuration "
        "file); with the app MODULE:APP, which is imported, but not started; with what is served at a URL. Exit "
        "status 0 if nothing is wrong, 1 if something is.",
    )


def _settings_options() -> list[click.Option]:
    return [_click_option(option) for option in (CONFIG_FILE, *OPTIONS)]


def _click_option(option: Option) -> click.Option:
    import click

    names = [option.flag, option.name]
    if option.negatable:
        names[0] = f"{option.flag}/--no-{option.flag.removeprefix('--')}"
    if option.switch:
        return click.Option(names, is_flag=True, default=None, help=option.help)
    return click.Option(names, multiple=True, metavar=option.kind.metavar, help=option.help)


def _start(target: str | None, print_config: bool, **given: Any) -> int:
    """Runs the command; ``given`` has each flag's texts, for a switch True, False or None."""
    debug = bool(given["debug"])
    try:
        settings = load_all_settings(_texts(given), os.environ)
        debug = settings.debug
        if print_config:
            return _print_config(settings)
        if target is None:
            raise UsageError(f"Missing argument 'MODULE:APP'; expected an app, as in: {PROGRAM} shop.tasks:app")
        if ":" not in target and did_you_mean(target, [CHECK]):
            raise UsageError(f"{quoted(target)} is no command{did_you_mean(target, [CHECK])}")
        return _execute(target, settings)
    except UsageError as error:
        if debug:
            sys.stderr.write(mask_secrets("".join(traceback.format_exception(error))))
        return _fail(str(error))


def _texts(given: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    switches = {option.name: _switch(given[option.name]) for option in OPTIONS if option.switch}
    return {**given, **switches}


def _print_config(settings: Settings) -> int:
    sys.stdout.write(effective_config(settings))
    return 0


def _check(target: str | None, url: str | None, timeout: str, strict: bool, **given: Any) -> int:
    """Runs the check; ``given`` as for ``_start``."""
    from flowrra_exporter.check_command import CheckCommand

    try:
        seconds = SECONDS.parse(timeout)
    except ValueError:
        return _fail(f"--timeout: got {quoted(timeout)}; expected {SECONDS.expected}")
    try:
        return CheckCommand(_texts(given), os.environ, seconds, strict).run(target, url)
    except UsageError as error:
        return _fail(str(error))


def _switch(given: bool | None) -> tuple[str, ...]:
    """A switch as a text; none if it wasn't given."""
    return () if given is None else (str(given).lower(),)


def _execute(target: str, settings: Settings) -> int:
    from flowrra_exporter.command import Command

    return Command(target, settings).run()


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {mask_secrets(message)}", file=sys.stderr)  # noqa: T201 - the one line for the user
    return USAGE_ERROR
