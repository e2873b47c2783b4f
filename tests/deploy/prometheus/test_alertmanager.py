"""The example for Alertmanager: what follows from something that fires is held back, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from deploy.prometheus.files import FOLDER
from tests.deploy.prometheus.alertmanager import Alert, Alertmanager
from tests.end_to_end.processes import tool, wait_for

pytestmark = pytest.mark.tools

CONFIGURATION = FOLDER / "alertmanager.yml"
A = {"job": "shop", "instance": "a"}
B = {"job": "shop", "instance": "b"}
BROKER = {"server": "valkey:6379/0", "namespace": "shop"}
OTHER_BROKER = {**BROKER, "server": "valkey:6379/1"}
QUEUE = {"executor": "io", "queue": "default"}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    running = Alertmanager(CONFIGURATION, tmp_path_factory.mktemp("alertmanager"))
    yield running
    running.close()


def test_amtool_finds_nothing_wrong() -> None:
    checked = subprocess.run(
        [tool("amtool"), "check-config", CONFIGURATION], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=FlowrraTargetDown", "severity=critical"], "pager"),
        (["alertname=FlowrraDeadTasks", "severity=warning"], "people"),
        (["alertname=NodeDown", "severity=critical"], "people"),
    ],
)
def test_who_is_told(labels: list[str], receiver: str) -> None:
    command = [tool("amtool"), "config", "routes", "test", f"--config.file={CONFIGURATION}", *labels]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [receiver]


@pytest.mark.parametrize(
    ("cause", "follows", "stays"),
    [
        (
            ("FlowrraTargetDown", A),
            [
                ("FlowrraExecutorStuck", {**A, "executor": "io"}),
                ("FlowrraCollectorFailing", {**A, "collector": "queue"}),
            ],
            [("FlowrraTaskHung", {**B, "task": "report"}), ("FlowrraDeadTasks", {**BROKER, **QUEUE})],
        ),
        (
            ("FlowrraEventLoopBlocked", {**A, **BROKER}),
            [
                ("FlowrraNoProgress", {**BROKER, **QUEUE}),
                ("FlowrraCollectorFailing", {**A, "collector": "queue"}),
                ("FlowrraTaskHung", {**A, "task": "report"}),
            ],
            [("FlowrraOldestTaskTooOld", {**OTHER_BROKER, **QUEUE}), ("FlowrraWorkersDead", B)],
        ),
        (
            ("FlowrraEventLoopBlocked", A),
            [("FlowrraNoProgress", {**A, **QUEUE})],
            [("FlowrraOldestTaskTooOld", {**B, **QUEUE}), ("FlowrraDeadTasks", {**A, **QUEUE})],
        ),
        (
            ("FlowrraNoWorkers", BROKER),
            [("FlowrraNoProgress", {**BROKER, **QUEUE})],
            [("FlowrraOldestTaskTooOld", {**OTHER_BROKER, **QUEUE}), ("FlowrraBrokerFull", BROKER)],
        ),
        (
            ("FlowrraNoProgress", {**BROKER, **QUEUE}),
            [("FlowrraOldestTaskTooOld", {**BROKER, **QUEUE})],
            [("FlowrraDeadTasks", {**BROKER, **QUEUE})],
        ),
        (
            ("FlowrraTasksFailing", {"job": "shop", "task": "charge"}),
            [("FlowrraRetryStorm", {"job": "shop", "task": "charge", "severity": "warning"})],
            [("FlowrraRedeliveries", {"job": "shop", "task": "charge", "severity": "warning"})],
        ),
        (
            ("FlowrraSchedulerStalled", {"store": "db:5432/shop"}),
            [("FlowrraScheduleNotRun", {"store": "db:5432/shop", "schedule": "s1"})],
            [("FlowrraScheduleMissed", {"job": "shop"})],
        ),
        (
            ("FlowrraExecutorStuck", {**A, "executor": "io"}),
            [("FlowrraTaskHung", {**A, "task": "report"})],
            [("FlowrraHeartbeatLost", A)],
        ),
        (("FlowrraAppNotRunning", A), [("FlowrraWorkersDead", A)], [("FlowrraSeriesDropped", A)]),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_follows_from_another_alert_is_held_back(
    alertmanager: Alertmanager, cause: Alert, follows: list[Alert], stays: list[Alert], request: pytest.FixtureRequest
) -> None:
    # Those of other tests fire on in this Alertmanager: their labels are theirs.
    run = request.node.callspec.id

    def own(alert: Alert) -> Alert:
        name, labels = alert
        return name, {key: value if key == "severity" else f"{run} {value}" for key, value in labels.items()} | {
            "run": run
        }

    alertmanager.fire(*map(own, [cause, *follows, *stays]))
    expected = {name for name, _ in follows}
    wait_for(lambda: alertmanager.held_back(run=run) == expected or None, 10, f"{cause[0]} holds back {expected}")
