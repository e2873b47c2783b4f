"""Which app is meant: ``MODULE:APP``, or the server that it uses. It is asked and steered through an app of the
command's own, which runs nothing."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

import click

from flowrra.app import Flowrra
from flowrra.backends.memory import InMemoryBackend
from flowrra.command.suggestions import did_you_mean
from flowrra.config import BackendConfig, BrokerConfig, Config, ExecutorConfig
from flowrra.exceptions import BackendError
from flowrra.management import FlowrraManager
from flowrra.partitions import MAX_PARTITIONS
from flowrra.urls import quoted

APP_VARIABLE = "FLOWRRA_APP"
FORM = "expected MODULE:APP, such as shop.tasks:app"
_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
_IN_MEMORY = (
    "in the memory of the process that runs the app, where no other one sees {}; "
    "give the app a broker and a result backend on Redis, or look at it through flowrra-exporter"
)

Answer = TypeVar("Answer")


class Session:
    """One run of the command: the app that is meant, and how to show what it answers.

    Args:
        app: The app; it is never started here.
        as_json: Whether ``--json`` was given.
    """

    def __init__(self, app: Flowrra, as_json: bool) -> None:
        self.app = app
        self.as_json = as_json

    def ask(self, question: Callable[[FlowrraManager], Awaitable[Answer]], *, results: bool = False) -> Answer:
        """What the Management API answers, of an app that submits and steers, and runs no task, schedule or hook.

        Args:
            question: What is asked.
            results: Whether the records of tasks are asked for.

        Raises:
            UsageError: What is asked for is in another process's memory.
            Exception: As the question.
        """
        if self.app.config.broker is None:
            raise click.UsageError(f"The app's tasks wait {_IN_MEMORY.format('them')}")
        if results and isinstance(self.app.results, InMemoryBackend):
            raise click.UsageError(f"The app's results are {_IN_MEMORY.format('them')}")
        return asyncio.run(self._ask(question))

    async def _ask(self, question: Callable[[FlowrraManager], Awaitable[Answer]]) -> Answer:
        async with self.app.producer() as producer:
            return await question(FlowrraManager(producer))


def choose_app(target: str | None, broker: str | None, **of_broker: Any) -> Flowrra:
    """The app that is meant by the flags, or else by the environment.

    Args:
        target: ``MODULE:APP``.
        broker: Its broker's URL instead.
        of_broker: What only goes with the broker's URL; None where it isn't given.

    Raises:
        UsageError: None is meant, or it can't be had.
    """
    if target and broker:
        raise click.UsageError("Give either --app or --broker: an app has its own broker")
    given = {name: value for name, value in of_broker.items() if value is not None}
    if broker:
        return _app_at(broker, given.pop("backend", broker), **given)
    if given:
        # Left out, another queue than the one that is meant would be looked at, or purged.
        raise click.UsageError(f"--{next(iter(given))} goes with --broker: an app, and the environment, have their own")
    if target := target or os.environ.get(APP_VARIABLE):
        with redirect_stdout(sys.stderr):  # what its module prints is no part of an answer
            return load_app(target)
    config = Config.from_env()
    if not isinstance(config.broker, BrokerConfig):
        raise click.UsageError(
            f"Which app? Give --app MODULE:APP or --broker URL, or set {APP_VARIABLE} or FLOWRRA_BROKER_URL"
        )
    if config.backend is None:
        shared = config.broker
        config.backend = BackendConfig(url=shared.url, namespace=shared.namespace, partitions=shared.partitions)
    return Flowrra(config)


def _app_at(broker: str, backend: str, **shared: Any) -> Flowrra:
    config = Config(
        broker=BrokerConfig(url=broker, **shared),
        backend=BackendConfig(url=backend, **shared),
        executor=ExecutorConfig(consume=False),
    )
    try:
        config.create_broker()  # first: without --backend it is its URL that an error is about
        return Flowrra(config)
    except BackendError as error:
        raise click.UsageError(str(error)) from error


def load_app(target: str) -> Flowrra:
    """The app that ``MODULE:APP`` names, or that the function of that name returns. The current folder is importable.

    Raises:
        UsageError: There is none, or its module or function fails.
    """
    found = _import_target(target)
    if not isinstance(found, Flowrra) and callable(found):
        found = _call(found, target)
    if not isinstance(found, Flowrra):
        raise click.UsageError(f"{quoted(target)} is no app but a {type(found).__name__}; {FORM}")
    return found


def _import_target(target: str) -> Any:
    if not _TARGET.fullmatch(target):
        raise click.UsageError(f"{quoted(target)} names no app; {FORM}{_meant(target)}")
    name, _, attribute = target.partition(":")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    value = _import(name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise click.UsageError(f"Module {name!r} has no {attribute!r}{did_you_mean(part, dir(value))}")
        value = getattr(value, part)
    return value


def _meant(target: str) -> str:
    """What may have been meant by a file's name, or without the name of the app."""
    path, _, attribute = target.partition(":")
    module = path.removesuffix(".py").removeprefix("./").replace("/", ".")
    meant = f"{module}:{attribute or 'app'}"
    return f"; did you mean {meant!r}?" if _TARGET.fullmatch(meant) else ""


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            here = (module.name for module in pkgutil.iter_modules([os.getcwd()]))
            raise click.UsageError(f"There is no module {name!r}; {FORM}{did_you_mean(name, here)}") from error
        raise click.UsageError(f"Importing {name!r} failed: {described(error)}") from error


def _call(function: Callable[[], Any], target: str) -> Any:
    async def wait_for(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    try:
        found = function()
        return asyncio.run(wait_for(found)) if inspect.isawaitable(found) else found
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise click.UsageError(f"Calling {target!r} failed: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def app_options() -> list[click.Parameter]:
    """The options that every command on an app has."""
    return [
        click.Option(["-A", "--app", "target"], metavar="MODULE:APP", help=f"The app. [env: {APP_VARIABLE}]"),
        click.Option(["--broker"], metavar="URL", help="Its broker, where its code isn't at hand."),
        click.Option(["--backend"], metavar="URL", help="With --broker: its result backend. [default: the broker's]"),
        click.Option(["--namespace"], metavar="NAME", help="With --broker. [default: flowrra]"),
        click.Option(
            ["--partitions"],
            metavar="N",
            type=click.IntRange(1, MAX_PARTITIONS),
            help="With --broker: how many its queues have. [default: 1]",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the answer as JSON."),
    ]
