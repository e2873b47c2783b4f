"""A server whose wall clock can be put forward and back: its calls for the time are answered by a library of ours."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import ValkeyServer

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double offset(void) {
    static double *shared = NULL;
    if (!shared) {
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        if (file < 0) return 0;
        shared = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
        close(file);
    }
    return *shared;
}
int clock_gettime(clockid_t id, struct timespec *spec) {
    static int (*real)(clockid_t, struct timespec *) = NULL;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(id, spec);
    if (id == CLOCK_REALTIME) spec->tv_sec += (long)offset();
    return answer;
}
int gettimeofday(struct timeval *value, void *zone) {
    struct timespec spec;
    int answer = clock_gettime(CLOCK_REALTIME, &spec);
    value->tv_sec = spec.tv_sec;
    value->tv_usec = spec.tv_nsec / 1000;
    return answer;
}
time_t time(time_t *value) {
    struct timespec spec;
    clock_gettime(CLOCK_REALTIME, &spec);
    if (value) *value = spec.tv_sec;
    return spec.tv_sec;
}
"""


class Clock:
    """The wall clock of a server that :func:`server_with_clock` started."""

    def __init__(self, server: ValkeyServer, offset: Path) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        self._offset = offset

    def put_forward(self, seconds: float) -> None:
        """So many whole seconds before the true time from now on; back, if negative."""
        put_ahead(self._offset, seconds)


def clock_environment(folder: Path) -> tuple[dict[str, str], Path]:
    """The environment of a process whose clock shows the true time at first, and the file that says by how much it is
    ahead.

    Args:
        folder: For the library and that file.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is on the path: apt-get install gcc libc6-dev")
    source, library, offset = folder / "clock.c", folder / "clock.so", folder / "offset"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    put_ahead(offset, 0.0)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}, offset


def put_ahead(offset: Path, seconds: float) -> None:
    """Have the clock of the processes that read this file show so many whole seconds more than the true time."""
    with offset.open("r+b" if offset.exists() else "wb") as file:
        file.write(struct.pack("d", seconds))


@contextmanager
def server_with_clock(folder: Path) -> Iterator[Clock]:
    """A server whose clock shows the true time at first.

    Args:
        folder: For the library and the offset.
    """
    environment, offset = clock_environment(folder)
    os.environ |= environment
    server = ValkeyServer()
    try:
        server.start()
    finally:
        del os.environ["LD_PRELOAD"], os.environ["CLOCK_OFFSET"]
    try:
        yield Clock(server, offset)
    finally:
        server.stop()
