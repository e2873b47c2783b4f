"""What can be a task besides a plain function, and how a task is found whatever is wrapped around it."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flowrra import Flowrra, Task, TaskNotFoundError, TaskRegistry
from flowrra.management import FlowrraManager
from tests.core import cpu_tasks
from tests.core.apps import cpu_app, final, memory_app
from tests.core.test_polled_broker import ListBroker

if TYPE_CHECKING:
    from tests.core.apps import RemoteBackend as Scales


async def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def add_here(a: int, b: int) -> int:
    return a + b


class Adder:
    def __init__(self, to: int) -> None:
        self.to = to

    async def add(self, a: int) -> int:
        return a + self.to

    async def __call__(self, a: int) -> int:
        return a + self.to

    @staticmethod
    async def add_one(a: int) -> int:
        return a + 1


@dataclass
class Parcel:
    weight: float


class Weigh:
    """Weighs."""

    scales: Scales

    async def __call__(self, parcel: Parcel) -> float:
        return parcel.weight


class PlainBroker(ListBroker):
    """Keeps tasks as data."""

    async def push(self, task: Task) -> None:
        await super().push(Task(**asdict(task)))


async def weigh(times: int, parcel: Parcel) -> float:
    return times * parcel.weight


async def result_of(app: Flowrra, task: Any, *args: Any) -> Any:
    record = await final(app, await app.submit(task, *args), within=10)
    assert record.status == "success", record.error
    return record.result


class TestWhatWorks:
    async def test_a_bound_method(self) -> None:
        app, adder = memory_app(), Adder(10)
        app.task()(adder.add)
        async with app:
            assert await result_of(app, adder.add, 1) == 11
            assert await result_of(app, "add", 2) == 12
            with pytest.raises(TaskNotFoundError):
                await app.submit(Adder(20).add, 1)

    async def test_a_static_method(self) -> None:
        app = memory_app()
        app.task()(Adder.add_one)
        async with app:
            assert await result_of(app, Adder.add_one, 1) == 2

    async def test_a_partial_with_a_name(self) -> None:
        app, add_ten = memory_app(), functools.partial(add, 10)
        app.task(name="add ten")(add_ten)
        async with app:
            assert await result_of(app, add_ten, 1) == 11
            with pytest.raises(TypeError, match="'add ten' takes"):
                await app.submit(add_ten, 1, 2)
        assert app.registry.definition(add_ten).description == "Adds."

    async def test_an_object_with_an_async_call_and_a_name(self) -> None:
        app, adder = memory_app(), Adder(10)
        app.task(name="adder")(adder)
        async with app:
            assert await result_of(app, adder, 1) == 11

    async def test_the_attributes_of_an_object_stay_its_own(self) -> None:
        class Fetch:
            def __init__(self) -> None:
                self.max_retries, self.task_name, self._executor = 10, "mine", "a pool of its own"

            async def __call__(self) -> tuple[int, str, str]:
                return self.max_retries, self.task_name, self._executor

        app, fetch = memory_app(), Fetch()
        app.task(name="fetch", max_retries=0)(fetch)
        async with app:
            assert await result_of(app, fetch) == (10, "mine", "a pool of its own")
            assert await result_of(app, timed_without_wrapped(timed(fetch))) == (10, "mine", "a pool of its own")

    async def test_an_object_may_take_no_attributes(self) -> None:
        class Strict:
            def __setattr__(self, name: str, value: object) -> None:
                raise ValueError(f"no field {name}")

            async def __call__(self) -> int:
                return 1

        app, strict = memory_app(), Strict()
        app.task(name="strict")(strict)
        async with app:
            assert await result_of(app, strict) == 1

    @pytest.mark.parametrize(
        ("task", "qualname"),
        [(Weigh(), "Weigh.__call__"), (functools.partial(weigh, 2), "weigh")],
        ids=["object", "partial"],
    )
    async def test_what_is_no_function_is_told_of_and_gets_what_it_is_annotated_with(
        self, task: Callable[..., Any], qualname: str
    ) -> None:
        app = memory_app(broker=PlainBroker())
        app.task(name="task", max_retries=0)(task)
        async with app:
            assert await result_of(app, task, Parcel(1.5)) in (1.5, 3.0)
        info = await FlowrraManager(app).get_task_info("task")
        assert info is not None
        assert (info["module"], info["qualname"]) == (__name__, qualname)

    async def test_a_function_of_the_standard_library_in_a_process(self) -> None:
        app = cpu_app()
        app.task(cpu_bound=True)(math.factorial)
        async with app:
            assert await result_of(app, math.factorial, 5) == 120


class Unhashable(Adder):
    __hash__ = None  # type: ignore[assignment]


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("func", "options", "text"),
        [
            (functools.partial(add, 1), {}, r"A partial has no name of its own: .* task\(name=…\)"),
            (Adder(1), {}, "A Adder has no name of its own"),
            (Unhashable(1), {"name": "x"}, "Task 'x' must be hashable, .* a Unhashable is not"),
            (Adder, {}, r"must be an async function \(async def\), not Adder"),
            (lambda: add(1, 2), {}, "must be an async function .*, not .*lambda"),
            (staticmethod(add), {}, "must be a function, not a staticmethod: put @task below @staticmethod"),
            (classmethod(add), {}, "must be a function, not a classmethod"),
            (42, {"name": "x"}, "must be an async function .*, not 42"),
            (functools.partial(add_here, 1), {"cpu_bound": True}, "A partial has no name of its own"),
            (functools.partial(add_here, 1), {"cpu_bound": True, "name": "x"}, "must be a function, not a partial"),
            (functools.partial(add, 1), {"cpu_bound": True, "name": "x"}, "must be a sync function"),
            (functools.partial(add, 1), {"cpu_bound": True}, "sync function|no name of its own"),
            (Adder(1), {"cpu_bound": True, "name": "x"}, "must be a sync function"),
            (lambda: 1, {"cpu_bound": True}, "must be module-level"),
            (Adder(1).__init__, {"cpu_bound": True}, "must be module-level"),
        ],
        ids=lambda each: re.sub("0x[0-9a-f]+", "", str(each))[:40],
    )
    @pytest.mark.parametrize("owner", [TaskRegistry, cpu_app])
    def test_with_what_to_do(
        self, owner: Callable[[], TaskRegistry | Flowrra], func: Any, options: dict[str, Any], text: str
    ) -> None:
        tasks = owner()
        registry = tasks.registry if isinstance(tasks, Flowrra) else tasks
        with pytest.raises(TypeError, match=text):
            tasks.task(**options)(func)
        assert registry.list_tasks() == []
        assert not registry.by_function

    async def test_a_method_whose_function_is_the_task(self) -> None:
        app = memory_app()

        class Shop:
            @app.task()
            async def sell(self, what: str) -> str:
                return what

        async with app:
            with pytest.raises(
                TaskNotFoundError, match=r"not registered: its function is the task 'sell'.*takes the obj"
            ):
                await app.submit(Shop().sell, "tea")
            assert await result_of(app, Shop.sell, Shop(), "tea") == "tea"

    async def test_a_partial_of_a_task(self) -> None:
        app = memory_app()
        app.task()(add)
        async with app:
            with pytest.raises(
                TaskNotFoundError, match="it is a partial of the task 'add': give all arguments to submit"
            ):
                await app.submit(functools.partial(add, 1), 2)


def timed(function: Callable[..., Any]) -> Any:
    """A decorator as it should be."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


