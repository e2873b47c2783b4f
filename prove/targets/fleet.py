"""An app of several processes with a schedule, whose runs are lines in a file of a folder.

PROVE_URL is the server's, PROVE_FOLDER the folder. ``note`` writes its number and how late it began after it was
submitted; ``tick`` when it ran; ``say`` logs and raises what it is given.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from flowrra import BackendConfig, BrokerConfig, Config, ExecutorConfig, Flowrra

logger = logging.getLogger(__name__)


def make_app(url: str, folder: Path, *, consume: bool = True) -> Flowrra:
    """The app; a producer runs nothing, and has no schedules."""
    app = Flowrra(
        Config(
            broker=BrokerConfig(url=url),
            backend=BackendConfig(url=url),
            executor=ExecutorConfig(io_workers=16, consume=consume),
        )
    )
    if consume:
        app.create_scheduler(f"sqlite:///{folder}/schedules.db", check_interval=1.0)
    notes = os.open(folder / f"{os.getpid()}.runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @app.task(name="note")
    async def note(number: int, submitted: float) -> int:
        os.write(notes, f"note {number} {time.time() - submitted}\n".encode())
        return number

    @app.task(name="tick")
    async def tick() -> None:
        os.write(notes, f"tick 0 {time.time()}\n".encode())

    @app.task(name="say", max_retries=0)
    async def say(text: str) -> None:
        logger.warning("%s", text)
        raise ValueError(text)

    return app


def make() -> Flowrra:
    """For the exporter's command."""
    return make_app(os.environ["PROVE_URL"], Path(os.environ["PROVE_FOLDER"]))
