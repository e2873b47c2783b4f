"""A part of the scripted day, `python -m prove day`: real processes, a real Prometheus and a real Alertmanager."""

from __future__ import annotations

import pytest

from prove.day import Day
from prove.day.script import PHASES
from prove.proof import Proof
from tests.end_to_end.processes import tool

pytestmark = [pytest.mark.tools, pytest.mark.slow]


def test_killed_workers_raise_alerts_that_reach_a_webhook_and_resolve_and_all_is_quiet_before_and_after() -> None:
    for program in ("prometheus", "prometheus-alertmanager"):
        tool(program)
    (killed,) = (phase for phase in PHASES if phase.name == "killed")

    with Day(Proof("day", "A part of the day")) as day:
        account = day.live_through(killed)

    assert not account.missing
    assert not account.others
    assert not account.untold
    assert not account.unresolved
    assert not account.pale
    assert not day.loud
