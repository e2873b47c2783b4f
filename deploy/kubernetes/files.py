"""What the manifests and the chart have of rules and dashboards: neither kubectl nor Helm reads outside its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CHART = ROOT / "deploy" / "helm" / "flowrra-exporter"
_HEAD = "# Made by `make manifests`; don't edit it here.\n"


def render() -> dict[Path, str]:
    """The text of each file, by its path."""
    rule = (ROOT / "deploy/prometheus/prometheusrule.yaml").read_text(encoding="utf-8")
    dashboards = {
        path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "grafana/dashboards").glob("*.json"))
    }
    maps = [yaml.safe_dump(_config_map(name, text), sort_keys=False, width=120) for name, text in dashboards.items()]
    spec = yaml.safe_load(rule)["spec"]
    return {
        FOLDER / "prometheusrule.yaml": rule,
        FOLDER / "dashboards.yaml": _HEAD + "---\n".join(maps),
        CHART / "files/rules.json": json.dumps(spec, indent=1) + "\n",
        **{CHART / "files/dashboards" / name: text for name, text in dashboards.items()},
    }


def _config_map(name: str, text: str) -> dict[str, Any]:
    """As Grafana's sidecar in kube-prometheus-stack looks for it; on one line, so that it stays a small object."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"dashboard-{name.removesuffix('.json')}",
            "labels": {"app.kubernetes.io/name": "flowrra", "grafana_dashboard": "1"},
        },
        "data": {name: json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)},
    }


def write() -> None:
    """Writes all of them."""
    for path, text in render().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
