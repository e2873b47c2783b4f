"""What a worker holds by leases, and what it knows of each."""

from __future__ import annotations

import time

from flowrra.brokers.base import Outcome, Verb
from flowrra.executors.job import Job
from flowrra.executors.sources.holdings import Holdings
from flowrra.registry import TaskRegistry
from flowrra.task import Task, TaskResult, TaskStatus
from flowrra.telemetry import Telemetry

# A time on the clock by which all jobs here were taken before.
LATER = 100.0


def job(task_id: str = "t", status: TaskStatus = TaskStatus.RUNNING) -> Job:
    registry = TaskRegistry()

    @registry.task(name="add")
    async def add() -> None: ...

    telemetry = Telemetry().register("add", "io")
    record = TaskResult(task_id, status, "add")
    return Job(Task(task_id, "add", (), {}), record, registry.by_name["add"], telemetry, 0.0)


def test_what_the_broker_knows_is_held_no_more() -> None:
    holdings, told, other = Holdings("io", {}), job("told"), job("other")
    holdings.held.update(told=told, other=other)
    holdings.leaving["told"] = told
    holdings.settled(["told", "unheard of"])
    assert holdings.ids() == ["other"]
    assert not holdings.leaving


def test_what_came_back_before_the_broker_knew_of_its_end_stays() -> None:
    holdings, before, again = Holdings("io", {}), job(), job()
    holdings.held["t"], holdings.leaving["t"] = again, before
    holdings.settled(["t"])
    assert holdings.held["t"] is again


def test_what_is_handed_on_is_forgotten_once_the_broker_has_it() -> None:
    holdings = Holdings("io", {})
    holdings.refused["t"] = Outcome(Verb.RETRY, "t")
    holdings.settled(["t"])
    assert not holdings.refused


class TestWhatComesAgain:
    def test_goes_on_if_it_runs_here(self) -> None:
        holdings = Holdings("io", {})
        assert not holdings.has_still("t")
        holdings.held["t"] = job()
        assert holdings.has_still("t")

    def test_goes_on_and_is_held_again_if_it_runs_here_and_another_worker_had_it(self) -> None:
        running = job()
        holdings = Holdings("io", {"t": running})
        assert holdings.has_still("t")
        assert holdings.held["t"] is running

    def test_is_taken_anew_if_its_attempt_here_has_its_outcome(self) -> None:
        running = job(status=TaskStatus.RETRYING)
        running.settled = True
        assert not Holdings("io", {"t": running}).has_still("t")

    def test_goes_on_if_its_end_is_being_told(self) -> None:
        holdings, ended = Holdings("io", {}), job(status=TaskStatus.SUCCESS)
        holdings.held["t"] = holdings.leaving["t"] = ended
        assert holdings.has_still("t")

    def test_is_taken_anew_if_it_is_being_given_back_or_retried(self) -> None:
        holdings, given_back = Holdings("io", {}), job(status=TaskStatus.RETRYING)
        holdings.held["t"] = holdings.leaving["t"] = given_back
        assert not holdings.has_still("t")


class TestWhatIsLost:
    def test_is_held_no_more(self) -> None:
        holdings = Holdings("io", {})
        holdings.held["t"] = job()
        assert holdings.lose("t", LATER)
        assert not holdings.ids()
        assert not holdings.lose("t", LATER)

    def test_stays_if_its_outcome_is_being_told(self) -> None:
        holdings, told = Holdings("io", {}), job()
        holdings.held["t"] = holdings.leaving["t"] = told
        assert not holdings.lose("t", LATER)
        assert holdings.ids() == ["t"]

    def test_stays_if_it_was_taken_again_since_the_broker_was_asked(self) -> None:
        holdings, again = Holdings("io", {}), job()
        again.taken_at = LATER
        holdings.held["t"] = again
        assert not holdings.lose("t", LATER - 1)
        assert holdings.ids() == ["t"]

    def test_stays_if_it_came_again_to_the_worker_that_has_it(self) -> None:
        holdings = Holdings("io", {})
        holdings.held["t"] = job()
        asked_at = time.monotonic()
        assert holdings.has_still("t")
        assert not holdings.lose("t", asked_at)


def test_nothing_is_left_after_a_clear() -> None:
    holdings = Holdings("io", {})
    holdings.held["t"] = holdings.leaving["t"] = job()
    holdings.refused["t"] = Outcome(Verb.RETRY, "t")
    holdings.clear()
    assert (holdings.held, holdings.leaving, holdings.refused) == ({}, {}, {})
