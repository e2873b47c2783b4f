"""What operators do in a browser: find what is wrong, see why, act, and see that it helped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

from flowrra import Flowrra
from flowrra.brokers.base import Outcome, Verb
from flowrra.brokers.redis import RedisBroker
from flowrra.management import FlowrraManager
from tests.core.apps import final
from tests.exporter.conftest import Command, Run, Serve
from tests.exporter.targets.operated import RIGHT_TO_LEFT, produce
from tests.exporter.test_shared_queue import LOCAL
from tests.exporter.web.operator import PASSWORD, USER, operated, web_config
from tests.exporter.web.reverse_proxy import reverse_proxy
from tests.exporter.web.test_console_in_chromium import CHROMIUM, FLAGS
from tests.support.servers import ValkeyServer, free_port

pytestmark = [pytest.mark.tools, pytest.mark.slow]

DESK, PHONE = (1280, 900), (390, 844)
SECONDS = 15_000


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        await found.close()


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer(appendonly="yes") as found:
        yield found


class Place:
    """A worker on a server, with its console, and a way in for who submits."""

    def __init__(self, server: ValkeyServer, run: Run, folder: Path) -> None:
        self.broker = f"redis://127.0.0.1:{server.port}/0"
        self.look = redis.Redis(port=server.port)
        self.producer = produce(self.broker)
        self._run, self._folder = run, folder
        self._flags = (f"--web.config.file={web_config(folder)}", "--web.actions", "--web.show-task-data")

    async def start(self, *flags: str) -> str:
        """A worker; where its console is."""
        return await asyncio.to_thread(self._command("operated:make", *flags).ready)

    async def observe(self) -> str:
        """An observer; where its console is."""
        command = self._command("operated:make", "--observe")
        await asyncio.to_thread(command.wait_for_line, "the observer has started")
        return command.url

    def _command(self, target: str, *flags: str) -> Command:
        environment = {"SHARED_URL": self.broker, "SCHEDULES": str(self._folder / "schedules.db")}
        given = flags if any(flag.startswith("--web.listen-address") for flag in flags) else (LOCAL, *flags)
        return self._run(*given, *self._flags, target, **environment)

    def mend(self) -> None:
        """Takes away what ``charge`` fails for."""
        self.look.set("bank", "open")


@pytest.fixture
async def place(server: ValkeyServer, run: Run, tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(server, run, tmp_path)
    async with found.producer:
        yield found
    found.look.close()


@asynccontextmanager
async def opened(browser: Browser, size: tuple[int, int] = DESK, script: bool = True) -> AsyncIterator[Page]:
    """A page of a user who logs in; fails if the browser complains of anything but a page that isn't there."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        http_credentials={"username": USER, "password": PASSWORD},
        java_script_enabled=script,
    )
    context.set_default_timeout(SECONDS)
    page, troubles = await context.new_page(), []
    page.on("console", lambda each: troubles.append(each.text) if each.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    yield page
    assert troubles == []
    await context.close()


async def press(page: Page, name: str, *, role: str = "button", within: str = "main", exact: bool = False) -> None:
    """Goes to a button or link by the keyboard, as often as Tab has to be pressed, and presses Enter there."""
    wanted = page.locator(within).get_by_role(role, name=name, exact=exact).first  # type: ignore[arg-type]
    await reach(page, wanted)
    await page.keyboard.press("Enter")


async def reach(page: Page, wanted: Any) -> None:
    await wanted.wait_for()
    for _ in range(300):
        if await wanted.evaluate("element => element === document.activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"Tab leads to no {wanted}")


async def said(page: Page) -> str:
    """What the page says of the action before."""
    return await page.locator("#outcome").inner_text()


async def fits(page: Page) -> bool:
    """Nothing has to be scrolled sideways."""
    found: bool = await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return found


async def find_and_retry(page: Page, place: Place, root: str, failed: str, script: bool = True) -> None:
    """The whole way from an id, by the keyboard alone, to a run that succeeds."""
    await page.goto(f"{root}/tasks")
    assert await fits(page)
    await reach(page, page.get_by_label("Task id"))
    await page.keyboard.type(failed)
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: url.endswith(f"/tasks/{quote(failed, safe='')}"))
    assert "raise ConnectionError" in await page.get_by_role("group", name="Traceback of attempt 1").inner_text()
    assert await fits(page)
    place.mend()
    await press(page, "Retry")
    assert f"Task {failed} runs anew as" in await said(page)
    assert await fits(page)
    new = (await FlowrraManager(place.producer).get_task(failed) or {})["retried_as"]
    await final(place.producer, str(new))
    await press(page, str(new), role="link")
    await page.wait_for_url(f"**/tasks/{new}")
    if script:  # it brings itself up to date
        await page.locator("#task .state.good", has_text="success").wait_for()
    assert "charged 4242" in await page.get_by_role("group", name="Result").inner_text()


async def failed_charge(place: Place, task_id: str | None = None) -> str:
    found = await place.producer.options(task_id=task_id).submit("charge", "4242")
    assert str((await final(place.producer, found)).status) == "failed"
    return found


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
async def test_a_failed_task_is_found_read_and_retried_by_keyboard(
    browser: Browser, place: Place, size: tuple[int, int]
) -> None:
    root = await place.start()
    async with opened(browser, size) as page:
        await find_and_retry(page, place, root, await failed_charge(place))


async def test_a_half_typed_id_stays_while_the_page_brings_itself_up_to_date(browser: Browser, place: Place) -> None:
    root = await place.start()
    async with opened(browser, DESK) as page:
        await page.goto(f"{root}/tasks")
        field = page.get_by_label("Task id")
        await field.focus()
        await page.keyboard.type("half")
        task_id = await failed_charge(place)
        await page.locator("#tasks").get_by_text(task_id).wait_for()
        await page.keyboard.type(" typed")
        assert await field.input_value() == "half typed"


async def test_a_failed_task_is_retried_without_javascript(browser: Browser, place: Place) -> None:
    root = await place.start()
    async with opened(browser, script=False) as page:
        await find_and_retry(page, place, root, await failed_charge(place), script=False)


async def test_a_failed_task_is_retried_below_a_prefix_behind_a_proxy(browser: Browser, place: Place) -> None:
    port = free_port()
    async with reverse_proxy(f"http://127.0.0.1:{port}") as outside:
        await place.start(f"--web.listen-address=127.0.0.1:{port}", f"--web.external-url={outside}")
        async with opened(browser) as page:
            await find_and_retry(page, place, outside, await failed_charge(place, "by?day=1&100%25"))
            assert page.url.startswith(outside)


async def test_an_action_from_behind_a_proxy_that_was_not_told_of_is_refused(browser: Browser, place: Place) -> None:
    async with reverse_proxy(await place.start()) as outside:
        failed = await failed_charge(place)
        async with asyncio.timeout(30):
            context = await browser.new_context(http_credentials={"username": USER, "password": PASSWORD})
            page = await context.new_page()
            await page.goto(f"{outside}/tasks/{failed}")
            await page.get_by_role("button", name="Retry").click()
            await page.get_by_text("--web.external-url").wait_for()
            await context.close()


async def test_a_queue_is_paused_so_that_tasks_wait_and_resumed(browser: Browser, place: Place) -> None:
    root = await place.start()
    async with opened(browser) as page:
        await page.goto(f"{root}/queues")
        await press(page, "Pause queue default")
        assert await said(page) == "Queue default is paused."
        waiting = await place.producer.submit("report")
        row = page.get_by_role("row").filter(has_text="default")
        await row.locator("td").first.get_by_text("1", exact=True).wait_for()
        assert await row.locator(".state").last.inner_text() == "paused"
        assert (await FlowrraManager(place.producer).get_task(waiting) or {})["status"] == "pending"
        await press(page, "Resume queue default")
        assert await said(page) == "Queue default goes on."
        await final(place.producer, waiting)
        await row.locator("td").first.get_by_text("0", exact=True).wait_for()


async def test_a_schedule_is_run_now_and_its_run_is_seen(browser: Browser, place: Place) -> None:
    root = await place.start()
    async with opened(browser) as page:
        await page.goto(f"{root}/schedules")
        assert "Asia/Tokyo" in await page.get_by_role("row").filter(has_text="nightly").inner_text()
        await press(page, "Run now")
        assert (await said(page)).startswith("Schedule nightly was run, as task")
        await press(page, "nightly", role="link")
        await page.wait_for_url("**/schedules/nightly")
        await press(page, "its task", role="link")
        await page.locator("#task .state.good", has_text="success").wait_for()
        assert "reported" in await page.get_by_role("group", name="Result").inner_text()


async def test_a_dead_task_is_requeued_and_runs(browser: Browser, place: Place) -> None:
    task_id = await dead_charge(place)
    place.mend()
    root = await place.start()
    async with opened(browser) as page:
        await page.goto(f"{root}/queues")
        await press(page, "dead tasks", role="link")
        await page.wait_for_url("**/dead?queue=default")
        await press(page, "Requeue charge")
        assert await said(page) == f"Task {task_id} is pending again."
        await final(place.producer, task_id)
        await page.goto(f"{root}/tasks/{task_id}")
        await page.locator("#task .state.good", has_text="success").wait_for()


async def dead_charge(place: Place) -> str:
    """A task that was given up, though nothing is wrong with it."""
    task_id = await place.producer.submit("charge", "4242")
    broker = RedisBroker(place.broker, queue_key="flowrra:queue:io")
    broker.keeps_records_of(place.producer.results)
    await broker.take(10)
    await broker.settle([Outcome(Verb.DEAD_LETTER, task_id, text="no worker was heard of any more")])
    await broker.close()
    return task_id


async def test_what_destroys_is_confirmed_by_keyboard(browser: Browser, place: Place) -> None:
    root = await place.start()
    later = await place.producer.options(countdown=600).submit("report")
    async with opened(browser, PHONE) as page:
        await page.goto(f"{root}/tasks/{later}")
        await press(page, "Cancel…", role="link")
        await page.wait_for_url("**/confirm/cancel-task?**")
        assert await fits(page)
        await press(page, "Cancel", exact=True)
        assert await said(page) == f"Task {later} was cancelled."
        assert "cancelled" in await page.locator("#task .state").first.inner_text()


async def test_an_observer_shows_and_does_the_same(browser: Browser, place: Place) -> None:
    await place.start()
    root = await place.observe()
    async with opened(browser) as page:
        await find_and_retry(page, place, root, await failed_charge(place))


async def test_ten_thousand_failures_are_listed_page_by_page(
    browser: Browser,
    serve: Serve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "flowrra.executors.attempt_log")
    app = Flowrra()

    @app.task("fail", max_retries=0)
    async def fail() -> None:
        raise ValueError("no")

    took = {}
    async with app:
        root = (await serve(app, **operated(tmp_path))).url
        async with opened(browser) as page:
            for count in (100, 10_000):
                ids = await app.submit_many([("fail", (), {})] * (count - len(took) * 100))
                await asyncio.gather(*(app.wait_for_result(each, timeout=60) for each in ids))
                await page.goto(f"{root}/tasks?status=failed&refresh=off")
                assert await page.locator(".chips [aria-current]").inner_text() == f"failed {count:,}"
                began = time.monotonic()
                await page.goto(f"{root}/tasks?status=failed&name=fail&refresh=off")
                took[count] = time.monotonic() - began
                assert await page.locator("#tasks tbody tr").count() == 25
                await page.get_by_role("link", name="Older").click()
                await page.get_by_role("link", name="Newest").wait_for()
    with capsys.disabled():
        print(f"\na page of 25 failures, in the browser: {took[100]:.2f} s of 100, {took[10_000]:.2f} s of 10,000")
    assert took[10_000] < 2 * took[100] + 1.0


async def test_axe_finds_nothing_where_operators_act(browser: Browser, place: Place) -> None:
    dead = await dead_charge(place)
    root = await place.start()
    failed = await failed_charge(place)
    paths = (
        *("tasks", f"tasks/{failed}", f"tasks/{dead}", "tasks/unknown", "tasks?name=nothing", "dead", "queues"),
        *("schedules", "schedules/nightly", f"confirm/delete-dead-task?task_id={dead}", "confirm/requeue-dead-tasks"),
    )
    found = {}
    for size, scheme in ((DESK, "light"), (PHONE, "dark")):
        context = await browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            http_credentials={"username": USER, "password": PASSWORD},
        )
        page = await context.new_page()
        for path in paths:
            await page.goto(f"{root}/{path}")
            results = await Axe().run(page)
            if results.violations_count:
                found[path, scheme] = results.generate_report()
        await context.close()
    assert found == {}


async def test_names_from_right_to_left_and_long_ones_change_nothing_around_them(
    browser: Browser, place: Place
) -> None:
    await dead_charge(place)
    root = await place.start()
    hebrew = await place.producer.submit(RIGHT_TO_LEFT)
    await final(place.producer, hebrew)
    long = await place.producer.options(task_id="x" * 200).submit("report")
    await final(place.producer, long)
    async with opened(browser) as page:
        for path in ("tasks", f"tasks/{hebrew}", f"tasks/{long}", "queues", "dead", "schedules", "schedules/nightly"):
            await page.goto(f"{root}/{path}")
            for width in (1280, 1070, 740, 390, 320):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await fits(page), (path, width)
        await page.goto(f"{root}/tasks")
        row = page.get_by_role("row").filter(has_text=RIGHT_TO_LEFT)
        assert await row.locator(".state").inner_text() == "success"
        assert (await row.locator("th a").first.inner_text()).split() == [RIGHT_TO_LEFT, hebrew]
