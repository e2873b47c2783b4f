"""What the image is built from: the lock holds all that pyproject.toml asks for, and names no index."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# What lock.sh locks; gRPC alone would be a fifth of the image.
EXTRAS = ("exporter", "redis", "postgresql", "mysql")


def locked(file: str) -> dict[str, Version]:
    lines = re.findall(r"^(\S+?)==(\S+)", (IMAGE / file).read_text(), re.MULTILINE)
    return {name: Version(version) for name, version in lines}


def of_the_project() -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(each for extra in EXTRAS for each in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


def test_the_lock_meets_pyproject() -> None:
    found = locked("requirements.txt")
    for requirement in of_the_project():
        assert found[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_has_what_is_required_in_turn() -> None:
    """As far as the packages of this environment say so, which may be of other versions."""
    found, seen, waiting = locked("requirements.txt"), set(), of_the_project()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert name in found, f"{name} is missing; deploy/image/lock.sh writes the lock anew"
        for text in distribution(name).requires or ():
            inner = Requirement(text)
            extras = {"extra": ""} if not requirement.extras else {"extra": next(iter(requirement.extras))}
            key = (name, text)
            if key not in seen and (inner.marker is None or inner.marker.evaluate(extras)):
                seen.add(key)
                waiting.append(inner)


def test_what_builds_the_wheel_is_locked_too() -> None:
    found = locked("build-requirements.txt")
    for text in PROJECT["build-system"]["requires"]:
        requirement = Requirement(text)
        assert found[requirement.name] in requirement.specifier
        assert text in (IMAGE / "build-requirements.in").read_text()


@pytest.mark.parametrize("file", ["requirements.txt", "build-requirements.txt"])
def test_each_version_has_hashes_and_no_index_is_named(file: str) -> None:
    text = (IMAGE / file).read_text()
    assert "://" not in text
    assert not re.search(r"^--", text, re.MULTILINE)
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in entry, entry


def test_the_version_of_the_label_is_that_of_the_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG VERSION=(\S+)$", dockerfile, re.MULTILINE)[1] == distribution("flowrra").version  # type: ignore[index]


def test_the_bill_of_materials_lists_what_is_installed() -> None:
    printed = subprocess.run(
        [sys.executable, IMAGE / "sbom.py"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    bill = json.loads(printed)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    found = {each["name"]: each for each in bill["components"]}
    assert found["aiohttp"]["purl"] == f"pkg:pypi/aiohttp@{distribution('aiohttp').version}"
    assert len({each["bom-ref"] for each in bill["components"]}) == len(bill["components"])
