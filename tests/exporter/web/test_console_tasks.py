"""The list of tasks and the page of one: what operators find there, and what they never see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from flowrra import Flowrra, current_task
from flowrra.management import FlowrraManager
from tests.core.apps import numbers_of
from tests.exporter.conftest import Serve, Service, until
from tests.exporter.contract import ContractApp
from tests.exporter.web.operator import Operator, operated, operator

SECRET = "s3cret-argument"
RIGHT_TO_LEFT = "משימה_לבנה_\u202e"
LONG = "nightly_report_of_everything_that_was_sold_anywhere_" + "x" * 68


class Shop:
    """An app whose tasks do what a test asks for."""

    def __init__(self) -> None:
        self.app = Flowrra()
        self.manager = FlowrraManager(self.app)
        self.opened = asyncio.Event()
        self.broken = True

        @self.app.task("charge", max_retries=0)
        async def charge(card: str, amount: int = 1) -> dict[str, Any]:
            if self.broken:
                raise ConnectionError(f"no answer for {card}")
            return {"paid": amount}

        @self.app.task("hold", max_retries=0)
        async def hold() -> None:
            task = current_task()
            task.progress(30, 120, SECRET)
            await self.opened.wait()

        for name in (LONG, RIGHT_TO_LEFT, "<script>alert(1)</script>"):
            self.app.task(name, max_retries=0)(_nothing)

    async def done(self, name: str, *args: Any, **options: Any) -> str:
        """Submits a task and waits for its end; its id."""
        task_id = await self.app.options(**options).submit(name, *args)
        await self.app.wait_for_result(task_id, timeout=5)
        return task_id


async def _nothing() -> None:
    """Nothing."""


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    found = Shop()
    async with found.app:
        yield found
        found.opened.set()


@pytest.fixture
async def service(shop: Shop, serve: Serve, tmp_path: Path) -> Service:
    found: Service = await serve(shop.app, **operated(tmp_path))
    return found


@pytest.fixture
async def anna(service: Service) -> AsyncIterator[Operator]:
    async with operator(service.url) as found:
        yield found


async def test_tasks_are_listed_the_latest_first_with_what_became_of_them(shop: Shop, anna: Operator) -> None:
    failed = await shop.done("charge", SECRET)
    shop.broken = False
    paid = await shop.done("charge", "other")
    page = await anna.get("tasks")
    rows = [row for row in page.rows if "charge" in row]
    assert [failed in rows[1], paid in rows[0]] == [True, True]
    assert "failed" in rows[1]
    assert f"ConnectionError: no answer for {SECRET}" in rows[1]
    assert "success" in rows[0]
    assert "all 2" in page.words
    assert "success 1" in page.words
    assert "failed 1" in page.words


async def test_the_list_is_filtered_and_says_by_what(shop: Shop, anna: Operator) -> None:
    failed = await shop.done("charge", "one")
    shop.broken = False
    paid = await shop.done("charge", "two")
    other = await shop.done(LONG, queue="slow")
    worker = (await shop.manager.list_workers())[0]["id"]
    for query, found in (
        ({"status": "failed"}, {failed}),
        ({"name": "charge"}, {failed, paid}),
        ({"name": "charge", "status": "success"}, {paid}),
        ({"queue": "slow"}, {other}),
        ({"worker": worker}, {failed, paid, other}),
        ({"worker": "another"}, set()),
        ({"since": "300"}, {failed, paid, other}),
        ({"error": "no answer for one"}, {failed}),
        ({"error": "no answer for two"}, set()),
    ):
        page = await anna.get("tasks", **query)
        assert {each for each in (failed, paid, other) if each in page.text} == found, query
        (form,) = [each for each in page.forms if "since" in each.fields and each.method == "get"]
        assert all(form.fields[key] == value for key, value in query.items() if key not in ("status", "since"))
    assert "There is no status “lost”" in (await anna.get("tasks", status="lost")).text


async def test_a_long_list_is_paged_and_each_task_is_there_once(shop: Shop, anna: Operator) -> None:
    shop.broken = False
    ids = await shop.app.submit_many([("charge", ("card",), {})] * 120)
    await until(lambda: numbers_of(shop.app, "charge")["succeeded"] == 120)
    page, seen = await anna.get("tasks", name="charge"), []
    while True:
        seen += [each for each in ids if each in page.text]
        if "Older" not in page.links:
            break
        page = await anna.follow(page, "Older")
    assert sorted(seen) == sorted(ids)
    assert (await anna.follow(page, "Newest")).url == (await anna.get("tasks", name="charge")).url


@pytest.mark.slow
async def test_a_page_of_a_list_that_is_none_is_said_to_be_none_and_is_no_failure_of_the_app(
    anna: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    page = await anna.get("tasks", cursor="another page")
    assert "cursor must be the 'next' of the page before, not 'another page'" in page.text
    assert [record.getMessage() for record in caplog.records if "failed" in record.getMessage()] == []


async def test_a_task_is_found_by_its_exact_id(shop: Shop, anna: Operator) -> None:
    task_id = await shop.done("charge", SECRET)
    find = (await anna.get("tasks")).form("Find")
    page = await anna.send(find, id=f" {task_id} ")
    assert page.url.endswith(f"/tasks/{task_id}")
    assert page.status == 200
    assert task_id in page.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "task_id",
    [
        "a/b/../c",
        "..",
        ".",
        "what?is=this#and",
        "100%25",
        "a b+c&d",
        "ключ-鍵",
        "<b>&\"'",
        "x" * 200,
        "/",
        "a//b",
        "~:@;",
        "a{b}|c^[d]`",
        "\N{GRINNING FACE}" * 200,
        "x" * 512,
        "x" * 2000,
    ],
)
async def test_an_id_may_be_any_text(shop: Shop, anna: Operator, task_id: str) -> None:
    await shop.done("charge", "card", task_id=task_id)
    listed = await anna.get("tasks")
    page = await anna.follow(listed, "charge")
    assert (page.status, "ConnectionError: no answer for card" in page.text) == (200, True)
    assert task_id in page.text
    shop.broken = False
    after = await anna.send(page.form("Retry", task_id=task_id))
    assert "runs anew as" in after.words
    assert "Run anew as" in after.words


async def test_the_page_of_a_failed_task_tells_why(shop: Shop, anna: Operator) -> None:
    task_id = await shop.done("charge", SECRET, 7)
    page = await anna.get(f"tasks/{task_id}")
    for words in ("failed", "Submitted", "Waited", "Ran", "Attempt 1", f"ConnectionError: no answer for {SECRET}"):
        assert words in page.words, words
    assert "raise ConnectionError" in page.text
    assert f"'{SECRET}'" in page.text
    assert await anna.follow(page, "charge")


async def test_every_attempt_has_its_own_traceback(serve: Serve, tmp_path: Path) -> None:
    app, raised = Flowrra(), iter(("first", "second", "third"))

    @app.task("flaky", max_retries=2, retry_delay=0.01)
    async def flaky() -> None:
        raise ValueError(next(raised))

    async with app:
        task_id = await app.submit(flaky)
        await app.wait_for_result(task_id, timeout=5)
        async with operator((await serve(app, **operated(tmp_path))).url) as anna:
            page = await anna.get(f"tasks/{task_id}")
    for number, word in ((1, "first"), (2, "second"), (3, "third")):
        assert f"ValueError: {word}" in page.row(f"Attempt {number}")
        assert f"ValueError: {word}" in page.text.partition(f"Traceback of attempt {number}")[2]
    assert page.html.count(' open=""') == 1, "the last one is what most come for"


async def test_a_result_and_arguments_are_shown_and_bounded(shop: Shop, anna: Operator) -> None:
    shop.broken = False
    paid = await shop.done("charge", "x" * 100_000, 3)
    page = await anna.get(f"tasks/{paid}")
    assert "{'paid': 3}" in page.text
    assert "xxx" in page.text
    assert len(page.html) < 80_000


async def test_progress_is_shown_while_a_task_runs(shop: Shop, anna: Operator) -> None:
    task_id = await shop.app.submit("hold")
    await until(lambda: numbers_of(shop.app, "hold")["running"] == 1)
    for path in ("tasks", f"tasks/{task_id}"):
        page = await anna.get(path)
        assert "30 of 120" in page.text
        assert 'width="25.0%"' in page.html
        assert SECRET in page.text


async def test_nothing_of_what_a_task_was_given_and_gave_without_leave(
    shop: Shop, serve: Serve, tmp_path: Path
) -> None:
    failed = await shop.done("charge", SECRET)
    held = await shop.app.submit("hold")
    await until(lambda: numbers_of(shop.app, "hold")["running"] == 1)
    switched_off = await serve(shop.app, **{**operated(tmp_path), "web_show_task_data": False})
    unknown = await serve(shop.app)
    for service, known in ((switched_off, True), (unknown, False)):
        async with operator(service.url, known) as someone:
            for path in ("tasks", f"tasks/{failed}", f"tasks/{held}", "tasks?status=failed", f"tasks?error={SECRET}"):
                page = await someone.get(path)
                assert page.status == 200
                assert "no answer for" not in page.text
                assert "ConnectionError" not in page.text
                assert SECRET not in page.html.replace(f"error={SECRET}", "")
            assert "--web.show-task-data" in (await someone.get(f"tasks/{failed}")).text
            # Nor can it be guessed, letter by letter, from what is found.
            for guess in (SECRET[:3], "nothing like it"):
                assert failed in (await someone.get("tasks", error=guess)).text


async def test_an_unknown_id_is_said_to_be_unknown(anna: Operator) -> None:
    for path in ("tasks/no-such-task", f"tasks/{quote('<script>alert(1)</script>', safe='')}"):
        page = await anna.get(path)
        assert page.status == 404
        assert "No task is known by the id" in page.text
        assert page.form("Find")
        assert "<script>alert" not in page.html


async def test_names_are_text_whatever_they_contain(shop: Shop, anna: Operator) -> None:
    names = (LONG, RIGHT_TO_LEFT, "<script>alert(1)</script>")
    ids = [await shop.done(name) for name in names]
    for path in ("tasks", *(f"tasks/{task_id}" for task_id in ids)):
        page = await anna.get(path)
        assert "<script>alert" not in page.html
        assert [name in page.text for name in names] == [path.endswith(("tasks", task_id)) for task_id in ids]
    assert f"<bdi>{RIGHT_TO_LEFT}</bdi>" in (await anna.get("tasks")).html


# ── acting ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_failed_task_is_retried_from_its_page(shop: Shop, anna: Operator) -> None:
    failed = await shop.done("charge", "card")
    shop.broken = False
    page = await anna.send((await anna.get(f"tasks/{failed}")).form("Retry"))
    assert page.url.partition("?")[0].endswith(f"/tasks/{failed}")
    new_id = (await shop.manager.get_task(failed) or {})["retried_as"]
    assert f"Task {failed} runs anew as {new_id}" in page.words
    assert [each.button for each in page.forms if "Retry" in each.button] == []
    await shop.app.wait_for_result(str(new_id), timeout=5)
    assert "success" in (await anna.follow(page, str(new_id))).text


async def test_cancelling_asks_first(shop: Shop, anna: Operator) -> None:
    task_id = await shop.app.options(countdown=60).submit("charge", "card")
    page = await anna.get(f"tasks/{task_id}")
    asked = await anna.follow(page, "Cancel…")
    assert "Cancel this task?" in asked.text
    assert task_id in asked.text
    assert (await shop.manager.get_task(task_id) or {})["status"] == "pending"
    assert (await anna.follow(asked, "Don't")).url == page.url
    after = await anna.send(asked.form("Cancel", task_id=task_id))
    assert after.url.partition("?")[0] == page.url
    assert f"Task {task_id} was cancelled" in after.words
    assert (await shop.manager.get_task(task_id) or {})["status"] == "cancelled"


@pytest.mark.parametrize("task_id", ["\N{GRINNING FACE}" * 200, "x" * 512, "x" * 2000, "{a}", ".."])
async def test_what_is_confirmed_is_done_to_that_task_alone(shop: Shop, anna: Operator, task_id: str) -> None:
    """Also if its id is so long that a part of it may be the id of another one."""
    others = [task_id[:cut] for cut in (1, 100, 500, 512, 513) if cut < len(task_id)]
    for each in (task_id, *others):
        await shop.app.options(countdown=60, task_id=each).submit("charge", "card")
    page = await anna.get("tasks", id=task_id)
    asked = await anna.follow(page, "Cancel…")
    after = await anna.send(asked.form("Cancel"))
    assert (after.status, after.url.startswith(page.url)) == (200, True)
    assert (await shop.manager.get_task(task_id) or {})["status"] == "cancelled"
    assert {(await shop.manager.get_task(each) or {})["status"] for each in others} <= {"pending"}


async def test_a_list_that_is_not_refreshed_is_led_back_to_as_it_was(shop: Shop, anna: Operator) -> None:
    await shop.app.options(countdown=60).submit("charge", "card")
    listed = await anna.get("tasks", name="charge", status="pending", refresh="off")
    asked = await anna.follow(listed, "Cancel all of these…")
    left = await anna.follow(asked, "Don't")
    assert "Cancel all of these…" in left.links
    assert "Refresh again" in left.links


@pytest.mark.parametrize("name", ["self", "path", "query", "changes", "context"])
async def test_a_page_to_go_back_to_may_have_parameters_of_any_name(shop: Shop, anna: Operator, name: str) -> None:
    asked = await anna.get("confirm/purge-queue", queue="default", back=f"tasks?{name}=1")
    assert asked.status == 200
    assert asked.links["Don't"].endswith(f"/tasks?{name}=1")


async def test_all_waiting_tasks_that_are_chosen_are_cancelled(shop: Shop, anna: Operator) -> None:
    meant = [await shop.app.options(countdown=60).submit("charge", "card") for _ in range(3)]
    other = await shop.app.options(countdown=60).submit(LONG)
    assert "Cancel all of these…" not in (await anna.get("tasks", name="charge")).links
    listed = await anna.get("tasks", name="charge", status="pending")
    asked = await anna.follow(listed, "Cancel all of these…")
    assert "How many 3" in asked.words
    after = await anna.send(asked.form("Cancel"))
    assert "Tasks that were cancelled: 3; left: 0" in after.words
    found = [(await shop.manager.get_task(each) or {})["status"] for each in (*meant, other)]
    assert found == ["cancelled"] * 3 + ["pending"]


async def test_tasks_of_a_name_are_paused_and_resumed(shop: Shop, anna: Operator) -> None:
    page = await anna.get("tasks", name="charge")
    paused = await anna.send(page.form("Pause tasks of this name"))
    assert "Tasks of charge are paused" in paused.words
    assert "charge" in (await anna.get("queues")).text.partition("Paused tasks")[2]
    resumed = await anna.send((await anna.get("queues")).form("Resume", task_name="charge"))
    assert "Tasks of charge go on" in resumed.words
    assert "Paused tasks" not in resumed.text


async def test_nobody_is_shown_what_they_may_not_do(shop: Shop, serve: Serve, tmp_path: Path) -> None:
    failed = await shop.done("charge", "card")
    switched_off = await serve(shop.app, **{**operated(tmp_path), "web_actions": False})
    unknown = await serve(shop.app)
    for service, known in ((switched_off, True), (unknown, False)):
        async with operator(service.url, known) as someone:
            for path in ("tasks", f"tasks/{failed}", "queues"):
                page = await someone.get(path)
                assert [each.action for each in page.forms if each.method == "post"] == []
                assert not [each for each in page.links.values() if "/confirm/" in each]
            assert (await someone.get("confirm/cancel-task?task_id=1")).status == 404


async def test_confirming_what_is_no_action_leads_nowhere(anna: Operator) -> None:
    for path in ("confirm/nothing", "confirm/retry-task"):
        assert (await anna.get(path)).status == 404


# ── apps that have less ─────────────────────────────────────────────────────────────────────────────────────


async def test_an_app_that_lists_no_tasks_has_no_such_page(serve: Serve) -> None:
    service = await serve(ContractApp())
    async with operator(service.url, known=False) as someone:
        assert not {f"{service.url}/tasks", f"{service.url}/dead"} & set((await someone.get("")).links.values())
        assert (await someone.get("tasks")).status == 404


@pytest.mark.slow
async def test_while_the_loop_is_blocked_the_page_says_so(shop: Shop, anna: Operator) -> None:
    failed = await shop.done("charge", "card")
    held = await shop.app.submit("hold")
    await until(lambda: bool(shop.app.executors["io"].busy_workers))

    def look() -> list[str]:
        async def both() -> list[str]:
            async with operator(anna._root) as someone:
                await until_blocked(someone)
                return [(await someone.get(path)).words for path in ("running", "tasks", f"tasks/{failed}")]

        return asyncio.run(both())

    looking = asyncio.get_running_loop().run_in_executor(None, look)
    await asyncio.sleep(0)
    time.sleep(4)
    running, *others = await looking
    assert held in running  # a plain figure, which is read without the loop
    for words in others:
        assert "Not known at the moment" in words
        assert "blocked" in words


async def until_blocked(someone: Operator) -> None:
    """Waits until the exporter has noticed that the app's loop is blocked."""
    async with asyncio.timeout(3.5):
        while "Event loop blocked" not in (await someone.get("")).text:
            await asyncio.sleep(0.05)


