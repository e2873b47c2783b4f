"""Which functions are tasks, under which names, and with which options."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flowrra import ranges
from flowrra.exceptions import TaskNotFoundError
from flowrra.queue_names import DEFAULT_QUEUE, checked_queue
from flowrra.signatures import HOW_TO_GIVE_BOTH, TAKEN_BY_SUBMIT, Signature

TaskFunction = TypeVar("TaskFunction", bound=Callable[..., Any])
ExceptionTypes = type[BaseException] | tuple[type[BaseException], ...]

DEFAULT_MAX_RETRIES = 3
DEFAULT_RETRY_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A registered function and the options that its attempts run with.

    Attributes:
        name: Unique in a registry.
        func: The function itself, undecorated.
        cpu_bound: Whether it runs in a process pool rather than on the event loop.
        max_retries: Attempts that may follow a failed first one.
        retry_delay: Seconds before the second attempt.
        timeout: Seconds that one attempt may take; None is no limit.
        priority: Used when a submission names none; lower numbers run first.
        backoff: Each further delay is this many times the one before.
        jitter: The fraction, 0 to 1, by which a delay may be shorter or longer by chance.
        retry_on: The exceptions that are worth another attempt. An exception group is, if it is one of them or if one
            of the exceptions in it is; but :class:`flowrra.Reject` never is, nor a group that holds nothing else.
        queue: The name of the queue that it is submitted to, unless a submission names another one.
        signature: What it can be called with.
    """

    name: str
    func: Callable[..., Any]
    cpu_bound: bool = False
    max_retries: int = DEFAULT_MAX_RETRIES
    retry_delay: float = DEFAULT_RETRY_DELAY
    timeout: float | None = None
    priority: int = 0
    backoff: float = 1.0
    jitter: float = 0.0
    retry_on: ExceptionTypes = Exception
    queue: str = DEFAULT_QUEUE
    signature: Signature = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        ranges.RETRIES.check("max_retries", self.max_retries)
        ranges.SECONDS.check("retry_delay", self.retry_delay)
        ranges.WHOLE_PRIORITY.check("priority", self.priority)
        ranges.BACKOFF.check("backoff", self.backoff)
        ranges.JITTER.check("jitter", self.jitter)
        if self.timeout is not None:
            ranges.SOME_SECONDS.check("timeout", self.timeout)
        _check_exception_types(self.retry_on)
        object.__setattr__(self, "queue", checked_queue(self.queue))
        object.__setattr__(self, "signature", Signature(self.func))

    @property
    def description(self) -> str | None:
        """The first line of the function's docstring."""
        func = self.func
        while isinstance(func, functools.partial):  # its own says what a partial is
            func = func.func
        return (inspect.getdoc(func) or "").partition("\n")[0] or None


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"A task's name must be a non-empty text, not {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"A task's name must be encodable as UTF-8, {name!r} is not: {error}") from None


def _check_exception_types(types: object) -> None:
    for each in types if isinstance(types, tuple) else (types,):
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"retry_on must be an exception class or a tuple of them, not {types!r}")


def mark(func: Callable[..., Any], **attributes: Any) -> None:
    """Set attributes of a function. Those of any other callable are its own: of an object, they may mean something."""
    if hasattr(type(func), "__code__"):  # it is made by `def`, also by that of a compiler
        for name, value in attributes.items():
            setattr(func, name, value)


def _mark_for_decorators(func: Callable[..., Any]) -> None:
    """Leave in a callable what decorators above it copy with its attributes, and by which its task is found again."""
    held = None if inspect.ismethod(func) else getattr(func, "__dict__", None)  # a method's is its function's
    if isinstance(held, dict):  # set there, as the object's own __setattr__ may refuse what it does not know
        held.update(__flowrra_task__=True, __flowrra_function__=func)


