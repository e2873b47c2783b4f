"""The files that are made of the rules: for Prometheus, for its operator in Kubernetes, and as a mixin for jsonnet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.prometheus import alerts, recordings
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import Scaled

FOLDER = Path(__file__).parent
# Where the mixin finds the dashboards, from its own folder.
DASHBOARDS = "../../grafana/dashboards"
_HEAD = "# Made by `make rules` from the Python files beside it; don't edit it here.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def recording_groups(thresholds: Scaled) -> dict[str, Any]:
    """What is recorded for several readers."""
    return _groups(
        {
            "flowrra-known": [rule.as_rule() for rule in recordings.targets(thresholds)],
            "flowrra-shared": [rule.as_rule() for rule in recordings.shared_figures(thresholds)],
            "flowrra-work": [rule.as_rule() for rule in recordings.work(thresholds)],
        },
        thresholds,
    )


def alert_groups(thresholds: Scaled, links: Links) -> dict[str, Any]:
    """The alerts, each behind the record of its condition."""
    return _groups(
        {
            name: [rule for alert in found for rule in (alert.recording().as_rule(), alert.as_rule(links))]
            for name, found in alerts.groups(thresholds).items()
        },
        thresholds,
    )


def _groups(rules: dict[str, list[dict[str, Any]]], thresholds: Scaled) -> dict[str, Any]:
    # At the pace of Prometheus, but where a day is shorter.
    pace = {} if thresholds.scale == 1 else {"interval": "1s"}
    return {"groups": [{"name": name, **pace, "rules": found} for name, found in rules.items()]}


def render(thresholds: Scaled, links: Links, dashboards: str = DASHBOARDS) -> dict[str, str]:
    """The text of each file, by its name; the dashboards are in that folder, as seen from where they are written."""
    recorded, alerting = recording_groups(thresholds), alert_groups(thresholds, links)
    operator = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "flowrra", "labels": {"app.kubernetes.io/name": "flowrra"}},
        "spec": {"groups": [*recorded["groups"], *alerting["groups"]]},
    }
    return {
        "flowrra.rules.yml": _yaml(recorded),
        "flowrra.alerts.yml": _yaml(alerting),
        "prometheusrule.yaml": _yaml(operator),
        "mixin.json": json.dumps({"rules": recorded, "alerts": alerting}, indent=1) + "\n",
        "mixin.libsonnet": _mixin(links, dashboards),
    }


def _yaml(content: dict[str, Any]) -> str:
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1_000_000, allow_unicode=True)
    return _HEAD + text


def _mixin(links: Links, folder: str) -> str:
    names = sorted(path.name for path in (FOLDER / DASHBOARDS).glob("*.json"))
    dashboards = "".join(f"    '{name}': import '{folder}/{name}',\n" for name in names)
    return f"""// Made by `make rules`; don't edit it here. See docs/alerting.md.
local rules = import 'mixin.json';
{{
  _config+:: {{
    // What the links in alerts begin with.
    runbooksUrl: '{links.runbooks}',
    dashboardsUrl: '{links.dashboards}',
  }},
  local config = self._config,
  local moved(url, from, to) = if std.startsWith(url, from) then to + url[std.length(from):] else url,
  local linked(rule) =
    if std.objectHas(rule, 'alert') then rule {{
      annotations+: {{
        runbook_url: moved(super.runbook_url, '{links.runbooks}', config.runbooksUrl),
        dashboard_url: moved(super.dashboard_url, '{links.dashboards}', config.dashboardsUrl),
      }},
    }} else rule,
  prometheusAlerts+:: {{
    groups+: [group {{ rules: [linked(rule) for rule in super.rules] }} for group in rules.alerts.groups],
  }},
  prometheusRules+:: {{
    groups+: rules.rules.groups,
  }},
  grafanaDashboards+:: {{
{dashboards}  }},
}}
"""
