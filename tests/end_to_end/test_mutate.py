"""The program that puts mistakes into the code: which ones it makes, and that it knows what it looks at. `make mutate`
runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutate.__main__ import MODULES
from mutate.mutants import mutants_of

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


def test_what_is_made_of_a_module_is_python() -> None:
    path = ROOT / "flowrra" / "codec.py"
    mutants = mutants_of("flowrra/codec.py", path.read_bytes())
    assert len(mutants) > 20
    for mutant in mutants:
        assert mutant.text != path.read_bytes()
        ast.parse(mutant.text)
