"""Which mistakes were noticed before, and by what: kept from run to run, so that a run can try the others alone.

A mistake is known by the whole text of its module with it: whatever changes there, it is tried anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from mutate.mutants import Mutant
from mutate.trial import Verdict


class Noticed:
    """What was noticed, in a file of one line of JSON for each mistake.

    Args:
        file: The file; it need not exist.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._by: dict[str, str] = {}
        self._lock = threading.Lock()
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._by[entry["mistake"]] = entry["by"]

    def verdict(self, mutant: Mutant) -> Verdict | None:
        """That it was noticed, and by what; None if that isn't known."""
        by = self._by.get(_name(mutant))
        return None if by is None else Verdict(mutant, True, by)

    def add(self, verdict: Verdict) -> None:
        """Keep it, if something noticed, from any thread."""
        name = _name(verdict.mutant)
        with self._lock:
            if not verdict.killed or name in self._by:
                return
            self._by[name] = verdict.by
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_line(name, verdict.by))

    def forget_by(self, tests: set[str]) -> None:
        """Forget what these tests have noticed: they fail without a mistake as well."""
        kept = {name: by for name, by in self._by.items() if by not in tests}
        if kept != self._by:
            self._by = kept
            self._file.write_text("".join(_line(*each) for each in kept.items()), encoding="utf-8")


def _name(mutant: Mutant) -> str:
    return hashlib.sha256(mutant.path.encode() + b"\0" + mutant.text).hexdigest()


def _line(name: str, by: str) -> str:
    return json.dumps({"mistake": name, "by": by}) + "\n"
