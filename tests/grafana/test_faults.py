"""What dashboards show of a fleet in which something is wrong, or which is not as simple as one app: the real queries,
on a real Prometheus that scrapes exporters whose text is written here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import pytest

from grafana.colors import GOOD, UNKNOWN
from tests.end_to_end.processes import Prometheus, wait_for
from tests.grafana.dashboards import Panel, panels
from tests.grafana.fleet import (
    OBSERVING,
    Dashboard,
    Shown,
    Target,
    all_queries_of,
    app,
    exporter,
    labelled,
    pool,
    queue,
    scheduler,
    task,
    workers,
)

pytestmark = [pytest.mark.tools, pytest.mark.slow]

ONE, OTHER = "valkey:6379/0", "valkey:6379/1"
STORE = "db:5432/shop"
NO_ANSWER = Shown("no answer", UNKNOWN)
OVERDUE = 'flowrra_scheduler_overdue_schedules{job=~"$job"}'
NAMES = 200


class Fleet(NamedTuple):
    """Exporters in jobs, each of which is a case, and who scrapes them."""

    prometheus: Prometheus
    jobs: dict[str, list[Target]]


def worker(*parts: dict) -> Target:  # type: ignore[type-arg]
    return Target(exporter(), app(), task("ship"), *parts)


def knows(name: str, store: str, *tasks: str, marked: str = "") -> Target:
    """A process that knows one task, in a store with a schedule of each of these, of which one can't be read."""
    found = scheduler(store)
    for each in tasks:
        found[labelled("flowrra_schedule_info", schedule=each, task=each, description="", runs="interval 60")] = 1
        if each != marked:
            found[labelled("flowrra_schedule_next_run_timestamp_seconds", schedule=each, task=each)] = time.time() + 60
    found[labelled("flowrra_scheduler_broken_schedules")] = len({*tasks} - {name}) + (name == marked)
    return Target(exporter(), app(), task(name), found)


