"""Each figure that an alert fires at, moved a little both ways: a test for promtool fails each time."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prove.proof import Proof
from tests.deploy.prometheus.figures import FIGURES, is_missed

TITLE = "No figure that an alert fires at can be off by a little without a test that fails"
AT_ONCE = 2


def run(proof: Proof) -> None:
    if shutil.which("promtool") is None:
        proof.not_shown("promtool is not installed")
        return
    moves = [(figure, more) for figure in FIGURES for more in (True, False)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        missed = list(threads.map(_is_missed, moves))
    unnoticed = [
        f"{figure}, {'more' if more else 'less'}"
        for (figure, more), found in zip(moves, missed, strict=True)
        if not found
    ]
    proof.line(f"{len(moves)} moves of {len(FIGURES)} figures")
    proof.truth("a test fails at each of them", not unnoticed, "; ".join(unnoticed))


def _is_missed(move: tuple[str, bool]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return is_missed(*move, Path(folder))
