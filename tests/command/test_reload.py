"""`flowrra worker --reload` starts anew when the app's source changes; what can't be started waits for a change."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command.conftest import Process, until

pytestmark = pytest.mark.slow

PROGRAM = """\
import asyncio
import os

from flowrra import Flowrra
{more}
app = Flowrra()


@app.on_startup
def started() -> None:
    print("{word}", os.getpid(), flush=True)


@app.on_shutdown
def stopped() -> None:
    print("stopped", flush=True)
"""

BLOCKS = """\
import time

from flowrra import Flowrra

app = Flowrra()


@app.on_startup
async def started() -> None:
    print("first", flush=True)
    time.sleep(600)
"""


class Reloading:
    """A worker that reloads, in a folder of its own; its lines are read as they come."""

    def __init__(self, folder: Path, process: Process) -> None:
        self.folder = folder
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        for stream, lines in ((process.popen.stdout, self.out), (process.popen.stderr, self.err)):
            threading.Thread(target=lines.extend, args=(stream,), daemon=True).start()

    def write(self, word: str, more: str = "", name: str = "shop.py") -> None:
        write(self.folder / name, PROGRAM.format(word=word, more=more))

    def says(self, text: str, times: int = 1) -> None:
        """Wait until so many lines have that text."""
        until(lambda: sum(text in line for line in [*self.out, *self.err]) >= times)


def write(path: Path, text: str) -> None:
    """As editors do it: a new file in place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[Reloading]:
    with Process("", "worker", "shop:app", "--reload", *options, folder=folder) as process:
        yield Reloading(folder, process)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(30) == 0


@pytest.fixture
def reloading(tmp_path: Path) -> Iterator[Reloading]:
    write(tmp_path / "shop.py", PROGRAM.format(word="first", more=""))
    with running(tmp_path) as found:
        found.says("first")
        yield found


def test_a_change_stops_it_and_starts_it_anew(reloading: Reloading) -> None:
    reloading.write("second")
    reloading.says("second")
    assert [line.split()[0] for line in reloading.out] == ["first", "stopped", "second"]
    reloading.says("source changed, starting anew: shop.py")


def test_a_module_that_the_app_imports(reloading: Reloading) -> None:
    write(reloading.folder / "prices.py", "VAT = 19\n")
    reloading.write("second", "import prices")
    reloading.says("second")
    write(reloading.folder / "prices.py", "VAT = 7\n")
    reloading.says("second", 2)


def test_what_it_does_not_import_is_not_watched(reloading: Reloading) -> None:
    write(reloading.folder / "other.py", "VAT = 19\n")
    write(reloading.folder / "shop.txt", "a note\n")
    reloading.write("second")
    reloading.says("second")
    assert len(reloading.out) == 3


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("def (", "Importing 'shop' failed: SyntaxError"),
        ("raise OSError('away')", "Importing 'shop' failed: OSError: away"),
        ("import prices", "Importing 'shop' failed: ModuleNotFoundError: No module named 'prices'"),
    ],
)
def test_a_mistake_is_told_and_waited_out(reloading: Reloading, mistake: str, said: str) -> None:
    reloading.write("second", mistake)
    reloading.says(said)
    reloading.says("waiting for a change of the source")
    reloading.write("third")
    reloading.says("third")
    assert not any("worker process ended" in line for line in reloading.err)


def test_changes_while_the_app_is_imported_start_it_anew_each_time(tmp_path: Path) -> None:
    slow = PROGRAM.format(word="{word}", more="import time\nprint('imports', flush=True)\ntime.sleep({seconds})")
    write(tmp_path / "shop.py", slow.format(word="first", seconds=60))
    with running(tmp_path) as reloading:
        for number in range(1, 7):
            reloading.says("imports", number)
            write(tmp_path / "shop.py", slow.format(word="last", seconds=60 if number < 6 else 0))
        reloading.says("last")
        assert not any("worker process ended" in line for line in reloading.err)


def test_a_missing_module_may_come_later(reloading: Reloading) -> None:
    reloading.write("second", "import prices")
    reloading.says("waiting for a change of the source")
    write(reloading.folder / "prices.py", "VAT = 19\n")
    reloading.says("second")


def test_a_mistake_in_what_the_app_imports(reloading: Reloading) -> None:
    write(reloading.folder / "prices.py", "VAT = (\n")
    reloading.write("second", "import prices")
    reloading.says("SyntaxError")
    write(reloading.folder / "prices.py", "VAT = 7\n")
    reloading.says("second")


def test_a_mistake_at_first(tmp_path: Path) -> None:
    with running(tmp_path) as reloading:
        reloading.says("There is no module 'shop'")
        reloading.write("first")
        reloading.says("first")


def test_a_start_that_fails(reloading: Reloading) -> None:
    write(reloading.folder / "shop.py", BLOCKS.replace("time.sleep(600)", "open('/no such file')"))
    reloading.says("Starting the app failed: FileNotFoundError")
    reloading.write("fourth")
    reloading.says("fourth")


def test_a_file_from_a_clock_that_is_ahead_is_no_change(tmp_path: Path) -> None:
    later = "import threading\nthreading.Timer(2, print, ['still'], {'flush': True}).start()"  # it has looked by then
    write(tmp_path / "shop.py", PROGRAM.format(word="first", more=later))
    ahead = time.time() + 600
    os.utime(tmp_path / "shop.py", (ahead, ahead))
    with running(tmp_path) as reloading:
        reloading.says("still")
        reloading.write("second")
        reloading.says("second")
        assert [line.split()[0] for line in reloading.out] == ["first", "still", "stopped", "second"]


def test_several_processes(tmp_path: Path) -> None:
    write(tmp_path / "shop.py", PROGRAM.format(word="first", more=""))
    with running(tmp_path, "--processes", "2") as reloading:
        reloading.says("first", 2)
        reloading.write("second")
        reloading.says("second", 2)
        assert len({line for line in reloading.out if line.startswith("second")}) == 2


def test_a_blocked_loop_is_ended(tmp_path: Path) -> None:
    write(tmp_path / "shop.py", BLOCKS)
    with running(tmp_path, "--shutdown-timeout", "0.5") as reloading:
        reloading.says("first")
        reloading.write("second")
        reloading.says("second")


def test_ctrl_c_while_it_waits_for_a_change(tmp_path: Path) -> None:
    with Process("", "worker", "shop:app", "--reload", folder=tmp_path) as process:
        reloading = Reloading(tmp_path, process)
        reloading.says("waiting for a change of the source")
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(20) == 0


def test_so_many_changes_as_one_likes(reloading: Reloading) -> None:
    """A process that ends at once again and again is given up; one that starts anew has not failed."""
    for number in range(6):
        reloading.write(f"next-{number}")
        reloading.says(f"next-{number}")
