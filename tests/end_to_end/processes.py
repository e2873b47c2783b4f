"""The processes under test: the exporter as its command starts it, and a Prometheus that scrapes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.servers import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = Path(sys.executable).with_name("flowrra-exporter")
TEXT_FORMAT = "text/plain;version=0.0.4"
POLL = 0.05

Found = TypeVar("Found")


def tool(name: str) -> str:
    """The path of a program that a test needs; the test is skipped without it, or fails if the machine must have it."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"{name} is not installed"
    if os.environ.get("FLOWRRA_REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)


def wait_for(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """Looks until there is something to be found; for what no event tells of."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(POLL)
    return found


def get(url: str, **headers: str) -> str:
    """The body of an answer with status 200."""
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


class Exporter:
    """The exporter's process. What it prints is collected.

    Args:
        target: The app, as ``module:attribute``.
        *flags: Further flags.
        folder: Where it runs.
        environment: Variables besides the test's own.
    """

    def __init__(self, target: str, *flags: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [COMMAND, "--web.listen-address=127.0.0.1:0", *flags, target],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self._wait_for_line(r"listening on (http://[^\s\"]+)")
        self.address = self.url.removeprefix("http://")
        self._wait_for_line("(the (?:app|observer) has started)")

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))

    def _wait_for_line(self, pattern: str) -> str:
        def look() -> str | None:
            matches = (re.search(pattern, line) for line in self.lines.copy())
            return next((match[1] for match in matches if match), None)

        try:
            return wait_for(look, 20, pattern)
        except AssertionError:
            self.close()
            pytest.fail(f"{pattern!r} was not printed:\n{self.log}")

    @property
    def log(self) -> str:
        """What it has printed."""
        return "".join(self.lines)

    def get(self, path: str, **headers: str) -> str:
        """The body of an answer with status 200."""
        return get(self.url + path, **headers)

    def terminate(self, seconds: float = 40) -> int:
        """Asks it to end, as Kubernetes does; returns its exit status."""
        self._process.terminate()
        status = self._process.wait(seconds)
        self.close()
        return status

    def close(self) -> None:
        """Ends it if it still runs."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


class TextOnly:
    """A proxy that asks the exporter for the text format, whatever Prometheus would rather have."""

    def __init__(self, upstream: str) -> None:
        self.content_types: set[str] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                request = urllib.request.Request(upstream + self.path, headers={"Accept": TEXT_FORMAT})
                with urllib.request.urlopen(request, timeout=5) as answer:
                    body, content_type = answer.read(), answer.headers["Content-Type"]
                proxy.content_types.add(content_type)
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "{}:{}".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL,))
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """A Prometheus that scrapes each second.

    Args:
        jobs: Addresses to scrape, by the name of the job.
        folder: Where its configuration, data and log go.
        features: What to enable by `--enable-feature`.
        options: Further settings of a job in its scrape configuration, by the name of the job.
        program: The path of the program; by default the one that is installed.
        settings: Further parts of its configuration, such as `rule_files`.
    """

    def __init__(
        self,
        jobs: Mapping[str, str],
        folder: Path,
        features: Sequence[str] = (),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        program: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        configuration = folder / "prometheus.yml"
        scrapes = [
            {"job_name": name, "static_configs": [{"targets": [address]}], **(options or {}).get(name, {})}
            for name, address in jobs.items()
        ]
        pace = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        # JSON is YAML.
        configuration.write_text(json.dumps({"global": pace, "scrape_configs": scrapes, **(settings or {})}))
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program or tool("prometheus"),
                    *(f"--enable-feature={feature}" for feature in features),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(self._is_ready, 30, "Prometheus is ready")
        except AssertionError:
            self.close()
            pytest.fail((folder / "prometheus.log").read_text())

    def _is_ready(self) -> bool | None:
        try:
            get(f"{self.url}/-/ready")
        except (urllib.error.URLError, ConnectionError):
            return None
        return True

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(30)

    def _ask(self, path: str, **parameters: str) -> Any:
        answer = json.loads(get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series as of now."""
        found = self._ask("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def query_range(self, expression: str, start: float, end: float) -> list[list[float]]:
        """The values of each series over a span of time, four for each second."""
        found = self._ask("query_range", query=expression, start=str(start), end=str(end), step="0.25")["result"]
        return [[float(value) for _, value in series["values"]] for series in found]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self._ask("alerts")["alerts"] if each["state"] == "firing"}

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of a span of time: for each series its `seriesLabels` and its `exemplars`."""
        found: list[dict[str, Any]] = self._ask("query_exemplars", query=expression, start=str(start), end=str(end))
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that went."""
        targets: list[dict[str, Any]] = self._ask("targets")["activeTargets"]
        return targets

    def metric_names(self, job: str) -> set[str]:
        """The names of the metrics as a job's format states them."""
        found = self._ask("targets/metadata", match_target=f'{{job="{job}"}}')
        return {each["metric"] for each in found}

    def wait_for_scrapes(self) -> None:
        """Waits until it has scraped everything once more, beginning after now, and without fault."""
        now = time.time()

        def look() -> bool | None:
            targets = self.targets()  # none for a moment after the start
            scraped = all(_unix_time(each["lastScrape"]) > now and each["health"] == "up" for each in targets)
            return (bool(targets) and scraped) or None

        wait_for(look, 20, "Prometheus has scraped")


def _unix_time(text: str) -> float:
    # Go prints nanoseconds, of which Python reads six digits; before the first scrape it is the year 1.
    moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    return moment.timestamp() if moment.year > 1 else 0.0
