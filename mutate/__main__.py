"""`python -m mutate [PART …]`: put small mistakes into the modules that carry the promises, one at a time, and run the
tests that run the line. Prints what was noticed and what was not, and keeps it in `docs/prove/mutants.txt` if all
modules were looked at. A part names the modules whose path has it in it.

Sampled by a seed: the same sources and seed make the same mistakes. The exit status is 1 if a module's tests notice
less than `--at-least` of them. Survivors that nobody could notice are in `mutate/survivors.toml`, with the reason: they
are told apart, and don't count there. An entry that stands for no mistake any more is told, too, and is an error.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import ROOT, Report
from mutate.covering import Covering
from mutate.mutants import Mutant, mutants_of
from mutate.noticed import Noticed
from mutate.survivors import Accepted
from mutate.trial import Verdict, copy_of, failed_tests, run_tests, try_out

# The modules that carry the promises, wherever they are moved; each pattern finds at least one.
MODULES = (
    "flowrra/executors/**/*.py",
    "flowrra/scheduler/**/*.py",
    "flowrra/management/**/*.py",
    "flowrra/codec.py",
    "flowrra/redis_*.py",
    "flowrra/partitions.py",
    "flowrra/brokers/**/*.py",
    "flowrra/backends/**/*.py",
    "flowrra/lua/*.lua",
    "exporter/flowrra_exporter/**/collection.py",
    "exporter/flowrra_exporter/**/reload.py",
    "exporter/flowrra_exporter/**/streams.py",
    "exporter/flowrra_exporter/**/*loop.py",
)
KEPT_IN = ROOT / "docs" / "prove"
FOLDER = ROOT / ".mutate"


def main() -> int:
    given = _arguments()
    paths = _modules(given.parts)
    accepted = Accepted()
    outdated = accepted.outdated(ROOT)
    sample = [mutant for path in paths for mutant in _sampled(path, given.seed, given.sample)]
    tree = copy_of(ROOT, FOLDER / "measured")
    covering = Covering(FOLDER / "coverage", tree, given.fast)
    covering.collect(given.jobs)
    noticed = Noticed(FOLDER / "noticed.jsonl")
    before = [verdict for verdict in map(noticed.verdict, sample) if verdict is not None] if given.again else []
    known = {verdict.mutant for verdict in before}
    tried = _try_all([mutant for mutant in sample if mutant not in known], covering, noticed, given.jobs, given.seconds)
    verdicts = sorted([*before, *tried], key=lambda verdict: sample.index(verdict.mutant))
    by_chance = _fails_anyway({verdict.by for verdict in verdicts if "::" in verdict.by}, tree)
    noticed.forget_by(by_chance)
    verdicts = [
        Verdict(each.mutant, False, f"by chance: {each.by}") if each.by in by_chance else each for each in verdicts
    ]
    packages = ("pytest", "coverage")
    report = Report("mutants", "Which small mistakes in the code a test notices", packages, KEPT_IN)
    if before:
        report.line(f"{len(before)} of these mistakes were noticed in a run before, and not tried again")
    weak = _tell(report, verdicts, accepted, given)
    for entry in outdated:
        print(f"stands for no mistake any more: {entry}")
    if not given.parts:
        report.save()
    return 1 if weak or outdated else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutate", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="only modules whose path has this in it")
    parser.add_argument("--seed", type=int, default=1, help="which mistakes (1)")
    parser.add_argument("--sample", type=int, default=5, help="most mistakes of each module (5); 0 makes all")
    parser.add_argument("--jobs", type=int, default=3, help="how many are tried at the same time (3)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the tests of one mistake may take (60)")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="PERCENT", help="what must be noticed (0)")
    parser.add_argument("--again", action="store_true", help="try only what no run before has noticed")
    parser.add_argument("--fast", action="store_true", help="only the tests of the fast lane")
    return parser.parse_args()


def _modules(parts: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for pattern in MODULES:
        paths = {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
        if not paths:
            sys.exit(f"no module is at {pattern} any more: mutate/__main__.py must be told where it went")
        found |= paths
    return sorted(path for path in found if not parts or any(part in path for part in parts))


def _sampled(path: str, seed: int, size: int) -> Iterable[Mutant]:
    every = mutants_of(path, (ROOT / path).read_bytes())
    chosen = every if size == 0 or size > len(every) else random.Random(f"{seed} {path}").sample(every, size)
    return sorted(chosen, key=lambda mutant: mutant.line)


def _try_all(
    sample: Sequence[Mutant], covering: Covering, noticed: Noticed, jobs: int, seconds: float
) -> list[Verdict]:
    """The verdicts, in the order of the sample; each job has a copy of the sources to itself."""
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for number in range(jobs):
        trees.put(copy_of(ROOT, FOLDER / f"tree{number}"))

    def judge(mutant: Mutant) -> Verdict:
        tree = trees.get()
        try:
            tests = _chosen(covering.of(mutant.path, mutant.line), mutant.path, covering.seconds, seconds)
            # A test that passes takes as long as before; what takes thrice as long is noticed.
            verdict = try_out(mutant, tree, tests, 30 + 3 * sum(covering.seconds[test] for test in tests))
        finally:
            trees.put(tree)
        noticed.add(verdict)
        print(f"{'killed  ' if verdict.killed else 'SURVIVED'} {mutant.path}:{mutant.line} {verdict.by}", flush=True)
        return verdict

    with ThreadPoolExecutor(jobs) as threads:
        return list(threads.map(judge, sample))


def _chosen(tests: Iterable[str], path: str, takes: dict[str, float], seconds: float) -> list[str]:
    """As many tests as there is time for: those whose name has the module's first, and then the quickest."""
    name = Path(path).stem
    chosen: list[str] = []
    left = seconds
    for test in sorted(tests, key=lambda test: (name not in test, takes[test])):
        left -= takes[test]
        if left < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def _fails_anyway(tests: Iterable[str], tree: Path) -> set[str]:
    """Those that fail without a mistake as well."""
    listed = sorted(tests)
    if not listed:
        return set()
    _, printed = run_tests(tree, listed, 3600.0)
    return set(failed_tests(printed))


