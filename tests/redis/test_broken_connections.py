"""Connections that break at the wrong moment: whatever the driver raises then, it is an error of the server for the
caller, what can be asked again is asked again, and the app goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.asyncio.connection
import redis.connection
from redis.exceptions import ReadOnlyError

from flowrra import BackendError
from flowrra.brokers.redis import RedisBroker
from flowrra.redis_sending import cancellable
from tests.core.apps import final
from tests.redis.apps import Gate, queue_of, redis_app, with_tasks

# What was seen of Python's, uvloop's and the driver's own, besides OSError and RedisError.
ERRORS: list[Exception] = [
    AttributeError("'NoneType' object has no attribute '_add_writer'"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True reading=False 0x55>; the handler is closed"),
    ValueError("I/O operation on closed file"),
    EOFError("0 bytes read on a total of undefined expected bytes"),
    BufferError("Existing exports of data: object cannot be re-sized"),
    TypeError("'NoneType' object is not subscriptable"),
    ConnectionResetError(104, "Connection reset by peer"),
]
Break = Callable[[Exception, int], None]


def breaking(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> Break:
    """Has the next calls of a connection's method close the connection and fail, as the driver does."""
    usual = getattr(owner, name)
    failures: list[Exception] = []

    def arm(error: Exception, times: int) -> None:
        failures.extend([error] * times)

    if asyncio.iscoroutinefunction(usual):

        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if failures:
                await self.disconnect(nowait=True)
                raise failures.pop()
            return await usual(self, *args, **kwargs)
    else:

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            if failures:
                self.disconnect()
                raise failures.pop()
            return usual(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)
    return arm


@pytest.fixture(params=["send_packed_command", "read_response"])
def break_on_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Break:
    return breaking(redis.asyncio.connection.AbstractConnection, request.param, monkeypatch)


@pytest.fixture(params=["send_packed_command", "read_response"])
def break_in_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Break:
    return breaking(redis.connection.AbstractConnection, request.param, monkeypatch)


@pytest.fixture
async def broker(url: str) -> Any:
    broker = RedisBroker(url)
    await broker.ping()
    yield broker
    broker.withdraw(None)
    await broker.close()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
class TestADriverThatRaises:
    @pytest.mark.slow
    async def test_costs_no_request_that_can_be_made_again(
        self, error: Exception, broker: RedisBroker, break_on_loop: Break
    ) -> None:
        for request in (broker.figures, broker.list_workers, broker.list_dead, lambda: broker.submit([])):
            break_on_loop(error, 2)
            await request()

    async def test_is_an_error_of_the_server_for_those_that_can_not(
        self, error: Exception, broker: RedisBroker, break_on_loop: Break
    ) -> None:
        for request in (lambda: broker.take(1), lambda: broker.settle([]), broker.ping, lambda: broker.wait(0.01)):
            break_on_loop(error, 1)
            try:
                await request()
            except BackendError as failure:
                assert type(error).__name__ in str(failure) or "ConnectionError" in str(failure)  # noqa: PT017

    async def test_is_an_error_of_the_server_in_a_thread(
        self, error: Exception, broker: RedisBroker, break_in_thread: Break
    ) -> None:
        for request in (lambda: broker.renew(["t1"]), lambda: broker.announce({"id": "w1"}, [], 5.0)):
            break_in_thread(error, 1)
            with pytest.raises(BackendError):
                request()
            request()

    @pytest.mark.slow
    async def test_stops_no_worker_and_no_waiter(self, error: Exception, url: str, break_on_loop: Break) -> None:
        gate = Gate()
        async with with_tasks(redis_app(url, lease=1.0, max_deliveries=50), gate) as app:
            waits = []
            for n in range(40):
                waits.append(asyncio.create_task(final(app, await app.submit("add", n, 1), within=15)))
                break_on_loop(error, n % 3)
                await asyncio.sleep(0.005)
            results = [record.result for record in await asyncio.gather(*waits)]
            queue = await queue_of(app)

        assert results == list(range(1, 41))
        assert queue["dead"] == 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_driver_that_raises_while_it_closes_is_not_heard(
    error: Exception, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = redis.asyncio.connection.AbstractConnection.disconnect
    refusals = [ReadOnlyError("You can't write against a read only replica.")]

    async def disconnect(self: Any, *args: Any, **kwargs: Any) -> None:
        await usual(self, *args, **kwargs)
        raise error

    async def refuse_once(client: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await client.ping()

    broker = RedisBroker(url)
    await broker.ping()
    monkeypatch.setattr(redis.asyncio.connection.AbstractConnection, "disconnect", disconnect)
    assert await broker.server.call("answer", refuse_once)
    assert await broker.figures()
    await broker.close()


@pytest.fixture(autouse=True)
def no_error_is_left_over(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing behind the scenes died of it."""
    yield
    assert not [record for record in caplog.records if "died" in record.getMessage()]


async def test_a_cancellation_that_comes_as_something_was_sent_is_not_lost(url: str) -> None:
    connection = cancellable(redis.asyncio.Connection)(port=int(url.split(":")[2].split("/")[0]), socket_timeout=5.0)
    await connection.connect()
    send = connection._send_packed_command

    async def send_and_cancel(command: Any) -> None:
        await send(command)
        sending = asyncio.current_task()
        assert sending is not None
        # Whoever waits for it has heard that it is done, and has not gone on yet.
        sending.add_done_callback(lambda _: asking.cancel())

    connection._send_packed_command = send_and_cancel
    asking = asyncio.create_task(connection.send_command("PING"))
    await asyncio.wait({asking})
    # From Python 3.12 on nothing is sent in a task of its own, and so nobody is cancelled there.
    assert asking.cancelled() or sys.version_info >= (3, 12)
    await connection.disconnect()
