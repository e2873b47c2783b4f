"""Which functions can be tasks, under which names, and how they are found again."""

from __future__ import annotations

from typing import Any

import pytest

from flowrra import Flowrra, IOExecutor, TaskNotFoundError, TaskRegistry
from tests.core.apps import final, memory_app


def plain_function(number: int) -> int:
    return number


async def module_level(number: int) -> int:
    return number


@pytest.fixture(params=[TaskRegistry, Flowrra, IOExecutor])
def owner(request: pytest.FixtureRequest) -> Any:
    """The objects whose `task` registers functions."""
    return request.param()


def registry_of(owner: Any) -> TaskRegistry:
    return owner if isinstance(owner, TaskRegistry) else owner.registry


class TestDecorator:
    def test_it_returns_the_same_function_with_its_attributes(self, owner: Any) -> None:
        async def send(address: str) -> str:
            return address

        decorated: Any = owner.task(name="mail.send", max_retries=5, retry_delay=0.25)(send)

        assert decorated is send
        assert (decorated.task_name, decorated.cpu_bound) == ("mail.send", False)
        assert (decorated.max_retries, decorated.retry_delay) == (5, 0.25)
        assert decorated.__flowrra_task__ is True

    async def test_the_function_stays_directly_callable(self, owner: Any) -> None:
        @owner.task()
        async def double(number: int) -> int:
            return number * 2

        assert await double(21) == 42

    def test_the_name_defaults_to_the_functions(self, owner: Any) -> None:
        @owner.task()
        async def send() -> None: ...

        assert send.task_name == "send"  # type: ignore[attr-defined]
        assert registry_of(owner).list_tasks() == ["send"]

    def test_the_defaults_are_three_retries_one_second_apart(self, owner: Any) -> None:
        @owner.task()
        async def send() -> None: ...

        assert (send.max_retries, send.retry_delay) == (3, 1.0)  # type: ignore[attr-defined]

    def test_without_parentheses_it_registers_as_well(self, owner: Any) -> None:
        @owner.task
        async def send() -> None: ...

        assert send.task_name == "send"
        assert registry_of(owner).list_tasks() == ["send"]

    @pytest.mark.parametrize("owner", [TaskRegistry, Flowrra], indirect=True)  # an executor has one kind
    def test_the_positional_order_is_name_then_kind(self, owner: Any) -> None:
        async def send() -> None: ...

        owner.task("mail.send", False)(send)

        assert registry_of(owner).get("mail.send") is send


class TestRefusals:
    def test_a_plain_function_is_no_io_task(self, owner: Any) -> None:
        with pytest.raises(TypeError, match="must be an async function"):
            owner.task()(plain_function)

    def test_an_async_function_is_no_cpu_task(self) -> None:
        with pytest.raises(TypeError, match="must be a sync function"):
            TaskRegistry().task(cpu_bound=True)(module_level)

    def test_a_cpu_task_must_be_importable_by_a_worker_process(self) -> None:
        def nested() -> None: ...

        with pytest.raises(TypeError, match="must be module-level"):
            TaskRegistry().task(cpu_bound=True)(nested)

    def test_that_check_alone_can_be_lifted(self) -> None:
        def nested() -> None: ...

        registry = TaskRegistry(strict_cpu_checks=False)
        registry.task(cpu_bound=True)(nested)

        assert registry.is_registered("nested")
        with pytest.raises(TypeError, match="must be a sync function"):
            registry.task(cpu_bound=True)(module_level)

    def test_a_name_can_be_taken_only_once(self, owner: Any) -> None:
        @owner.task(name="send")
        async def first() -> None: ...

        async def second() -> None: ...

        with pytest.raises(ValueError, match=r"'send'.*already registered"):
            owner.task(name="send")(second)
        assert registry_of(owner).get("send") is first

    @pytest.mark.parametrize("name", ["\ud800", "mail\udcff", "\udfff\ud83d"], ids=ascii)
    def test_a_name_that_cannot_be_encoded_is_refused(self, owner: Any, name: str) -> None:
        async def send() -> None: ...

        with pytest.raises(ValueError, match="UTF-8"):
            owner.task(name=name)(send)
        assert registry_of(owner).list_tasks() == []

    @pytest.mark.filterwarnings("error")
    def test_a_warning_that_is_an_error_registers_nothing(self, owner: Any) -> None:
        async def send(priority: int) -> None: ...

        for _ in range(2):
            with pytest.raises(UserWarning, match="has a parameter 'priority'"):
                owner.task(name="send")(send)
        assert registry_of(owner).list_tasks() == []

    @pytest.mark.parametrize("name", ["", 42, b"send"], ids=repr)
    def test_a_name_must_be_a_text_that_is_not_empty(self, owner: Any, name: Any) -> None:
        async def send() -> None: ...

        with pytest.raises((ValueError, TypeError), match="name"):
            owner.task(name=name)(send)

    @pytest.mark.parametrize(
        "name", ['quo"ted', "new\nline", "back\\slash", "😀", "x" * 10_000, " ", "nul\x00"], ids=ascii
    )
    async def test_any_other_name_works(self, name: str) -> None:
        app = memory_app()

        @app.task(name=name)
        async def job() -> str:
            return "done"

        async with app:
            record = await final(app, await app.submit(job))

        assert (record.task_name, record.result) == (name, "done")

    @pytest.mark.parametrize(
        "option",
        [
            {"max_retries": -1},
            {"max_retries": 1.5},
            {"retry_delay": -1},
            {"retry_delay": float("nan")},
            {"timeout": 0},
            {"timeout": -1},
            {"backoff": -1},
            {"jitter": -0.1},
            {"jitter": 1.1},
            {"priority": "high"},
            {"retry_on": "ValueError"},
            {"retry_on": (ValueError, 1)},
        ],
        ids=str,
    )
    def test_options_out_of_range_are_refused_by_name(self, option: dict[str, Any]) -> None:
        async def job() -> None: ...

        app = memory_app()
        with pytest.raises((ValueError, TypeError), match=next(iter(option))):
            app.task(**option)(job)
        assert app.registry.list_tasks() == []

    def test_unknown_options_are_refused(self, owner: Any) -> None:
        async def job() -> None: ...

        with pytest.raises(TypeError, match="colour"):
            owner.task(colour="red")(job)

    def test_a_cpu_task_needs_a_backend(self) -> None:
        with pytest.raises(ValueError, match="CPU-bound tasks require backend"):
            memory_app().task(cpu_bound=True)(plain_function)


