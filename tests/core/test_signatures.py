"""A call that doesn't fit its task is refused when it is submitted, and no argument is lost on the way."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from flowrra import Flowrra, current_task
from flowrra.signatures import MAX_SHAPES, TAKEN_BY_SUBMIT
from flowrra.submission import Submission
from tests.core import cpu_tasks
from tests.core.apps import cpu_app, final, memory_app, numbers_of


async def one(a: Any) -> Any:
    return a


async def optional(a: Any, b: Any = 2) -> Any:
    return a, b


async def only_by_position(a: Any, /, b: Any) -> Any:
    return a, b


async def only_by_name(a: Any, *, b: Any, c: Any = 3) -> Any:
    return a, b, c


async def any_positions(a: Any, *rest: Any) -> Any:
    return a, rest


async def any_names(a: Any, /, **rest: Any) -> Any:
    return a, rest


async def nothing() -> None: ...


def with_database(function: Callable[..., Any]) -> Any:
    """Gives a function its first argument, as a decorator that hands out connections does."""

    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await function("database", *args, **kwargs)

    return call


@with_database
async def given_one(database: str, a: Any) -> Any:
    return database, a


Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

MISFITS: list[Case] = [
    (one, (), {}),
    (one, (1, 2), {}),
    (one, (), {"b": 1}),
    (one, (1,), {"a": 1}),
    (optional, (1, 2, 3), {}),
    (optional, (), {"b": 1}),
    (only_by_position, (1,), {}),
    (only_by_position, (), {"a": 1, "b": 2}),
    (only_by_name, (1, 2), {}),
    (only_by_name, (1,), {}),
    (only_by_name, (1,), {"b": 1, "d": 1}),
    (any_positions, (), {}),
    (any_positions, (1,), {"rest": 2}),
    (any_names, (), {"a": 1}),
    (nothing, (1,), {}),
    (nothing, (), {"a": 1}),
]
FITS: list[tuple[Case, Any]] = [
    ((one, (1,), {}), 1),
    ((one, (), {"a": 1}), 1),
    ((optional, (1,), {}), (1, 2)),
    ((optional, (1,), {"b": 3}), (1, 3)),
    ((optional, (), {"b": 3, "a": 1}), (1, 3)),
    ((only_by_position, (1,), {"b": 2}), (1, 2)),
    ((only_by_name, (1,), {"b": 2}), (1, 2, 3)),
    ((any_positions, (1, 2, 3), {}), (1, (2, 3))),
    ((any_names, (1,), {"a": 2, "b": 3}), (1, {"a": 2, "b": 3})),
    ((given_one, (1,), {}), ("database", 1)),
    ((given_one, (), {"a": 1}), ("database", 1)),
]


def name_of(case: Any) -> str:
    func, args, kwargs = case
    return f"{func.__name__}{args}{kwargs}"


def app_of(*functions: Callable[..., Any]) -> Flowrra:
    app = memory_app()
    for function in functions:
        app.task(max_retries=0)(function)
    return app


@pytest.mark.parametrize("case", MISFITS, ids=name_of)
async def test_what_does_not_fit_is_refused_with_the_signature(case: Case) -> None:
    func, args, kwargs = case
    async with app_of(func) as app:
        ways = [
            lambda: app.submit(func, *args, **kwargs),
            lambda: app.submit(func.__name__, *args, **kwargs),
            lambda: app.options(task_id="chosen").submit(func, *args, **kwargs),
            lambda: app.submit_many([(func, args, kwargs)]),
            lambda: app.executors["io"].submit(func, *args, **kwargs),
            lambda: asyncio.to_thread(app.submit_sync, func, *args, **kwargs),
        ]
        for submit in ways:
            with pytest.raises(TypeError) as refusal:
                await submit()
            assert f"Task '{func.__name__}' takes {inspect.signature(func)}: " in str(refusal.value)
        assert numbers_of(app, func.__name__)["submitted"] == 0
        assert await app.get_result("chosen") is None


@pytest.mark.parametrize(("case", "result"), FITS, ids=[name_of(case) for case, _ in FITS])
async def test_what_fits_is_called_with_it(case: Case, result: Any) -> None:
    func, args, kwargs = case
    async with app_of(func) as app:
        for _ in range(2):
            assert (await final(app, await app.submit(func, *args, **kwargs))).result == result
        (task_id,) = await app.submit_many([case])
        assert (await final(app, task_id)).result == result


async def test_what_fits_once_does_not_vouch_for_what_looks_like_it() -> None:
    async with app_of(optional) as app:
        await app.submit(optional, 1, b=2)
        for args, kwargs in (((1,), {"c": 2}), ((), {"b": 2}), ((1, 2), {"b": 2})):
            with pytest.raises(TypeError, match="takes"):
                await app.submit(optional, *args, **kwargs)


async def test_the_shapes_of_calls_are_not_kept_without_end() -> None:
    async with app_of(any_names) as app:
        for n in range(MAX_SHAPES + 20):
            await app.submit(any_names, 0, **{f"key{n}": n})
        assert len(app.registry.definition(any_names).signature.fitting) == MAX_SHAPES


async def test_a_cpu_task_too() -> None:
    app = cpu_app()
    app.task(cpu_bound=True)(cpu_tasks.echo)
    async with app:
        with pytest.raises(TypeError, match=r"'echo' takes \(value: 'Any'\) -> 'Any': too many"):
            await app.submit(cpu_tasks.echo, 1, 2)


class TestMany:
    @pytest.mark.parametrize(
        ("call", "text"),
        [
            ((one, "ab", {}), r"args of calls\[1\] must be a tuple or a list of arguments, not 'ab'"),
            ((one, b"ab", {}), r"args of calls\[1\]"),
            ((one, {"a": 1}, {}), r"args of calls\[1\]"),
            ((one, {1}, {}), r"args of calls\[1\]"),
            ((one, 1, {}), r"args of calls\[1\] .*, not 1"),
            ((one, None, {}), r"args of calls\[1\]"),
            ((one, (1,), None), r"kwargs of calls\[1\] must be a dict, not None"),
            ((one, (1,), [("a", 1)]), r"kwargs of calls\[1\]"),
            ((one, (), {1: 2}), "keywords must be strings"),
            ((one, (1,)), r"calls\[1\] must be \(function or name, args, kwargs\), not "),
            (one, r"calls\[1\] must be"),
        ],
    )
    async def test_a_malformed_call_is_refused_by_its_place(self, call: Any, text: str) -> None:
        async with app_of(one) as app:
            with pytest.raises(TypeError, match=text):
                await app.submit_many([(one, (1,), {}), call])
            assert numbers_of(app, "one")["submitted"] == 0

    @pytest.mark.parametrize("args", [(7,), [7], iter([7])], ids=["tuple", "list", "iterator"])
    async def test_arguments_are_any_other_sequence(self, args: Any) -> None:
        async with app_of(one) as app:
            (task_id,) = await app.submit_many([(one, args, {})])
            assert (await final(app, task_id)).result == 7


class TestAParameterThatSubmitTakesForItself:
    async def test_registration_says_so_and_options_carry_both(self) -> None:
        app = memory_app()

        async def ship(parcel: str, priority: str) -> tuple[str, str, int]:
            task = current_task()
            assert task is not None
            return parcel, priority, task.priority

        with pytest.warns(
            UserWarning, match=r"Task 'ship' has a parameter 'priority'.*app\.options\(priority=…\)"
        ) as told:
            app.task()(ship)
        assert told[0].filename == __file__

        async with app:
            with pytest.raises(TypeError, match=r"missing a required argument: 'priority' .*app\.options"):
                await app.submit(ship, "parcel", priority=3)
            with pytest.raises((TypeError, ValueError), match="priority must be a number, not 'express'"):
                await app.submit(ship, "parcel", priority="express")  # type: ignore[arg-type]
            task_id = await app.options(priority=3).submit(ship, "parcel", priority="express")
            assert (await final(app, task_id)).result == ("parcel", "express", 3)
            task_id = await app.submit(ship, "parcel", "express", priority=2)
            assert (await final(app, task_id)).result == ("parcel", "express", 2)

    @pytest.mark.parametrize("name", ["delay", "timeout", "countdown", "eta", "task_id", "task_func", "self", "app"])
    async def test_no_other_name_is_taken(self, name: str) -> None:
        app = memory_app()
        names: dict[str, Any] = {}
        exec(f"async def job(*, {name}): return {name}", names)
        job = app.task()(names["job"])
        async with app:
            assert (await final(app, await app.submit(job, **{name: "mine"}))).result == "mine"
            task_id = await app.options(countdown=0).submit(job, **{name: "mine"})
            assert (await final(app, task_id)).result == "mine"

    def test_the_names_are_those_of_submit(self) -> None:
        def named(function: Any) -> list[str]:
            parameters = inspect.signature(function).parameters.values()
            return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]

        assert named(Flowrra.submit) == named(Flowrra.submit_sync) == [TAKEN_BY_SUBMIT]
        assert named(Submission.submit) == []
