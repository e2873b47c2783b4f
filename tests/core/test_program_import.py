"""How a worker process imports a module that runs its program's app without asking for ``__name__``."""

from __future__ import annotations

import asyncio
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from flowrra.executors.processes import program_import
from flowrra.executors.processes.program_import import IMPORTED_MAIN, describe_absence, end_import, load

BEGIN = "from flowrra.executors.processes.program_import import end_import, imports_another_module\n"
Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module that can be imported. What a worker process knows for good is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(program_import, "_beginnings", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written: list[str] = []

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(BEGIN + textwrap.dedent(source))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def loaded(name: str) -> ModuleType:
    return load(lambda: importlib.import_module(name))


class TestImport:
    def test_of_a_module_that_runs_nothing_is_whole(self, write: Write) -> None:
        assert loaded(write("flowrra_whole", "above = 1\nbelow = 2\n")).below == 2

    def test_ends_where_the_app_would_run(self, write: Write) -> None:
        module = loaded(write("flowrra_program", "above = 1\n\ndef run():\n    end_import()\n\nrun()\nbelow = 2\n"))
        assert module.above == 1
        assert not hasattr(module, "below")
        assert sys.modules["flowrra_program"] is module

    def test_ends_the_import_of_those_that_import_it_as_well(self, write: Write) -> None:
        inner = write("flowrra_inner", "above = 1\nend_import()\nbelow = 2\n")
        outer = loaded(write("flowrra_outer", f"above = 1\nimport {inner}\nbelow = 2\n"))
        assert (outer.above, hasattr(outer, "below")) == (1, False)
        assert (sys.modules[inner].above, hasattr(sys.modules[inner], "below")) == (1, False)

    def test_ends_whatever_the_program_makes_of_it(self, write: Write) -> None:
        source = """
            above = 1
            try:
                end_import()
            except BaseException as error:
                raise RuntimeError("a server could not start") from error
        """
        assert loaded(write("flowrra_server", source)).above == 1

    def test_says_nothing_of_what_the_loop_there_leaves_undone(
        self, write: Write, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = """
            import asyncio

            async def main():
                asyncio.get_running_loop().call_soon(lambda: 1 / 0)
                end_import()

            asyncio.run(main())
        """
        loaded(write("flowrra_async", source))
        assert not caplog.records

    def test_that_fails_raises_what_the_module_does(self, write: Write) -> None:
        with pytest.raises(ZeroDivisionError):
            loaded(write("flowrra_broken", "1 / 0\nend_import()\n"))
        end_import()
        assert not hasattr(loaded(write("flowrra_next", "end_import()\nbelow = 2\n")), "below")

    def test_by_anybody_else_is_whole(self, write: Write) -> None:
        name = write("flowrra_elsewhere", "end_import()\nis_another = imports_another_module()\nbelow = 2\n")
        module = importlib.import_module(name)
        assert (module.below, module.is_another) == (2, False)

    def test_knows_whether_it_is_of_the_program_itself(self, write: Write) -> None:
        source = "is_another = imports_another_module()\n"
        assert loaded(write("flowrra_another", source)).is_another

        def run_main() -> dict[str, object]:
            main = ModuleType(IMPORTED_MAIN)
            sys.modules[IMPORTED_MAIN] = main
            try:
                exec(compile(BEGIN + source, "program.py", "exec"), vars(main))
            finally:
                del sys.modules[IMPORTED_MAIN]
            return vars(main)

        assert not load(run_main)["is_another"]
        assert not load(program_import.imports_another_module), "no module is imported"


class TestAbsence:
    def test_of_what_is_below_the_beginning_says_where_that_is(self, write: Write) -> None:
        loaded(write("flowrra_late", "above = 1\nend_import()\nbelow = 2\n"))
        text = describe_absence("flowrra_late", "below")
        assert text.startswith("'below' is not defined above line 3 of flowrra_late.py, where the program begins")
        assert "if __name__ == '__main__'" in text

    def test_of_anything_else_says_where_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "as 'f' in the module 'shop'. Define it with `def`" in describe_absence("shop", "f")
        assert "standard input, `python -c`" in describe_absence("__main__", "f")
        monkeypatch.setitem(sys.modules, "__main__", ModuleType(IMPORTED_MAIN))
        assert "in the main module, where it is not imported" in describe_absence("__main__", "f")

    def test_of_what_is_below_in_the_main_module_says_where_that_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        main = ModuleType(IMPORTED_MAIN)
        main.__file__ = "/shop/program.py"
        beginning = program_import._Beginning(main, 7)
        monkeypatch.setattr(program_import, "_beginnings", {IMPORTED_MAIN: beginning})
        assert "above line 7 of program.py" in describe_absence("__main__", "f")


def test_a_program_that_is_not_imported_goes_on() -> None:
    end_import()

    async def main() -> int:
        end_import()
        return 1

    assert asyncio.run(main()) == 1
