"""What docs/dashboards.md says and shows of the dashboards, and what Grafana is provisioned with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from grafana.all import DASHBOARDS
from grafana.pictures.__main__ import PICTURES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dashboards.md"
STATES = ("quiet", "broken", "dead")
MOST_BYTES = 200_000


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("frame", DASHBOARDS, ids=lambda frame: frame.uid)
def test_there_is_a_picture_of_each_dashboard_in_each_state(frame: object, state: str) -> None:
    picture = PICTURES / f"{getattr(frame, 'uid').removeprefix('flowrra-')}-{state}.png"  # noqa: B009

    assert 10_000 < picture.stat().st_size < MOST_BYTES


def test_each_dashboard_has_a_section() -> None:
    headings = set(re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))

    assert {frame.title for frame in DASHBOARDS} <= headings


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = PAGE.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^## (.+)$", text, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        assert (PAGE.parent / path).exists() if path else anchor in anchors, link


def test_a_data_source_and_the_folder_of_dashboards_are_provisioned() -> None:
    folder = ROOT / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards" / "flowrra.yaml").read_text())["providers"][0]

    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    assert source["jsonData"]["timeInterval"], "$__rate_interval comes from it"
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    assert provider["options"]["path"] in PAGE.read_text(encoding="utf-8")