def jobs() -> dict[str, list[Target]]:
    shared = (queue(ONE, 5, oldest=90), workers(2), scheduler(STORE, "nightly", "hourly"))
    blocked = Target(exporter(failing=("app", "executors", "queue", "workers", "scheduler", "health")), task("ship"))
    blocked.samples |= {labelled("flowrra_healthy"): 0, labelled("flowrra_event_loop_stalls_total"): (1, 0)}
    drained = {labelled("flowrra_queue_drain_seconds", executor="io", queue="default"): 30}
    names = [sample for number in range(NAMES) for sample in task(f"name-{number}", fails=0.001 * number).items()]
    return {
        "killed": [worker(*shared)],
        "half": [worker(*shared), worker(*shared)],
        "databases": [
            worker(queue(ONE, 50), workers(1)),
            worker(queue(ONE, 50), workers(1)),
            worker(queue(OTHER, 30), workers(3)),
        ],
        "prefixes": [worker(queue(ONE, 5, namespace="live")), worker(queue(ONE, 2, namespace="test"))],
        "memory": [
            worker(queue("", 3), workers(1), scheduler("", "a", next_run=1000), drained),
            worker(queue("", 4), workers(1), scheduler("", "b", next_run=2000), drained),
        ],
        "dead-half": [
            worker(queue(ONE, 0), workers(5), scheduler(STORE, "nightly")),
            worker(queue(OTHER, 0), workers(0), scheduler("db:5432/mail", "hourly", running=0)),
        ],
        "pools": [
            worker(queue(ONE, 9, name="slow"), queue(ONE, 0, name="fast"), pool("slow", busy=4)),
            worker(queue(ONE, 9, name="slow"), queue(ONE, 0, name="fast"), pool("fast", busy=0)),
        ],
        # Brokers of the users' own, which tell no server.
        "own-shop": [
            worker(queue("", 5, broker="Polled"), workers(2)),
            worker(queue("", 5, broker="Polled"), workers(2)),
        ],
        "own-mail": [worker(queue("", 7, broker="Polled"), workers(1))],
        "shop": [worker(*shared), worker(*shared)],
        "shop-observer": [Target(exporter("observer", OBSERVING), *shared)],
        "quiet": [worker(queue(ONE, 0), workers(1))],
        "late": [worker(queue(ONE, 9, oldest=4000, dead=2), workers(0), scheduler(STORE, "nightly", overdue=1))],
        "paused": [
            worker(queue(ONE, 9, oldest=4000), {labelled("flowrra_queue_paused", executor="io", queue="default"): 1})
        ],
        # One of its schedules is due, and taken before anybody looks again.
        "moment": [worker(scheduler(STORE, "often"))],
        "blocked": [blocked],
        # One of two is far behind with a schedule.
        "behind": [
            worker(scheduler("", "nightly", next_run=100)),
            worker(scheduler("", "nightly", next_run=-3000)),
        ],
        # Two apps in one store, each of which leaves the other one's schedule to it; and one whose task nobody knows.
        "sharing": [knows(name, "db:5432/both", "charge", "send") for name in ("charge", "send")],
        "orphan": [knows("charge", "db:5432/orphan", "charge", "gone") for _ in range(2)],
        "unreadable": [knows(name, "db:5432/marked", "charge", "send", marked="send") for name in ("charge", "send")],
        # One address of two pods, as long as Prometheus has both: see the fixture.
        "replaced": [worker(queue(ONE, 5), workers(1), pool("default", busy=4), scheduler(STORE, "nightly"))],
        "regex": [worker(task("mail.send"), task("mail_send"), task("resize[large]"), task("a+b"))],
        "many": [Target(exporter(), app(), dict(names))],
        # flowrra 0.1.8, which tells no more than whether it runs.
        "old": [Target(exporter(collectors=("app", "health")), {labelled("flowrra_healthy"): 1})],
        # A stranger: its process is no exporter's.
        "stranger": [
            Target({labelled("process_cpu_seconds_total"): (0, 1), labelled("process_resident_memory_bytes"): 1})
        ],
    }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    found = jobs()
    options: dict[str, dict[str, Any]] = {
        job: {"static_configs": [{"targets": [target.address for target in targets]}]} for job, targets in found.items()
    }
    [both] = options["replaced"]["static_configs"]
    options["replaced"]["static_configs"] = [both | {"labels": {"pod": pod}} for pod in ("old", "new")]
    prometheus = Prometheus(dict.fromkeys(found, ""), tmp_path_factory.mktemp("fleet"), options=options)
    killed = (found["killed"][0], found["half"][0])
    try:
        seen = count()
        while next(seen) < 7:  # so that counters have grown within the whole of a rate's interval
            prometheus.wait_for_scrapes()
        found["moment"][0].samples[labelled("flowrra_scheduler_overdue_schedules")] = 1
        prometheus.wait_for_scrapes()
        for target in killed:
            target.kill()
        wait_for(lambda: len(prometheus.query("up == 0")) == len(killed) or None, 20, "they are down")
        yield Fleet(prometheus, found)
    finally:
        prometheus.close()
        for target in (target for targets in found.values() for target in targets if target not in killed):
            target.kill()


def of(fleet: Fleet, dashboard: str, job: str, **chosen: str) -> Dashboard:
    return Dashboard(fleet.prometheus, dashboard, job=job, **chosen)


# ── a dead target is not green ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dashboard", ["overview", "tasks", "task", "queues", "scheduler", "exporter"])
def test_of_an_app_that_was_killed_nothing_is_known(fleet: Fleet, dashboard: str) -> None:
    tiles = of(fleet, dashboard, "killed").tiles()

    if "Targets up" in tiles:
        assert tiles.pop("Targets up") == Shown("0 of 1", "red")
    assert {shown.text for shown in tiles.values()} == {"no answer"}
    assert {shown.color for shown in tiles.values()} == {UNKNOWN}


def test_of_two_replicas_one_that_was_killed_is_red(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "half")

    assert overview.tile("Targets up") == Shown("1 of 2", "red")
    assert overview.tile("Apps healthy") == Shown("1 of 2", "red")
    assert overview.tile("Waiting").text == "5", "the other one tells it"
    assert sorted(overview.table("Targets", "Target").values()) == [0, 1]


def test_where_all_are_up_it_is_green(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "shop.*")

    assert overview.tile("Targets up") == Shown("3 of 3", "green")
    assert overview.tile("Apps healthy") == Shown("2 of 2", "green"), "an observer has no health of its own"
    assert overview.tile("Event loops blocked") == Shown("none", "green")
    assert overview.tile("Broker and results").text == "in memory"


def test_where_there_are_none_it_is_grey(fleet: Fleet) -> None:
    tiles = of(fleet, "overview", "nobody").tiles()

    assert tiles.pop("Targets up") == Shown("none", UNKNOWN)
    assert set(tiles.values()) == {NO_ANSWER}


