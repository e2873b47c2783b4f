"""Addresses: what the app needs can't be said otherwise by an option, what does no harm works, and no error shows a
password."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flowrra import BackendConfig, BackendError, BrokerConfig, Config, ExecutorConfig, Flowrra
from flowrra.backends import get_backend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.factory import get_broker
from flowrra.brokers.redis import RedisBroker
from tests.core.apps import final
from tests.redis.apps import PromptApp, redis_app, with_tasks

NOWHERE = "redis://127.0.0.1:1/0"
PASSWORD = "Hunter2"
# What the app decides, by what is said otherwise.
CONTRADICTIONS = {
    "protocol": "3",
    "decode_responses": "True",
    "encoding": "latin-1",
    "encoding_errors": "replace",
    "health_check_interval": "30",
    "legacy_responses": "false",
    "socket_timeout": "1",
    "max_connections": "1",
    "retry_on_timeout": "false",
    "retry_on_error": "ConnectionError",
    "retry": "3",
    "timeout": "1",
    "single_connection_client": "true",
    "connection_class": "Connection",
    "connection_pool": "mine",
    "parser_class": "mine",
    "encoder_class": "mine",
    "redis_connect_func": "mine",
    "ssl": "true",
}
# What it takes as parameters of its own, and so can't be given as another argument.
PARAMETERS = {"socket_timeout", "max_connections", "retry_on_timeout"}
HARMLESS = [
    "db=3",
    "client_name=shop",
    "socket_connect_timeout=2.5",
    "socket_keepalive=false",
    "socket_read_size=16",
    "protocol=2",
    "decode_responses=False",
    "encoding=UTF8",
    "encoding_errors=strict",
    "health_check_interval=0",
    "socket_timeout=5",
    "max_connections=50",
    "retry_on_timeout=true",
    "db=3&client_name=shop&socket_timeout=5.0&",
]


def makers(url: str, **options: Any) -> list[Any]:
    """Everything that makes something of an address."""
    return [
        lambda: RedisBroker(url, **options),
        lambda: RedisBackend(url, **options),
        lambda: get_broker(url, **options),
        lambda: get_backend(url, **options),
    ]


class TestContradictions:
    @pytest.mark.parametrize(("name", "value"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
    def test_are_refused_by_name(self, name: str, value: str) -> None:
        for make in makers(f"{NOWHERE}?{name}={value}"):
            with pytest.raises(BackendError, match=f"'{name}' can't be used: ."):
                make()
        if name not in PARAMETERS:
            for make in makers(NOWHERE, **{name: value}):
                with pytest.raises(BackendError, match=f"'{name}' can't be used: ."):
                    make()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("protocol", 3), ("decode_responses", True), ("health_check_interval", 5), ("retry", Retry(NoBackoff(), 1))],
        ids=["protocol", "decode_responses", "health_check_interval", "retry"],
    )
    def test_are_refused_as_arguments_of_their_own_type(self, name: str, value: Any) -> None:
        for make in makers(NOWHERE, **{name: value}):
            with pytest.raises(BackendError, match=f"'{name}' can't be used"):
                make()

    @pytest.mark.parametrize("name", sorted(PARAMETERS))
    def test_of_parameters_say_which_to_use(self, name: str) -> None:
        with pytest.raises(BackendError, match=f"use {name} of BrokerConfig or BackendConfig"):
            BrokerConfig(url=f"{NOWHERE}?{name}={CONTRADICTIONS[name]}").create_broker()

    def test_are_none_if_both_say_the_same(self) -> None:
        url = f"{NOWHERE}?socket_timeout=1&max_connections=7&retry_on_timeout=no"
        RedisBroker(url, max_connections=7, socket_timeout=1.0, retry_on_timeout=False)
        RedisBackend(f"{NOWHERE}?socket_timeout=0", socket_timeout=0)

    def test_end_the_making_of_an_app(self) -> None:
        url = f"{NOWHERE}?protocol=3"
        for config in (Config(broker=BrokerConfig(url=url)), Config(backend=BackendConfig(url=url))):
            app = Flowrra(config)
            with pytest.raises(BackendError, match="'protocol'"):
                with_tasks(app)

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            (f"{NOWHERE}?ssl_ca_certs=/etc/ca.pem", "no option 'ssl_ca_certs' .* rediss://"),
            ("unix:///nowhere.sock?socket_keepalive=1", "no option 'socket_keepalive'"),
            (f"{NOWHERE}?socket_conect_timeout=1", "an option that is not known; .* socket_connect_timeout"),
            (f"{NOWHERE}?credential_provider=mine", "an option that is not known"),
            (f"{NOWHERE}?socket_connect_timeout=0", "'socket_connect_timeout' must be a positive"),
            (f"{NOWHERE}?socket_connect_timeout=inf", "'socket_connect_timeout' must be a positive"),
            (f"{NOWHERE}?socket_read_size=0", "'socket_read_size' must be a positive"),
            (f"{NOWHERE}?db=-1", "'db' must be the number of a database"),
            (f"{NOWHERE}?db=first", "value of its option 'db' is not valid"),
            (f"{NOWHERE}?max_connections=many", "value of its option 'max_connections' is not valid"),
            ("redis://127.0.0.1:0/0", "port is 0"),
            ("redis://127.0.0.1:70000/0", "port is no number"),
            ("redis://127.0.0.1:port/0", "port is no number"),
            ("redis://127.0.0.1:1/first", "path is no number"),
            ("redis://127.0.0.1:1/0/1", "path is no number"),
            (f"{NOWHERE}?db", "not of the form name=value"),
            (f"{NOWHERE}#fragment", "'#'"),
            ("unix://nowhere.sock", "unix:///"),
            ("rediss://127.0.0.1:1/0?ssl_cert_reqs=perhaps", "its options are refused"),
            ("rediss://127.0.0.1:1/0?ssl_exclude_verify_flags=NONE_OF_THEM", "'ssl_exclude_verify_flags' is not valid"),
        ],
    )
    def test_what_makes_no_sense_is_refused_at_once(self, url: str, expected: str) -> None:
        for make in makers(url):
            with pytest.raises(BackendError, match=expected):
                make()

    @pytest.mark.parametrize("options", [{"ssl_ca_certs": "a"}, {"no_such_option": 1}, {"credential_provider": 1}])
    def test_arguments_that_a_connection_does_not_take_are_refused(self, options: dict[str, Any]) -> None:
        for make in makers("redis://:secret@127.0.0.1:1/0", **options):
            with pytest.raises(BackendError):
                make()

    @pytest.mark.parametrize("options", [{"max_connections": 0}, {"socket_timeout": -1}, {"socket_timeout": "nan"}])
    def test_parameters_out_of_range_are_refused(self, options: dict[str, Any]) -> None:
        options = {name: float(value) if value == "nan" else value for name, value in options.items()}
        for make in makers(NOWHERE, **options):
            with pytest.raises(ValueError, match=next(iter(options))):
                make()


class TestWhatDoesNoHarm:
    @pytest.mark.slow
    @pytest.mark.parametrize("query", HARMLESS)
    async def test_works(self, url: str, query: str) -> None:
        """Submitting, waiting, retries, renewals, listening: each kind of connection is used."""
        async with with_tasks(redis_app(f"{url[:-2]}?{query}", lease=1.0)) as app:
            assert await app.cancel_task(await app.options(countdown=60).submit("add", 1, 1))
            ids = [await app.submit("echo", n, "ü") for n in range(10)]
            for n, task_id in enumerate(ids):
                assert (await final(app, task_id)).result == [[n, "ü"], {}]
            await asyncio.sleep(0.4)  # a renewal
            assert all(executor.source.error is None for executor in app.executors.values())

    async def test_tells_one_database_from_another(self, url: str, look: redis.Redis) -> None:
        places = [f"{url[:-2]}/3", f"{url[:-2]}?db=3", f"{url[:-2]}/0?db=3"]
        servers = [RedisBroker(place).server for place in places] + [RedisBroker(url[:-2], db=3).server]
        assert len({server.name for server in servers}) == 1
        for server in servers:
            await server.call("write", lambda client: client.incr("here"))
            await server.close()
            client = server.thread_client()
            client.incr("here")
            client.close()

        assert not look.exists("here")
        with redis.Redis(port=int(url.split(":")[2].split("/")[0]), db=3) as third:
            assert third.get("here") == b"8"

    async def test_names_the_connections(self, url: str, look: redis.Redis) -> None:
        async with with_tasks(redis_app(f"{url}?client_name=shop")) as app:
            await final(app, await app.submit("add", 1, 1))
            names = {client["name"] for client in look.client_list() if client["db"] == "0"}  # type: ignore[union-attr]

        assert "shop" in names

    async def test_a_user_in_either_place(self, url: str, look: redis.Redis) -> None:
        awkward = "p@ss/w#rd?&="
        look.acl_setuser("shop", enabled=True, passwords=[f"+{awkward}"], keys="*", channels="*", categories=["+@all"])
        address = url.removeprefix("redis://")
        try:
            for place in (
                f"redis://shop:{quote(awkward, safe='')}@{address}",
                f"{url}?username=shop&password={quote(awkward, safe='')}",
            ):
                async with with_tasks(redis_app(place)) as app:
                    assert (await final(app, await app.submit("add", 1, 1))).result == 2
        finally:
            look.acl_deluser("shop")


class TestConnections:
    @pytest.mark.parametrize("max_connections", [1, 2, 3])
    async def test_a_small_pool_is_enough(self, url: str, max_connections: int) -> None:
        config = {"url": url, "max_connections": max_connections}
        app = with_tasks(
            PromptApp(
                Config(
                    broker=BrokerConfig(**config, lease=1.0),  # type: ignore[arg-type]
                    backend=BackendConfig(**config),  # type: ignore[arg-type]
                    executor=ExecutorConfig(io_workers=20),
                )
            )
        )

        @app.task(name="parent")
        async def parent(n: int) -> int:
            child = await app.submit("add", n, 1)
            return (await app.wait_for_result(child, timeout=10)).result  # type: ignore[no-any-return]

        async with app:
            ids = await asyncio.gather(*(app.submit("parent", n) for n in range(10)))
            results = await asyncio.gather(*(final(app, task_id, within=10) for task_id in ids))
            await asyncio.gather(*(app.get_result(task_id) for task_id in ids * 20))

        assert [record.result for record in results] == list(range(1, 11))

    @pytest.mark.slow
    async def test_a_hundred_workers_need_no_more_than_the_default(self, url: str, look: redis.Redis) -> None:
        app = with_tasks(redis_app(url, workers=100))

        @app.task(name="chatty")
        async def chatty(n: int) -> int:
            for _ in range(3):
                await app.get_result(f"unknown-{n}")
            return n

        async with app:
            ids = await app.submit_many([("chatty", (n,), {}) for n in range(1000)])
            records = await asyncio.gather(*(final(app, task_id, within=30) for task_id in ids))
            connections = len(look.client_list())

        assert [record.result for record in records] == list(range(1000))
        assert connections < 50


def chain(error: BaseException | None) -> str:
    """Everything that an error may show, and all that led to it."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return text


