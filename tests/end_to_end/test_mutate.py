"""The program that puts mistakes into the code: which ones it makes, and that it knows what it looks at. `make mutate`
runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutate.__main__ import MODULES, is_weak
from mutate.mutants import Mutant, mutants_of
from mutate.noticed import Noticed
from mutate.survivors import Accepted
from mutate.trial import Verdict

ROOT = Path(__file__).parents[2]
SOURCE = b"""
LIMIT = 3

def work(self, n, wait=0):
    if n < wait and self.on:
        self.count += 1
        self.close(now=True)
        logger.info("closed %s", n)
    try:
        self.state = None
    except OSError:
        raise ValueError(f"at {n + 1}")
    return [each for each in n if each is None]

@dataclass(frozen=True)
class Thing:
    size: int = 0
"""


def test_each_kind_of_mistake_is_made_where_it_can_be() -> None:
    found = [(mutant.line, mutant.kind, mutant.after) for mutant in mutants_of("module.py", SOURCE)]
    assert found == [
        (4, "constant off by one", "def work(self, n, wait=1):"),
        (5, "condition negated", "if not (n < wait and self.on):"),
        (5, "comparison turned", "if n <= wait and self.on:"),
        (6, "change dropped", "pass"),
        (6, "constant off by one", "self.count += 2"),
        (7, "call dropped", "pass"),
        (7, "argument dropped", "self.close()"),
        (10, "change dropped", "pass"),
        (11, "except dropped", "except ():"),
        (13, "comparison turned", "return [each for each in n if each is not None]"),
    ]


def test_each_kind_of_mistake_is_made_in_lua() -> None:
    source = b"-- if x then\nif a == 1 and b then\n  redis.call('DEL', 'a < b')\nend\n"
    found = {(mutant.line, mutant.after) for mutant in mutants_of("script.lua", source)}
    assert found == {
        (2, "if a ~= 1 and b then"),
        (2, "if a == 1 or b then"),
        (2, "if a == 2 and b then"),
        (2, "if not (a == 1 and b) then"),
        (3, "do end"),
    }


@pytest.mark.parametrize("pattern", MODULES)
def test_each_pattern_finds_a_module(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


@pytest.mark.slow
def test_what_is_made_of_a_module_is_python() -> None:
    path = ROOT / "flowrra" / "codec.py"
    mutants = mutants_of("flowrra/codec.py", path.read_bytes())
    assert len(mutants) > 20
    for mutant in mutants:
        assert mutant.text != path.read_bytes()
        ast.parse(mutant.text)


class TestAccepted:
    """Survivors that nobody could notice are written down, and what is written down is true."""

    def test_every_one_can_be_made(self) -> None:
        assert Accepted().outdated(ROOT) == []

    def test_is_known_wherever_it_moves_until_its_code_changes(self, tmp_path: Path) -> None:
        file = tmp_path / "survivors.toml"
        file.write_text("""
            [[accepted]]
            module = "module.py"
            before = "self.count += 1"
            after = "pass"
            why = "Nobody counts."
        """)
        accepted = Accepted(file)
        for source in (SOURCE, b"# moved\n" + SOURCE):
            (tmp_path / "module.py").write_bytes(source)
            reasons = [accepted.why(mutant) for mutant in mutants_of("module.py", source)]
            assert [why for why in reasons if why is not None] == ["Nobody counts."]
            assert accepted.outdated(tmp_path) == []
        (tmp_path / "module.py").write_bytes(SOURCE.replace(b"+= 1", b"+= 2"))
        assert accepted.outdated(tmp_path) == ["module.py: self.count += 1  ->  pass"]
        (tmp_path / "module.py").unlink()
        assert accepted.outdated(tmp_path) == ["module.py: self.count += 1  ->  pass"]

    @pytest.mark.parametrize("fields", ['module = "m"', 'module="m"\nbefore="b"\nafter="a"\nwhy="w"\nline=3'])
    def test_lacks_nothing(self, tmp_path: Path, fields: str) -> None:
        (tmp_path / "survivors.toml").write_text(f"[[accepted]]\n{fields}\n")
        with pytest.raises(ValueError, match="must have after, before, module, why"):
            Accepted(tmp_path / "survivors.toml")

    def test_does_not_count_where_enough_must_be_noticed(self, tmp_path: Path) -> None:
        file = tmp_path / "survivors.toml"
        file.write_text("""
            [[accepted]]
            module = "module.py"
            before = "b"
            after = "a"
            why = "Nobody counts."
        """)
        killed, survived, known = (Mutant("module.py", 1, "kind", "b", after, b"") for after in ("x", "y", "a"))
        noticed, unnoticed, accepted = (
            Verdict(killed, True, ""),
            Verdict(survived, False, ""),
            Verdict(known, False, ""),
        )
        assert not is_weak([noticed, accepted], Accepted(file), 100)
        assert not is_weak([noticed, unnoticed, accepted], Accepted(file), 50)
        assert is_weak([noticed, unnoticed, accepted], Accepted(file), 51)
        assert not is_weak([accepted], Accepted(file), 100)


class TestNoticed:
    """What a run has noticed is known to the next one, until the module changes."""

    @staticmethod
    def mutants(source: bytes = SOURCE) -> list[Mutant]:
        return mutants_of("module.py", source)

    def test_is_known_by_what_noticed_it(self, tmp_path: Path) -> None:
        file = tmp_path / "folder" / "noticed.jsonl"
        first, second, *_ = self.mutants()
        assert Noticed(file).verdict(first) is None
        Noticed(file).add(Verdict(first, True, "tests/test_a.py::test_b"))
        Noticed(file).add(Verdict(second, False, "3 tests"))
        assert Noticed(file).verdict(first) == Verdict(first, True, "tests/test_a.py::test_b")
        assert Noticed(file).verdict(second) is None

    def test_is_tried_anew_once_its_module_has_changed(self, tmp_path: Path) -> None:
        file = tmp_path / "noticed.jsonl"
        Noticed(file).add(Verdict(self.mutants()[0], True, "a test"))
        assert Noticed(file).verdict(self.mutants(SOURCE + b"\nx = 1\n")[0]) is None

    def test_is_forgotten_if_its_test_fails_anyway(self, tmp_path: Path) -> None:
        file = tmp_path / "noticed.jsonl"
        first, second, *_ = self.mutants()
        noticed = Noticed(file)
        noticed.add(Verdict(first, True, "by chance"))
        noticed.add(Verdict(second, True, "a test"))
        noticed.forget_by({"by chance"})
        for each in (noticed, Noticed(file)):
            assert each.verdict(first) is None
            assert each.verdict(second) is not None