def test_a_blocked_loop_is_told_from_a_dead_exporter(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "blocked")

    assert overview.tile("Targets up") == Shown("1 of 1", "green")
    assert overview.tile("Apps healthy") == Shown("0 of 1", "red")
    assert overview.tile("Event loops blocked") == Shown("1", "red")
    assert (
        overview.tile("Waiting") == overview.tile("Oldest waiting") == overview.tile("Schedules overdue") == NO_ANSWER
    )
    assert overview.tile("Collectors failing").text == "6"
    assert [*overview.table("Targets", "Event loop").values()] == [0]


def test_nothing_waits_for_long_where_nothing_waits(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "quiet")

    assert overview.tile("Waiting").text == "0"
    assert overview.tile("Oldest waiting") == Shown("nothing to take", "green")
    assert overview.tile("Schedules overdue") == Shown("no scheduler", UNKNOWN)


def test_what_waits_by_request_is_not_late(fleet: Fleet) -> None:
    assert of(fleet, "overview", "paused").tile("Oldest waiting") == Shown("nothing to take", GOOD)
    assert of(fleet, "queues", "paused").tile("Paused queues").text == "1"


def test_what_is_late_or_dead_is_red(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "late")

    assert overview.tile("Oldest waiting").color == "red"
    assert overview.tile("Worker processes") == Shown("none", "red")
    assert overview.tile("Dead tasks") == Shown("2", "red")
    assert overview.tile("Schedules overdue") == Shown("1", "red")


def test_an_app_of_0_1_8_has_no_answer_for_what_it_does_not_know(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "old")

    assert overview.tile("Apps healthy") == Shown("1 of 1", "green")
    assert overview.tile("Waiting") == overview.tile("Dead tasks") == overview.tile("Worker processes") == NO_ANSWER


def test_a_schedule_that_is_just_due_is_not_overdue(fleet: Fleet) -> None:
    overview, schedules = of(fleet, "overview", "moment"), of(fleet, "scheduler", "moment")

    assert [value for _, value in schedules.ask(OVERDUE)] == [1]
    assert overview.tile("Schedules overdue") == schedules.tile("Overdue") == Shown("none", "green")


def test_of_two_brokers_one_without_workers_is_red(fleet: Fleet) -> None:
    for dashboard in ("overview", "queues"):
        assert of(fleet, dashboard, "dead-half").tile("Worker processes") == Shown("none", "red")


def test_of_two_stores_one_without_a_scheduler_is_red(fleet: Fleet) -> None:
    assert of(fleet, "scheduler", "dead-half").tile("Schedulers running") == Shown("none", "red")


def test_all_slots_of_one_queue_are_busy_however_many_of_another_are_free(fleet: Fleet) -> None:
    assert of(fleet, "queues", "pools").tile("Busy slots") == Shown("1", "orange")
    assert of(fleet, "queues", "memory").tile("Busy slots").color == "green"
    assert of(fleet, "queues", "databases").tile("Busy slots") == Shown("0.25", "green")


# ── shared figures count once ───────────────────────────────────────────────────────────────────────────────────


def test_who_takes_from_a_queue_is_the_same_where_it_is_chosen(fleet: Fleet) -> None:
    assert of(fleet, "queues", "pools", queue="slow").tile("Busy slots").text == "1"


def test_two_databases_are_two_queues_and_two_replicas_see_one(fleet: Fleet) -> None:
    overview, queues = of(fleet, "overview", "databases"), of(fleet, "queues", "databases")

    assert overview.tile("Waiting").text == "80", "50 + 30"
    assert overview.tile("Worker processes").text == "4", "1 + 3"
    assert {row[0]: waiting for row, waiting in queues.table("Queues", "Waiting").items()} == {ONE: 50, OTHER: 30}


def test_two_namespaces_on_one_database_are_two_queues(fleet: Fleet) -> None:
    assert of(fleet, "overview", "prefixes").tile("Waiting").text == "7"


def test_queues_and_schedules_in_memory_are_each_processs_own(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "memory")

    assert overview.tile("Waiting").text == "7"
    assert overview.tile("Worker processes").text == "2"
    assert len(of(fleet, "scheduler", "memory").table("Schedules", "Due in")) == 2


def test_what_is_a_time_is_not_added_up(fleet: Fleet) -> None:
    assert 0 < float(of(fleet, "scheduler", "memory").tile("Next run").text) <= 1000, "the next of the two"
    assert [*of(fleet, "queues", "memory").table("Queues", "Drained in").values()] == [30]


