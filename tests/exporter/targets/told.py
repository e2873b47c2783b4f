"""An app that does what it is told on standard input, one command a line.

block SECONDS     blocks the event loop in time.sleep
crunch SECONDS    blocks it in C code that runs for at least so long and sees no signal
spin SECONDS      blocks it in Python code that never gives the interpreter lock back on its own
submit SECONDS    submits a task that sleeps so long
stuck SECONDS     submits a task that blocks the loop so long
exit              raises SystemExit on the event loop
stop SECONDS      stops the app, whose tasks may take so long
"""

import asyncio
import hashlib
import sys
import threading
import time

from flowrra import Config, ExecutorConfig, Flowrra

submitted: list[int] = []
app = Flowrra(Config(executor=ExecutorConfig(io_workers=2)))


@app.task(max_retries=0)
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(max_retries=0)
async def stuck(seconds: float) -> None:
    time.sleep(seconds)


def block(seconds: float) -> None:
    time.sleep(seconds)


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def crunch(seconds: float) -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(seconds * 5_000_000))


def leave() -> None:
    raise SystemExit(3)


def obey(loop: asyncio.AbstractEventLoop, words: list[str]) -> None:
    seconds = float(words[1]) if len(words) > 1 else 0.0
    if words[0] == "block":
        loop.call_soon_threadsafe(block, seconds)
    elif words[0] == "crunch":
        loop.call_soon_threadsafe(crunch, seconds)
    elif words[0] == "spin":
        loop.call_soon_threadsafe(spin, seconds)
    elif words[0] == "exit":
        loop.call_soon_threadsafe(leave)
    elif words[0] == "stop":
        asyncio.run_coroutine_threadsafe(app.stop(timeout=seconds), loop)
    else:
        task = {"submit": nap, "stuck": stuck}[words[0]]
        asyncio.run_coroutine_threadsafe(app.submit(task, seconds), loop).result()
        submitted.append(1)
        print("submitted", len(submitted), flush=True)


def listen(loop: asyncio.AbstractEventLoop) -> None:
    for line in sys.stdin:
        obey(loop, line.split())


async def make() -> Flowrra:
    loop = asyncio.get_running_loop()
    threading.Thread(target=listen, args=(loop,), daemon=True).start()
    return app
