"""The mistakes that nobody could notice, each with the reason, as `survivors.toml` beside this file has them.

An entry names a mistake by its module and by the lines before and after it, and not by its place: what moves stays
known, what changes is judged anew.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from mutate.mutants import Mutant, mutants_of

FILE = Path(__file__).with_name("survivors.toml")
FIELDS = {"module", "before", "after", "why"}

# A module, and the lines before and after.
Key = tuple[str, str, str]


class Accepted:
    """The entries of a file.

    Args:
        file: The file: an array of tables ``accepted``, each with ``module``, ``before``, ``after`` and ``why``.

    Raises:
        ValueError: An entry lacks one of them, has something else, or is there twice.
    """

    def __init__(self, file: Path = FILE) -> None:
        self._reasons: dict[Key, str] = {}
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["accepted"]:
            if set(entry) != FIELDS:
                raise ValueError(f"{file.name}: {entry} must have {', '.join(sorted(FIELDS))}, and nothing else")
            key = (entry["module"], entry["before"], entry["after"])
            if key in self._reasons:
                raise ValueError(f"{file.name}: {key} is there twice")
            self._reasons[key] = entry["why"]

    def why(self, mutant: Mutant) -> str | None:
        """Why nobody could notice a mistake; None if it is not known to be one of those."""
        return self._reasons.get((mutant.path, mutant.before, mutant.after))

    def outdated(self, root: Path) -> list[str]:
        """The entries that stand for no mistake that can be made in the sources there any more."""
        known: set[Key] = set()
        for path in {module for module, _, _ in self._reasons}:
            if (root / path).is_file():
                known |= {(path, each.before, each.after) for each in mutants_of(path, (root / path).read_bytes())}
        return [
            f"{module}: {before}  ->  {after}"
            for module, before, after in self._reasons
            if (module, before, after) not in known
        ]
