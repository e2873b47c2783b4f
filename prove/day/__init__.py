"""A day of a fleet by a script: alerts fire in their phases, reach a webhook, and resolve; none in quiet phases."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.prometheus.names import ALERTS
from grafana.colors import UNKNOWN
from prove.day import panels
from prove.day.fleet import SCALE, Fleet
from prove.day.script import PHASES, UNRAISED, Phase
from prove.day.watch import Watch
from prove.proof import Proof
from tests.end_to_end.processes import wait_for
from tests.grafana.fleet import Shown

TITLE = "A scripted day: each alert fires in its phase, reaches a webhook, and resolves; none fires when all is well"
PROGRAMS = ("prometheus", "prometheus-alertmanager")
# Seconds: all is well for so long between two phases, before and after; for an alert to fire, and for all to resolve.
QUIET = 5.0
WARM_UP = 12.0
PATIENCE = 160.0
# An alert of which the webhook isn't told by then is held back.
HELD_BACK_AFTER = 4.0


def run(proof: Proof) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        proof.not_shown(f"{' and '.join(missing)} can't be found")
        return
    proof.line(
        "Two workers of an app on one database of a Valkey server; a worker of another app on a second one, with"
    )
    proof.line("the scheduler, and its observer, a job of its own. Prometheus scrapes them each second.")
    proof.line(f"The rules' hours last a minute: --scale {SCALE:g}; their true durations are promtool's to test.")
    proof.line()
    raised = {alert for phase in PHASES for alert in phase.raises}
    with Day(proof) as day:
        for phase in PHASES:
            day.live_through(phase)
        day.end()
    proof.truth(
        "each alert is raised by a phase, or named below",
        raised | UNRAISED.keys() == set(ALERTS) and not raised & UNRAISED.keys(),
        f"{len(raised)} of {len(ALERTS)}",
    )
    for alert, why in UNRAISED.items():
        proof.line(f"{alert}, proved by promtool alone: {why}")


@dataclass(frozen=True)
class Account:
    """What became of a phase.

    Attributes:
        phase: Which.
        rows: Of its alerts, for the table.
        missing, others, untold, unresolved: Alerts that didn't fire, that fired besides, of which the webhook was not
            told though nothing held them back, and that did not resolve.
        pale: Tiles that were not red, and should have been.
    """

    phase: Phase
    rows: Sequence[tuple[str, ...]]
    missing: set[str]
    others: set[str]
    untold: set[str]
    unresolved: set[str]
    pale: set[str]


class Day:
    """A context manager that has a fleet, and who looks on.

    Args:
        proof: What prints.

    Attributes:
        fleet: What it has.
        loud: Alerts that fired when all was well, by the phase before.
    """

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._stack = ExitStack()
        self._accounts: list[Account] = []
        self._looks: dict[str, panels.Counts] = {}
        self._tiles: dict[str, dict[str, Shown]] = {}
        self._quiet_seconds = 0.0
        self.loud: dict[str, set[str]] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Day:
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flowrra-day-")))
            # Not to be moved: the fleet ends by it what it starts later as well.
            self.fleet = Fleet(folder, self._stack)
            self._watch = self._stack.enter_context(Watch(self.fleet))
            time.sleep(WARM_UP)  # until windows are filled
        except BaseException:
            self._stack.close()
            raise
        self._is_calm()
        self._stays_quiet("the start")
        self._look(panels.QUIET)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def live_through(self, phase: Phase) -> Account:
        """Have it befall the fleet, look, mend it, and wait until all is well again."""
        began = time.time()
        for number, step in enumerate(phase.steps):
            step.does(self.fleet)
            self._fires(set(step.raises), began)
            if number == 0:
                self._look(phase.name)
        mended = time.time()
        phase.mend(self.fleet)
        unresolved = set() if self._is_calm() else set(self._watch.firing())
        account = self._account(phase, began, mended, unresolved)
        self._accounts.append(account)
        self._stays_quiet(phase.name)
        print(f"{time.monotonic() - self._began:4.0f} s  {phase.name}: {phase.story}", flush=True)
        return account

    def end(self) -> None:
        """All processes are killed; then tell of the day."""
        for member in (*self.fleet.shop, self.fleet.billing, self.fleet.observer):
            member.kill()
        wait_for(lambda: not self.fleet.prometheus.query("up == 1") or None, 20, "all are dead")
        time.sleep(7)  # until no rate has two points left
        self._look(panels.DEAD)
        texts = panels.queries(self.fleet.prometheus)
        self._tell(list(panels.wrong(texts, self._looks)), len(texts))

    # ── looking on ──────────────────────────────────────────────────────────────────────────────────────────

    def _fires(self, names: set[str], since: float) -> None:
        with suppress(AssertionError):  # the account of the phase says which are missing, or held back
            wait_for(lambda: names <= self._watch.fired(since).keys() or None, PATIENCE, "alerts fire")
            wait_for(lambda: names <= self._watch.told(since).keys() or None, HELD_BACK_AFTER, "the webhook is told")

    def _is_calm(self) -> bool:
        try:
            wait_for(self._watch.is_calm, PATIENCE, "all is well")
        except AssertionError:
            return False
        return True

    def _stays_quiet(self, after: str) -> None:
        began = time.time()
        time.sleep(QUIET)
        self._quiet_seconds += QUIET
        if fired := self._watch.fired(began):
            self.loud[after] = set(fired)

    def _look(self, name: str) -> None:
        self._looks[name] = panels.counts(self.fleet.prometheus)
        self._tiles[name] = panels.tiles(self.fleet.prometheus)

    def _account(self, phase: Phase, began: float, mended: float, unresolved: set[str]) -> Account:
        fired, told, held_back = self._watch.fired(began), self._watch.told(began), self._watch.held_back(began)
        rows = []
        for name, at in sorted(fired.items(), key=lambda item: item[1]):
            reached, over = told.get(name, (None, None))
            rows.append(
                (
                    f"{phase.name:<9} {name}",
                    f"{at - began:.1f}",
                    f"{reached - began:.1f}" if reached else "held back" if name in held_back else "never",
                    f"{mended - began:.1f}",
                    f"{over - began:.1f}" if over else "",
                )
            )
        red = {title for title, shown in self._tiles[phase.name].items() if shown.color == "red"}
        return Account(
            phase,
            rows,
            missing=set(phase.raises) - fired.keys(),
            others=fired.keys() - {*phase.raises, *phase.may},
            # One that may fire may do so for a moment, in which nobody is told yet.
            untold=fired.keys() - told.keys() - held_back - {*phase.may},
            unresolved=unresolved,
            pale=set(phase.shown) - red,
        )

    # ── telling ─────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, wrong: Sequence[str], queries: int) -> None:
        proof, accounts = self._proof, self._accounts
        for account in accounts:
            proof.line(f"{account.phase.name:<9} {account.phase.story}")
        proof.line()
        proof.table(
            ("alert, seconds since its phase began", "fires", "webhook", "mended", "over"),
            [row for account in accounts for row in account.rows],
        )
        proof.truth("each alert fires in its phase", *_of_phases(accounts, "missing"))
        proof.truth("no other alert fires in any phase, and none in the deploy", *_of_phases(accounts, "others"))
        proof.truth("each reaches the webhook, or is held back by one that does", *_of_phases(accounts, "untold"))
        told = {name for _, name, _ in self.fleet.receiver.told}
        raised = {alert for account in accounts for alert in account.phase.raises}
        proof.truth(
            "each reaches the webhook in some phase", raised <= told, ", ".join(sorted(raised - told)) or len(raised)
        )
        proof.truth("each resolves once its cause is mended, and so it is told", *_of_phases(accounts, "unresolved"))
        proof.truth(
            f"no alert fires in {self._quiet_seconds:.0f} s between the phases",
            not self.loud,
            ", ".join(f"after {phase}: {', '.join(sorted(names))}" for phase, names in self.loud.items()),
        )
        proof.line()
        panels.show_tiles(proof, self._tiles)
        proof.truth("the overview shows in red what is wrong", *_of_phases(accounts, "pale"))
        quiet, dead = (self._tiles[name] for name in (panels.QUIET, panels.DEAD))
        proof.truth("nothing is red when all is well", not [each for each in quiet.values() if each.color == "red"])
        proof.truth(
            "of a fleet that is dead nothing is known but that",
            {title for title, each in dead.items() if each.color != UNKNOWN} == {"Targets up"},
        )
        proof.line()
        panels.show(proof, self._looks)
        proof.truth(
            f"each of {queries} queries returns data when it should, and none when it should not",
            not wrong,
            "; ".join(wrong),
        )
        proof.line(f"The day lasted for {(time.monotonic() - self._began) / 60:.1f} minutes.")


def _of_phases(accounts: Sequence[Account], what: str) -> tuple[bool, str]:
    found = {account.phase.name: getattr(account, what) for account in accounts}
    told = [f"{phase}: {', '.join(sorted(names))}" for phase, names in found.items() if names]
    return not told, "; ".join(told)
