"""The document of the Management API that was published first: its examples run, the answers have its shapes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import types
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.core.apps import LoopThread, final, memory_app, until

DOCUMENT = Path(__file__).with_name("published_document.md")


def code_blocks() -> Iterator[tuple[str, str]]:
    """Every Python block of the document with the heading it stands under."""
    heading = ""
    for part in re.finditer(
        r"^#+ (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```$", DOCUMENT.read_text(), re.M | re.S
    ):
        if part["heading"] is not None:
            heading = part["heading"].strip("`")
        else:
            yield heading, part["code"]


BLOCKS = list(code_blocks())


def blocks_under(heading: str) -> list[str]:
    found = [code for title, code in BLOCKS if title.startswith(heading)]
    assert found, f"no example under {heading!r}; there are {sorted({title for title, _ in BLOCKS})}"
    return found


def example_under(heading: str) -> str:
    return blocks_under(heading)[-1]


async def run(code: str, **names: Any) -> dict[str, Any]:
    """Run an example, which may await at its top level as in a notebook, and return the names it left."""
    namespace: dict[str, Any] = {"__name__": __name__, "asyncio": asyncio, **names}
    compiled = compile(code, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = types.FunctionType(compiled, namespace)()
    if inspect.isawaitable(outcome):
        await outcome
    return namespace


def shapes_under(heading: str) -> list[ast.expr]:
    """The blocks that print a shape of an answer rather than a program."""
    shapes = []
    for code in blocks_under(heading):
        body = ast.parse(code).body
        if len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Dict | ast.List):
            shapes.append(body[0].value)
    return shapes


TYPES = {"bool": bool, "int": int, "float": (int, float), "str": str, "datetime": datetime}


def mismatch(value: Any, shape: ast.expr, where: str = "answer") -> str | None:
    """What is wrong with a value of a printed shape; None if nothing is. Further keys are allowed."""
    match shape:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            problems = [mismatch(value, each, where) for each in (left, right)]
            return None if None in problems else problems[0]
        case ast.Constant(value=None):
            return None if value is None else f"{where} is {value!r}, not None"
        case ast.Name(id="Any"):
            return None
        case ast.Name(id=name):
            if isinstance(value, TYPES[name]) and (name == "bool" or not isinstance(value, bool)):
                return None
            return f"{where} is {value!r}, not a {name}"
        case ast.List(elts=[each, ast.Constant()]):
            if not isinstance(value, list) or not value:
                return f"{where} is {value!r}, not a list with something in it"
            return next(filter(None, (mismatch(one, each, f"{where}[{n}]") for n, one in enumerate(value))), None)
        case ast.Dict(keys=keys, values=shapes):
            if not isinstance(value, dict):
                return f"{where} is {value!r}, not a dict"
            for key, inner in zip(keys, shapes, strict=True):
                assert isinstance(key, ast.Constant)
                if key.value not in value:
                    return f"{where} has no {key.value!r}"
                if problem := mismatch(value[key.value], inner, f"{where}[{key.value!r}]"):
                    return problem
            return None
    raise AssertionError(f"the document prints a shape that is not understood: {ast.dump(shape)}")


def documented_app() -> Flowrra:
    app = memory_app()

    @app.task(name="send_email", max_retries=2, retry_delay=0.5)
    async def send_email(address: str) -> str:
        return f"sent to {address}"

    @app.task(name="my_task")
    async def my_task(a: int, b: int) -> int:
        return a + b

    return app


class TestShapes:
    """The answers have the shapes that the document prints, before, while and after the app runs."""

    @pytest.mark.parametrize(
        ("method", "args"),
        [
            ("get_stats", ()),
            ("list_registered_tasks", ()),
            ("get_task_info", ("send_email",)),
            ("health_check", ()),
        ],
    )
    async def test_of_the_queries(self, method: str, args: tuple[str, ...]) -> None:
        (shape,) = shapes_under(method)
        app = documented_app()
        query = getattr(FlowrraManager(app), method)

        before = await query(*args)
        async with app:
            during = await query(*args)
        after = await query(*args)

        for answer in (before, during, after):
            assert mismatch(answer, shape) is None

    async def test_of_a_task_result(self) -> None:
        (shape,) = shapes_under("get_task_result")
        app = documented_app()
        manager = FlowrraManager(app)
        async with app:
            task_id = await app.submit("my_task", 1, 2)
            pending = await manager.get_task_result(task_id)
            await final(app, task_id)
            finished = await manager.get_task_result(task_id)

        assert mismatch(pending, shape) is None
        assert mismatch(finished, shape) is None

    def test_a_wrong_answer_would_be_noticed(self) -> None:
        (shape,) = shapes_under("get_stats")
        right = {
            "app": {"running": True},
            "executors": {"io": {"running": True, "workers": 4}, "cpu": None},
            "tasks": {"registered": 1, "pending": 0},
            "scheduler": None,
        }

        assert mismatch(right, shape) is None
        assert mismatch({**right, "app": {"running": 1}}, shape) is not None
        assert mismatch({**right, "tasks": {"registered": 1}}, shape) is not None
        assert mismatch({**right, "executors": {"io": {"running": True}, "cpu": None}}, shape) is not None
        assert mismatch({**right, "scheduler": {"enabled": True}}, shape) is not None


class TestReference:
    async def test_quick_start(self) -> None:
        names = await run(example_under("Quick Start"))

        assert names["stats"]["app"] == {"running": False}
        assert names["tasks"] == []
        assert names["health"]["healthy"] is False

    async def test_stats(self, capsys: pytest.CaptureFixture[str]) -> None:
        async with documented_app() as app:
            await run(example_under("get_stats"), manager=FlowrraManager(app))

        assert capsys.readouterr().out == "App running: True\nRegistered tasks: 2\nIO workers: 4\n"

    async def test_registered_tasks(self, capsys: pytest.CaptureFixture[str]) -> None:
        await run(example_under("list_registered_tasks"), manager=FlowrraManager(documented_app()))

        assert capsys.readouterr().out == "send_email: retries=2\nmy_task: retries=3\n"

    async def test_task_info(self, capsys: pytest.CaptureFixture[str]) -> None:
        await run(example_under("get_task_info"), manager=FlowrraManager(documented_app()))

        assert capsys.readouterr().out == f"Task: send_email\nModule: {__name__}\nMax retries: 2\n"

    async def test_task_result(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = example_under("get_task_result").replace("asyncio.sleep(1)", "asyncio.sleep(0.05)")
        async with documented_app() as app:
            my_task = app.registry.get("my_task")
            await run(code, app=app, manager=FlowrraManager(app), my_task=my_task, arg1=20, arg2=22)

        assert capsys.readouterr().out == "Status: success\nResult: 42\n"

    async def test_health(self, capsys: pytest.CaptureFixture[str]) -> None:
        app = documented_app()
        await run(example_under("health_check"), manager=FlowrraManager(app))
        stopped = capsys.readouterr().out
        async with app:
            await run(example_under("health_check"), manager=FlowrraManager(app))

        assert capsys.readouterr().out == "System is healthy\n"
        assert stopped.startswith("System has issues:\n  - app: ")
        assert "  - io_executor: " in stopped
        assert "cpu_executor" not in stopped


class TestUsageExamples:
    async def test_the_monitoring_script_runs_turn_after_turn(self, capsys: pytest.CaptureFixture[str]) -> None:
        code = example_under("Basic Monitoring Script").replace("asyncio.sleep(5)", "asyncio.sleep(0.01)")
        names: dict[str, Any] = {}
        compiled = compile(code, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        script = asyncio.ensure_future(types.FunctionType(compiled, names)())
        printed: list[str] = []

        def turns() -> int:
            printed.append(capsys.readouterr().out)
            return "".join(printed).count("Pending tasks: 0\n")

        await until(lambda: turns() >= 3 or script.done())
        assert not script.done(), script.exception()
        script.cancel()
        await asyncio.wait([script])
        await names["app"].stop()

        assert "WARNING" not in "".join(printed)

    async def test_the_inspection_tool(self, capsys: pytest.CaptureFixture[str]) -> None:
        names = await run(example_under("Task Inspection Tool"))
        await names["inspect_tasks"](documented_app())

        output = capsys.readouterr().out
        assert output.startswith("Registered Tasks:\n" + "=" * 60)
        assert f"\nTask: send_email\n  Module: {__name__}\n  CPU Bound: False\n  Max Retries: 2\n" in output
        assert "  Retry Delay: 0.5s\n" in output

    async def test_the_health_endpoint(self) -> None:
        import json

        names = await run(example_under("Health Check Endpoint"))
        app = documented_app()
        stopped = await names["health_endpoint"](app)
        async with app:
            running = await names["health_endpoint"](app)

        assert (stopped["status"], running["status"]) == ("unhealthy", "healthy")
        assert datetime.fromisoformat(running["timestamp"]).tzinfo is not None
        assert running["details"]["app"]["healthy"] is True
        assert json.loads(json.dumps(running)) == running


class TestFastApi:
    async def test_the_routes_answer_before_and_while_the_app_runs(self) -> None:
        names = await run(example_under("FastAPI Example"))
        flowrra: Flowrra = names["flowrra"]

        @flowrra.task()
        async def job() -> None: ...

        transport = httpx.ASGITransport(app=names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for running in (False, True):
                if running:
                    await flowrra.start()
                stats, health, tasks = [await client.get(path) for path in ("/api/stats", "/api/health", "/api/tasks")]
                assert (stats.status_code, health.status_code, tasks.status_code) == (200, 200, 200)
                assert stats.json()["app"] == {"running": running}
                assert health.json()["healthy"] is running
                assert datetime.fromisoformat(health.json()["timestamp"])
                assert [task["name"] for task in tasks.json()] == ["job"]
            await flowrra.stop()

    async def test_the_pending_count_is_the_true_one(self) -> None:
        names = await run(example_under("FastAPI Example"))
        flowrra: Flowrra = names["flowrra"]
        gate = asyncio.Event()

        @flowrra.task()
        async def job() -> None:
            await gate.wait()

        transport = httpx.ASGITransport(app=names["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client, flowrra:
            for _ in range(4 + 3):
                await flowrra.submit(job)
            await until(lambda: busy_workers(flowrra) == 4)
            stats = (await client.get("/api/stats")).json()
            gate.set()

        assert stats["tasks"] == {"registered": 1, "pending": 3}


def busy_workers(app: Flowrra) -> int:
    from tests.core.apps import numbers_of

    return int(numbers_of(app, "job")["running"])


class TestFlask:
    """Every request is an event loop of its own (`asyncio.run`), one after the other."""

    def ask(self, names: dict[str, Any], *, running: bool) -> None:
        client = names["app"].test_client()
        for _ in range(3):
            stats, health = client.get("/api/stats"), client.get("/api/health")
            assert (stats.status_code, health.status_code) == (200, 200)
            assert stats.get_json()["app"] == {"running": running}
            assert health.get_json()["healthy"] is running
            assert health.get_json()["timestamp"]
            assert health.get_json()["components"]["app"]["healthy"] is running

    def test_with_an_app_that_does_not_run(self) -> None:
        names = asyncio.run(run(example_under("Flask Example")))

        self.ask(names, running=False)

    def test_with_an_app_that_runs_on_a_loop_of_its_own(self) -> None:
        names = asyncio.run(run(example_under("Flask Example")))
        flowrra: Flowrra = names["flowrra"]

        @flowrra.task()
        async def job() -> str:
            return "done"

        with LoopThread() as elsewhere:
            elsewhere.run(flowrra.start())
            self.ask(names, running=True)
            task_id = flowrra.submit_sync(job)
            assert flowrra.wait_for_result_sync(task_id, timeout=5).result == "done"
            self.ask(names, running=True)
            elsewhere.run(flowrra.stop())
        self.ask(names, running=False)


def test_no_example_is_left_out() -> None:
    covered = (
        "Quick Start",
        "Constructor",
        "get_stats",
        "list_registered_tasks",
        "get_task_info",
        "get_task_result",
        "health_check",
        "Basic Monitoring Script",
        "Task Inspection Tool",
        "Health Check Endpoint",
        "FastAPI Example",
        "Flask Example",
    )

    assert [title for title, _ in BLOCKS if not title.startswith(covered)] == []
