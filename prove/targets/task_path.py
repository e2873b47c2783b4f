"""The way of one task through flowrra's files, in memory and over a server: prints its calls as JSON.

Arguments: "memory" or the address of a server; a folder that holds the package `flowrra`, whose files count.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from itertools import pairwise
from types import FrameType
from typing import Any

from flowrra import Flowrra

WARM_UP = 20


class Trace:
    """Counts the calls into the package's files, in the thread of the event loop."""

    def __init__(self, package: str) -> None:
        self._package = package
        self.files: list[str] = []

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self._package):
            self.files.append(frame.f_code.co_filename)


async def trace(where: str, package: str) -> dict[str, int]:
    """The calls, the files and the moves between files of one task, from its submission to its result."""
    app = Flowrra() if where == "memory" else Flowrra.from_urls(where, where)

    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    async with app:
        for _ in range(WARM_UP):
            await app.wait_for_result(await app.submit("add", 1, 2), 10)
        traced = Trace(package)
        sys.setprofile(traced)
        try:
            await app.wait_for_result(await app.submit("add", 1, 2), 10)
        finally:
            sys.setprofile(None)
    files = traced.files
    moves = sum(one != other for one, other in pairwise(files))
    return {"calls": len(files), "files": len(set(files)), "moves": moves}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(trace(sys.argv[1], os.path.join(sys.argv[2], "flowrra") + os.sep))))
