"""Writes into the runbooks what their alerts say, so that no figure in them is an old one; and their index."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.prometheus import alerts
from deploy.prometheus.promql import duration
from deploy.prometheus.rule import Alert
from deploy.prometheus.scaled import Scaled

FOLDER = Path(__file__).parents[2] / "docs" / "runbooks"
_BLOCK = re.compile(r"(<!-- condition -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = """# Runbooks

One for each alert of [deploy/prometheus](../../deploy/prometheus): what it means, how to confirm it, what to do, and
what not to do. How they get to you is in [alerting.md](../alerting.md). Made by `make rules`.
"""


def render() -> dict[Path, str]:
    """The text of each runbook and of the index, by their files.

    Raises:
        FileNotFoundError: An alert has no runbook.
    """
    by_name: dict[str, list[Alert]] = {}
    index = _HEAD
    for group, found in alerts.groups(Scaled()).items():
        index += f"\n## {group.removeprefix('flowrra-').capitalize()}\n\n| alert | severity | means |\n|---|---|---|\n"
        for alert in found:
            by_name.setdefault(alert.name, []).append(alert)
            summary = re.sub(r"\{\{ (?:or )?\$(?:labels\.)?(\w+).*?\}\}", r"*\1*", alert.summary)
            index += f"| [{alert.name}]({alert.name}.md) | {alert.severity} | {summary} |\n"
    texts = {FOLDER / "README.md": index}
    for name, variants in by_name.items():
        path = FOLDER / f"{name}.md"
        texts[path] = _filled(path.read_text("utf-8"), "\n".join(map(_condition, variants)))
    return texts


def _filled(text: str, block: str) -> str:
    return _BLOCK.sub(lambda marks: f"{marks[1]}{block}{marks[2]}", text)


def _condition(alert: Alert) -> str:
    lasting = f"once this has held for {duration(alert.lasting)}" if alert.lasting else "as soon as this holds"
    kept = " It stays while its figures can't be read." if alert.kept else ""
    return (
        f"**{alert.severity}**, {lasting}.{kept} Dashboard: `{alert.dashboard}`.\n\n```promql\n{alert.condition}\n```\n"
    )
