"""Prints what is installed as a CycloneDX 1.5 bill of materials; the image has its own at /opt/flowrra/sbom.cdx.json.

Needs nothing but Python. The same packages give the same text: it has no time and no serial number.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from typing import Any


def bill_of_materials() -> dict[str, Any]:
    """The document, as the JSON schema of CycloneDX 1.5 wants it."""
    found = sorted(distributions(), key=lambda each: _name(each))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [_component(each) for each in found],
    }


def _component(distribution: Distribution) -> dict[str, Any]:
    name, version = _name(distribution), distribution.version
    purl = f"pkg:pypi/{name}@{version}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if "License-Expression" in distribution.metadata:
        component["licenses"] = [{"expression": distribution.metadata["License-Expression"]}]
    return component


def _name(distribution: Distribution) -> str:
    """The name as package URLs write it."""
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


if __name__ == "__main__":
    json.dump(bill_of_materials(), sys.stdout, indent=1)
