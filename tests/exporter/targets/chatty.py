"""An app that logs more than fits into a pipe, from its loop and from a thread, and prints where its log went wrong.

FLOWRRA_TEST_LINES says how many lines of a kilobyte each of them logs.
"""

import asyncio
import logging
import os
import threading

from flowrra import Flowrra

LINES = int(os.environ["FLOWRRA_TEST_LINES"])
logger = logging.getLogger("chatty")
app = Flowrra()


def chat(who: str) -> None:
    for number in range(LINES):
        logger.warning("%s %d %s", who, number, "x" * 1000)


async def make() -> Flowrra:
    chat("loop")
    logging.getLogger("asyncio").error("and what asyncio says")
    threading.Thread(target=chat, args=("thread",), daemon=True).start()
    asyncio.get_running_loop().call_later(0.1, chat, "later")
    return app