def is_async(func: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine: an ``async def`` function or method, a partial of one, or an object with an
    async ``__call__``."""
    call = None if isinstance(func, type) else getattr(type(func), "__call__", None)  # noqa: B004 - see above
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(call)


def _own_name(func: Callable[..., Any]) -> str:
    name = getattr(func, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"A {type(func).__name__} has no name of its own: give the task one, task(name=…)")
    return name


def _name_of(func: Any) -> str:
    """What something that is no task of this registry is called in an error: as it would be, were it one."""
    names = (getattr(func, each, None) for each in ("task_name", "__name__"))
    return next((name for name in names if isinstance(name, str) and name), None) or ranges.shown(func)


class TaskRegistry:
    """Maps names to functions, and functions back to their definitions.

    Attributes:
        by_name, by_function: The definitions, for reading only.
        queues: The names of the queues that its tasks are submitted to, in order, by whether they are CPU-bound.

    Args:
        strict_cpu_checks: Require that CPU-bound functions are at module level, where a worker process can import them.
    """

    def __init__(self, strict_cpu_checks: bool = True) -> None:
        self.strict_cpu_checks = strict_cpu_checks
        self.by_name: dict[str, TaskDefinition] = {}
        self.by_function: dict[Callable[..., Any], TaskDefinition] = {}
        self.queues: dict[bool, tuple[str, ...]] = {False: (), True: ()}

    def task(
        self,
        name: str | None = None,
        cpu_bound: bool = False,
        max_retries: int = DEFAULT_MAX_RETRIES,
        retry_delay: float = DEFAULT_RETRY_DELAY,
        **options: Any,
    ) -> Callable[[TaskFunction], TaskFunction]:
        """Register the decorated function, which is returned as it is.

        Args:
            name: Defaults to the function's name.
            cpu_bound: Run it in a process pool; it must then be a plain function at module level.
            max_retries, retry_delay, **options: See :class:`TaskDefinition`.

        Raises:
            TypeError: The function is of the wrong kind, or an option is unknown or of the wrong type.
            ValueError: The name is taken or unusable, or an option is out of range.
        """

        def register(func: TaskFunction) -> TaskFunction:
            task_name = _own_name(func) if name is None else name
            self.register(
                TaskDefinition(task_name, func, cpu_bound, max_retries, retry_delay, **options),
            )
            return func

        if callable(name):  # @registry.task without parentheses
            func, name = name, None
            return register(func)
        return register

    def register(self, definition: TaskDefinition) -> None:
        """Add a definition and mark its function as a task. What is refused leaves nothing behind.

        Raises:
            TypeError: The function is of the wrong kind.
            ValueError: The name is taken.
        """
        func = definition.func
        if definition.name in self.by_name:
            raise ValueError(f"Task '{definition.name}' is already registered")
        self._check_function(definition)
        if definition.signature.hides_priority:  # which may be an error, and before it is there
            warnings.warn(
                f"Task '{definition.name}' has a parameter '{TAKEN_BY_SUBMIT}', which submit() takes for itself; "
                + HOW_TO_GIVE_BOTH,
                stacklevel=4,
            )
        mark(
            func,
            task_name=definition.name,
            cpu_bound=definition.cpu_bound,
            max_retries=definition.max_retries,
            retry_delay=definition.retry_delay,
        )
        _mark_for_decorators(func)
        self.by_function[func] = definition
        self.by_name[definition.name] = definition
        if definition.queue not in (queues := self.queues[definition.cpu_bound]):
            self.queues[definition.cpu_bound] = (*queues, definition.queue)

    def _check_function(self, definition: TaskDefinition) -> None:
        func, name = definition.func, definition.name
        if isinstance(func, staticmethod | classmethod):
            kind = type(func).__name__
            raise TypeError(
                f"Task '{name}' must be a function, not a {kind}: put @task below @staticmethod, "
                "or register a bound method once its class or object is there"
            )
        try:
            hash(func)
        except TypeError:
            raise TypeError(
                f"Task '{name}' must be hashable, to be found again; a {type(func).__name__} is not"
            ) from None
        if not definition.cpu_bound:
            if not is_async(func):
                raise TypeError(f"IO task '{name}' must be an async function (async def), not {_described(func)}")
            return
        if is_async(func) or not callable(func):
            raise TypeError(f"CPU task '{name}' must be a sync function (def), not {_described(func)}")
        if not hasattr(func, "__qualname__"):
            raise TypeError(f"CPU task '{name}' must be a function, not a {type(func).__name__}")
        if self.strict_cpu_checks and (func.__qualname__ != func.__name__ or not func.__name__.isidentifier()):
            raise TypeError(
                f"CPU task '{name}' must be module-level, so that a worker process can import it; "
                f"'{func.__qualname__}' is not: define it with `def` at the top level of a module, and pass what it "
                "takes from around it as arguments"
            )

    def get(self, name: str) -> Callable[..., Any] | None:
        """The function registered under ``name``, or None."""
        definition = self.by_name.get(name)
        return None if definition is None else definition.func

    def get_or_raise(self, name: str) -> Callable[..., Any]:
        """The function registered under ``name``.

        Raises:
            TaskNotFoundError: There is none.
        """
        return self.definition(name).func

    def definition(self, task: str | Callable[..., Any]) -> TaskDefinition:
        """What is registered under a name or for a function.

        Raises:
            TaskNotFoundError: Nothing is.
        """
        if isinstance(task, str):
            found, name, hint = self.by_name.get(task), task, ""
        else:
            found, name = self._under_decorators(task), _name_of(task)
            hint = "" if found else self._hint(task)
        if found is None:
            raise TaskNotFoundError(name, hint)
        return found

    def _of_function(self, func: Any) -> TaskDefinition | None:
        try:
            return self.by_function.get(func)
        except TypeError:  # something unhashable
            return None

    def _under_decorators(self, func: Any) -> TaskDefinition | None:
        """What is registered for a function, or for one that decorators above ``@task`` have wrapped."""
        found = self._of_function(func)
        if found is not None or inspect.ismethod(func):  # a method shows its function's attributes, and is another one
            return found
        try:
            inner = inspect.unwrap(func, stop=lambda each: self._of_function(each) is not None)
        except ValueError:  # they go round in circles
            inner = func
        # functools.wraps copies the mark; so do decorators that leave out __wrapped__.
        marked = (getattr(each, "__flowrra_function__", None) for each in (inner, func))
        return next(filter(None, map(self._of_function, (inner, *marked))), None)

    def _hint(self, task: Any) -> str:
        """What to do about something that is no task, where it holds one."""
        if inspect.ismethod(task) and (found := self._of_function(task.__func__)):
            where = task.__func__.__qualname__
            return (
                f"its function is the task '{found.name}', and takes the object first: submit({where}, object, …), "
                "or register the bound method itself"
            )
        if isinstance(task, functools.partial) and (found := self._under_decorators(task.func)):
            return f"it is a partial of the task '{found.name}': give all arguments to submit, or register the partial"
        held = [*_closed_over(task), *getattr(task, "__dict__", {}).values()]
        for found in filter(None, map(self._of_function, held)):
            return (
                f"a decorator above @task hides the task '{found.name}' in it: use functools.wraps in the decorator, "
                "put @task above it, or submit by the name"
            )
        return ""

    def definitions(self) -> list[TaskDefinition]:
        """Everything registered, in the order of registration."""
        return list(self.by_name.copy().values())

    def list_tasks(self) -> list[str]:
        """The registered names, in the order of registration."""
        return list(self.by_name.copy())

    def is_registered(self, name: str) -> bool:
        """Whether a task has that name."""
        return name in self.by_name

    def unregister(self, name: str) -> bool:
        """Forget a task; False if there was none. Its waiting submissions will fail with TaskNotFoundError."""
        definition = self.by_name.pop(name, None)
        if definition is None:
            return False
        if self.by_function.get(definition.func) is definition:
            del self.by_function[definition.func]
            for other in self.by_name.values():  # the function may be another task, too
                if other.func == definition.func:
                    self.by_function[other.func] = other
        return True

    def __len__(self) -> int:
        return len(self.by_name)

    def __contains__(self, name: object) -> bool:
        return name in self.by_name


def _described(func: Any) -> str:
    return getattr(func, "__qualname__", None) or ranges.shown(func)


def _closed_over(func: Any) -> list[Any]:
    """What a function takes from around it."""
    values = []
    for cell in getattr(func, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # it is empty yet
            values.append(cell.cell_contents)
    return values
