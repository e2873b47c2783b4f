"""What a worker holds by leases, and what it knows of each."""

from __future__ import annotations

from flowrra.brokers.base import Outcome, Verb
from flowrra.executors.job import Job
from flowrra.executors.sources.holdings import Holdings
from flowrra.registry import TaskRegistry
from flowrra.task import Task, TaskResult, TaskStatus
from flowrra.telemetry import Telemetry


def job(task_id: str = "t", status: TaskStatus = TaskStatus.RUNNING) -> Job:
    registry = TaskRegistry()

    @registry.task(name="add")
    async def add() -> None: ...

    telemetry = Telemetry().register("add", "io")
    record = TaskResult(task_id, status, "add")
    return Job(Task(task_id, "add", (), {}), record, registry.by_name["add"], telemetry, 0.0)


def test_what_the_broker_knows_is_held_no_more() -> None:
    holdings, told, other = Holdings("io"), job("told"), job("other")
    holdings.held.update(told=told, other=other)
    holdings.leaving["told"] = told
    holdings.settled(["told", "unheard of"])
    assert holdings.ids() == ["other"]
    assert not holdings.leaving


def test_what_came_back_before_the_broker_knew_of_its_end_stays() -> None:
    holdings, before, again = Holdings("io"), job(), job()
    holdings.held["t"], holdings.leaving["t"] = again, before
    holdings.settled(["t"])
    assert holdings.held["t"] is again


def test_what_is_handed_on_is_forgotten_once_the_broker_has_it() -> None:
    holdings = Holdings("io")
    holdings.refused["t"] = Outcome(Verb.RETRY, "t")
    holdings.settled(["t"])
    assert not holdings.refused


class TestWhatComesAgain:
    def test_goes_on_if_it_runs_here(self) -> None:
        holdings = Holdings("io")
        assert not holdings.has_still("t")
        holdings.held["t"] = job()
        assert holdings.has_still("t")

    def test_goes_on_if_its_end_is_being_told(self) -> None:
        holdings, ended = Holdings("io"), job(status=TaskStatus.SUCCESS)
        holdings.held["t"] = holdings.leaving["t"] = ended
        assert holdings.has_still("t")

    def test_is_taken_anew_if_it_is_being_given_back_or_retried(self) -> None:
        holdings, given_back = Holdings("io"), job(status=TaskStatus.RETRYING)
        holdings.held["t"] = holdings.leaving["t"] = given_back
        assert not holdings.has_still("t")


class TestWhatIsLost:
    def test_is_held_no_more(self) -> None:
        holdings = Holdings("io")
        holdings.held["t"] = job()
        assert holdings.lose("t")
        assert not holdings.ids()
        assert not holdings.lose("t")

    def test_stays_if_its_outcome_is_being_told(self) -> None:
        holdings, told = Holdings("io"), job()
        holdings.held["t"] = holdings.leaving["t"] = told
        assert not holdings.lose("t")
        assert holdings.ids() == ["t"]


def test_nothing_is_left_after_a_clear() -> None:
    holdings = Holdings("io")
    holdings.held["t"] = holdings.leaving["t"] = job()
    holdings.refused["t"] = Outcome(Verb.RETRY, "t")
    holdings.clear()
    assert (holdings.held, holdings.leaving, holdings.refused) == ({}, {}, {})