def timed_without_wrapped(function: Callable[..., Any]) -> Any:
    """As some write it: what wraps does, but for `__wrapped__`."""
    call = timed(function)
    del call.__wrapped__
    return call


def timed_without_marks(function: Callable[..., Any]) -> Any:
    """Sets `__wrapped__`, and copies no attributes."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


class Timed:
    """A decorator that is a class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self.function(*args, **kwargs)


class UnhashableTimed(Timed):
    __hash__ = None  # type: ignore[assignment]


def timed_badly(function: Callable[..., Any]) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return call


class TimedBadly:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self.function(*args, **kwargs)


GOOD = [timed, timed_without_wrapped, timed_without_marks, Timed, UnhashableTimed]


class TestDecoratorsAboveTask:
    @pytest.mark.parametrize("decorate", GOOD)
    async def test_the_task_is_found(self, decorate: Callable[..., Any]) -> None:
        app = memory_app()

        @decorate
        @app.task()
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            assert await result_of(app, double, 4) == 8
            assert await double(4) == 8
            (task_id,) = await app.submit_many([(double, (4,), {})])
            assert (await final(app, task_id)).result == 8

    @pytest.mark.parametrize("first", GOOD)
    @pytest.mark.parametrize("second", [timed, Timed, timed_without_marks])
    async def test_below_several(self, first: Callable[..., Any], second: Callable[..., Any]) -> None:
        app = memory_app()

        @second
        @first
        @timed
        @app.task(name="doubled")
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            assert await result_of(app, double, 4) == 8

    @pytest.mark.parametrize("decorate", [timed_badly, TimedBadly])
    async def test_one_that_hides_it_is_named_with_what_to_do(self, decorate: Callable[..., Any]) -> None:
        app = memory_app()

        @decorate
        @app.task()
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            with pytest.raises(
                TaskNotFoundError, match=r"not registered: .* hides the task 'double'.*functools\.wraps"
            ):
                await app.submit(double, 4)
            assert await result_of(app, "double", 4) == 8

    @pytest.mark.parametrize("decorate", [timed, Timed, timed_badly])
    async def test_below_task_they_are_a_part_of_it(self, decorate: Callable[..., Any]) -> None:
        app = memory_app()

        @app.task(name="double")
        @decorate
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            assert await result_of(app, double, 4) == 8

    @pytest.mark.slow
    async def test_above_a_cpu_task(self) -> None:
        app = cpu_app()
        app.task(cpu_bound=True)(cpu_tasks.echo)
        async with app:
            assert await result_of(app, timed(cpu_tasks.echo), "heard") == "heard"

    @pytest.mark.parametrize("above", GOOD)
    async def test_above_and_below_task(self, above: Callable[..., Any]) -> None:
        app = memory_app()

        @above
        @app.task(name="double")
        @Timed
        async def double(n: int) -> int:
            return 2 * n

        async with app:
            assert await result_of(app, double, 4) == 8

    async def test_a_task_that_wraps_another_one_is_itself(self) -> None:
        app = memory_app()

        @app.task()
        async def inner() -> str:
            return "inner"

        @app.task(name="outer")
        @functools.wraps(inner)
        async def outer() -> str:
            return "outer"

        async with app:
            assert await result_of(app, outer) == "outer"
            assert await result_of(app, inner) == "inner"

    async def test_two_apps_over_one_function_each_find_their_own(self) -> None:
        first, second = memory_app(), memory_app()
        double = timed(second.task(name="second")(first.task(name="first")(timed(add))))

        async with first, second:
            for app, name in ((first, "first"), (second, "second")):
                record = await final(app, await app.submit(double, 1, 2))
                assert (record.task_name, record.result) == (name, 3)

    async def test_one_that_goes_round_in_circles_is_not_found(self) -> None:
        app = memory_app()
        app.task()(add)
        circle = timed_badly(print)
        circle.__wrapped__ = circle
        async with app:
            with pytest.raises(TaskNotFoundError):
                await app.submit(circle)


class TestRegisteredTwice:
    async def test_the_latter_is_submitted_until_it_is_gone(self) -> None:
        app = memory_app()
        app.task(name="first")(add)
        app.task(name="second")(add)
        async with app:
            assert (await final(app, await app.submit(add, 1, 2))).task_name == "second"
            app.registry.unregister("second")
            assert (await final(app, await app.submit(add, 1, 2))).task_name == "first"
            app.registry.unregister("first")
            with pytest.raises(TaskNotFoundError):
                await app.submit(add, 1, 2)

    async def test_what_took_over_a_name_is_not_taken_for_the_former(self) -> None:
        app = memory_app()

        @app.task(name="job")
        async def former() -> str:
            return "former"

        app.registry.unregister("job")

        @app.task(name="job")
        async def latter() -> str:
            return "latter"

        async with app:
            with pytest.raises(TaskNotFoundError):
                await app.submit(timed(former))
            assert await result_of(app, "job") == "latter"
