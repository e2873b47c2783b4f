"""The HTTP server in a thread of its own, with its own event loop:

It answers whatever the app's loop is doing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiohttp import web

from flowrra_exporter.web.responses import answer_errors

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 1.0
"""How long the answers under way have when the server stops."""


def make_application(routes: Sequence[web.RouteDef]) -> web.Application:
    """The aiohttp application with these routes."""
    application = web.Application(middlewares=[answer_errors])
    application.router.add_routes(routes)
    return application


class ServerThread:
    """Serves an application on sockets that are listening already.

    `background` is a coroutine function that runs beside the server, on the same loop, until the server
    stops. `loop` may be used from the construction on; it turns between `start` and `stop`.
    """

    def __init__(
        self,
        application: Callable[[], web.Application],
        sockets: Sequence[socket.socket],
        background: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self._application = application
        self._sockets = sockets
        self._background = background
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._stopping = asyncio.Event()
        # A daemon: however the app ends, the server doesn't keep the process alive.
        self._thread = threading.Thread(target=self._run, name="flowrra-exporter-http", daemon=True)

    def start(self) -> None:
        """Returns once the server answers. Raises what kept it from starting."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Lets the answers under way finish, within a second or so, and ends the thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(_CLOSE_SECONDS * 3)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # raised again by `start`, and logged
            self._error = error
            logger.critical("the HTTP server has ended: %r", error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        runner = web.AppRunner(
            self._application(), handle_signals=False, access_log=None, shutdown_timeout=_CLOSE_SECONDS
        )
        await runner.setup()
        background = asyncio.create_task(self._background())
        try:
            for opened in self._sockets:
                await web.SockSite(runner, opened).start()
            self._ready.set()
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({stopping, background}, return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                background.result()
        finally:
            background.cancel()
            await runner.cleanup()
