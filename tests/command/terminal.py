"""A pseudo-terminal that runs a command, as a shell does: Ctrl-C comes from its keyboard, what is typed is echoed."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.command.conftest import COMMAND

CTRL_C = "\x03"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A command at a terminal. Its processes are killed at the end of the context, if they still run.

    Args:
        command: The command and its words, or a line for the shell.
        columns: The terminal's width.
        variables: Of its environment, beside a plain one.
        folder: Where it runs.
    """

    def __init__(
        self, command: Sequence[str] | str, *, columns: int = 120, variables: Mapping[str, str], folder: Path
    ) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        words = ["sh", "-c", command] if isinstance(command, str) else command
        self.popen = subprocess.Popen(
            words, env={**environment, **variables}, cwd=folder, preexec_fn=lambda: os.login_tty(theirs)
        )
        os.close(theirs)
        self.coloured = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.wait()
        os.close(self._ours)

    @property
    def shown(self) -> str:
        """What it shows, without colours; a line that is written over and over counts as it was at last."""
        lines = _COLOUR.sub("", self.coloured).replace("\x1b[?25l", "").replace("\x1b[?25h", "").split("\r\n")
        return "\n".join(line.rpartition("\r")[2] for line in lines)

    def type(self, text: str) -> None:
        """Type at its keyboard."""
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, seconds: float = 20) -> None:
        """Read until that text is shown."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert self._read(deadline), self.shown

    def read(self) -> str:
        """What it shows by now."""
        while self._read(time.monotonic()):
            pass
        return self.shown

    def end(self, seconds: float = 30) -> int:
        """Read until the command ends; returns its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.popen.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Whether there was something to read in time."""
        if not select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.coloured += data.decode()
        return bool(data)
