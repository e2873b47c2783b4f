"""Addresses of a primary that sentinels name: how they are read, what they are called, and that no error shows a
password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from flowrra import BackendError
from flowrra.backends.factory import get_backend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.factory import get_broker
from flowrra.brokers.redis import RedisBroker
from flowrra.redis_address import Address
from flowrra.redis_client import RedisServer

SENTINELS = "redis+sentinel://one:26379,two:26380/shop/3"
FORM = r"expected redis\+sentinel://\[user:password@\]host:port,host:port/service/database"


def address(url: str, **options: Any) -> Address:
    return Address(url, options, {})


class TestAnAddress:
    def test_has_the_sentinels_the_service_and_the_database(self) -> None:
        found = address(SENTINELS)
        assert found.sentinels is not None
        assert (found.sentinels.places, found.sentinels.service) == ((("one", 26379), ("two", 26380)), "shop")
        assert (found.database, found.options["db"], found.is_encrypted) == (3, 3, False)
        assert not {"host", "port"} & found.options.keys()

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("redis+sentinel://one/shop", "one:26379/shop/0"),
            ("REDIS+SENTINEL://ONE/Shop/", "one:26379/Shop/0"),
            ("redis+sentinel://[::1]:7,one/shop/1", "[::1]:7,one:26379/shop/1"),
            ("redis+sentinel://one/the%20shop/0", "one:26379/the shop/0"),
            ("redis+sentinel://one/shop?db=4", "one:26379/shop/4"),
        ],
    )
    def test_may_leave_out_ports_and_the_database(self, url: str, name: str) -> None:
        assert address(url).name == name

    def test_gives_user_and_password_to_servers_and_not_to_sentinels(self) -> None:
        found = address("redis+sentinel://me:p%40ss@one/shop/0?client_name=me")
        assert found.sentinels is not None
        assert (found.options["username"], found.options["password"]) == ("me", "p@ss")
        assert not {"username", "password"} & found.sentinels.options.keys()

    @pytest.mark.parametrize(
        "found",
        [
            address("redis+sentinel://one/shop?sentinel_username=you&sentinel_password=p%26w"),
            address("redis+sentinel://one/shop", sentinel_username="you", sentinel_password="p&w"),
        ],
        ids=["in the URL", "as arguments"],
    )
    def test_may_have_a_user_of_the_sentinels(self, found: Address) -> None:
        assert found.sentinels is not None
        assert (found.sentinels.options["username"], found.sentinels.options["password"]) == ("you", "p&w")
        assert not {"username", "password", "sentinel_username", "sentinel_password"} & found.options.keys()
        assert found.without_secrets("no: p&w") == "no: ***"

    def test_has_tls_for_both(self) -> None:
        found = address("rediss+sentinel://one/shop?ssl_ca_certs=/ca.pem")
        assert found.sentinels is not None
        assert found.is_encrypted
        assert found.options["ssl_ca_certs"] == found.sentinels.options["ssl_ca_certs"] == "/ca.pem"
        assert found.sentinels.options["ssl"] is True

    @pytest.mark.parametrize("scheme", ["redis", "rediss"])
    def test_has_tls_in_threads_if_it_says_so(self, scheme: str) -> None:
        server = RedisServer(f"{scheme}+sentinel://one/shop", slot_of="flowrra")
        with server.thread_client() as client:
            kind = client.connection_pool.connection_class
        assert issubclass(kind, redis.SSLConnection) is (scheme == "rediss")


class TestItsName:
    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://two:26380,one:26379/shop/3",
            "redis+sentinel://me:secret@two:26380,one/shop/3?sentinel_password=secret",
            "redis+sentinel://one,two:26380,one/shop?db=3",
            "rediss+sentinel://TWO:26380,ONE/shop/3",
        ],
    )
    def test_is_the_same_whatever_the_order_and_whoever_asks(self, url: str) -> None:
        broker, backend = RedisBroker(url), RedisBackend(SENTINELS)
        assert broker.address == "one:26379,two:26380/shop/3"
        assert broker.keeps_records_of(backend)

    @pytest.mark.parametrize("url", ["redis+sentinel://one,two:26380/other/3", "redis+sentinel://one,two:26380/shop/2"])
    def test_is_another_for_another_service_or_database(self, url: str) -> None:
        assert not RedisBroker(url).keeps_records_of(RedisBackend(SENTINELS))


def makers(url: str) -> list[Callable[[], Any]]:
    return [lambda: get_broker(url), lambda: get_backend(url)]


class TestARefusal:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("sentinel://one:26379/shop", FORM),
            ("redis-sentinel://one:26379/shop", FORM),
            ("redis+sentinel://one:26379", FORM),
            ("redis+sentinel://one:26379/", FORM),
            ("redis+sentinel:///shop/0", FORM),
            ("redis+sentinel://one,,two/shop", "a sentinel in it has no host"),
            ("redis+sentinel://one:0/shop", "its port is no number"),
            ("redis+sentinel://one:port/shop", "its port is no number"),
            ("redis+sentinel://one:99999/shop", "its port is no number"),
            ("redis+sentinel://one/shop/first", FORM),
            ("redis+sentinel://one/shop/0/1", FORM),
            ("redis+sentinel://one/shop?db=-1", "'db' must be the number of a database"),
            ("redis+sentinel://one/shop#0", "there is a '#' in it; write it %23"),
            ("redis+sentinel://one/shop?protocol=3", "'protocol' can't be used"),
            ("redis+sentinel://one/shop?sentinel_user=me", "an option that is not known; .* sentinel_username"),
            ("redis+sentinel://one/shop?ssl_ca_certs=/ca.pem", "'ssl_ca_certs' .* rediss"),
            ("rediss+sentinel://one/shop?ssl_cert_reqs=perhaps", "its options are refused"),
            ("redis://one/0?sentinel_password=secret", "an option that is not known"),
        ],
    )
    def test_says_what_is_wrong_when_the_app_is_made(self, url: str, expected: str) -> None:
        for make in makers(url):
            with pytest.raises(BackendError, match=expected):
                make()

    def test_of_a_plain_address_names_the_argument_of_sentinels(self) -> None:
        with pytest.raises(BackendError, match="no option 'sentinel_password'"):
            RedisBroker("redis://one/0", sentinel_password="secret")

    @pytest.mark.parametrize(
        "url",
        [
            "redis+sentinel://me:Hunter2/x@one/shop/0",
            "redis+sentinel://me:Hunter2#@one/shop/0",
            "redis+sentinel://me:Hunter2?@one/shop/0",
            "redis+sentinel://me:x@Hunter2@one/shop/0",
            "redis+sentinel://me:Hunter2",
            "redis+sentinel://me:Hunter2/shop",
            "redis+sentinel://me:Hunter2@one:port/shop",
            "redis+sentinel://me:Hunter2@/shop",
            "redis+sentinel://one/shop?sentinel_password=&Hunter2",
            "redis+sentinel://one/shop?sentinel_password=x&Hunter2=1",
            "redis+sentinel://one/shop?sentinel_password=Hunter2&db=-1",
            "sentinel://me:Hunter2@one/shop",
        ],
    )
    def test_shows_no_part_of_a_password(self, url: str) -> None:
        for make in makers(url):
            with pytest.raises(BackendError) as caught:
                make()
            error: BaseException | None = caught.value
            while error is not None:
                assert "Hunter" not in str(error)
                error = error.__cause__ or error.__context__
