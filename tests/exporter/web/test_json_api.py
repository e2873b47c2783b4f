"""The JSON API: what it answers, what it refuses, and that its document describes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flowrra_exporter.web.api.endpoints import ENDPOINTS
from jsonschema import Draft202012Validator

from flowrra import Flowrra, TaskResult, TaskStatus, current_task
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from flowrra.scheduler.backends import SQLiteSchedulerBackend
from tests.exporter.conftest import Answer, Serve, Service, until
from tests.exporter.contract import ContractApp, MinimalApp
from tests.exporter.web.test_authentication import basic, hashed
from tests.redis.apps import redis_app
from tests.redis.conftest import look, url, valkey

__all__ = ["look", "url", "valkey"]  # the fixtures

ANNA = {"Authorization": basic("anna", "right")}
SECRET = "card-4711-0815"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{anna: {hashed('right')}}}\n")
    return path


def with_history(app: Flowrra, folder: Path) -> Flowrra:
    """Tasks whose arguments, results, errors and progress are nobody's business, and a schedule of one."""
    scheduler = app.create_scheduler(SQLiteSchedulerBackend(str(folder / "schedules.db")))

    @app.task(name="charge", max_retries=0)
    async def charge(card: str) -> None:
        current_task().progress(1, 2, f"charging {card}")
        raise ValueError(f"declined: {card}")

    @app.task(name="tell")
    async def tell(card: str) -> dict[str, str]:
        current_task().progress(1, 2, f"telling {card}")
        return {"card": card}

    @app.task(name="hold")
    async def hold(card: str) -> None:
        current_task().progress(1, 2, f"holding {card}")
        await asyncio.Event().wait()

    app.on_startup(lambda: scheduler.schedule_cron("tell", "0 3 * * *", (SECRET,), {}, task_id="nightly"))
    return app


async def make_history(app: Flowrra) -> dict[str, str]:
    ids = {name: await app.submit(name, SECRET) for name in ("charge", "tell", "hold")}
    for name in ("charge", "tell"):
        await app.wait_for_result(ids[name], timeout=10)
    while (await app.get_result(ids["hold"])).status != "running":  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
    await FlowrraManager(app).trigger_schedule("nightly")
    return ids


async def give_up_a_task(app: Flowrra, url: str) -> None:
    async with app.producer() as producer:
        task_id = await producer.submit("tell", SECRET)
        broker = RedisBroker(url, queue_key="flowrra:queue:io")
        broker.keeps_records_of(producer.results)
        await broker.take(10)
        await broker.settle([Outcome(Verb.DEAD_LETTER, task_id, text="no worker was heard of any more")])
        await broker.close()


@pytest.fixture(params=["memory", "valkey"])
async def history(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Flowrra, dict[str, str]]]:
    """A real app with what happened in it, and the ids of its tasks."""
    is_shared = request.param == "valkey"
    app = with_history(redis_app(request.getfixturevalue("url")) if is_shared else Flowrra(), tmp_path)
    if is_shared:
        await give_up_a_task(app, request.getfixturevalue("url"))
    await app.start()
    yield app, await make_history(app)
    await app.stop(wait=False)


async def document(service: Service, **headers: str) -> dict[str, Any]:
    answer = await service.get("/api/openapi.json", **headers)
    assert answer.status == 200, answer.text
    found: dict[str, Any] = json.loads(answer.text)
    return found


