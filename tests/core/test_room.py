"""The room for tasks, which several share who take for the same workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from flowrra.executors.sources.room import HORIZON, Room, ThroughputEstimate


class Clock:
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Taker:
    """Somebody who takes tasks, and counts how often it was told that there may be room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.told = 0
        room.open(self.tell)

    def tell(self) -> None:
        self.told += 1

    def asks(self) -> int:
        """How many it may take; their room is reserved."""
        count = self._room.share(self.tell)
        if count:
            self._room.reserve(count)
        return count

    def leaves(self) -> None:
        self._room.leave(self.tell)


@pytest.fixture
def workers() -> Any:
    return SimpleNamespace(slots=10, running={}, queue=SimpleNamespace(size=0))


@pytest.fixture
def room(workers: Any) -> Room:
    return Room(workers)


def test_the_only_one_gets_all(room: Room) -> None:
    assert Taker(room).asks() == 10


def test_several_share_it_evenly(room: Room) -> None:
    assert [each.asks() for each in [Taker(room) for _ in range(4)]] == [3, 3, 2, 2]


def test_who_wants_none_gets_none(room: Room) -> None:
    one, other, idle = (Taker(room) for _ in range(3))
    idle.leaves()
    assert [one.asks(), other.asks()] == [5, 5]


def test_what_is_little_is_for_whose_turn_it_is(room: Room, workers: Any) -> None:
    workers.slots = 1
    first, second = Taker(room), Taker(room)
    assert second.asks() == 0
    assert first.asks() == 1
    room.release(1)
    assert first.asks() == 0  # it has had its turn
    assert second.asks() == 1


def test_what_is_on_its_way_takes_room(room: Room, workers: Any) -> None:
    one, other = Taker(room), Taker(room)
    assert (one.asks(), other.asks()) == (5, 5)
    assert one.asks() == 0
    workers.queue.size = 5  # what one of them has asked for is there
    room.release(5)
    assert one.asks() == 0
    workers.queue.size = 3
    assert one.asks() == 2


def test_many_are_taken_at_once_while_tasks_are_fast(room: Room, workers: Any) -> None:
    room.estimate._rate = 4000.0  # 200 are taken ahead
    takers = [Taker(room) for _ in range(4)]
    assert takers[0].asks() == 100
    assert takers[1].asks() == 100
    assert takers[2].asks() == 0  # what is left isn't worth a request
    workers.running = dict.fromkeys(range(10))
    workers.queue.size = 100
    room.release(200)
    assert takers[2].asks() == 100


def test_whose_turn_it_is_is_told_of_room_and_when_it_comes(room: Room) -> None:
    first, second, third = (Taker(room) for _ in range(3))
    room.notify()
    assert (first.told, second.told, third.told) == (1, 0, 0)
    first.leaves()
    assert (second.told, third.told) == (1, 0)
    second.asks()
    assert third.told == 1
    room.release(5)
    assert third.told == 2


def test_it_is_all_free_when_it_is_opened_again(room: Room) -> None:
    taker = Taker(room)
    assert (taker.asks(), taker.asks()) == (10, 0)
    room.open(taker.tell)
    assert taker.asks() == 10


class TestTakenAhead:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr("flowrra.executors.sources.room.time", clock)
        return clock

    def test_is_what_ends_within_the_horizon(self, clock: Clock) -> None:
        estimate = ThroughputEstimate()
        for _ in range(100):
            clock.now += 0.0005
            estimate.count()
            ahead = estimate.ahead()
        assert ahead == pytest.approx(2000 * HORIZON, abs=1)

    def test_follows_tasks_that_become_slower(self, clock: Clock) -> None:
        estimate = ThroughputEstimate()
        for seconds in (*[0.0005] * 1000, *[0.02] * 10):
            clock.now += seconds
            estimate.count()
            ahead = estimate.ahead()
        assert ahead == pytest.approx(50 * HORIZON, abs=1)

    def test_is_no_more_for_tasks_that_end_together_because_they_began_together(self, clock: Clock) -> None:
        estimate = ThroughputEstimate()
        for _ in range(10):
            clock.now += 0.2
            for _ in range(20):
                clock.now += 0.0001
                estimate.count()
                assert estimate.ahead() <= 100 * HORIZON

    def test_is_nothing_once_what_was_taken_had_to_wait_until_it_is_measured_anew(self, clock: Clock) -> None:
        estimate = ThroughputEstimate()
        for _ in range(40):
            clock.now += 0.001
            estimate.count()
        estimate.slow_down()
        assert estimate.ahead() == 0
        clock.now += 0.1
        estimate.count()
        assert estimate.ahead() == pytest.approx(10 * HORIZON, abs=1)

    def test_says_nothing_of_the_time_without_any_task(self, clock: Clock, workers: Any) -> None:
        room = Room(workers)
        room.estimate.count()
        for _ in range(2):  # nothing of what comes first is begun
            clock.now += 60
            room.arrived()
        clock.now += 0.02
        for _ in range(39):
            room.estimate.count()
        assert room.estimate.ahead() == pytest.approx(2000 * HORIZON, abs=1)

    def test_is_measured_although_the_slots_are_empty_again_and_again(self, clock: Clock, workers: Any) -> None:
        """As they are where all tasks of a take end before the next answer comes, sooner than can be measured."""
        room = Room(workers)
        for _ in range(10):
            room.arrived()
            for _ in range(10):
                clock.now += 0.0002
                room.estimate.count()
            assert room.estimate.ahead() in (0, pytest.approx(5000 * HORIZON, abs=1))
            clock.now += 0.004  # for the next answer
        assert room.estimate.ahead() > 0

    def test_is_measured_over_all_while_some_run(self, clock: Clock, workers: Any) -> None:
        room = Room(workers)
        workers.running = {"task": object()}
        for _ in range(20):
            clock.now += 0.001
            room.estimate.count()
            room.arrived()
        assert room.estimate.ahead() == pytest.approx(1000 * HORIZON, abs=1)

    def test_is_measured_although_each_take_finds_all_done(self, clock: Clock, workers: Any) -> None:
        room = Room(workers)
        for _ in range(40):
            clock.now += 0.001
            room.estimate.count()
            room.estimate.count()
            ahead = room.estimate.ahead()
            room.arrived()
        assert ahead == pytest.approx(2000 * HORIZON, abs=1)
