"""Every page of the console in a real browser: accessible, within its width, by keyboard, what is wrong said first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from flowrra_exporter.web.console import findings
from playwright.async_api import Browser, Page, expect

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.exporter.conftest import FREE_PORT, Run, Serve, Service
from tests.exporter.targets import scenes
from tests.exporter.web.test_console_in_chromium import browser as browser
from tests.exporter.web.test_console_in_chromium import troubles
from tests.support.servers import ValkeyServer

pytestmark = [pytest.mark.tools, pytest.mark.slow]

LISTEN = f"--web.listen-address={FREE_PORT}"
GREENS = """() => {
  const good = getComputedStyle(document.documentElement);
  const probe = document.body.appendChild(document.createElement("i"));
  const colours = ["--good", "--good-ground"].map(name => {
    probe.style.color = good.getPropertyValue(name); return getComputedStyle(probe).color; });
  probe.remove();
  return [...document.querySelectorAll("body *")]
    .filter(each => each.checkVisibility() && each.getClientRects().length)
    .filter(each => { const style = getComputedStyle(each);
      return colours.includes(style.color) || colours.includes(style.backgroundColor); })
    .map(each => each.outerHTML.slice(0, 200));
}"""


@pytest.fixture
async def many(serve: Serve) -> AsyncIterator[Service]:
    """An app with two hundred names, failures, and something that runs."""
    app = scenes.many()
    app.create_scheduler("sqlite:///:memory:")
    async with app:
        await app.submit("call_partner")
        yield await serve(app)
        for name in ("call_partner", "build_report"):  # so that the end waits for none of them
            await FlowrraManager(app).cancel_tasks(name=name)


async def paths(page: Page, url: str) -> list[str]:
    """The pages of the navigation."""
    await page.goto(f"{url}/?refresh=off")
    links = page.locator("nav.pages a")
    return [await link.evaluate("link => link.pathname") for link in await links.all()]


async def first_finding(page: Page) -> str:
    return await page.locator("#findings li").first.inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
async def test_axe_finds_nothing(browser: Browser, many: Service, width: int, scheme: str) -> None:
    page = await browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    found = {}
    for path in await paths(page, many.url):
        await page.goto(f"{many.url}{path}?refresh=off")
        results = await Axe().run(page)
        if results.violations_count:
            found[path] = results.generate_report()
    assert found == {}


async def test_no_page_is_wider_than_the_screen(browser: Browser, many: Service) -> None:
    page = await browser.new_page()
    complaints = troubles(page)
    every = await paths(page, many.url)
    assert {"/", "/names", "/running", "/queues", "/workers", "/schedules"} <= set(every)
    wide = []
    for width in (320, 390, 768, 1280, 2560):
        await page.set_viewport_size({"width": width, "height": 844})
        for path in every:
            await page.goto(f"{many.url}{path}?refresh=off")
            if await page.evaluate("document.documentElement.scrollWidth") > width:
                wide.append((path, width))
    assert wide == []
    assert complaints == []


REACHABLE = "document.querySelectorAll('a[href], button, input:not([type=hidden]), select, summary')"


async def test_everything_is_reached_by_keyboard_alone(browser: Browser, many: Service) -> None:
    page = await browser.new_page()
    for path in await paths(page, many.url):
        await page.goto(f"{many.url}{path}?refresh=off")
        wanted = await page.evaluate(f"[...{REACHABLE}].filter(each => each.checkVisibility()).length")
        reached = []
        for _ in range(wanted):
            await page.keyboard.press("Tab")
            place = await page.evaluate(f"[...{REACHABLE}].indexOf(document.activeElement)")
            seen = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
            assert await page.evaluate(seen), f"{path}: the focus isn't seen on {place}"
            reached.append(place)
        assert len(set(reached)) == wanted, path
        assert reached == sorted(reached), f"{path}: not in the order of reading"


async def test_the_first_key_skips_the_navigation(browser: Browser, many: Service) -> None:
    page = await browser.new_page()
    await page.goto(f"{many.url}/names?refresh=off")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "filter-q"


async def test_two_hundred_names_are_about_one_screen_and_failing_ones_come_first(
    browser: Browser, many: Service
) -> None:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    await page.goto(f"{many.url}/names?refresh=off")
    await expect(page.locator("#names tbody th").first).to_contain_text("شحن_الطلبات_المتأخرة")
    assert await page.evaluate("document.documentElement.scrollHeight") < 1500  # of more than 7,000 for all of them
    assert await page.locator("#names tbody tr").count() == 25
    await page.get_by_role("link", name="Next").click()
    await expect(page.get_by_text("26 to 50 of 200 names")).to_be_visible()
    await page.get_by_role("link", name="Task", exact=True).click()
    await expect(page.locator("th[aria-sort=ascending]")).to_have_text("Task")
    await expect(page.get_by_text("1 to 25 of 200 names")).to_be_visible()


async def test_an_update_keeps_open_details_and_what_is_being_filled_in(browser: Browser, many: Service) -> None:
    page = await browser.new_page()
    await page.goto(f"{many.url}/")
    await page.get_by_text("Endpoints:").click()
    await next_update(page)
    assert await page.locator("#endpoints").get_attribute("open") is not None
    await page.goto(f"{many.url}/names")
    await page.get_by_label("Name has").press_sequentially("modu")
    await next_update(page)
    assert await page.get_by_label("Name has").input_value() == "modu"
    assert await page.evaluate("document.activeElement.id") == "filter-q"


async def test_a_change_is_seen_at_once_and_the_clock_goes_on_where_there_is_no_stream(
    browser: Browser, serve: Serve
) -> None:
    app = Flowrra()
    begin = asyncio.Event()

    @app.task()
    async def pick() -> None:
        await begin.wait()

    async with app:
        live, silent = await serve(app), await serve(app, web_api=False)
        page, other = await browser.new_page(), await browser.new_page()
        complaints = troubles(page)
        await page.goto(f"{live.url}/running")
        await page.wait_for_selector("html.live")
        await other.goto(f"{silent.url}/running")
        await app.submit("pick")
        await expect(page.locator("#running")).to_contain_text("pick", timeout=3000)
        await expect(other.locator("#running")).to_contain_text("pick", timeout=8000)
        assert await other.locator("html.live").count() == 0
        begin.set()
        await expect(page.locator("#running")).to_contain_text("Nothing runs", timeout=3000)
    assert complaints == []


async def next_update(page: Page) -> None:
    as_of = await page.inner_text("#as-of")
    await page.wait_for_function("old => document.getElementById('as-of').innerText !== old", arg=as_of)


async def test_a_blocked_loop_is_the_first_that_is_said_and_nothing_beside_it_is_green(
    browser: Browser, run: Run
) -> None:
    command = run(LISTEN, "scenes:blocked", BLOCKED_AFTER="0.5")
    url = command.ready()
    page = await browser.new_page()
    await page.goto(url)
    await expect(page.locator("#state")).to_have_text("Event loop blocked", timeout=20_000)
    await expect(page.locator("#findings .bad")).to_be_visible(timeout=20_000)
    said = await first_finding(page)
    assert "export_ledger" in said
    assert "time.sleep(3600)" in said
    assert await page.locator("#findings li").count() == 1
    for path in await paths(page, url):
        await page.goto(f"{url}{path}")
        assert await page.inner_text("#state") == "Event loop blocked"
        assert await page.evaluate(GREENS) == [], path


async def test_a_server_that_is_away_is_the_first_that_is_said_and_nothing_beside_it_is_green(
    browser: Browser, run: Run
) -> None:
    server = ValkeyServer(appendonly="yes")
    server.start()
    try:
        address = f"redis://127.0.0.1:{server.port}/0"
        worker = run(LISTEN, "scenes:on_a_server", SHARED_URL=address)
        observer = run(LISTEN, "--observe", "scenes:on_a_server", SHARED_URL=address)
        urls = [worker.ready(), observer.url]
        page = await browser.new_page()
        for url in urls:
            await page.goto(url)
            await expect(page.locator("#state")).to_have_text("Healthy", timeout=20_000)
    finally:
        server.stop()
    for url in urls:
        await page.goto(url)
        await expect(page.locator("#state")).to_have_text("Broker and result backend away", timeout=20_000)
        assert (await first_finding(page)).startswith("Broker and result backend away")
        for path in await paths(page, url):
            await page.goto(f"{url}{path}")
            assert await page.inner_text("#state") == "Broker and result backend away"
            assert await page.evaluate(GREENS) == [], path


async def test_slots_that_all_hang_are_the_first_that_is_said_and_nothing_beside_it_is_green(
    browser: Browser, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "WAITS", 1.0)
    monkeypatch.setattr(findings, "IDLE", 1.0)
    app = scenes.hung()
    await app.start()
    try:
        service = await serve(app)
        page = await browser.new_page()
        await page.goto(f"{service.url}/")
        await expect(page.locator("#state")).to_have_text("No progress in executor io", timeout=20_000)
        assert "All 4 slots are taken" in await first_finding(page)
        assert "100 tasks wait behind them" in await first_finding(page)
        assert await page.evaluate(GREENS) == []
        await page.locator("#findings a").first.click()
        await expect(page.locator("#running tbody tr")).to_have_count(4)
        await expect(page.locator("#running tbody")).to_contain_text("call_partner")
    finally:
        await asyncio.wait_for(app.stop(wait=False), 5)


async def test_an_observer_shows_what_runs_elsewhere(browser: Browser, run: Run) -> None:
    server = ValkeyServer(appendonly="yes")
    server.start()
    try:
        address = f"redis://127.0.0.1:{server.port}/0"
        worker = run(LISTEN, "scenes:on_a_server", SHARED_URL=address)
        observer = run(LISTEN, "--observe", "scenes:on_a_server", SHARED_URL=address)
        worker.ready()
        observer.wait_for_line("the observer has started")
        context = await browser.new_context(java_script_enabled=False)
        page = await context.new_page()
        await page.goto(f"{observer.url}/workers?refresh=off")
        async with asyncio.timeout(20):  # it asks for the workers every few seconds
            while not await page.locator("article h3", has_text=f"process {worker.process.pid}").count():
                await page.reload()
        await page.goto(f"{observer.url}/?refresh=off")
        assert "an observer runs none" in await page.inner_text("#activity")
        assert "By name" not in await page.inner_text("nav.pages")
    finally:
        server.stop()
