"""Ends a worker whose app's source files change, so that its parent starts it anew: for development.

Only the worker's process knows which modules the app consists of, so the worker looks at them itself, twice a second: a
few hundred calls of `stat`. A package that watches folders would hear sooner, and would have to be told which folders.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

logger = logging.getLogger(__name__)

# The exit status of a worker that is to be started anew: the one that sysexits.h calls EX_TEMPFAIL.
RELOADED = 75
_POLL_SECONDS = 0.5
# Seconds that the process gets beyond its own time to stop.
_MARGIN = 2.0
# What is installed doesn't change while somebody writes an app.
_INSTALLED = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "purelib", "platlib")})


class SourceWatch:
    """Watches the files of the modules that are imported in this process, apart from what is installed.

    Args:
        shutdown_timeout: Seconds that the process takes to stop, at the most.
    """

    def __init__(self, shutdown_timeout: float) -> None:
        self._shutdown_timeout = shutdown_timeout
        self._began_at = time.time_ns()
        self._seen: dict[str, int | None] = {}
        self._more: set[str] = set()
        self._is_waited_for = False
        self._changed = threading.Event()

    @property
    def has_changed(self) -> bool:
        """Whether a file has."""
        return self._changed.is_set()

    def start(self) -> None:
        """Look from now on. When a file changes, the process is ended as by SIGTERM, and if need be by force."""
        threading.Thread(target=self._watch, name="flowrra-reload", daemon=True).start()

    def look_for_mend(self, error: BaseException) -> None:
        """Look from now on also for what may mend this error: those modules that it came through, or one that is new
        beside them. Before it is said: who reads it may mend it at once."""
        files = {name for name in _files_of(error) if not name.startswith("<")}
        folders = {os.path.dirname(name) for name in files} | {os.getcwd()}
        self._seen.update({name: _modified_at(name) for name in folders})
        self._is_waited_for = True
        self._more = files | folders

    def wait(self) -> None:
        """Wait until a file changes."""
        self._changed.wait()

    def _watch(self) -> None:
        while not (changed := self._look()):
            self._changed.wait(_POLL_SECONDS)
        logger.warning("source changed, starting anew: %s", ", ".join(changed))
        self._changed.set()
        if not self._is_waited_for:
            # While the app is still imported, nothing is to be stopped.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                _end_now()
            os.kill(os.getpid(), signal.SIGTERM)
        # A daemon's thread: if the process ends in time, this is not reached.
        threading.Event().wait(self._shutdown_timeout + _MARGIN)
        logger.error("the worker did not stop in time, and is ended")
        _end_now()

    def _look(self) -> list[str]:
        """What has changed since it was seen first, or before that, but after the process began to import it."""
        changed = []
        for name in {*_imported_files(), *self._more}:
            at = _modified_at(name)
            # One from a machine whose clock is ahead is no change: it would be one again after each start.
            is_new = name not in self._seen and self._began_at < (at or 0) <= time.time_ns()
            if is_new or self._seen.setdefault(name, at) != at:
                changed.append(os.path.relpath(name))
        return sorted(changed)


def _end_now() -> NoReturn:
    """End the process whatever it is at, once its log is written, or can't be within a moment."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(RELOADED)


def _imported_files() -> Iterator[str]:
    modules: list[object] = list(sys.modules.values())  # some programs put other objects there
    for module in modules:
        name = module.__dict__.get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(name, str) and not os.path.realpath(name).startswith(_INSTALLED):
            yield name


def _modified_at(name: str) -> int | None:
    """In nanoseconds; None while there is no such file, as an editor may replace it."""
    try:
        return Path(name).stat().st_mtime_ns
    except OSError:
        return None


def _files_of(error: BaseException | None) -> Iterator[str]:
    """The source files that an error, and those that it came from, passed through."""
    while error is not None:
        if isinstance(error, SyntaxError) and error.filename:
            yield error.filename
        frame = error.__traceback__
        while frame is not None:
            yield frame.tb_frame.f_code.co_filename
            frame = frame.tb_next
        error = error.__cause__ or error.__context__
