"""Finds the app: imports ``module:attribute``, calls a function, and knows how to start and stop what came of it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import pkgutil
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from flowrra_exporter.errors import UsageError, did_you_mean, quoted
from flowrra_exporter.logs import mask_secrets

_FORM = "expected 'module:attribute', such as 'shop.tasks:app'"
_FACTORY_FORM = "expected an app, or a function without required arguments that returns one"
_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
_PACKAGE = str(Path(__file__).resolve().parents[1])
_ANSWERS = ("get_stats", "health_check")
# What Flowrra.state is once all of its stop is done, and how often it is asked.
_STOPPED = "stopped"
_LOOK_SECONDS = 0.5
# What Flowrra.start raises where somebody has called stop() meanwhile, such as one of its hooks.
_STOPPED_WHILE_STARTING = "StoppedWhileStartingError"


class StoppedFromWithin(Exception):
    """The app was stopped while it started, though nobody here has asked for it."""


class Target:
    """An app, with its manager. Starting and stopping one that has no such methods does nothing."""

    def __init__(self, app: Any, manager: Any) -> None:
        self.app = app
        self.manager = manager

    async def start(self) -> None:
        """Starts the app; raises what the app raises, or StoppedFromWithin."""
        try:
            await _call(self.app, "start")
        except Exception as error:
            if type(error).__name__ == _STOPPED_WHILE_STARTING:
                raise StoppedFromWithin from error
            raise

    async def stop(self, wait: bool, timeout: float) -> None:
        """Stops the app; raises what the app raises.

        Args:
            wait: Running tasks may finish.
            timeout: How long they may take for that, in seconds.
        """
        await _call(self.app, "stop", wait=wait, timeout=timeout)

    async def until_stopped(self) -> None:
        """Returns once the app, which was started, has been stopped by whomever; never for one that doesn't tell."""
        while True:
            if _is_flowrra(self.app) and getattr(self.app, "state", None) == _STOPPED:
                return
            await asyncio.sleep(_LOOK_SECONDS)


async def _call(app: Any, method: str, **arguments: Any) -> None:
    function = getattr(app, method, None)
    if function is None:
        return
    parameters = inspect.signature(function).parameters
    accepts_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    answer = function(**{key: value for key, value in arguments.items() if accepts_all or key in parameters})
    if inspect.isawaitable(answer):
        await answer


def check_target(text: str) -> None:
    """Checks the form of a target.

    Raises:
        UsageError: It can't be ``module:attribute``.
    """
    if not _TARGET.fullmatch(text):
        raise UsageError(f"{quoted(text)} names no app; {_FORM}{_meant(text)}")


def _meant(text: str) -> str:
    """What may have been meant with a file's name, or without the name of the app."""
    path, colon, attribute = text.partition(":")
    module = path.removesuffix(".py").removeprefix("./").replace("/", ".")
    target = f"{module}:{attribute or 'app'}"
    if _TARGET.fullmatch(target) and not (module == path and colon):
        return f"; did you mean {target!r}?"
    return ""


def import_target(text: str) -> Any:
    """The object that ``module:attribute`` names; the current folder is importable.

    Raises:
        UsageError: There is no such object, or importing its module fails.
    """
    check_target(text)
    module_name, _, attribute = text.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    value = _import(module_name, text)
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, dir(value))
            raise UsageError(f"module {module_name!r} has no attribute {attribute!r}; {_FORM}{hint}")
        value = getattr(value, part)
    return value


def _import(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            hint = _meant(target) or did_you_mean(name, (module.name for module in pkgutil.iter_modules([os.getcwd()])))
            raise UsageError(f"there is no module {name!r} here or on the path; {_FORM}{hint}") from error
        raise UsageError(f"importing {name!r} failed: {describe(error)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"importing {name!r} failed: {describe(error)}") from error


async def resolve_target(found: Any, text: str) -> Target:
    """The app itself, or what the function ``found`` returns (awaited if need be).

    Raises:
        UsageError: It is no app, or the function fails.
    """
    if not is_app(found) and callable(found):
        if needed := _required_arguments(found):
            raise UsageError(f"{text!r} is called without arguments, and needs {needed}; {_FACTORY_FORM}")
        try:
            found = found()
            if inspect.isawaitable(found):
                found = await found
        except (Exception, SystemExit) as error:
            raise UsageError(f"calling {text!r} failed: {describe(error)}") from error
    if not is_app(found):
        # Not what it says of itself: settings and texts are where passwords are.
        what = repr(found) if found is None or isinstance(found, bool | int | float) else f"a {type(found).__name__}"
        raise UsageError(
            f"{text!r} is no app but {what:.80}; expected a flowrra.Flowrra, an object with "
            "async get_stats() and health_check(), or a function that returns one"
        )
    return Target(found, manager_of(found))


def _required_arguments(function: Any) -> str:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it has no signature; calling it will tell
        return ""
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ", ".join(each.name for each in parameters if each.default is each.empty and each.kind not in optional)


def is_app(value: Any) -> bool:
    """Whether this is a Flowrra app, or answers the Management API's questions itself."""
    return _is_flowrra(value) or _answers(value)


def has_started(app: Any) -> bool:
    """Whether a Flowrra app has started and runs; one of another kind that is served is taken to have."""
    return not _is_flowrra(app) or bool(app.is_running and getattr(app, "has_started", True))


def manager_of(app: Any) -> Any:
    """What answers the Management API for this app: a FlowrraManager, or the app itself."""
    if not _is_flowrra(app) or _answers(app):
        return app
    from flowrra.management import FlowrraManager

    return FlowrraManager(app)


def _answers(value: Any) -> bool:
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in _ANSWERS)


def _is_flowrra(value: Any) -> bool:
    """Whoever has a Flowrra app has imported flowrra: no need to do it here."""
    flowrra = sys.modules.get("flowrra")
    kind = getattr(flowrra, "Flowrra", None)
    return isinstance(kind, type) and isinstance(value, kind)


def describe(error: BaseException) -> str:
    """An exception in one line: its class, its text without passwords, and the line of code that raised it."""
    words = mask_secrets(" ".join(str(error).split()))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    at = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {words:.300}{at}" if words else f"{type(error).__name__}{at}"


def _is_users(filename: str) -> bool:
    return not (filename.startswith(("<", _PACKAGE)) or filename == importlib.__file__)