def refusal_of(make: Any) -> tuple[BackendError | None, Any]:
    """Why something can't be made, or its server."""
    try:
        return None, make().server
    except BackendError as error:
        return error, None


special = st.text(alphabet="#@/?:&=%[] 1a\u2100\U0001f600\t", max_size=4)


class TestSecrets:
    @pytest.mark.slow
    @settings(deadline=None)
    @given(special, special, st.sampled_from(["redis", "rediss", "unix"]))
    @example("", "#x", "redis")
    @example("", "%11", "redis")
    @example("12#", "", "redis")
    @example("12/", "", "redis")
    @example("12?", "=1", "redis")
    @example("p@", "", "redis")
    @example("&", "=", "redis")
    @example("", "\t ", "redis")
    @example("", "", "unix")
    @example("@/", "", "unix")
    def test_are_in_no_error_whatever_is_in_them(self, before: str, after: str, scheme: str) -> None:
        password = f"{before}{PASSWORD}{after}"
        place = "/nowhere.sock" if scheme == "unix" else "127.0.0.1:1/0"
        for url in (
            f"{scheme}://:{password}@{place}",
            f"{scheme}://user:{password}@{place}",
            f"{scheme}://{place}?password={password}",
            f"{scheme}://{place}?username=user&password={password}&db=x",
            f"{scheme}://:{password}@{place}?protocol=3",
            f"{scheme}://:{password}@{place}?ssl_ca_certs=x&no_such_option=1",
        ):
            for make in makers(url):
                refused, server = refusal_of(make)
                assert PASSWORD not in chain(refused)
                if server is not None:
                    assert PASSWORD not in server.name
                    assert PASSWORD not in str(server.failure("answer", ValueError(f"unknown: '{unquote(password)}'")))

    @pytest.mark.parametrize("url", [f"amqps://:{PASSWORD}@host", f":{PASSWORD}@host", f"//:{PASSWORD}\u2100@host"])
    def test_are_in_no_error_of_another_scheme(self, url: str) -> None:
        for make in (get_broker, get_backend):
            with pytest.raises(BackendError) as refused:
                make(url)
            assert PASSWORD not in chain(refused.value)

    @pytest.fixture
    def parrot(self) -> Iterator[int]:
        """The port of a server that knows no command, and says so as Redis does."""
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve() -> None:
                while True:
                    try:
                        connection, _ = listening.accept()
                    except OSError:
                        return
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

            def answer(connection: socket.socket) -> None:
                with connection:
                    while data := connection.recv(65536):
                        words = [word for word in data.decode().split("\r\n") if word and word[0] not in "*$"]
                        text = f"-ERR unknown command '{words[0]}', with args beginning with: {words[1:]}\r\n"
                        connection.sendall(text.encode())

            threading.Thread(target=serve, daemon=True).start()
            yield listening.getsockname()[1]
            listening.shutdown(socket.SHUT_RDWR)

    async def test_that_a_server_repeats_are_shown_nowhere(self, parrot: int, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        url = f"redis://shop:{PASSWORD}@127.0.0.1:{parrot}/0"
        backend = get_backend(url)
        broker = RedisBroker(url)
        errors = []
        for request in (lambda: backend.get("t1"), lambda: broker.take(1), lambda: broker.wait(0.1), broker.ping):
            with pytest.raises(BackendError) as refused:
                await request()
            errors.append(chain(refused.value))
        for in_thread in (lambda: broker.renew(["t1"]), lambda: broker.withdraw(None)):
            with pytest.raises(BackendError) as refused:
                in_thread()
            errors.append(chain(refused.value))
        waiting = asyncio.create_task(backend.wait_for("t1", 0.3))
        with pytest.raises((BackendError, TimeoutError)):
            await waiting
        await backend.close()
        await broker.close()

        assert all("AUTH" in text for text in errors)
        assert PASSWORD not in "".join(errors) + caplog.text
