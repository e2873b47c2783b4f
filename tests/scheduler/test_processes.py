"""Four scheduler processes on one store, briefly; `python -m prove scheduler` does it longer, and on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from prove.scheduler import measure


@pytest.mark.slow
def test_each_due_time_is_run_once_while_schedulers_are_killed(tmp_path: Path) -> None:
    found = measure(f"sqlite:///{tmp_path / 's.db'}", 4.0, 60, 5, lease=2.0, kills=(1.0,))
    assert len(found.expected) == 60 + 5 * 4
    assert (found.lost, found.doubled) == ([], [])