async def test_a_task_that_was_cancelled_while_it_waited_for_its_next_attempt_tells_of_the_one_that_ran(
    serve: Serve,
) -> None:
    class Waited(ContractApp):
        async def list_tasks(self, **_: Any) -> Any:
            return {"tasks": [], "next": None}

        async def get_dead_task(self, task_id: str) -> Any:
            return None

        async def get_task(self, task_id: str) -> Any:
            began = datetime(2026, 11, 30, 12, tzinfo=UTC)
            return {
                "task_id": task_id,
                "task_name": "charge",
                "status": "cancelled",
                "queue": "default",
                "retries": 1,
                "started_at": began,
                "finished_at": began + timedelta(seconds=5),
                "attempts_begun": 1,
                "attempt_finished_at": began + timedelta(milliseconds=50),
            }

    async with operator((await serve(Waited())).url, known=False) as someone:
        page = await someone.get("tasks/7")
    assert "Ran 50 ms" in page.words
    assert "Attempts 1" in page.words


async def test_one_record_that_cannot_be_read_costs_itself_alone(serve: Serve) -> None:
    class Odd(ContractApp):
        async def list_tasks(self, **_: Any) -> Any:
            good = {"task_id": "good", "task_name": "fine", "status": "success", "queue": "default"}
            tasks = [{"task_id": "bad"}, {**good, "attempts_begun": 1}, {**good, "attempts_begun": "many"}]
            return {"tasks": tasks, "next": None}

        async def get_task(self, task_id: str) -> Any:
            return None

    async with operator((await serve(Odd())).url, known=False) as someone:
        page = await someone.get("tasks")
    assert "fine" in page.text
    assert "2 more can't be read" in page.text


