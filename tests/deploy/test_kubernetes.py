"""The manifests: valid, without privileges, with times that go together, and with the rules and dashboards of today."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flowrra_exporter.paths import PROBE_PATHS
from flowrra_exporter.settings import OPTIONS, Settings, load_settings

from deploy.kubernetes.files import CHART, FOLDER, ROOT, render
from deploy.prometheus import thresholds
from tests.end_to_end.processes import tool

MANIFESTS = ("worker.yaml", "observer.yaml", "plain-worker.yaml")
SERVED = ("worker.yaml", "observer.yaml")
# The kubelet's own: it kills what is left a moment after the grace period.
LEAST_MARGIN = 5.0


def documents(name: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each]


def pod(name: str) -> dict[str, Any]:
    [deployment] = [each for each in documents(name) if each["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def settings(name: str) -> Settings:
    """What the container's arguments say."""
    given: dict[str, list[str]] = {}
    for argument in pod(name)["containers"][0]["args"][:-1]:
        flag, _, text = argument.partition("=")
        [option] = [each for each in OPTIONS if each.flag == flag]
        given.setdefault(option.name, []).append(text or "true")
    return load_settings(given, {})


@pytest.mark.slow
@pytest.mark.parametrize("path", list(render()), ids=lambda path: path.name)
def test_what_is_made_of_rules_and_dashboards_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == render()[path], "run: make manifests"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MANIFESTS, "dashboards.yaml", "autoscaling/hpa.yaml"])
def test_each_is_valid_against_the_schemas_of_kubernetes(name: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_a_misspelt_key_is_not_valid() -> None:
    [deployment] = [each for each in documents("worker.yaml") if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.31", strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_pod_is_as_restricted_as_kubernetes_can_make_it(name: str) -> None:
    """The Pod Security Standard `restricted`, and a root file system that can't be written."""
    spec = pod(name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", SERVED)
def test_the_pod_lives_longer_than_the_drain(name: str) -> None:
    assert pod(name)["terminationGracePeriodSeconds"] >= settings(name).shutdown_timeout + LEAST_MARGIN


def test_the_pod_of_a_plain_worker_lives_longer_than_its_drain() -> None:
    spec = pod("plain-worker.yaml")
    seconds = float(spec["containers"][0]["args"][0].removeprefix("--shutdown-timeout="))
    assert spec["terminationGracePeriodSeconds"] >= seconds + LEAST_MARGIN


@pytest.mark.parametrize("name", SERVED)
def test_the_probes_ask_what_is_served_and_wait_for_its_answer(name: str) -> None:
    container, given = pod(name)["containers"][0], settings(name)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"metrics": given.web_listen_address[0].port, "probes": given.probe_listen_address[0].port}
    for kind in ("startup", "liveness", "readiness"):
        probe = container[f"{kind}Probe"]
        assert probe["httpGet"]["path"] in PROBE_PATHS
        assert probe["httpGet"]["port"] == "probes"
        # The exporter answers by then, whatever the app does.
        assert given.probe_timeout < probe["timeoutSeconds"] <= probe["periodSeconds"]
    # A container that is blocked is restarted within a minute, and no shorter than a stall may last.
    liveness = container["livenessProbe"]
    lasting = given.loop_block_threshold + liveness["failureThreshold"] * liveness["periodSeconds"]
    assert 4 * given.loop_block_threshold <= lasting <= 60


@pytest.mark.parametrize("lasting", [thresholds.EVENT_LOOP_BLOCKED_FOR, thresholds.EXECUTOR_STUCK_FOR])
def test_an_alert_about_what_liveness_ends_fires_before_it_is_ended(lasting: float) -> None:
    given, liveness = settings("worker.yaml"), pod("worker.yaml")["containers"][0]["livenessProbe"]
    until_it_fails = given.loop_block_threshold + (liveness["failureThreshold"] - 1) * liveness["periodSeconds"]
    [monitor] = [each for each in documents("monitoring.yaml") if each["kind"] == "PodMonitor"]
    interval = float(monitor["spec"]["podMetricsEndpoints"][0]["interval"].removesuffix("s"))
    # From the first scrape that shows it to the first one that doesn't; rules are evaluated as often.
    shown = (until_it_fails + given.shutdown_timeout) // interval * interval
    assert lasting + interval <= shown


def test_the_chart_has_the_same_probes_and_times() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for kind, probe in values["probes"].items():
        manifest = pod("worker.yaml")["containers"][0][f"{kind}Probe"]
        assert {key: manifest[key] for key in probe} == probe
    assert values["shutdownTimeout"] == settings("worker.yaml").shutdown_timeout
    assert values["stopMargin"] >= LEAST_MARGIN


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f'"{chart["appVersion"]}"' in (ROOT / "flowrra/_version.py").read_text()


def test_the_schema_has_every_value_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(value: dict[str, Any], known: dict[str, Any], place: str) -> None:
        for key, inner in value.items():
            assert key in known["properties"], f"{place}{key}"
            if isinstance(inner, dict) and "properties" in known["properties"][key]:
                compare(inner, known["properties"][key], f"{place}{key}.")

    compare(values, schema, "")


# ── autoscaling ─────────────────────────────────────────────────────────────────────────────────────────────────

QUEUE = 'namespace="default",job="shop-observer",instance="a",executor="io",queue="default"'
OTHERS = 'namespace="other",job="shop-observer",instance="b",executor="io",queue="default"'


def queries() -> dict[str, str]:
    [scaled] = documents("autoscaling/keda.yaml")
    return {each["name"]: each["metadata"]["query"] for each in scaled["spec"]["triggers"]}


def answers(folder: Path, series: dict[str, str], expected: dict[str, float | None]) -> None:
    """Asks promtool for the queries after 10 minutes; None is no answer."""
    tests = [
        {
            "expr": queries()[name],
            "eval_time": "10m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for name, value in expected.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    file = folder / "queries.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": inputs, "promql_expr_test": tests}]}))
    ended = subprocess.run([tool("promtool"), "test", "rules", file], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.tools
def test_what_waits_is_what_is_scaled_by(tmp_path: Path) -> None:
    series = {
        f"flowrra_queue_pending_tasks{{{QUEUE}}}": "7x60",
        f"flowrra_queue_oldest_pending_timestamp_seconds{{{QUEUE}}}": "480x60",
        f"flowrra_queue_drain_seconds{{{QUEUE}}}": "90x60",
        # Another app's, which is none of ours.
        f"flowrra_queue_pending_tasks{{{OTHERS}}}": "900x60",
        f"flowrra_queue_oldest_pending_timestamp_seconds{{{OTHERS}}}": "1x60",
    }
    answers(tmp_path, series, {"age": 120, "depth": 7, "drain": 90})


@pytest.mark.tools
def test_an_empty_queue_is_zero(tmp_path: Path) -> None:
    series = {f"flowrra_queue_pending_tasks{{{QUEUE}}}": "0x60", f"flowrra_queue_drain_seconds{{{QUEUE}}}": "0x60"}
    answers(tmp_path, series, {"age": 0, "depth": 0, "drain": 0})


@pytest.mark.tools
def test_a_paused_queue_is_zero_whatever_waits_in_it(tmp_path: Path) -> None:
    series = {
        f"flowrra_queue_pending_tasks{{{QUEUE}}}": "7x60",
        f"flowrra_queue_oldest_pending_timestamp_seconds{{{QUEUE}}}": "1x60",
        f"flowrra_queue_paused{{{QUEUE}}}": "1x60",
        f"flowrra_queue_paused{{{OTHERS}}}": "0x60",
    }
    answers(tmp_path, series, {"age": 0, "depth": 0, "drain": 0})


@pytest.mark.tools
def test_tasks_whose_names_are_paused_do_not_count(tmp_path: Path) -> None:
    series = {
        f"flowrra_queue_pending_tasks{{{QUEUE}}}": "507x60",
        f"flowrra_queue_paused_tasks{{{QUEUE}}}": "500x60",
        f"flowrra_queue_oldest_pending_timestamp_seconds{{{QUEUE}}}": "480x60",
        f"flowrra_queue_drain_seconds{{{QUEUE}}}": "90x60",
        f"flowrra_queue_paused{{{QUEUE}}}": "0x60",
    }
    answers(tmp_path, series, {"age": 120, "depth": 7, "drain": 90})


@pytest.mark.tools
def test_a_lost_target_is_no_answer(tmp_path: Path) -> None:
    series = {
        f"flowrra_queue_pending_tasks{{{QUEUE}}}": "7x20 stale",
        f"flowrra_queue_paused{{{QUEUE}}}": "1x20 stale",
        f"flowrra_queue_paused_tasks{{{QUEUE}}}": "7x20 stale",
        f"flowrra_queue_oldest_pending_timestamp_seconds{{{QUEUE}}}": "60x20 stale",
        f"flowrra_queue_drain_seconds{{{QUEUE}}}": "90x20 stale",
    }
    answers(tmp_path, series, {"age": None, "depth": None, "drain": None})


def test_no_answer_is_an_error_to_keda() -> None:
    [scaled] = documents("autoscaling/keda.yaml")
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert "fallback" not in scaled["spec"]
    assert 'ignoreNullValues: "false"' in (CHART / "templates/autoscaling.yaml").read_text()


def test_prometheus_adapter_asks_the_same() -> None:
    adapter = yaml.safe_load((FOLDER / "autoscaling/prometheus-adapter.yaml").read_text())
    asked = {rule["name"]["as"]: rule["metricsQuery"] for rule in adapter["rules"]["external"]}
    named = {"age": "flowrra_queue_age_seconds", "depth": "flowrra_queue_depth", "drain": "flowrra_queue_drain_seconds"}
    for name, query in queries().items():
        assert re.sub(r"\{[^}]*\}", "{<<.LabelMatchers>>}", query) == asked[named[name]]
    [hpa] = documents("autoscaling/hpa.yaml")
    assert {each["external"]["metric"]["name"] for each in hpa["spec"]["metrics"]} == set(named.values())
