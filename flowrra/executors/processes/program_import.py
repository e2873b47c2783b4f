"""How a worker process imports the program whose tasks it runs, without running the program.

It needs what the program's main module and a task's module define, and imports them for that. Where a module runs the
app without asking for ``__name__ == "__main__"``, its import ends: what the app started with is defined above.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from multiprocessing import popen_spawn_posix, process, spawn
from pathlib import Path
from types import FrameType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, Final, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

# What multiprocessing calls the program's main module in a process that it has spawned.
IMPORTED_MAIN: Final = "__mp_main__"
_HOW_TO_FIND_MAIN: Final = ("init_main_from_name", "init_main_from_path")

Loaded = TypeVar("Loaded")


class ProgramBegins(SystemExit):
    """Raised where an import would run the program's app: it passes asyncio, and code that expects errors."""


class _Beginning(NamedTuple):
    module: ModuleType
    line: int


# Whether this is a worker process, whether it imports a module now, and the modules whose import ended where they run
# the app, by name.
_is_worker_process = False
_is_importing = False
_beginnings: dict[str, _Beginning] = {}


# ── in the app's process ────────────────────────────────────────────────────────────────────────────────────


def main_module() -> dict[str, str]:
    """What :func:`import_main` needs to know of this program; nothing, if its main module can't be imported."""
    known = spawn.get_preparation_data("")
    if known.get("init_main_from_path", "").endswith("<stdin>"):
        return {}
    return {key: known[key] for key in _HOW_TO_FIND_MAIN if key in known}


def _preparation_without_main(name: str) -> dict[str, Any]:
    known = spawn.get_preparation_data(name)
    return {key: value for key, value in known.items() if key not in _HOW_TO_FIND_MAIN}


class Launcher(popen_spawn_posix.Popen):
    """Starts a process as multiprocessing does, except that it leaves the import of the main module to the process."""

    _launch = FunctionType(
        popen_spawn_posix.Popen._launch.__code__,  # type: ignore[attr-defined]  # as above: its own way
        {
            **vars(popen_spawn_posix),
            "spawn": SimpleNamespace(**{**vars(spawn), "get_preparation_data": _preparation_without_main}),
        },
    )


# ── in a worker process ─────────────────────────────────────────────────────────────────────────────────────


def import_main(main: dict[str, str]) -> None:
    """Import the program's main module, up to where it runs the app.

    Args:
        main: What :func:`main_module` returned in the program.

    Raises:
        BaseException: Whatever the module raises.
    """
    global _is_worker_process
    _is_worker_process = True
    own: Any = process.current_process()
    own._inheriting = True  # a program that starts processes there is told by multiprocessing how to avoid it
    try:
        with _importing():
            spawn.prepare(main)
    finally:
        del own._inheriting
    if IMPORTED_MAIN in sys.modules:
        sys.modules["__main__"] = sys.modules[IMPORTED_MAIN]


def load(what: Callable[[], Loaded]) -> Loaded:
    """What ``what()`` returns. The modules that it imports are imported up to where they run the app.

    Raises:
        BaseException: Whatever it raises.
    """
    while True:
        with _importing():
            return what()


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Ends without an error where the import of a module has come to the program's beginning, and keeps the module."""
    global _is_importing
    known = len(_beginnings)
    _is_importing = True
    try:
        yield
    except BaseException as error:
        if len(_beginnings) == known:
            raise
        # Also what the program made of it, such as a web server that could not start its app.
        logger.debug("import ended where the program begins: %r", error)
        sys.modules.update({name: beginning.module for name, beginning in _beginnings.items()})
    finally:
        _is_importing = False


def is_worker_process() -> bool:
    """Whether this process runs CPU-bound tasks for an app in another one."""
    return _is_worker_process


def end_import() -> None:
    """To be called where an app would run. In a worker process that imports the program, its import ends here.

    Raises:
        ProgramBegins: This is such a process.
    """
    if not _is_importing:
        return
    for frame in _module_frames(sys._getframe()):
        name = frame.f_globals["__name__"]
        _beginnings[name] = _Beginning(sys.modules[name], frame.f_lineno)
    with contextlib.suppress(RuntimeError):  # no event loop runs
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what it leaves undone is as it should be
    raise ProgramBegins


def imports_another_module() -> bool:
    """Whether this is called from a module that a worker process imports, other than the program's main module.

    Such a module belongs to a program that goes on after it: it is wanted whole.
    """
    if not _is_importing:
        return False
    frames = _module_frames(sys._getframe())
    return bool(frames) and frames[0].f_globals["__name__"] != IMPORTED_MAIN


def _module_frames(frame: FrameType | None) -> list[FrameType]:
    """Of the modules that are being imported in this thread, the innermost first."""
    frames = []
    while frame is not None:
        module = sys.modules.get(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name == "<module>" and module is not None and vars(module) is frame.f_globals:
            frames.append(frame)
        frame = frame.f_back
    return [each for each in frames if each.f_globals["__name__"] != "__main__"]


def describe_absence(module: str, qualname: str) -> str:
    """Why a worker process does not find a function, and what to do about it; a sentence's end."""
    beginning = _beginnings.get(IMPORTED_MAIN if module == "__main__" else module)
    if beginning is not None:
        file = Path(beginning.module.__file__ or module).name
        return (
            f"'{qualname}' is not defined above line {beginning.line} of {file}, where the program begins, and a "
            "worker process imports it up to there. Define it further up, or put what runs the program under "
            "`if __name__ == '__main__':`"
        )
    if module != "__main__":
        where = f"the module '{module}'"
    elif getattr(sys.modules["__main__"], "__name__", "") == IMPORTED_MAIN:
        where = "the main module, where it is not imported, such as under `if __name__ == '__main__':`"
    else:
        where = "an interactive session, standard input, `python -c` or a package's `__main__`"
    return (
        f"it was defined as '{qualname}' in {where}. "
        "Define it with `def`, at the top level of a module that can be imported"
    )
