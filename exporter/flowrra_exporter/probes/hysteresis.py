"""Hysteresis: a check that has passed counts as failed only once it has failed for a while, and the other way round.

Time is what counts, not the number of probes, so the outcome is the same however often the kubelet asks.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from flowrra_exporter.paths import READYZ
from flowrra_exporter.probes.check import Check

# The most that the time between two evaluations adds: more, and this process hadn't run.
_MAX_STEP_SECONDS = 2.0


class _State:
    """One check's verdict, and for how long the evaluations have contradicted it."""

    __slots__ = ("against", "failing_since", "last", "ok")

    def __init__(self, ok: bool) -> None:
        self.ok = ok
        self.against: float | None = None
        self.failing_since: datetime | None = None
        self.last = 0.0

    def observe(self, ok: bool, grace: float, now: float) -> None:
        if ok == self.ok:
            self.against = None
            return
        self.against = 0.0 if self.against is None else self.against + min(now - self.last, _MAX_STEP_SECONDS)
        if self.against >= grace:
            self.ok, self.against = ok, None


class Hysteresis:
    """Judges checks by what they said before.

    Until all have passed together for the first time there is nothing to protect, and each counts as it is.

    Args:
        grace: For how many seconds a check must say otherwise, without a break, before its verdict turns.
        immediate: The names of checks that always count as they are.
    """

    def __init__(self, grace: float, immediate: Collection[str] = ()) -> None:
        self._grace = grace
        self._immediate = immediate
        self._states: dict[str, _State] = {}
        self._passed = False

    @property
    def settled(self) -> bool:
        """Whether no verdict is about to turn."""
        return all(state.against is None for state in self._states.values())

    def reset(self) -> None:
        """Forgets everything."""
        self._states.clear()
        self._passed = False

    def judge(self, checks: Iterable[Check], complete: bool = True) -> list[Check]:
        """The checks with the verdicts that count.

        Args:
            checks: What an evaluation found.
            complete: A check that is missing is forgotten; else it keeps its verdict.
        """
        checks = list(checks)
        judged = [self._judge(check) for check in checks]
        self._passed = self._passed or (bool(checks) and all(check.ok for check in checks))
        missing = self._states.keys() - {check.name for check in checks}
        if complete:
            for name in missing:
                del self._states[name]
            return judged
        return [*judged, *(self._unknown(name) for name in sorted(missing) if not self._states[name].ok)]

    def _judge(self, check: Check) -> Check:
        now = time.monotonic()
        state = self._states.setdefault(check.name, _State(ok=True))
        protected = self._passed and check.name not in self._immediate
        state.observe(check.ok, self._grace if protected else 0.0, now)
        state.last = now
        if check.ok and state.ok:
            state.failing_since = None
        elif not check.ok and state.failing_since is None:
            state.failing_since = datetime.now(UTC)
        message = check.message
        if state.against is not None:
            word = "passes" if check.ok else "fails"
            message = f"{word} for {state.against:.1f} s, counts after {self._grace:g} s: {check.message}"
        return check._replace(ok=state.ok, message=message, failing_since=state.failing_since)

    def _unknown(self, name: str) -> Check:
        state = self._states[name]
        state.against = None  # nothing was seen, so nothing is without a break
        return Check(name, False, "failed when it was last known", (READYZ,), state.failing_since)
