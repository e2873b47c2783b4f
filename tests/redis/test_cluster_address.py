"""Addresses of a cluster: how they are read, what they are called, which slot they lead to, and that no error shows a
password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.crc import key_slot

from flowrra import BackendError
from flowrra.backends.factory import get_backend
from flowrra.backends.redis import RedisBackend
from flowrra.brokers.factory import get_broker
from flowrra.brokers.redis import RedisBroker
from flowrra.redis_address import Address

NODES = "redis+cluster://one:6379,two:6380/"
NAMESPACE = "{shop.0}"
QUEUE = "{shop.0}:queue:io"
FORM = r"expected redis\+cluster://\[user:password@\]host:port,host:port"


def address(url: str, **options: Any) -> Address:
    return Address(url, options, {})


def broker(url: str = NODES, queue_key: str = QUEUE, namespace: str = NAMESPACE) -> RedisBroker:
    return RedisBroker(url, queue_key=queue_key, namespace=namespace)


class TestAnAddress:
    def test_has_the_nodes_and_the_only_database(self) -> None:
        found = address(NODES)
        assert found.cluster == (("one", 6379), ("two", 6380))
        assert (found.sentinels, found.database, found.is_encrypted) == (None, 0, False)
        assert not {"host", "port", "db"} & found.options.keys()

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("redis+cluster://one", "redis+cluster://one:6379"),
            ("REDIS+CLUSTER://ONE:7/", "redis+cluster://one:7"),
            ("redis+cluster://[::1]:7,one/0", "redis+cluster://[::1]:7,one:6379"),
            ("redis+cluster://one/?db=0", "redis+cluster://one:6379"),
            ("rediss+cluster://me:secret@two:6380,one?client_name=me", "redis+cluster://one:6379,two:6380"),
        ],
    )
    def test_is_named_by_its_nodes_alone(self, url: str, name: str) -> None:
        assert address(url).name == name

    def test_gives_user_password_and_tls_to_each_connection(self) -> None:
        found = address("rediss+cluster://me:p%40ss@one?ssl_ca_certs=/ca.pem")
        assert (found.options["username"], found.options["password"]) == ("me", "p@ss")
        assert (found.options["ssl_ca_certs"], found.is_encrypted) == ("/ca.pem", True)


class TestABroker:
    def test_is_served_by_the_slot_of_its_hash_tag(self) -> None:
        found = broker()
        assert found.server.slot == key_slot(b"shop.0")
        assert found.with_suffix(":x").server.slot == found.server.slot

    @pytest.mark.parametrize(
        "url", [NODES, "redis+cluster://me:secret@two:6380,one", "rediss+cluster://TWO:6380,one/0"]
    )
    def test_keeps_the_records_of_the_same_slot_of_the_same_cluster(self, url: str) -> None:
        assert broker(url).keeps_records_of(RedisBackend(NODES, namespace=NAMESPACE))

    @pytest.mark.parametrize(
        ("url", "namespace"),
        [(NODES, "{shop.1}"), ("redis+cluster://three", NAMESPACE), ("redis://one:6379/0", NAMESPACE)],
    )
    def test_keeps_no_others(self, url: str, namespace: str) -> None:
        assert not broker().keeps_records_of(RedisBackend(url, namespace=namespace))

    @pytest.mark.parametrize("tagless", ["shop", "{}shop", "{shop", "}shop{"])
    def test_and_a_backend_need_a_hash_tag(self, tagless: str) -> None:
        for make in (
            lambda: broker(queue_key=f"{tagless}:queue"),
            lambda: broker(namespace=tagless),
            lambda: RedisBackend(NODES, namespace=tagless),
        ):
            with pytest.raises(
                ValueError, match=r"expected a namespace and a queue_key with a hash tag, such as '{flow"
            ):
                make()

    def test_needs_the_same_one_in_its_namespace(self) -> None:
        with pytest.raises(ValueError, match=r"the same hash tag, not '{shop\.0}:queue:io' and '{shop\.1}'"):
            broker(namespace="{shop.1}")

    def test_needs_none_elsewhere(self) -> None:
        found = broker("redis://one", "shop:queue", "shop")
        assert found.server.slot is None
        assert found.server.keys("shop") == (1, "shop")


def makers(url: str) -> list[Callable[[], Any]]:
    return [
        lambda: get_broker(url),
        lambda: get_backend(url),
    ]


class TestARefusal:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("cluster://one", FORM),
            ("redis-cluster://one", FORM),
            ("redis+cluster://", FORM),
            ("redis+cluster:///0", FORM),
            ("redis+cluster://one/shop", FORM),
            ("redis+cluster://one,,two/", "a node in it has no host"),
            ("redis+cluster://one:0/", "its port is no number"),
            ("redis+cluster://one:99999/", "its port is no number"),
            ("redis+cluster://one/1", "a cluster has no database but 0"),
            ("redis+cluster://one/?db=1", "a cluster has no database but 0"),
            ("redis+cluster://one/#0", "there is a '#' in it; write it %23"),
            ("redis+cluster://one?protocol=3", "'protocol' can't be used"),
            ("redis+cluster://one?sentinel_password=secret", "an option that is not known"),
            ("redis+cluster://one?ssl_ca_certs=/ca.pem", r"'ssl_ca_certs' .* rediss\+cluster"),
        ],
    )
    def test_says_what_is_wrong_when_the_app_is_made(self, url: str, expected: str) -> None:
        for make in makers(url):
            with pytest.raises(BackendError, match=expected):
                make()

    @pytest.mark.parametrize(
        "url",
        [
            "redis+cluster://me:Hunter2/x@one",
            "redis+cluster://me:Hunter2#@one",
            "redis+cluster://me:Hunter2?@one",
            "redis+cluster://me:Hunter2@x@one",
            "redis+cluster://me:Hunter2@one,me:Hunter2@two",
            "redis+cluster://me:Hunter2@one/1",
            "redis+cluster://me:Hunter2@one:port",
            "rediss+cluster://me:Hunter2@one?ssl_cert_reqs=perhaps",
        ],
    )
    def test_never_shows_a_password(self, url: str) -> None:
        for make in makers(url):
            with pytest.raises(BackendError) as caught:
                make()
            shown: BaseException | None = caught.value
            while shown is not None:
                assert "Hunter" not in str(shown)
                shown = shown.__cause__ or shown.__context__
