"""docs/architecture.md names what there is."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(flowrra(?:_exporter)?(?:\.\w+)+)`", TEXT)))
FILES = sorted(set(re.findall(r"`((?:[\w-]+/)+[\w.-]*\.(?:py|lua|md))`", TEXT)))


def test_it_names_something() -> None:
    assert len(NAMES) > 20
    assert len(FILES) > 10


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_it_exists(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_it_exists(name: str) -> None:
    # As it stands from the root, or within one of the packages.
    places = (ROOT, ROOT / "flowrra", ROOT / "exporter", ROOT / "exporter" / "flowrra_exporter" / "metrics")
    assert any((place / name).is_file() for place in places)