def validate(spec: dict[str, Any], answer: Answer, schema: dict[str, Any]) -> None:
    assert answer.headers["Content-Type"].split(";")[0] in ("application/json", "application/problem+json")
    complete = {**schema, "components": spec["components"]}
    errors = list(
        Draft202012Validator(complete, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(
            json.loads(answer.text)
        )
    )
    assert errors == [], answer.text


def schema_of(spec: dict[str, Any], path: str, status: int) -> dict[str, Any]:
    (content,) = spec["paths"][path]["get"]["responses"][str(status)]["content"].values()
    found: dict[str, Any] = content["schema"]
    return found


def paths_of(spec: dict[str, Any], ids: dict[str, str]) -> list[tuple[str, str]]:
    """Every path that is read, as it stands in the document and with the ids of what there is."""
    found = []
    for path, operations in spec["paths"].items():
        if "get" not in operations or path in ("/api/events", "/api/token"):
            continue
        values = ["nightly"] if "schedules" in path else list(ids.values())
        found += [(path, path.replace("{id}", value)) for value in (values if "{id}" in path else [""])]
    return found


@pytest.mark.parametrize("shown", [False, True])
async def test_every_answer_is_as_the_document_says(
    serve: Serve, config: Path, history: tuple[Flowrra, dict[str, str]], shown: bool
) -> None:
    """And tells nothing of arguments, results, errors and progress to whom these aren't shown."""
    app, ids = history
    service = await serve(app, web_config_file=config, web_show_task_data=shown, probe_timeout=10.0)
    spec = await document(service, **ANNA)
    assert {each.path for each in ENDPOINTS} <= spec["paths"].keys()
    told = set()
    for path, real in paths_of(spec, ids):
        answer = await service.get(real, **ANNA)
        assert answer.status == 200, (real, answer.text)
        validate(spec, answer, schema_of(spec, path, 200))
        if SECRET in answer.text or "declined" in answer.text:
            told.add(path)
    of_tasks = {"/api/task-records", "/api/task-records/{id}", "/api/schedules/{id}", "/api/failures"}
    if json.loads((await service.get("/api/dead-tasks", **ANNA)).text):
        of_tasks.add("/api/dead-tasks")
    assert told == (of_tasks if shown else set())


async def test_without_authentication_nothing_of_task_data_is_told(
    serve: Serve, history: tuple[Flowrra, dict[str, str]]
) -> None:
    """By the JSON API, nor by any page."""
    app, ids = history
    service = await serve(app)
    spec = await document(service)
    assert "security" not in spec
    pages = ("/", "/names", "/tasks", "/running", "/queues", "/dead", "/workers", "/schedules")
    for path in (*(real for _, real in paths_of(spec, ids)), *pages, *(f"/tasks/{each}" for each in ids.values())):
        answer = await service.get(path)
        assert answer.status in (200, 404), path
        assert SECRET not in answer.text, path
        assert "declined" not in answer.text, path


async def test_who_may_not_see_errors_cannot_guess_them_by_a_filter(
    serve: Serve, config: Path, history: tuple[Flowrra, dict[str, str]]
) -> None:
    app, ids = history
    hidden = await serve(app)
    answer = await hidden.get(f"/api/task-records?error={SECRET}")
    assert (answer.status, json.loads(answer.text)["parameter"]) == (403, "error")
    shown = await serve(app, web_config_file=config, web_show_task_data=True, probe_timeout=10.0)
    found = json.loads((await shown.get(f"/api/task-records?error={SECRET}", **ANNA)).text)
    assert [task["task_id"] for task in found["tasks"]] == [ids["charge"]]


@pytest.mark.slow
async def test_a_task_with_its_attempts_and_its_traceback(
    serve: Serve, config: Path, history: tuple[Flowrra, dict[str, str]]
) -> None:
    app, ids = history
    service = await serve(app, web_config_file=config, web_show_task_data=True, probe_timeout=10.0)
    task = json.loads((await service.get(f"/api/task-records/{ids['charge']}", **ANNA)).text)
    assert (task["status"], task["args"], task["error"]) == ("failed", [SECRET], f"ValueError: declined: {SECRET}")
    assert "in charge" in task["attempts"][0]["traceback"]
    assert task["progress"]["message"] == f"charging {SECRET}"
    answer = await service.get("/api/task-records/unknown", **ANNA)
    assert (answer.status, json.loads(answer.text)["title"]) == (404, "Not Found")


async def test_pages_of_tasks(serve: Serve) -> None:
    async with Flowrra() as app:

        @app.task(name="add")
        async def add(a: int) -> int:
            return a

        ids = [await app.submit(add, number) for number in range(25)]
        for task_id in ids:
            await app.wait_for_result(task_id, timeout=5)
        service = await serve(app)
        seen: list[str] = []
        cursor = ""
        while True:
            page = json.loads((await service.get(f"/api/task-records?limit=10&name=add{cursor}")).text)
            seen += [task["task_id"] for task in page["tasks"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={quote(page['next'])}"
        assert seen == ids[::-1]
        now = quote(datetime.now(UTC).isoformat())
        assert json.loads((await service.get(f"/api/task-records?since={now}")).text)["tasks"] == []
        assert json.loads((await service.get("/api/task-counts?by=name")).text) == {"add": 25}


async def test_pages_go_on_behind_ids_and_times_of_every_kind(serve: Serve) -> None:
    """Ids as long as a request has room for, and times before 1970, of which Python writes some with an exponent."""
    ids = ["short", "order-" + "x" * 1100, "y" * 8000, "ключ-鍵 %&+:\n" * 30]
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each) for each in (-86_400_000_000, -1, 0, 1)]
    async with Flowrra() as app:

        @app.task(name="add")
        async def add() -> None: ...

        for task_id in ids:
            await app.options(task_id=task_id).submit(add)
            await app.wait_for_result(task_id, timeout=5)
        for number, moment in enumerate(moments):
            record = TaskResult(f"old-{number}", TaskStatus.SUCCESS, task_name="add", submitted_at=moment)
            await app.results.store(record.task_id, record)
        service = await serve(app)
        seen: list[str] = []
        cursor = ""
        while cursor is not None:
            answer = await service.get(f"/api/task-records?limit=1{cursor and f'&cursor={quote(cursor)}'}")
            assert answer.status == 200, answer.text
            page = json.loads(answer.text)
            seen += [task["task_id"] for task in page["tasks"]]
            cursor = page["next"]
        assert seen == [*ids[::-1], *(f"old-{number}" for number in (3, 2, 1, 0))]
        for task_id in ids:
            answer = await service.get(f"/api/task-records/{quote(task_id)}")
            assert (answer.status, json.loads(answer.text)["task_id"]) == (200, task_id)


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/api/stats?verbose=1", "verbose"),
        ("/api/task-stats?window=0", "window"),
        ("/api/task-stats?window=3601", "window"),
        ("/api/task-stats?window=1&window=2", "window"),
        ("/api/task-records?status=done", "status"),
        ("/api/task-records?since=yesterday", "since"),
        ("/api/task-records?since=2030-01-01T00:00:00", "since"),
        ("/api/task-records?limit=201", "limit"),
        ("/api/task-records?limit=", "limit"),
        ("/api/task-records?name=", "name"),
        ("/api/running?limit=-1", "limit"),
        ("/api/throughput?points=361", "points"),
        (f"/api/task-records/{'x' * 8001}", "id"),
        ("/api/task-records?cursor=nonsense", "cursor"),
        ("/api/task-records?cursor=1", "cursor"),
        ("/api/task-records?cursor=1e5:", "cursor"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_the_parameters_name(
    serve: Serve, path: str, parameter: str | None
) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get(path)
    problem = json.loads(answer.text)
    assert (answer.status, problem["status"], problem["type"]) == (400, 400, "about:blank")
    assert problem.get("parameter") == parameter
    assert parameter is None or parameter in problem["detail"]


async def test_a_name_that_is_not_registered_is_404(serve: Serve) -> None:
    async with Flowrra() as app:
        answer = await (await serve(app)).get("/api/throughput?task_name=unknown")
    assert (answer.status, json.loads(answer.text)["detail"]) == (404, "Task 'unknown' not registered")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/api/nothing", "GET", 404), ("/api/stats", "POST", 405), ("/api/", "GET", 404)]
)
async def test_every_error_below_the_api_is_a_problem(serve: Serve, path: str, method: str, status: int) -> None:
    answer = await (await serve(MinimalApp())).get(path, method)
    assert answer.headers["Content-Type"] == "application/problem+json; charset=utf-8"
    problem = json.loads(answer.text)
    assert (answer.status, problem["status"]) == (status, status)
    assert problem.keys() == {"type", "title", "status", "detail"}


async def test_who_has_not_authenticated_gets_a_problem_too(serve: Serve, config: Path) -> None:
    answer = await (await serve(MinimalApp(), web_config_file=config)).get("/api/stats")
    assert (answer.status, json.loads(answer.text)["title"]) == (401, "Unauthorized")
    assert "WWW-Authenticate" in answer.headers


async def test_the_document_has_what_the_app_has(serve: Serve, config: Path) -> None:
    minimal = await document(await serve(MinimalApp()))
    assert set(minimal["paths"]) == {"/api/stats", "/api/health", "/api/openapi.json"}
    async with Flowrra() as app:
        plain = await document(await serve(app))
        acting = await document(await serve(app, web_config_file=config, web_actions=True), **ANNA)
    assert not any("actions" in path for path in plain["paths"])
    assert acting["paths"]["/api/actions/retry-task"]["post"]["operationId"] == "retry-task"
    assert acting["security"] == [{"password": []}]
    described = plain["components"]["schemas"]["RunningAttempt"]["properties"]
    assert described["elapsed"] == {"type": "number", "description": "Seconds since then."}
    task = plain["components"]["schemas"]["TaskDetails"]
    assert "traceback" not in task["required"]
    assert "Left out" in task["properties"]["traceback"]["description"]


async def test_local_times_of_schedules_get_their_offset_and_their_zone(serve: Serve, tmp_path: Path) -> None:
    app = Flowrra()
    scheduler = app.create_scheduler(SQLiteSchedulerBackend(str(tmp_path / "schedules.db")), timezone="Europe/Paris")

    @app.task(name="report")
    async def report() -> None: ...

    async with app:
        await scheduler.schedule_cron("report", "0 3 * * *", task_id="nightly")
        await scheduler.schedule_cron("report", "0 3 * * *", task_id="tokyo", timezone="Asia/Tokyo")
        service = await serve(app)
        listed = {each["id"]: each for each in json.loads((await service.get("/api/schedules")).text)}
        one = json.loads((await service.get("/api/schedules/nightly")).text)
    assert {name: each["timezone"] for name, each in listed.items()} == {
        "nightly": "Europe/Paris",
        "tokyo": "Asia/Tokyo",
    }
    for each in (*listed.values(), one):
        for key in ("next_run_at", "created_at", "updated_at"):
            assert datetime.fromisoformat(each[key]).tzinfo is not None
    assert datetime.fromisoformat(listed["tokyo"]["next_run_at"]).astimezone(UTC).hour == 18


async def test_no_answer_has_a_time_without_an_offset(serve: Serve) -> None:
    """Whatever an app of another kind answers."""
    app = ContractApp()
    app.queues["io"]["oldest_pending_at"] = datetime(2026, 1, 2)  # noqa: DTZ001
    app.schedules[0]["next_run_at"] = datetime.min  # noqa: DTZ901
    service = await serve(app)
    queues = json.loads((await service.get("/api/queues")).text)
    assert datetime.fromisoformat(queues["io"]["oldest_pending_at"]).tzinfo is not None
    schedules = json.loads((await service.get("/api/schedules")).text)
    assert datetime.fromisoformat(schedules[0]["next_run_at"]).tzinfo is not None


async def test_what_is_quoted_in_a_text_is_masked_and_the_answer_is_json(
    serve: Serve, config: Path, tmp_path: Path
) -> None:
    """Whatever the text is: a description, an error, a result, an argument or a key in one of these."""
    app = Flowrra()
    scheduler = app.create_scheduler(SQLiteSchedulerBackend(str(tmp_path / "schedules.db")))
    quoting = 'see "https://wiki/sweep?page_token=s3cret" and "redis://u:s3cret@host" first'
    shown = 'see "https://wiki/sweep?page_token=***" and "redis://***@host" first'

    @app.task(name="sweep", max_retries=0)
    async def sweep(given: dict[str, str]) -> None:
        raise ValueError(quoting)

    @app.task(name="tell")
    async def tell(given: dict[str, str]) -> dict[str, str]:
        return given

    async with app:
        await scheduler.schedule_cron("sweep", "0 3 * * *", description=quoting, task_id="nightly")
        ids = [await app.submit(each, {quoting: quoting}) for each in (sweep, tell)]
        for each in ids:
            await app.wait_for_result(each, timeout=5)
        service = await serve(app, web_config_file=config, web_show_task_data=True)
        paths = (
            *("/api/schedules", "/api/schedules/nightly", "/api/task-records", "/api/failures"),
            *(f"/api/task-records/{each}" for each in ids),
        )
        answers = [await service.get(path, **ANNA) for path in paths]
        problem = await service.get(f"/api/throughput?task_name={quote(quoting)}", **ANNA)
    found = [json.loads(answer.text) for answer in (*answers, problem)]
    assert [answer.status for answer in answers] == [200] * len(paths)
    assert not any("s3cret" in answer.text for answer in (*answers, problem))
    assert found[0][0]["description"] == found[1]["description"] == shown
    failed, told = found[4:6]
    assert (failed["error"], failed["args"]) == (f"ValueError: {shown}", [{shown: shown}])
    assert told["result"] == {shown: shown}


async def test_what_is_cut_off_shows_no_part_of_a_password(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:

        @app.task(name="pull")
        async def pull(url: str) -> None: ...

        for before in range(0, 40, 2):  # so that the end of what is shown falls on every part of the URL
            await app.submit(pull, "x" * (16_384 - before) + " https://bot:s3cret@git.example/r.git")
        service = await serve(app, web_config_file=config, web_show_task_data=True)
        answer = await service.get("/api/task-records", **ANNA)
    shown = [task["args"][0][16_300:] for task in json.loads(answer.text)["tasks"]]
    assert len(shown) == 20
    assert not any("bot" in each or "s3c" in each for each in shown)


class Subclass(str):
    __slots__ = ()


@dataclass
class Repository:
    url: str


@pytest.mark.slow
@pytest.mark.parametrize("kind", [str, str.encode, Subclass, Repository, lambda url: {"at": [Repository(url)]}])
async def test_a_failures_argument_shows_no_part_of_a_password(
    serve: Serve, config: Path, kind: Callable[[str], Any]
) -> None:
    """Whatever it is, and wherever its middle is left out: in the list of failures, and on the task's page."""
    async with Flowrra() as app:

        @app.task(name="pull", max_retries=0)
        async def pull(*urls: Any) -> None:
            raise ConnectionError

        url = f"https://bot:{'s3cret' * 20}@git.example/{'path/' * 20}"
        task_id = await app.submit(pull, kind(url), kind("x" * 1900 + f" {url}" * 20))
        await app.wait_for_result(task_id, timeout=5)
        service = await serve(app, web_config_file=config, web_show_task_data=True)
        answer, page = [await service.get(path, **ANNA) for path in ("/api/failures", f"/tasks/{task_id}")]
    [failure] = json.loads(answer.text)["failures"]
    assert "https://***@git.example/" in failure["arguments"]
    assert "https://***@git.example/" in page.text
    assert "s3c" not in answer.text + page.text


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


async def test_arguments_may_be_anything_and_of_any_size(serve: Serve, config: Path) -> None:
    async with Flowrra() as app:

        @app.task(name="take")
        async def take(*args: Any, **kwargs: Any) -> Any:
            return args

        deep: list[Any] = []
        for _ in range(10_000):
            deep = [deep]
        endless: dict[str, Any] = {}
        endless["self"] = endless
        args = (Hostile(), deep, endless, "x" * 1_000_000, float("nan"), 10**4000, b"\xff", list(range(100_000)))
        ids = [await app.submit("take", each, a=each) for each in args]
        for task_id in ids:
            await app.wait_for_result(task_id, timeout=10)
        service = await serve(app, web_config_file=config, web_show_task_data=True, probe_timeout=10.0)
        answer = await service.get("/api/task-records", **ANNA)
        assert answer.status == 200, answer.text[:500]
        assert len(json.loads(answer.text)["tasks"]) == len(args)
        assert len(answer.body) < 3 * len(args) * 100_000


@pytest.mark.slow
async def test_only_so_many_questions_wait_and_none_goes_on_that_nobody_waits_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowrra_exporter.app.management.MOST_QUESTIONS", 3)

    class Slow(MinimalApp):
        asked = 0
        under_way = 0

        async def count_tasks(self, by: str) -> Any:
            return {}

        async def list_dead_tasks(self, limit: int) -> Any:
            self.asked += 1
            self.under_way += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.under_way -= 1

    app = Slow()
    service = await serve(app)
    answers = await asyncio.gather(*(service.get(f"/api/dead-tasks?limit={number}") for number in range(1, 11)))
    assert {answer.status for answer in answers} == {503}
    assert app.asked == 3
    assert sum("other questions" in answer.text for answer in answers) == 7
    await until(lambda: app.under_way == 0)
    assert (await service.get("/api/task-counts")).status == 200
