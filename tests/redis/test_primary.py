"""What an event loop knows of the primary: as long as it is where it was, it alone is asked, and a change is told. Of
what sentinels say differently, the latest counts."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from redis.sentinel import MasterNotFoundError

from flowrra.redis_address import Address, Place
from flowrra.redis_discovery import PrimaryDownError
from flowrra.redis_primary import Primary
from flowrra.redis_sentinel import SentinelDiscovery

ONE, TWO = ("one", 1), ("two", 2)
ADDRESS = Address("redis+sentinel://named/shop", {}, {})


class Told:
    """Knows where the primary is, as a test says, and notes whether all were asked or the primary alone."""

    what = "service=shop"

    def __init__(self, _: Address) -> None:
        self.place = ONE
        self.asked: list[str | Place] = []

    async def find(self) -> Place:
        self.asked.append("all")
        return self.place

    async def is_still(self, place: Place) -> bool:
        self.asked.append(place)
        return place == self.place

    async def close(self) -> None: ...


async def test_it_is_asked_alone_while_it_is_where_it_was_and_a_change_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found: list[Place] = []
    monkeypatch.setattr("flowrra.redis_primary.SentinelDiscovery", Told)
    monkeypatch.setattr("flowrra.redis_primary.ASK_EVERY", 60.0)
    primary = Primary(ADDRESS, None, found.append)
    told = primary._discovery
    assert isinstance(told, Told)
    assert [await primary.find() for _ in range(2)] == [ONE, ONE]
    told.place = TWO
    assert [await primary.find() for _ in range(2)] == [TWO, TWO]
    primary.doubt()
    assert await primary.find() == TWO
    assert told.asked == ["all", ONE, ONE, "all", TWO, "all"]
    assert found == [ONE, TWO]
    assert [record.getMessage() for record in caplog.records] == ["primary changed service=shop from=one:1 to=two:2"]
    await primary.close()


class Sentinel:
    """Says of the primary what a test says; nothing if that is None."""

    def __init__(self, place: Place | None, epoch: int = 1, **state: Any) -> None:
        self._state = {"config-epoch": epoch, "is_master": True, "is_sdown": False, "is_odown": False, **state}
        self._place = place

    async def sentinel_masters(self) -> dict[str, Any]:
        if self._place is None:
            return {}
        return {"shop": {"flags": {"master"}, **self._state, "ip": self._place[0], "port": self._place[1]}}


class TestSentinels:
    @staticmethod
    async def find(monkeypatch: pytest.MonkeyPatch, *sentinels: Sentinel) -> Place:
        monkeypatch.setattr("redis.asyncio.sentinel.Sentinel", lambda *_, **__: SimpleNamespace(sentinels=sentinels))
        return await SentinelDiscovery(ADDRESS).find()

    @pytest.mark.parametrize("order", [1, -1])
    async def test_that_know_of_the_latest_failover_are_believed(
        self, monkeypatch: pytest.MonkeyPatch, order: int
    ) -> None:
        sentinels = [Sentinel(ONE, epoch=3), Sentinel(TWO, epoch=4), Sentinel(None)]
        assert await self.find(monkeypatch, *sentinels[::order]) == TWO

    @pytest.mark.parametrize("order", [1, -1])
    @pytest.mark.parametrize("state", [{"is_odown": True}, {"flags": {"master", "failover_in_progress"}}])
    async def test_of_which_one_gives_the_primary_up_know_of_none(
        self, monkeypatch: pytest.MonkeyPatch, order: int, state: dict[str, Any]
    ) -> None:
        sentinels = [Sentinel(ONE), Sentinel(ONE, **state), Sentinel(TWO, epoch=0)]
        with pytest.raises(PrimaryDownError, match="The primary of 'shop' is down, and no replica in its place yet"):
            await self.find(monkeypatch, *sentinels[::order])

    async def test_that_know_no_such_service_are_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MasterNotFoundError, match="'shop': it knows no such service"):
            await self.find(monkeypatch, Sentinel(None))