def test_a_broker_that_tells_no_server_is_each_jobs_own(fleet: Fleet) -> None:
    overview = of(fleet, "overview", "own-.*")

    assert overview.tile("Waiting").text == "12", "5 + 7"
    assert overview.tile("Worker processes").text == "3", "2 + 1"


def test_an_observer_in_a_job_of_its_own_doubles_nothing(fleet: Fleet) -> None:
    overview, schedules = of(fleet, "overview", "shop.*"), of(fleet, "scheduler", "shop.*")

    assert overview.tile("Waiting").text == "5"
    assert overview.tile("Worker processes").text == "2"
    assert [value for _, value in schedules.lines("Schedules, by store")] == [2]
    described = ("report", "nightly figures", "cron 0 3 * * *", STORE)
    assert {row[:4] for row in schedules.table("Schedules", "Due in")} == {described}
    assert len(schedules.table("Schedules", "Due in")) == 2
    assert len(of(fleet, "queues", "shop.*").table("Queues", "Oldest")) == 1


def test_of_two_apps_on_one_prometheus_one_can_be_looked_at(fleet: Fleet) -> None:
    assert of(fleet, "overview", "late").tile("Waiting").text == "9"
    assert of(fleet, "overview", "(late|databases)").tile("Waiting").text == "80", "the first database is the same one"


def test_the_figures_of_a_process_that_is_no_exporter_are_left_out(fleet: Fleet) -> None:
    exporters = of(fleet, "exporter", ".+")

    for title in ("CPU", "Memory", "Time to scrape"):
        assert "stranger" not in {labels["job"] for labels, _ in exporters.lines(title)}
    assert exporters.lines("CPU")
    assert not [row for row in exporters.table("Targets", "Target") if row[0] == "stranger"]


# ── many names ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_200_names_a_graph_shows_a_few_and_the_rest_as_one(fleet: Fleet) -> None:
    tasks = of(fleet, "tasks", "many")

    for title, panel in tasks.panels.items():
        if panel.json["type"] == "timeseries":
            assert len(tasks.lines(title)) <= 8, title
    lines = tasks.lines("Started, by task")
    assert len(lines) == 8
    assert sum(value for _, value in lines) == pytest.approx(NAMES + 0.001 * NAMES * (NAMES - 1) / 2, rel=0.02)


def test_of_200_names_those_that_hurt_come_first(fleet: Fleet) -> None:
    assert len(of(fleet, "tasks", "many").table("Tasks by name", "Failed")) == NAMES
    worst = of(fleet, "overview", "many").table("Tasks", "Failed")
    assert set(worst) == {(f"name-{number}",) for number in range(NAMES - 10, NAMES)}


def test_a_task_can_be_looked_at_alone(fleet: Fleet) -> None:
    alone = of(fleet, "task", "many", task="name-199")

    assert float(alone.tile("Attempts").text) == pytest.approx(1.199, rel=0.05)
    assert alone.tile("Failing").color == "red"
    assert len(alone.lines("Run time")) == 3, "a line for each bucket"


@pytest.mark.parametrize("name", ["mail.send", "resize[large]", "a+b"])
def test_a_name_is_no_regular_expression(fleet: Fleet, name: str) -> None:
    assert of(fleet, "task", "regex", task=name).tile("Running") == of(fleet, "task", "quiet", task="ship").tile(
        "Running"
    )


def test_the_worst_of_schedules_in_memory_is_shown(fleet: Fleet) -> None:
    [(_, late)] = of(fleet, "scheduler", "behind").table("Schedules", "Late by").items()
    assert late > 2900


def test_a_process_that_prometheus_has_twice_for_a_while_is_shown(fleet: Fleet) -> None:
    assert of(fleet, "queues", "replaced").tile("Waiting").text == "5"
    assert of(fleet, "queues", "replaced").tile("Busy slots").text == "1"
    assert of(fleet, "scheduler", "replaced").table("Schedules", "Due in")


def test_a_schedule_is_broken_where_no_process_of_its_store_knows_its_task(fleet: Fleet) -> None:
    assert of(fleet, "scheduler", "sharing").tile("Broken").text == "none"
    assert of(fleet, "scheduler", "orphan").tile("Broken").text == "1"
    assert of(fleet, "scheduler", "unreadable").tile("Broken").text == "1"


# ── all of it ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel.where)
def test_prometheus_understands_each_query_whatever_there_is(fleet: Fleet, panel: Panel) -> None:
    for query in all_queries_of(panel):
        fleet.prometheus.query(query)
