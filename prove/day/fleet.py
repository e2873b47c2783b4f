"""The fleet of the day: workers of two apps on two databases of a server, an observer of one, load; who looks on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import redis
import yaml

from deploy.prometheus.files import FOLDER as RULES
from deploy.prometheus.files import render
from deploy.prometheus.names import DASHBOARDS, RUNBOOKS
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import Scaled
from flowrra.management import FlowrraManager
from flowrra.scheduler import Scheduler
from grafana.pictures.app import LEASE
from prove.targets import day as app
from tests.deploy.prometheus.alertmanager import Alertmanager
from tests.end_to_end.processes import COMMAND, ROOT, Prometheus, get, wait_for
from tests.support.servers import ValkeyServer, free_port

SCALE = 60.0
# What follows from a lease: it is a quarter of the usual one. A start takes as long as ever.
CHANGES = {"HEARTBEAT_LOST": 45.0 * LEASE / 20.0, "PROCESS_RESTARTS_WINDOW": 3600.0}
SHOP, BILLING, OBSERVER = "shop", "billing", "billing-observer"
# By job: its database, how often a task is delivered, its load.
DATABASES = {SHOP: 0, BILLING: 1}
DELIVERIES = {SHOP: 3, BILLING: 1}
LOAD = {SHOP: 0.6, BILLING: 0.3}
# A task of the next release.
NEXT = "print_labels"
PATIENCE = 60.0


class Member:
    """An exporter with its app.

    Attributes:
        job: What Prometheus knows it as.
        address: Where it is scraped.
    """

    def __init__(self, job: str, address: str, process: subprocess.Popen[bytes]) -> None:
        self.job = job
        self.address = address
        self.process = process

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()

    def is_ready(self) -> bool | None:
        """Whether its app has started."""
        try:
            get(f"http://{self.address}/startupz")
        except (OSError, urllib.error.URLError):
            return None
        return True


class Receiver:
    """What Alertmanager tells, by a webhook.

    Attributes:
        url: Where.
        told: When what was told of whom: the time, the alert's name, whether it fires.
    """

    def __init__(self, stack: ExitStack) -> None:
        told = self.told = list[tuple[float, str, bool]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now = time.time()
                told.extend(
                    (now, alert["labels"]["alertname"], alert["status"] == "firing") for alert in body["alerts"]
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://{}:{}".format(*server.server_address[:2])
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(server.server_close)
        stack.callback(thread.join)
        stack.callback(server.shutdown)


class Fleet:
    """All of it; a context manager's stack ends it.

    Args:
        folder: Where its files go.
        stack: Ends what it starts.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._state = folder / "state"
        self.feels("quiet")
        self.server = ValkeyServer(data_dir=folder / "server", persist=True, appendonly="yes")
        stack.enter_context(self.server)
        stack.callback(self.goes_on)
        self._look = stack.enter_context(redis.Redis(port=self.server.port))
        self._server_pid = int(self._look.info("server")["process_id"])
        self._discovered: dict[str, list[str]] = {SHOP: [], BILLING: [], OBSERVER: []}
        for job in self._discovered:
            self._tell(job)
        self.receiver = Receiver(stack)
        self.alertmanager = Alertmanager(self._alertmanager(), folder)
        stack.callback(self.alertmanager.close)
        self.prometheus = self._prometheus()
        stack.callback(self.prometheus.close)
        self.shop = [self.start(SHOP), self.start(SHOP)]
        self.billing = self.start(BILLING)
        self.observer = self.start(OBSERVER)
        for member in (*self.shop, self.billing, self.observer):
            self.joins(member)
        self.loads = [self._run(job, sys.executable, "-m", app.__name__) for job in DATABASES]

    # ── processes ───────────────────────────────────────────────────────────────────────────────────────────

    def start(self, job: str, *flags: str, address: str | None = None, wait: bool = True) -> Member:
        """Start one, at an address of its own or at that of one that is gone."""
        address = address or f"127.0.0.1:{free_port()}"
        observe = ["--observe"] if job == OBSERVER else []
        listen = f"--web.listen-address={address}"
        member = Member(job, address, self._run(job, COMMAND, *observe, listen, *flags, f"{app.__name__}:worker"))
        if wait:
            wait_for(member.is_ready, PATIENCE, f"{job} at {address} has started")
        return member

    def joins(self, member: Member) -> None:
        """Prometheus is told of it."""
        self._discovered[member.job].append(member.address)
        self._tell(member.job)

    def restarts(self, member: Member) -> Member:
        """It is killed, and comes back at its address; Prometheus has seen that it did."""
        # By another start than before, not by the clock: the kernel has its own start in whole seconds.
        start = f'process_start_time_seconds{{instance="{member.address}"}}'
        [(_, before)] = wait_for(lambda: self.prometheus.query(start) or None, PATIENCE, f"Prometheus sees {start}")
        member.kill()
        again = self.start(member.job, address=member.address)
        other = f"{start} != {before!r}"
        wait_for(lambda: self.prometheus.query(other) or None, PATIENCE, f"Prometheus sees {other}")
        return again

    def leaves(self, member: Member) -> None:
        """Prometheus is told that it is no more, and has understood."""
        self._discovered[member.job].remove(member.address)
        self._tell(member.job)

        def is_forgotten() -> bool | None:
            scraped = {each["labels"]["instance"] for each in self.prometheus.targets()}
            return member.address not in scraped or None

        wait_for(is_forgotten, PATIENCE, f"Prometheus looks for {member.address} no more")

    def replaced(self, member: Member, *flags: str) -> Member:
        """A rolling deploy of one: the new one is there before the old one is asked to go.

        Prometheus reads only each 5 s where its targets are, which is no part of the day: the old one waits for that.
        """
        new = self.start(member.job, *flags)
        self.joins(new)
        self.leaves(member)
        member.process.terminate()
        member.process.wait(PATIENCE)
        return new

    def environment(self, job: str) -> dict[str, str]:
        """Of an app: where its tasks are."""
        name = job.removesuffix("-observer")
        store = {"FLEET_STORE": str(self._folder / "schedules.db")} if name == BILLING else {}
        return {
            "FLEET_URL": f"redis://127.0.0.1:{self.server.port}/{DATABASES[name]}",
            "FLEET_STATE": str(self._state),
            "DAY_DELIVERIES": str(DELIVERIES[name]),
            "DAY_RATE": str(LOAD[name]),
            **store,
        }

    def _run(self, job: str, *command: str | Path) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"{job}.log").open("ab"))
        environment = {**os.environ, **self.environment(job)}
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    # ── what happens to it ──────────────────────────────────────────────────────────────────────────────────

    def feels(self, state: str) -> None:
        """What tasks and load go by: ``quiet``, ``burst``, ``broken``."""
        self._state.write_text(state, encoding="utf-8")

    def submit(self, job: str, name: str, times: int = 1) -> None:
        """Submit a task."""

        async def ask(manager: FlowrraManager) -> None:
            for _ in range(times):
                await manager.app.submit(name)

        self.manage(job, ask)

    def manage(self, job: str, ask: Callable[[FlowrraManager], Awaitable[Any]]) -> Any:
        """What somebody on call does, through the Management API."""

        async def run() -> Any:
            async with app.make(self.environment(job)["FLEET_URL"], consume=False) as producer:
                return await ask(FlowrraManager(producer))

        return asyncio.run(run())

    def plan(self, name: str, seconds: float) -> None:
        """Have a task run once, in so many seconds; when it is a second late it is missed."""
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        self._schedule(lambda scheduler: scheduler.schedule_once(name, due, misfire_grace=1.0))

    def _schedule(self, change: Callable[[Scheduler], Awaitable[Any]]) -> None:
        async def run() -> None:
            environment = self.environment(BILLING)
            planner = app.make(environment["FLEET_URL"], consume=False)
            planner.task(name=NEXT)(app.print_labels)
            scheduler = planner.create_scheduler(f"sqlite:///{environment['FLEET_STORE']}")
            await change(scheduler)
            await scheduler.backend.close()

        asyncio.run(run())

    def producer_is_ahead(self) -> None:
        """A producer of the next release submits and schedules a task that no worker knows yet."""

        async def submit(manager: FlowrraManager) -> None:
            manager.app.task(name=NEXT)(app.print_labels)
            await manager.app.submit(NEXT)

        self.manage(BILLING, submit)
        self._schedule(lambda scheduler: scheduler.schedule_interval(NEXT, 3600.0, task_id=NEXT))

    def producer_goes_back(self) -> None:
        """What it did is undone."""
        self.manage(BILLING, lambda manager: manager.purge_queue("default", name=NEXT))
        self._schedule(lambda scheduler: scheduler.unschedule(NEXT))

    def server_stops(self) -> None:
        """It answers nobody."""
        os.kill(self._server_pid, signal.SIGSTOP)

    def goes_on(self) -> None:
        """It answers again."""
        os.kill(self._server_pid, signal.SIGCONT)

    def server_may_use(self, ratio: float, policy: str = "noeviction") -> None:
        """As much memory as makes that ratio of what it uses; none is no limit."""
        limit = int(self._look.info("memory")["used_memory"] / ratio) if ratio else 0
        self._look.config_set("maxmemory-policy", policy)
        self._look.config_set("maxmemory", limit)

    # ── who looks on ────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, job: str) -> None:
        new = self._folder / f"{job}.json.new"
        new.write_text(json.dumps([{"targets": self._discovered[job]}]), encoding="utf-8")
        new.rename(self._folder / f"{job}.json")

    def _prometheus(self) -> Prometheus:
        rules = render(Scaled(SCALE, CHANGES), Links(RUNBOOKS, DASHBOARDS))
        files = [self._folder / name for name in ("flowrra.rules.yml", "flowrra.alerts.yml")]
        for path in files:
            path.write_text(rules[path.name], encoding="utf-8")
        discovery = {
            job: {"static_configs": [], "file_sd_configs": [{"files": [str(self._folder / f"{job}.json")]}]}
            for job in self._discovered
        }
        told = {"alertmanagers": [{"static_configs": [{"targets": [self.alertmanager.address]}]}]}
        settings = {"rule_files": [str(path) for path in files], "alerting": told}
        return Prometheus(dict.fromkeys(discovery, ""), self._folder, options=discovery, settings=settings)

    def _alertmanager(self) -> Path:
        """The example's configuration, at the day's pace."""
        content = yaml.safe_load((RULES / "alertmanager.yml").read_text(encoding="utf-8"))
        content["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        for receiver in content["receivers"]:
            for webhook in receiver["webhook_configs"]:
                webhook["url"] = f"{self.receiver.url}/{receiver['name']}"
        path = self._folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path
