"""Queues, dead tasks and schedules in the console, and what operators do there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.management import FlowrraManager
from tests.core.apps import numbers_of
from tests.exporter.conftest import Serve, until
from tests.exporter.contract import ContractApp, schedule
from tests.exporter.web.operator import Operator, operated, operator
from tests.history.test_control import dead_task
from tests.support.servers import ValkeyServer

SECRET = 424242


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as found:
        yield found


@pytest.fixture
def url(server: ValkeyServer) -> str:
    with redis.Redis(port=server.port) as client:
        client.flushall()
    return f"redis://127.0.0.1:{server.port}/0"


def shared_app(url: str, consume: bool = True) -> Flowrra:
    app = Flowrra(Config(BrokerConfig(url=url), BackendConfig(url=url), ExecutorConfig(io_workers=2, consume=consume)))

    @app.task("add")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task("other", queue="mail")
    async def other() -> None: ...

    return app


@pytest.fixture
async def idle(url: str) -> AsyncIterator[Flowrra]:
    """An app on the server that takes no tasks."""
    async with shared_app(url, consume=False) as app:
        yield app


@pytest.fixture
async def anna(idle: Flowrra, serve: Serve, tmp_path: Path) -> AsyncIterator[Operator]:
    async with operator((await serve(idle, **operated(tmp_path))).url) as found:
        yield found


# ── queues ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_queues_are_shown_with_what_waits_in_them(idle: Flowrra, anna: Operator, url: str) -> None:
    await dead_task(idle, url, 1)
    await idle.submit("add", 1, 2)
    await idle.options(countdown=60).submit("other")
    page = await anna.get("queues")
    default, mail = page.row("default"), page.row("mail")
    assert default.startswith("default io, in")
    assert " 1 " in default
    assert "1 dead tasks" in default
    assert "open" in mail
    assert "queue=default" in (await anna.follow(page, "dead tasks")).url


async def test_a_queue_is_paused_resumed_and_purged(idle: Flowrra, anna: Operator) -> None:
    for _ in range(3):
        await idle.submit("other")
    paused = await anna.send((await anna.get("queues")).form("Pause", queue="mail"))
    assert "Queue mail is paused" in paused.words
    assert "paused" in paused.row("mail")
    resumed = await anna.send(paused.form("Resume", queue="mail"))
    assert "Queue mail goes on" in resumed.words
    asked = await anna.follow(resumed, "Purge… queue mail")
    assert "How many 3" in asked.words
    purged = await anna.send(asked.form("Purge"))
    assert "were cancelled: 3; left: 0" in purged.words
    assert not [each for each in purged.links if "Purge… queue mail" in each]


# ── dead tasks ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_dead_tasks_are_listed_and_filtered(idle: Flowrra, anna: Operator, url: str) -> None:
    ids = [await dead_task(idle, url, n) for n in range(3)]
    for query, found in (
        ({}, ids),
        ({"name": "add"}, ids),
        ({"name": "another"}, []),
        ({"reason": "was heard of"}, ids),
        ({"reason": "cosmic rays"}, []),
        ({"queue": "default"}, ids),
        ({"queue": "mail"}, []),
    ):
        page = await anna.get("dead", **query)
        assert [each for each in ids if each in page.text] == found, query
    assert "no worker was heard of any more" in (await anna.get("dead")).text


async def test_one_dead_task_is_requeued_and_one_deleted(idle: Flowrra, anna: Operator, url: str) -> None:
    first, second = [await dead_task(idle, url, n) for n in range(2)]
    page = await anna.send((await anna.get("dead")).form("Requeue", task_id=first))
    assert f"Task {first} is pending again" in page.words
    asked = await anna.follow(page, "Delete… add")
    assert "Delete this dead task?" in asked.text
    gone = await anna.send(asked.form("Delete", task_id=second))
    assert "no longer among the dead tasks" in gone.words
    assert "None: no task was given up." in gone.text


async def test_a_dead_task_can_be_requeued_from_its_own_page(idle: Flowrra, anna: Operator, url: str) -> None:
    task_id = await dead_task(idle, url, 1)
    page = await anna.get(f"tasks/{task_id}")
    assert "Dead since" in page.words
    assert "no worker was heard of any more" in page.text
    assert [each.button for each in page.forms if each.method == "post"] == ["Requeue", "Retry under a new id"]
    after = await anna.send(page.form("Requeue"))
    assert "is pending again" in after.words
    assert "Dead since" not in after.words


async def test_a_dead_task_whose_record_has_gone_still_has_a_page(idle: Flowrra, anna: Operator, url: str) -> None:
    task_id = await dead_task(idle, url, SECRET)
    await idle.results.delete(task_id)
    page = await anna.get(f"tasks/{task_id}")
    assert page.status == 200
    assert "Dead since" in page.words
    assert str(SECRET) in page.text


async def test_all_dead_tasks_that_are_chosen_are_requeued_once_the_number_is_confirmed(
    idle: Flowrra, anna: Operator, url: str
) -> None:
    for n in range(4):
        await dead_task(idle, url, n)
    asked = await anna.follow(await anna.get("dead", name="add"), "Requeue all of these…")
    assert "How many 4" in asked.words
    assert (await FlowrraManager(idle).get_queue_stats())["io"]["dead"] == 4  # type: ignore[index]
    done = await anna.send(asked.form("Requeue all", name="add"))
    assert "pending again: 4; left: 0" in done.words


async def test_all_dead_tasks_are_deleted_once_the_number_is_confirmed(idle: Flowrra, anna: Operator, url: str) -> None:
    for n in range(3):
        await dead_task(idle, url, n)
    asked = await anna.follow(await anna.get("dead"), "Delete all dead tasks…")
    assert "How many 3" in asked.words
    done = await anna.send(asked.form("Delete all"))
    assert "were deleted: 3; left: 0" in done.words


async def test_many_dead_tasks_are_paged(idle: Flowrra, anna: Operator, url: str) -> None:
    ids = [await dead_task(idle, url, n) for n in range(40)]
    first = await anna.get("dead")
    second = await anna.follow(first, "Older")
    assert sorted(each for page in (first, second) for each in ids if each in page.text) == sorted(ids)
    assert (await anna.follow(second, "Newer")).text.count("Requeue add") == 25


async def test_what_dead_tasks_were_given_is_for_those_who_may_see_it(
    idle: Flowrra, serve: Serve, tmp_path: Path, url: str
) -> None:
    task_id = await dead_task(idle, url, SECRET)
    settings = operated(tmp_path)
    for shown in (True, False):
        service = await serve(idle, **{**settings, "web_show_task_data": shown})
        async with operator(service.url) as someone:
            for path in ("dead", f"tasks/{task_id}"):
                assert (str(SECRET) in (await someone.get(path)).html) == shown, path


# ── schedules ───────────────────────────────────────────────────────────────────────────────────────────────


class Planned:
    """An app with schedules that never come due by themselves."""

    def __init__(self, folder: Path) -> None:
        self.app = Flowrra()
        self.scheduler = self.app.create_scheduler(str(folder / "schedules.db"), timezone="Asia/Tokyo")

        @self.app.task("report", max_retries=0)
        async def report(office: str = "") -> str:
            return "reported"

    async def plan(self) -> None:
        await self.scheduler.schedule_cron("report", "0 3 1 1 *", task_id="nightly", description="Of the whole year")
        await self.scheduler.schedule_cron("report", "0 4 1 1 *", task_id="berlin", timezone="Europe/Berlin")
        await self.scheduler.schedule_interval("report", 86400, task_id="daily/at any hour", args=(SECRET,))


@pytest.fixture
async def planned(tmp_path: Path) -> AsyncIterator[Planned]:
    found = Planned(tmp_path)
    async with found.app:
        await found.plan()
        yield found


@pytest.fixture
async def bert(planned: Planned, serve: Serve, tmp_path: Path) -> AsyncIterator[Operator]:
    async with operator((await serve(planned.app, **operated(tmp_path))).url) as found:
        yield found


async def test_schedules_are_shown_with_their_cron_text_and_its_zone(bert: Operator) -> None:
    page = await bert.get("schedules")
    assert "0 3 1 1 * Asia/Tokyo" in page.row("nightly")
    assert "Of the whole year" in page.row("nightly")
    assert "0 4 1 1 * Europe/Berlin" in page.row("berlin")
    assert "every 1 d 0 h" in page.row("daily")
    assert "never" in page.row("nightly")
    assert "enabled" in page.row("nightly")


async def test_every_moment_is_in_utc_and_says_so_to_machines(bert: Operator, planned: Planned) -> None:
    page = await bert.get("schedules")
    (found,) = [each for each in await FlowrraManager(planned.app).list_schedules() if each["id"] == "nightly"]
    assert found["next_run_at"] is not None
    due = found["next_run_at"].astimezone(UTC)
    assert f'<time datetime="{due.isoformat(timespec="milliseconds")}">{due:%Y-%m-%d %H:%M:%S} UTC</time>' in page.html


@pytest.mark.slow
async def test_a_schedule_is_run_now_and_its_run_leads_to_its_task(bert: Operator, planned: Planned) -> None:
    done = await bert.send((await bert.get("schedules")).form("Run now", schedule_id="nightly"))
    assert "Schedule nightly was run, as task" in done.words
    assert "submitted" in done.row("nightly")
    await until(lambda: numbers_of(planned.app, "report")["succeeded"] == 1)
    page = await bert.follow(done, "report nightly")
    assert "submitted" in page.row("submitted")
    task = await bert.follow(page, "its task")
    assert "success" in task.text


async def test_a_schedule_is_disabled_and_enabled(bert: Operator) -> None:
    page = await bert.send((await bert.get("schedules")).form("Disable", schedule_id="nightly"))
    assert "Schedule nightly is disabled" in page.words
    assert "disabled" in page.row("nightly")
    again = await bert.send(page.form("Enable", schedule_id="nightly"))
    assert "enabled" in again.row("nightly")


async def test_the_id_of_a_schedule_may_be_any_text(bert: Operator) -> None:
    page = await bert.follow(await bert.get("schedules"), "daily/at any hour")
    assert page.status == 200
    assert "daily/at any hour" in page.text
    ran = await bert.send(page.form("Run now"))
    assert "was run, as task" in ran.words


async def test_an_unknown_schedule_is_said_to_be_unknown(bert: Operator) -> None:
    page = await bert.get("schedules/nothing")
    assert page.status == 404
    assert "There is no schedule of the id nothing" in page.words


async def test_schedules_are_found_by_a_part_of_what_they_are_called(bert: Operator) -> None:
    page = await bert.get("schedules", text="WHOLE year")
    assert ["nightly" in page.text, "berlin" in page.text] == [True, False]


async def test_arguments_of_schedules_are_for_those_who_may_see_them(
    planned: Planned, serve: Serve, tmp_path: Path
) -> None:
    settings = operated(tmp_path)
    for shown in (True, False):
        service = await serve(planned.app, **{**settings, "web_show_task_data": shown})
        async with operator(service.url) as someone:
            page = await someone.get("schedules", id="daily/at any hour")
            assert (str(SECRET) in page.html) == shown


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class Told(ContractApp):
    """Its runs are what a test sets."""

    runs: Any = ()

    async def list_schedule_runs(self, schedule_id: str | None = None, limit: int = 100) -> Any:
        return await self._answer("list_schedule_runs", self.runs)


def run(schedule_id: str, result: str, seconds: float) -> dict[str, Any]:
    due = soon(seconds)
    return {
        "schedule_id": schedule_id, "task_id": f"{schedule_id}@{seconds}", "due": due, "fired": None, "lag": None,
        "result": result, "attempts": 1, "error": None,
    }  # fmt: skip


async def test_what_is_overdue_broken_or_missed_stands_out(serve: Serve) -> None:
    app = Told()
    app.schedules = [
        schedule("fine", next_run_at=soon(7200.5), last_run_at=soon(-90)),
        schedule("late", next_run_at=soon(-40), last_run_at=None),
        schedule("lame", next_run_at=soon(60), broken="no task has that name"),
    ]
    app.runs = [run("fine", "missed", -60), run("fine", "missed", -120), run("fine", "submitted", -180)]
    async with operator((await serve(app)).url, known=False) as someone:
        page = await someone.get("schedules")
    assert "overdue for 4" in page.row("late")
    assert "broken no task has that name" in page.row("lame")
    assert "2 of the last 3" in page.row("fine")
    assert page.rows.index(next(row for row in page.rows if "lame" in row)) == 1


async def test_many_schedules_are_paged(serve: Serve) -> None:
    app = ContractApp()
    app.schedules = [schedule(f"s{number:02}", next_run_at=soon(100 + number)) for number in range(60)]
    async with operator((await serve(app)).url, known=False) as someone:
        page, seen = await someone.get("schedules"), []
        while True:
            seen += [f"s{number:02}" for number in range(60) if f">s{number:02}<" in page.html]
            if "Next" not in page.links:
                break
            page = await someone.follow(page, "Next")
    assert seen == [f"s{number:02}" for number in range(60)]
