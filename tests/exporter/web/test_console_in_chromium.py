"""The console in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from flowrra import Flowrra
from tests.exporter.conftest import Serve, Service

pytestmark = pytest.mark.tools

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield found
        await found.close()


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    app = Flowrra()

    @app.task("a_task_with_a_name_that_is_much_too_long_for_any_phone_" + "x" * 80, max_retries=0)
    async def fail() -> None:
        raise ValueError("no")

    async with app:
        await app.wait_for_result(await app.submit(fail), timeout=5)
        yield await serve(app)


def troubles(page: Page) -> list[str]:
    """What the browser complains about from now on; refused content is among it."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


@pytest.mark.slow
async def test_a_refresh_keeps_focus_and_scrolling_and_asks_nobody_else(browser: Browser, service: Service) -> None:
    page = await browser.new_page(viewport={"width": 800, "height": 300})
    found, asked = troubles(page), []
    page.on("request", lambda request: asked.append(request.url))
    await page.goto(f"{service.url}/")
    as_of = await page.inner_text("#as-of")
    await page.locator("nav.pages a", has_text="Running").focus()
    scrolled = await page.evaluate("scrollTo(0, 200); scrollY")
    await page.wait_for_function("old => document.getElementById('as-of').innerText !== old", arg=as_of)
    assert await page.evaluate("document.activeElement.getAttribute('href')") == "./running"
    assert await page.evaluate("scrollY") == scrolled > 0
    assert found == []
    assert all(url.startswith((service.url, "data:")) for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(browser: Browser, service: Service, scheme: str) -> None:
    page = await browser.new_page(viewport={"width": 375, "height": 812}, color_scheme=scheme)
    await page.goto(f"{service.url}/")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 375


TOO_WIDE = """[...document.querySelectorAll("section")]
    .filter(card => [...card.querySelectorAll("table")].some(
        table => table.getBoundingClientRect().right > card.getBoundingClientRect().right))
    .map(card => card.id)"""


@pytest.mark.parametrize("width", [375, 800, 1024, 1300, 1920])
async def test_no_table_runs_over_the_edge_of_its_card(browser: Browser, service: Service, width: int) -> None:
    page = await browser.new_page(viewport={"width": width, "height": 812})
    await page.goto(f"{service.url}/")
    assert await page.evaluate(TOO_WIDE) == []


async def test_it_is_useful_without_javascript(browser: Browser, service: Service) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{service.url}/?refresh=off")
    assert await page.inner_text("#state") == "Healthy"
    await page.get_by_role("link", name="By name").click()
    await page.get_by_label("Name has").fill("MUCH_too")
    await page.get_by_role("button", name="Show").click()
    assert "a_task_with" in await page.inner_text("#names")


async def test_assistive_technology_finds_landmarks_headings_and_tables(browser: Browser, service: Service) -> None:
    page = await browser.new_page()
    await page.goto(f"{service.url}/")
    for role, count in (("banner", 1), ("main", 1), ("contentinfo", 1), ("navigation", 2), ("status", 1)):
        assert await page.get_by_role(role).count() == count, role  # type: ignore[arg-type]
    tree = await page.locator("body").aria_snapshot()
    for name in ("Executors", "Recent failures", "Health", "Collectors"):
        assert f'heading "{name}" [level=2]' in tree
    await page.goto(f"{service.url}/names?sort=-p95")
    tree = await page.locator("body").aria_snapshot()
    assert 'columnheader "Run p95"' in tree
    assert await page.locator("th[aria-sort=descending]").inner_text() == "Run p95"


@pytest.mark.slow
async def test_the_page_says_when_the_exporter_is_gone(browser: Browser, service: Service) -> None:
    page = await browser.new_page()
    await page.goto(f"{service.url}/")
    await page.route("**/*", lambda route: route.abort())
    await page.locator("#silence").wait_for(state="visible")
    assert "Out of date" in await page.inner_text("#silence")
