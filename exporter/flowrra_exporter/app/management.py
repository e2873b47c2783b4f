"""The one door to the app: its Management API, asked on the loop or read from this thread.

Works with ``flowrra.management.FlowrraManager`` of any version and with any object that answers ``get_stats`` and
``health_check``; methods that are missing are simply not asked for.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any

from flowrra_exporter.app.loop import AppLoop, CallTimeout, LoopUnavailable
from flowrra_exporter.app.watch import Watch

# Questions with arguments that wait at a time: however many ask, the app has its loop for itself most of the time.
MOST_QUESTIONS = 32


class NoSuchMethod(LookupError):
    """This manager doesn't have the method."""


class NotDone(Exception):
    """The app's loop couldn't be asked to do something: it wasn't begun, and won't be. The text says why."""


class _Act:
    """Something to be done on the app's loop, unless it was given up before. Each thread writes before it looks."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act
        self.begun = False
        self.given_up = False

    def begin(self) -> Any:
        self.begun = True
        if self.given_up:
            raise NotDone("it was given up")
        return self._act()


class Management:
    """Asks a manager: by ``ask`` what needs the app's loop, by ``read`` what is plain numbers.

    Args:
        manager: What answers the Management API.
        app_loop: The loop on which it is asked.
        call_timeout: The most that an answer may take, in seconds.
        observes: The app is run by other processes, and only what they share can be asked.
    """

    def __init__(self, manager: Any, app_loop: AppLoop, call_timeout: float, observes: bool = False) -> None:
        self.observes = observes
        self._manager = manager
        self._app_loop = app_loop
        self._call_timeout = call_timeout
        self._numbers = itertools.count()
        self._questions = 0

    def has(self, method: str) -> bool:
        """Whether the manager has this method."""
        return callable(getattr(self._manager, method, None))

    @property
    def flowrra_version(self) -> str | None:
        """The version of flowrra whose manager this is; None if the app answers for itself."""
        manager_class = getattr(sys.modules.get("flowrra.management"), "FlowrraManager", None)
        if manager_class is None or not isinstance(self._manager, manager_class):
            return None
        version = getattr(sys.modules.get("flowrra"), "__version__", None)
        return None if version is None else str(version)

    async def ask(self, method: str, timeout: float | None = None, **arguments: Any) -> Any:
        """What the method answers to these arguments on the app's loop.

        Whoever asks the same meanwhile shares the answer. A question with arguments, of which there may be many, is
        given up when nobody waits for its answer any more.

        Args:
            method: The name of the method.
            timeout: The most that the answer may take, in seconds; the manager's limit if None.
            arguments: The arguments of the method.

        Raises:
            NoSuchMethod: The manager doesn't have the method.
            Exception: Whatever ``AppLoop.call`` raises.
        """
        self._check_has(method)
        limit = self._call_timeout if timeout is None else timeout
        call = functools.partial(getattr(self._manager, method), **arguments)
        if not arguments:
            return await self._app_loop.call(method, call, limit)
        if self._questions >= MOST_QUESTIONS:
            raise CallTimeout(f"{MOST_QUESTIONS} other questions wait for their answers; try again later")
        key = f"{method}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
        self._questions += 1
        try:
            return await self._app_loop.call(key, call, limit, give_up=True)
        finally:
            self._questions -= 1

    async def act(self, method: str, timeout: float, **arguments: Any) -> Any:
        """What the method answers, which changes something: shared with nobody, and not begun once that was given up.

        Args:
            method: The name of the method.
            timeout: The most that the answer may take, in seconds.
            arguments: The arguments of the method.

        Raises:
            NoSuchMethod: The manager doesn't have the method.
            NotDone: The app's loop didn't get to it. Nothing was done, nor will be.
            CallTimeout: It was begun, and may yet be done.
            Exception: Whatever the method raises.
        """
        self._check_has(method)
        act = _Act(functools.partial(getattr(self._manager, method), **arguments))
        key = f"{method}#{next(self._numbers)}"
        try:
            return await self._app_loop.call(key, act.begin, timeout)
        except (LoopUnavailable, CallTimeout) as error:
            act.given_up = True
            if act.begun:
                raise CallTimeout(f"{method}() was begun and has not answered: {error}") from error
            raise NotDone(str(error)) from error

    def watch(self, **arguments: Any) -> Watch:
        """The changes of tasks as the manager's ``watch`` tells them to these arguments; to be opened and closed."""
        return Watch(self._app_loop, functools.partial(self._manager.watch, **arguments))

    def _check_has(self, method: str) -> None:
        if not self.has(method):
            place = "in observer mode there is" if self.observes else "this app has"
            raise NoSuchMethod(f"{place} no {method}()")

    def read(self, method: str, **arguments: Any) -> Any:
        """What the method answers to these arguments here and now.

        For those that are documented as plain numbers, readable from any thread.

        Raises:
            TypeError: The method waited for something.
        """
        answer = getattr(self._manager, method)(**arguments)
        if not inspect.iscoroutine(answer):
            return answer
        try:
            answer.send(None)
        except StopIteration as stop:
            return stop.value
        answer.close()
        raise TypeError(f"{method}() waited for something; expected plain numbers that any thread can read")
