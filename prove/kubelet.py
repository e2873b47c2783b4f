"""The kubelet's probes, as deploy/kubernetes/worker.yaml sets them, against the real process: what is restarted."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from benchmarks.harness import ROOT
from prove.proof import Proof
from prove.targets.probed import make_app
from tests.support.servers import ValkeyServer, free_port

TITLE = "The kubelet's probes as the manifest sets them: a blocked loop is restarted, a broker that is away never"
MANIFEST = ROOT / "deploy" / "kubernetes" / "worker.yaml"
TURN = 0.05

LONG_START = 40.0
OUTAGE = 60.0
TASK = 12.0
SHORT_BLOCK = 15.0
LONG_BLOCK = 120.0
READY_WITHIN = 60.0


def run(proof: Proof) -> None:
    pod = _pod()
    proof.line("From the manifest: " + "; ".join(_told(kind, pod) for kind in ("startup", "liveness", "readiness")))
    proof.line(f"grace period {pod['terminationGracePeriodSeconds']} s, {' '.join(pod['containers'][0]['args'])}")
    with ThreadPoolExecutor() as threads:
        played = list(threads.map(_play, SCENARIOS))
    for (title, _, expected), (kubelet, failure) in zip(SCENARIOS, played, strict=True):
        proof.line()
        proof.line(title)
        for event in kubelet.events:
            proof.line(f"    {event}")
        proof.truth(f"restarts: {expected}", kubelet.restarts == expected, kubelet.restarts)
        proof.truth("it went as it should", failure == "", failure)


def _pod() -> dict[str, Any]:
    documents = yaml.safe_load_all(MANIFEST.read_text())
    deployment = next(each for each in documents if each["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def _told(kind: str, pod: dict[str, Any]) -> str:
    probe = pod["containers"][0][f"{kind}Probe"]
    every, misses, limit = probe["periodSeconds"], probe["failureThreshold"], probe["timeoutSeconds"]
    return f"{kind} {probe['httpGet']['path']} each {every} s, {misses} failures, answer within {limit} s"


@dataclass
class Kubelet:
    """Runs one container, probes it, and starts it again as the kubelet does.

    The startup probe holds the others back until it has succeeded once; a probe fails on another status than 200 to 399
    and on no answer in time; so many failures in a row count; a container that is restarted gets SIGTERM, and SIGKILL
    after the grace period. Its back-off between two restarts is left out.
    """

    broker: str
    start: float = 0.0
    events: list[str] = field(default_factory=list)
    restarts: int = 0
    ready: bool = False
    status: int | None = None

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._pod = _pod()
        self._container = self._pod["containers"][0]
        self._ends = threading.Event()
        self._ports = {each["name"]: free_port() for each in self._container["ports"]}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = self._spawn()
        self._thread = threading.Thread(target=self._probe_until_the_end)
        self._thread.start()

    def tell(self, what: str) -> None:
        """Keep what happened, and when."""
        self.events.append(f"{time.monotonic() - self._began:6.1f} s  {what}")

    def until(self, is_ready: bool) -> None:
        """Wait until the pod is ready, or isn't."""
        deadline = time.monotonic() + READY_WITHIN + self.start
        while self.ready is not is_ready:
            if time.monotonic() > deadline:
                raise TimeoutError(f"ready is {self.ready}, and was to be {is_ready}")
            time.sleep(TURN)

    def until_restarted(self) -> None:
        """Wait for a restart."""
        deadline = time.monotonic() + LONG_BLOCK + READY_WITHIN
        while self.restarts == 0:
            if time.monotonic() > deadline:
                raise TimeoutError("it was not restarted")
            time.sleep(TURN)

    def delete(self) -> None:
        """Delete the pod."""
        self.tell("the pod is deleted: SIGTERM")
        self._ends.set()
        self._stop()
        self._thread.join()

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = [
            *self._container["args"][:-1],
            f"--web.listen-address=127.0.0.1:{self._ports['metrics']}",
            f"--probe.listen-address=127.0.0.1:{self._ports['probes']}",
        ]
        # The manifest's own address of the probes is one for a container alone.
        arguments = [each for each in arguments if each != "--probe.listen-address=:9465"]
        return subprocess.Popen(
            [sys.executable, "-m", "flowrra_exporter", *arguments, "prove.targets.probed:worker"],
            env={**os.environ, "BROKER": self.broker, "START": str(self.start)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _stop(self) -> None:
        began, grace = time.monotonic(), self._pod["terminationGracePeriodSeconds"]
        self._process.send_signal(signal.SIGTERM)
        try:
            self.status = self._process.wait(grace)
            self.tell(f"it ended with status {self.status}, after {time.monotonic() - began:.1f} s of {grace}")
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.status = self._process.wait()
            self.tell(f"killed after {grace} s")

    def _probe_until_the_end(self) -> None:
        while not self._ends.is_set():
            if self._probe_one_container():
                self.restarts += 1
                self.ready = False
                self._stop()
                self._process = self._spawn()
                self.tell("started again")

    def _probe_one_container(self) -> bool:
        """Probe until the container is to be restarted (True), or all ends."""
        startup = _Probe(self, "startup")
        while not self._ends.is_set() and startup.state is None:
            startup.ask_when_due()
        if startup.state is False:
            return True
        probes = [_Probe(self, "readiness"), _Probe(self, "liveness")]
        while not self._ends.is_set():
            for probe in probes:
                probe.ask_when_due()
            self.ready = probes[0].state is True
            if probes[1].state is False:
                return True
        return False

    def get(self, probe: dict[str, Any]) -> tuple[bool, str]:
        """Whether one request succeeds, and what came of it."""
        port = self._ports[probe["httpGet"]["port"]]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=probe["timeoutSeconds"])
        try:
            connection.request("GET", probe["httpGet"]["path"], headers={"Accept": "text/plain"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return False, type(error).__name__
        finally:
            connection.close()
        reasons = [line for line in text.splitlines() if line.startswith("[-]")]
        return 200 <= answer.status < 400, f"{answer.status} {reasons[0] if reasons else ''}".strip()


class _Probe:
    """One probe of one container. ``state`` is None until it has flipped for the first time."""

    def __init__(self, kubelet: Kubelet, kind: str) -> None:
        self._kubelet = kubelet
        self._kind = kind
        self._probe = kubelet._container[f"{kind}Probe"]
        self._due = time.monotonic()
        self._failures = 0
        self.state: bool | None = None

    def ask_when_due(self) -> None:
        """Ask if it is time; else wait for a moment."""
        if time.monotonic() < self._due:
            time.sleep(TURN)
            return
        self._due = time.monotonic() + self._probe["periodSeconds"]
        succeeded, said = self._kubelet.get(self._probe)
        self._failures = 0 if succeeded else self._failures + 1
        if succeeded and self.state is not True:
            self.state = True
            self._kubelet.tell(f"{self._kind} succeeds")
        elif self._failures >= self._probe["failureThreshold"] and self.state is not False:
            self.state = False
            means = "not ready" if self._kind == "readiness" else "RESTART"
            self._kubelet.tell(f"{self._kind} has failed {self._failures} times: {means} ({said})")


# ── what happens ────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _outage(server: ValkeyServer, kubelet: Kubelet) -> Iterator[None]:
    os.kill(server._process.pid, signal.SIGSTOP)
    kubelet.tell("the broker answers no more")
    try:
        yield
    finally:
        os.kill(server._process.pid, signal.SIGCONT)
        kubelet.tell("the broker is back")


def _submit(url: str, name: str, seconds: float) -> None:
    async def submit() -> None:
        async with make_app(url, consume=False) as producer:
            await producer.submit(name, seconds)

    asyncio.run(submit())


def _start(kubelet: Kubelet, server: ValkeyServer) -> None:
    kubelet.until(True)
    time.sleep(10)


def _broker_away(kubelet: Kubelet, server: ValkeyServer) -> None:
    kubelet.until(True)
    with _outage(server, kubelet):
        kubelet.until(False)
        time.sleep(OUTAGE)
    kubelet.until(True)


def _broker_away_at_the_start(kubelet: Kubelet, server: ValkeyServer) -> None:
    with _outage(server, kubelet):
        time.sleep(OUTAGE)
    kubelet.until(True)


def _drain(kubelet: Kubelet, server: ValkeyServer) -> None:
    kubelet.until(True)
    _submit(kubelet.broker, "work", TASK)
    kubelet.tell(f"a task of {TASK:.0f} s is running")
    time.sleep(2)
    kubelet.delete()
    assert kubelet.status == 0, f"exit status {kubelet.status}"


def _blocked_briefly(kubelet: Kubelet, server: ValkeyServer) -> None:
    kubelet.until(True)
    _submit(kubelet.broker, "block", SHORT_BLOCK)
    kubelet.tell(f"a task blocks the loop for {SHORT_BLOCK:.0f} s")
    kubelet.until(False)
    kubelet.until(True)
    time.sleep(10)


def _blocked(kubelet: Kubelet, server: ValkeyServer) -> None:
    kubelet.until(True)
    _submit(kubelet.broker, "block", LONG_BLOCK)
    kubelet.tell(f"a task blocks the loop for {LONG_BLOCK:.0f} s")
    kubelet.until_restarted()


Scenario = Callable[[Kubelet, ValkeyServer], None]
SCENARIOS: list[tuple[str, Scenario, int]] = [
    ("It starts", _start, 0),
    (f"Its start takes {LONG_START:.0f} s", _start, 0),
    (f"The broker is away for {OUTAGE:.0f} s", _broker_away, 0),
    (f"The broker is away when it starts, for {OUTAGE:.0f} s", _broker_away_at_the_start, 0),
    ("It is stopped while a task runs", _drain, 0),
    (f"Its loop is blocked for {SHORT_BLOCK:.0f} s", _blocked_briefly, 0),
    (f"Its loop is blocked for {LONG_BLOCK:.0f} s", _blocked, 1),
]


def _play(scenario: tuple[str, Scenario, int]) -> tuple[Kubelet, str]:
    """The kubelet as it was at the end, and what went wrong."""
    title, play, _ = scenario
    with ValkeyServer(appendonly="yes") as server:
        start = LONG_START if title.startswith("Its start") else 0.0
        kubelet = Kubelet(f"redis://127.0.0.1:{server.port}/0", start)
        try:
            play(kubelet, server)
            return kubelet, ""
        except (TimeoutError, AssertionError) as error:
            return kubelet, str(error)
        finally:
            kubelet.close()
