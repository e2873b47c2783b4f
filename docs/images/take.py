"""Takes the pictures of the status page: ``python docs/images/take.py http://localhost:9464/``.

Needs a running exporter (`make run`), playwright, and Chromium at /usr/bin/chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_FOLDER = Path(__file__).parent
_PICTURES = (("status-page", 1280, 900, "light"), ("status-page-phone", 375, 812, "dark"))
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def take(url: str) -> None:
    """Writes the pictures beside this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        for name, width, height, scheme in _PICTURES:
            viewport = {"width": width, "height": height}
            page = browser.new_page(viewport=viewport, color_scheme=scheme)
            page.goto(url)
            page.screenshot(path=_FOLDER / f"{name}.png", full_page=name == "status-page")
            page.close()
        browser.close()


if __name__ == "__main__":
    take(sys.argv[1])
