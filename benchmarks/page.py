"""docs/benchmarks.md: what each benchmark measures, and its kept output. Written anew after every run."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from benchmarks.harness import OUTPUTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
_INTRODUCTION = """\
# Benchmarks

`make bench` runs them all, `python -m benchmarks NAME` one; `python -m benchmarks` writes this page, too. They compare
programs that each run in a process of their own, in turns (A B C A B C …), and ratios are taken within a turn, because
a machine's speed drifts. Medians, with the least and the greatest in brackets. A goal that is missed is shown as such
and fails nothing. What must be true whatever the speed is proved by `make prove`: its outputs are in [prove](prove).
`python -m benchmarks NAME --against REV` pairs our own programs with those of another commit: its outputs are in
[benchmarks](benchmarks), as `against_NAME.txt`. `--only flowrra,bullmq` runs some of the peers of `distributed` and
`slots`, and keeps nothing. Peers are installed in `.bench/`, BullMQ if there are Node and npm; one that can't be had is
named with the reason.
"""


def write(benchmarks: Mapping[str, ModuleType]) -> None:
    """Write the page."""
    PAGE.write_text(text(benchmarks), encoding="utf-8")


def text(benchmarks: Mapping[str, ModuleType]) -> str:
    """The page from the benchmarks' own words and their kept outputs."""
    sections = [_section(name, benchmark.__doc__ or "") for name, benchmark in benchmarks.items() if _has_run(name)]
    return "\n".join((_INTRODUCTION, *sections))


def _has_run(name: str) -> bool:
    return (OUTPUTS / f"{name}.txt").exists()


def _section(name: str, words: str) -> str:
    output = (OUTPUTS / f"{name}.txt").read_text(encoding="utf-8")
    return f"## {name}\n\n{words.strip()}\n\n```text\n{output}```\n"
