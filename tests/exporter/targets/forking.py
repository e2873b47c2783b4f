"""An app whose task starts a child in the way that FLOWRRA_TEST_WAY names; the child outlives everybody."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time

from flowrra import Flowrra

app = Flowrra()
SECONDS = 60
SLEEP = [sys.executable, "-c", f"import time; time.sleep({SECONDS})"]


@app.task()
async def start_child() -> int:
    way = os.environ["FLOWRRA_TEST_WAY"]
    if way == "fork":
        child = os.fork()
        if child == 0:
            time.sleep(SECONDS)
            os._exit(0)
        return child
    if way == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(SECONDS,))
        process.start()
        return process.pid or 0
    if way == "posix_spawn":
        return os.posix_spawn(sys.executable, SLEEP, os.environ)
    return subprocess.Popen(SLEEP, close_fds=False).pid


async def make() -> Flowrra:
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: asyncio.ensure_future(obey()))
    return app


async def obey() -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin)
    task_id = await app.submit(start_child)
    print(f"child {(await app.wait_for_result(task_id)).result}\n", end="", flush=True)
