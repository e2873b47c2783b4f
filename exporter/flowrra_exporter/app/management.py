"""The one door to the app: its Management API, asked on the loop or read from this thread.

Works with ``flowrra.management.FlowrraManager`` of any version and with any object that answers ``get_stats`` and
``health_check``; methods that are missing are simply not asked for.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

from flowrra_exporter.app.loop import AppLoop


class NoSuchMethod(LookupError):
    """This manager doesn't have the method."""


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

    async def ask(self, method: str, timeout: float | None = None, **arguments: int) -> Any:
        """What the method answers to these arguments on the app's loop.

        Args:
            method: The name of the method.
            timeout: The most that the answer may take, in seconds; the manager's limit if None.
            arguments: The arguments of the method.

        Raises:
            NoSuchMethod: The manager doesn't have the method.
            Exception: Whatever ``AppLoop.call`` raises.
        """
        if not self.has(method):
            place = "in observer mode there is" if self.observes else "this app has"
            raise NoSuchMethod(f"{place} no {method}()")
        limit = self._call_timeout if timeout is None else timeout
        call = functools.partial(getattr(self._manager, method), **arguments)
        key = f"{method}({', '.join(f'{name}={value}' for name, value in arguments.items())})"
        return await self._app_loop.call(key if arguments else method, call, limit)

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