class TestLookup:
    def test_what_is_registered_is_listed_in_order(self) -> None:
        registry = TaskRegistry()
        for name in ("zebra", "apple", "mango"):

            async def job() -> None: ...

            registry.task(name=name)(job)

        assert registry.list_tasks() == ["zebra", "apple", "mango"]
        assert len(registry) == 3
        assert "apple" in registry
        assert "pear" not in registry
        assert registry.is_registered("mango")
        assert not registry.is_registered("pear")

    def test_get(self) -> None:
        registry = TaskRegistry()

        @registry.task()
        async def send() -> None: ...

        assert registry.get("send") is send
        assert registry.get("unknown") is None
        assert registry.get_or_raise("send") is send
        with pytest.raises(TaskNotFoundError, match="'unknown' not registered"):
            registry.get_or_raise("unknown")

    def test_a_function_that_is_no_task_is_named_as_the_task_that_it_would_be(self) -> None:
        async def send() -> None: ...

        @TaskRegistry().task(name="mail")
        async def deliver() -> None: ...

        for func, name in ((send, "send"), (deliver, "mail")):
            with pytest.raises(TaskNotFoundError, match=f"^Task '{name}' not registered$") as caught:
                TaskRegistry().definition(func)
            assert caught.value.task_name == name

    def test_unregister(self) -> None:
        registry = TaskRegistry()

        @registry.task()
        async def send() -> None: ...

        assert registry.unregister("send") is True
        assert registry.unregister("send") is False
        assert registry.get("send") is None
        assert len(registry) == 0

    def test_an_unregistered_name_is_free_again(self) -> None:
        registry = TaskRegistry()

        @registry.task(name="send")
        async def first() -> None: ...

        registry.unregister("send")

        @registry.task(name="send")
        async def second() -> None: ...

        assert registry.get("send") is second


async def test_a_waiting_task_whose_name_was_unregistered_fails_and_says_so() -> None:
    app = memory_app()

    @app.task()
    async def job() -> None: ...

    async with app:
        task_id = await app.submit(job)
        app.registry.unregister("job")
        record = await final(app, task_id)

    assert record.status == "failed"
    assert record.error is not None
    assert "job" in record.error


async def test_one_function_may_be_two_tasks() -> None:
    app = memory_app()

    async def whoami() -> str | None:
        from flowrra import current_task

        task = current_task()
        return task and task.name

    app.task(name="first")(whoami)
    app.task(name="second")(whoami)

    async with app:
        first, second = await app.submit("first"), await app.submit("second")
        assert [(await final(app, task_id)).result for task_id in (first, second)] == ["first", "second"]