async def test_what_cannot_be_shown_costs_its_part_alone(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    class Odd(ContractApp):
        async def list_workers(self) -> Any:
            return [{"id": "odd", "executors": {"io": {"busy": "x", "slots": None}}}]

        async def list_tasks(self, **_: Any) -> Any:
            return {"tasks": [], "next": None}

        async def get_task(self, task_id: str) -> Any:
            return {"task_id": task_id, "status": ["odd"]}

    async with operator((await serve(Odd())).url, known=False) as someone:
        workers, task = await someone.get("workers"), await someone.get("tasks/7")
    assert (workers.status, task.status) == (200, 500)
    for page in (workers, task):
        assert "This can't be shown" in page.text
        assert "Overview" in page.links
    assert sum("parts of pages could not be made" in line for line in caplog.messages) == 1


async def test_what_the_broker_does_not_tell_costs_no_more_than_that(serve: Serve) -> None:
    class BrokerAway(ContractApp):
        async def list_tasks(self, **_: Any) -> Any:
            return {"tasks": [], "next": None}

        async def get_task(self, task_id: str) -> Any:
            known = {"task_id": task_id, "task_name": "charge", "status": "failed", "queue": "default"}
            return {**known, "attempts_begun": 1} if task_id == "7" else None

        async def get_dead_task(self, task_id: str) -> Any:
            raise ConnectionError

    async with operator((await serve(BrokerAway())).url, known=False) as someone:
        known, unknown = await someone.get("tasks/7"), await someone.get("tasks/8")
    for page in (known, unknown):
        assert "Whether it was given up is not known at the moment: get_dead_task() failed" in page.words
        assert page.status == 200  # and not 404, as it may be there
    assert "charge" in known.text


@pytest.mark.slow
async def test_a_page_asks_a_slow_app_for_all_its_parts_at_once(serve: Serve) -> None:
    asked: dict[str, float] = {}

    class Slow(ContractApp):
        async def list_tasks(self, **_: Any) -> Any:
            await self._hang("list_tasks")

        async def count_tasks(self) -> Any:
            await self._hang("count_tasks")

        async def get_task(self, task_id: str) -> Any: ...

        async def _hang(self, name: str) -> None:
            asked[name] = time.monotonic()
            await asyncio.Event().wait()

    answer = await (await serve(Slow())).get("/tasks")
    assert answer.text.count("ot known at the moment") == 2
    assert abs(asked["list_tasks"] - asked["count_tasks"]) < 0.5
