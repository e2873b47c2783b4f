"""What a task can be called with, so that a call that doesn't fit is refused when it is submitted."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowrra.ranges import shown

# What submit() takes for itself: a task's parameter of that name can be given by position, or through options().
TAKEN_BY_SUBMIT = "priority"
HOW_TO_GIVE_BOTH = "app.options(priority=…).submit(task, priority=…) gives the queue the first and the task the second"
# Of a function that takes anything there is no end of them.
MAX_SHAPES = 100

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def function_of(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a callable's code is in: of a partial the one that it is of, of an object that of its class."""
    while isinstance(func, functools.partial):
        func = func.func
    found: Callable[..., Any] = func if hasattr(func, "__qualname__") else type(func).__call__
    return found


class Signature:
    """Decides whether calls fit a function.

    Args:
        func: The function, as it is called: what its decorators hide is not looked at, as they may add arguments.

    Attributes:
        fitting: The shapes of calls that are known to fit. A shape is how many arguments there are by position, in a
            tuple with the names of the others if there are any.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.fitting: set[Any] = set()
        self._signature: inspect.Signature | None = None
        try:
            self._signature = inspect.signature(func, follow_wrapped=False)
        except Exception:  # noqa: BLE001 - it has none, or its annotations are user code: then every call is taken
            return

    @property
    def hides_priority(self) -> bool:
        """Whether it has a named parameter that ``submit`` takes for itself."""
        parameter = None if self._signature is None else self._signature.parameters.get(TAKEN_BY_SUBMIT)
        return parameter is not None and parameter.kind in NAMED

    def check(self, task_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse a call that doesn't fit, and remember the shape of one that does: the next one is not looked at.

        Raises:
            TypeError: It doesn't fit.
        """
        shape = (len(args), *kwargs) if kwargs else len(args)
        if shape in self.fitting:
            return
        if self._signature is not None:
            try:
                bound = self._signature.bind(*args, **kwargs)
                self._require_by_position(bound)
            except TypeError as error:
                raise TypeError(f"Task '{task_name}' takes {self}: {error}{self._hint(kwargs)}") from None
        if len(self.fitting) < MAX_SHAPES:
            self.fitting.add(shape)

    def _require_by_position(self, bound: inspect.BoundArguments) -> None:
        # Python 3.13.0 overlooks one whose name is given to the function's **.
        for name, parameter in bound.signature.parameters.items():
            is_optional = parameter.default is not inspect.Parameter.empty
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and not is_optional and name not in bound.arguments:
                raise TypeError(f"missing a required positional-only argument: {name!r}")

    def _hint(self, kwargs: Mapping[str, Any]) -> str:
        if not self.hides_priority or TAKEN_BY_SUBMIT in kwargs:
            return ""
        return f" (submit() takes {TAKEN_BY_SUBMIT}= for itself; {HOW_TO_GIVE_BOTH})"

    def __str__(self) -> str:
        return shown(self._signature)[len("<Signature ") : -1] if self._signature else "anything"
