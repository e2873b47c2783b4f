"""What the nodes of a cluster tell of a slot: of what they say differently, the latest counts."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import AskError, AuthenticationError, MasterDownError, MovedError

from flowrra.redis_address import Address, Place
from flowrra.redis_cluster import ClusterDiscovery, ClusterNodes, View, code_of
from flowrra.redis_discovery import PrimaryDownError
from tests.support.servers import ValkeyServer

SLOT = 100
ONE, TWO, THREE = ("one", 1), ("two", 2), ("three", 3)


def nodes() -> ClusterNodes:
    return ClusterNodes(Address("redis+cluster://named:1,also:2", {}, {}), SLOT, "{x}:moving")


def slots(primary: Place, *replicas: Place, first: int = 0, last: int = 200) -> list[Any]:
    """An entry of CLUSTER SLOTS, in which a node's id is its host."""
    return [first, last, *([host.encode(), port, host.encode(), []] for host, port in (primary, *replicas))]


def lines(flags: str = "master", epoch: int = 1) -> bytes:
    """An answer to CLUSTER NODES, where all nodes are alike."""
    of_all = (f"{host} 10.0.0.1:1@2,{host} {flags} - 0 0 {epoch} connected" for host in ("one", "two", "three"))
    return "\n".join(of_all).encode()


def view(*places: Place, flags: str = "master", epoch: int = 1) -> View:
    return nodes().view([[slots(*places)], lines(flags, epoch)], ("asked", 9))


class TestANode:
    def test_tells_who_has_the_slot_and_where_all_are(self) -> None:
        answers = [[slots(THREE, first=101, last=200), slots(ONE, TWO, last=100)], lines(epoch=7)]
        assert nodes().view(answers, ("asked", 9)) == View(ONE, 7, False, (ONE, TWO, THREE))

    def test_that_is_named_by_nothing_is_where_it_was_asked(self) -> None:
        entry = slots(ONE)
        entry[2][0] = None
        assert nodes().view([[entry], lines()], ("asked", 9)).primary == ("asked", 1)

    def test_without_the_name_that_it_should_have_is_at_its_address(self) -> None:
        entry = slots(ONE)
        entry[2][0], entry[2][3] = b"?", [b"ip", b"10.0.0.7"]
        assert nodes().view([[entry], lines()], ("asked", 9)).primary == ("10.0.0.7", 1)

    def test_may_know_of_nobody_who_has_it(self) -> None:
        with pytest.raises(redis.ConnectionError, match="no node has slot 100"):
            nodes().view([[slots(ONE, first=101)], lines()], ("asked", 9))


async def test_the_primary_is_asked_over_one_connection_whether_it_still_is_that(
    valkey: ValkeyServer, look: redis.Redis
) -> None:
    discovery = ClusterDiscovery(nodes())
    before: Any = look.info("stats")
    for _ in range(3):
        assert await discovery.is_still(("127.0.0.1", valkey.port))
    after: Any = look.info("stats")
    assert after["total_connections_received"] - before["total_connections_received"] == 1
    await discovery.close()


class TestTheLatestClaim:
    @pytest.mark.parametrize("order", [1, -1])
    def test_counts(self, order: int) -> None:
        assert nodes().primary_of([view(ONE, TWO, epoch=3), view(TWO, ONE, epoch=4)][::order]) == TWO

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_one_that_is_down_is_left_although_it_answers(self, order: int) -> None:
        answers = [view(ONE, TWO, flags="myself,master"), view(ONE, TWO, flags="master,fail"), view(TWO, epoch=0)]
        with pytest.raises(PrimaryDownError, match="primary of slot 100 is down, and no replica in its place"):
            nodes().primary_of(answers[::order])

    def test_of_one_that_was_down_counts_once_another_has_its_place(self) -> None:
        assert nodes().primary_of([view(ONE, TWO, flags="master,fail"), view(TWO, epoch=2)]) == TWO

    def test_of_one_that_nobody_can_replace_is_kept(self) -> None:
        assert nodes().primary_of([view(ONE, flags="master,fail")]) == ONE

    def test_counts_while_only_one_node_takes_it_for_dead(self) -> None:
        assert nodes().primary_of([view(ONE, TWO, flags="master,fail?")]) == ONE

    def test_tells_whom_to_ask_first_the_next_time(self) -> None:
        known = nodes()
        assert known.places() == [("also", 2), ("named", 1)]
        known.primary_of([view(ONE, TWO)])
        assert known.places() == [ONE, TWO, ("also", 2), ("named", 1)]


class TestARefusal:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (MovedError("100 one:1"), "MOVED"),
            (AskError("100 one:1"), "ASK"),
            (redis.ResponseError("MOVED 100 one:1"), "MOVED"),
            (redis.ResponseError("Command # 1 (GET x) of pipeline caused error: ('ASK 100 one:1',)"), "ASK"),
            (redis.ResponseError("Command # 1 (GET x) of pipeline caused error: TRYAGAIN later"), "TRYAGAIN"),
            (redis.ResponseError("unknown command"), ""),
            (redis.ConnectionError("MOVED away"), ""),
        ],
    )
    def test_is_known_by_its_word_whichever_redis_py_tells_it(self, error: Exception, code: str) -> None:
        assert code_of(error) == code


class TestNoAnswer:
    def test_says_what_each_node_said(self) -> None:
        with pytest.raises(
            redis.ConnectionError, match="No node tells where slot 100 is: ConnectionError: gone, Timeout"
        ):
            nodes().primary_of([redis.ConnectionError("gone"), redis.TimeoutError("late")])

    @pytest.mark.parametrize("refusal", [AuthenticationError("wrong"), redis.ResponseError("no cluster")])
    def test_but_a_refusal_is_that_refusal(self, refusal: redis.RedisError) -> None:
        with pytest.raises(type(refusal), match=str(refusal)):
            nodes().primary_of([redis.ConnectionError("gone"), refusal])

    def test_of_one_does_no_harm_if_another_answers(self) -> None:
        assert nodes().primary_of([MasterDownError("it is a replica"), view(ONE)]) == ONE
