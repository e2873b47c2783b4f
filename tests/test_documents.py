"""What README and docs point at is there, and the YAML in them is what its tool takes."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.end_to_end.processes import tool

ROOT = Path(__file__).parents[1]
COMPOSE = json.loads((ROOT / "tests/deploy/schemas/compose-spec.json").read_text())
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
# [text](target), but for what stands in code.
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")
# Keys that an older promtool doesn't know; the pages say which Prometheus does.
OF_PROMETHEUS_3 = ("convert_classic_histograms_to_nhcb", "always_scrape_classic_histograms")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """Without code, where brackets mean something else."""
    return re.sub(r"`[^`\n]*`", lambda code: "x" * len(code[0]), _FENCE.sub("", text))


@cache
def anchors(path: Path) -> set[str]:
    """Those of the headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", path.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 1
        unique = anchor
        while unique in found:
            unique, number = f"{anchor}-{number}", number + 1
        found.add(unique)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_link_leads_somewhere(path: Path) -> None:
    for target in _LINK.findall(prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # of the web, which a test doesn't ask
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_the_index_leads_to_each_page(path: Path) -> None:
    if path.name != "index.md":
        assert f"({path.name})" in (ROOT / "docs/index.md").read_text()


def blocks() -> list[Any]:
    return [
        pytest.param(block, id=f"{name_of(path)}:{number}")
        for path in DOCUMENTS
        for number, block in enumerate(_YAML.findall(path.read_text()), 1)
    ]


@pytest.mark.parametrize("block", blocks())
def test_each_yaml_block_is_what_its_tool_takes(block: str, tmp_path: Path) -> None:
    for document in filter(None, yaml.safe_load_all(block)):
        if "apiVersion" in document and "coreos" not in document["apiVersion"] and "keda" not in document["apiVersion"]:
            kubernetes_validate.validate(document, "1.31", strict=True)
        elif "services" in document:
            jsonschema.Draft7Validator(COMPOSE).validate(document)
        elif "spec" in document and "containers" in document["spec"]:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop"}, "spec": document["spec"]}
            kubernetes_validate.validate(pod, "1.31", strict=True)


def prometheus_blocks() -> list[Any]:
    return [
        each for each in blocks() if re.search(r"^(scrape_configs|groups|rule_files):", each.values[0], re.MULTILINE)
    ]


@pytest.mark.tools
@pytest.mark.parametrize("block", prometheus_blocks())
def test_promtool_takes_what_is_prometheus(block: str, tmp_path: Path) -> None:
    file = tmp_path / "block.yml"
    if b" 2." in subprocess.run([tool("promtool"), "--version"], capture_output=True, timeout=30).stdout:
        block = re.sub(rf"^ *({'|'.join(OF_PROMETHEUS_3)}): .*\n", "", block, flags=re.MULTILINE)
    file.write_text(block)
    kind = "rules" if re.search(r"^groups:", block, re.MULTILINE) else "config"
    words = ["check", kind, *(["--syntax-only"] if kind == "config" else []), str(file)]
    ended = subprocess.run([tool("promtool"), *words], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
