"""`python -m deploy.prometheus --output FOLDER`: what it writes is whole, wherever that is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import _jsonnet
import pytest

from deploy.prometheus.files import FOLDER
from grafana.all import DASHBOARDS

ROOT = FOLDER.parents[1]
WIKI = "https://wiki.example.com/flowrra"


@pytest.mark.slow
def test_the_mixin_has_its_dashboards_with_the_same_links(tmp_path: Path) -> None:
    words = ["--output", str(tmp_path / "rules"), "--runbooks", WIKI]
    subprocess.run([sys.executable, "-m", "deploy.prometheus", *words], cwd=ROOT, check=True, timeout=120)
    text = (tmp_path / "rules/mixin.libsonnet").read_text()
    made = json.loads(_jsonnet.evaluate_snippet("mixin", f"({text}).grafanaDashboards", jpathdir=[f"{tmp_path}/rules"]))
    assert set(made) == {f"{frame.uid}.json" for frame in DASHBOARDS}
    for dashboard in made.values():
        [runbooks] = [each for each in dashboard["templating"]["list"] if each["name"] == "runbooks"]
        assert runbooks["query"] == WIKI