def _tell(report: Report, verdicts: Sequence[Verdict], accepted: Accepted, given: argparse.Namespace) -> list[str]:
    """Print everything; returns the modules of which too little was noticed."""
    by_module: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_module[verdict.mutant.path].append(verdict)
    killed = sum(verdict.killed for verdict in verdicts)
    report.line(f"{killed} of {len(verdicts)} mutants killed, {_percent(verdicts)}; seed {given.seed}")
    report.line()
    weak: list[str] = []
    rows: list[tuple[str, ...]] = []
    for path, found in by_module.items():
        survivors = [each for each in found if not each.killed]
        known = sum(accepted.why(each.mutant) is not None for each in survivors)
        rows.append((path, str(len(found) - len(survivors)), str(len(survivors)), str(known), _percent(found)))
        if is_weak(found, accepted, given.at_least):
            weak.append(path)
    report.table(("module", "killed", "survived", "of them accepted", "noticed"), rows)
    report.line("Survivors")
    for verdict in verdicts:
        if not verdict.killed:
            mutant = verdict.mutant
            report.line()
            report.line(f"{mutant.path}:{mutant.line}  {mutant.kind}, {verdict.by}")
            report.line(f"    - {mutant.before}")
            report.line(f"    + {mutant.after}")
            if (why := accepted.why(mutant)) is not None:
                report.line(f"    accepted: {why}")
    return weak


def is_weak(verdicts: Sequence[Verdict], accepted: Accepted, at_least: float) -> bool:
    """Whether less than so many percent were noticed, of those that somebody could notice."""
    counted = [each for each in verdicts if each.killed or accepted.why(each.mutant) is None]
    return sum(each.killed for each in counted) < at_least / 100 * len(counted)


def _percent(verdicts: Sequence[Verdict]) -> str:
    return f"{100 * sum(verdict.killed for verdict in verdicts) / max(1, len(verdicts)):.0f} %"


if __name__ == "__main__":
    sys.exit(main())
