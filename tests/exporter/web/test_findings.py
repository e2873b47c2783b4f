"""What the overview says is wrong: which figures lead to which finding, in which order, and what isn't told twice."""

from __future__ import annotations

import pytest
from flowrra_exporter.app.lifecycle import Phase
from flowrra_exporter.app.stall import Stall
from flowrra_exporter.probes.check import Check
from flowrra_exporter.web.console.findings import ExecutorFacts, Facts, NameFacts, QueueFacts, find

STALL = Stall(None, 12.0, "export (id-1)", "/srv/app/shop.py:7 in export: time.sleep(60)")
REFUSED = "Error 111 connecting to redis:6379"


def told(facts: Facts) -> list[tuple[str, str]]:
    return [(each.level, each.words) for each in find(facts)]


def sentence(facts: Facts) -> str:
    return find(facts)[0].sentence


def full(**changes: float | bool) -> ExecutorFacts:
    return ExecutorFacts("io", **{"slots": 4, "busy": 4, **changes})


def waiting(
    pending: float = 100,
    waits: float = 40.0,
    queue: str = "default",
    executor: str = "io",
    **changes: float | bool | None,
) -> QueueFacts:
    return QueueFacts(queue, executor, pending, waits, **changes)  # type: ignore[arg-type]


def test_nothing_is_wrong_while_all_is_well() -> None:
    busy = ExecutorFacts("io", slots=4, busy=3)
    facts = Facts(
        components=[Check("app", True, "running"), Check("broker", True, "ok")],
        executors=[busy],
        queues=[waiting(7, 0.4)],
        workers=3,
        names=[NameFacts("mail", 1000, 2, 0.002)],
    )
    assert find(facts) == []


def test_nothing_is_wrong_as_far_as_nothing_is_known() -> None:
    assert find(Facts()) == []


@pytest.mark.parametrize(
    ("phase", "level", "words"),
    [
        (Phase.FAILED, "bad", "Failed"),
        (Phase.STARTING, "busy", "Starting"),
        (Phase.DRAINING, "busy", "Shutting down"),
        (Phase.STOPPED, "busy", "Stopped"),
    ],
)
def test_an_app_that_does_not_run_is_the_whole_story(phase: Phase, level: str, words: str) -> None:
    facts = Facts(phase=phase, message="why it is so", queues=[waiting()], workers=0, collectors=["app"])
    assert told(facts) == [(level, words)]
    assert sentence(facts) == "Why it is so."


def test_a_blocked_loop_is_told_once_with_its_culprit_and_explains_what_is_not_known() -> None:
    unknown = Check("event_loop", False, "event loop blocked for 12.0 s")
    facts = Facts(blocked=STALL, components=[unknown], collectors=["app", "queue"], workers=0, queues=[waiting()])
    assert told(facts) == [("bad", "Event loop blocked")]
    assert "for 12 s by task export (id-1) at shop.py:7 in export: time.sleep(60)" in sentence(facts)


def test_a_loop_that_is_silent_for_a_moment_is_not_an_emergency() -> None:
    assert told(Facts(blocked=STALL._replace(seconds=0.3))) == [("busy", "Event loop blocked")]


def test_failures_are_told_beside_a_blocked_loop_as_they_are_counted_without_it() -> None:
    facts = Facts(blocked=STALL, names=[NameFacts("mail", 10, 10, 1.0)])
    assert told(facts) == [("bad", "Event loop blocked"), ("bad", "Tasks fail")]


def test_a_server_that_is_broker_and_backend_is_away_once() -> None:
    facts = Facts(
        components=[
            Check("broker", False, REFUSED),
            Check("backend", False, REFUSED),
            Check("io_executor", False, "?"),
        ],
        collectors=["app", "queue", "workers"],
        workers=0,
        queues=[waiting()],
    )
    assert told(facts) == [("bad", "Broker and result backend away")]
    assert sentence(facts) == f"{REFUSED}."


def test_a_backend_alone_is_away() -> None:
    assert told(Facts(components=[Check("backend", False, REFUSED)])) == [("bad", "Result backend away")]


def test_an_executor_whose_slots_all_hang_is_stuck_and_that_explains_the_backlog() -> None:
    hang = Check(
        "io_executor", True, "degraded: tasks wait, and all 4 workers are in tasks that hang: slow (4, since 9)"
    )
    facts = Facts(components=[hang], executors=[full(stuck=True)], queues=[waiting(waits=900.0, growth=2.0)])
    assert told(facts) == [("bad", "Executor io stuck")]
    assert sentence(facts) == "Tasks that hang hold all slots, and 100 tasks wait behind them: slow (4, since 9)."
    assert find(facts)[0].page == "/running"


def test_slots_that_are_all_taken_while_nothing_ends_are_no_progress_long_before_tasks_are_known_to_hang() -> None:
    facts = Facts(executors=[full()], queues=[waiting(waits=31.0)], idle=31.0, running=[("call", 3), ("ask", 1)])
    assert told(facts) == [("bad", "No progress in executor io")]
    assert "All 4 slots are taken, no attempt has ended for 31 s, and 100 tasks wait" in sentence(facts)
    assert sentence(facts).replace("\u2068", "").replace("\u2069", "").endswith("There run: call × 3, ask × 1.")  # noqa: RUF001


def test_slots_that_are_all_taken_while_attempts_end_are_merely_busy() -> None:
    facts = Facts(executors=[full()], queues=[waiting(waits=20.0)], idle=0.0)
    assert told(facts) == [("busy", "All slots taken")]


def test_tasks_that_nobody_takes() -> None:
    facts = Facts(queues=[waiting(pending=1, waits=900.0)], workers=0)
    assert told(facts) == [("bad", "No worker")]
    assert sentence(facts) == "1 task waits, and no live process takes any."


def test_no_worker_is_no_news_while_nothing_waits() -> None:
    assert find(Facts(queues=[waiting(pending=0, waits=0.0)], workers=0)) == []


def test_a_paused_queue_with_waiting_tasks_is_told_and_is_no_backlog() -> None:
    facts = Facts(queues=[waiting(waits=900.0, paused=True, growth=1.0)], workers=1)
    assert told(facts) == [("busy", "Queue paused")]
    assert find(Facts(queues=[QueueFacts("default", "io", 0, None, paused=True)])) == []


def test_an_executor_that_drains_explains_that_its_tasks_wait() -> None:
    facts = Facts(executors=[full(draining=True, busy=0)], queues=[waiting(waits=900.0)])
    assert told(facts) == [("busy", "Draining")]


@pytest.mark.parametrize(
    ("waits", "growth", "expected"),
    [
        (40.0, 3.0, [("busy", "Backlog grows")]),
        (400.0, 3.0, [("bad", "Backlog grows")]),
        (400.0, -3.0, [("busy", "Tasks wait long")]),
        (400.0, None, [("busy", "Tasks wait long")]),
        (40.0, -3.0, []),
        (5.0, 300.0, []),
    ],
)
def test_a_backlog_is_judged_by_its_age_and_by_whether_it_grows(
    waits: float, growth: float | None, expected: list[tuple[str, str]]
) -> None:
    assert told(Facts(queues=[waiting(waits=waits, growth=growth)], workers=2)) == expected


def test_what_explains_one_queue_explains_no_other() -> None:
    paused = waiting(0, 0.0, "mail", paused=True)
    assert told(Facts(queues=[paused, waiting(waits=400.0, growth=3.0)])) == [("bad", "Backlog grows")]
    stuck = ExecutorFacts("cpu", slots=1, busy=1, stuck=True)
    facts = Facts(executors=[stuck], queues=[waiting(waits=400.0)])
    assert told(facts) == [("bad", "Executor cpu stuck"), ("busy", "Tasks wait long")]
    still = ExecutorFacts("cpu", slots=1, busy=1)
    facts = Facts(executors=[still], queues=[waiting(executor="cpu"), waiting(waits=400.0)], idle=31.0)
    assert told(facts) == [("bad", "No progress in executor cpu"), ("busy", "Tasks wait long")]


def test_a_backlog_is_that_of_the_queue_that_grows() -> None:
    draining = waiting(7, 400.0, "reports", growth=-1.0)
    grows = waiting(90, 40.0, "mail", growth=2.0)
    assert told(Facts(queues=[draining, grows])) == [("busy", "Backlog grows"), ("busy", "Tasks wait long")]
    assert sentence(Facts(queues=[draining, grows])) == (
        "90 tasks wait, the oldest for 40 s in mail (io); 2.0/s more come than are taken."
    )
    fresh = waiting(90, 1.0, "mail", growth=2.0)
    assert told(Facts(queues=[draining, fresh])) == [("busy", "Tasks wait long")]


def test_slots_that_are_all_taken_are_those_of_the_executor_whose_tasks_wait() -> None:
    cpu = ExecutorFacts("cpu", slots=1, busy=1)
    idle = ExecutorFacts("io", slots=4, busy=1)
    assert told(Facts(executors=[idle, cpu], queues=[waiting(waits=20.0)])) == []
    facts = Facts(executors=[idle, cpu], queues=[waiting(waits=20.0), waiting(3, 16.0, executor="cpu")])
    assert sentence(facts) == "3 tasks wait for one, the oldest for 16 s."


def test_tasks_of_a_paused_queue_wait_for_no_slot() -> None:
    paused = waiting(900, 900.0, "mail", paused=True)
    assert told(Facts(executors=[full()], queues=[paused], idle=31.0)) == [("busy", "Queue paused")]


@pytest.mark.parametrize(
    ("failed", "finished", "expected"),
    [
        (2, 2, []),  # too few to be a rate
        (3, 100, []),  # too small a part
        (5, 100, [("busy", "Tasks fail")]),
        (50, 100, [("bad", "Tasks fail")]),
    ],
)
def test_names_fail_by_how_many_and_which_part_of_them_failed(
    failed: int, finished: int, expected: list[tuple[str, str]]
) -> None:
    assert told(Facts(names=[NameFacts("mail", finished, failed, failed / finished)])) == expected


def test_the_names_that_fail_the_most_are_named() -> None:
    names = [NameFacts(f"task-{number}", 10, number, number / 10) for number in range(3, 9)]
    text = sentence(Facts(names=names))
    assert [text.index(f"task-{number}") for number in (8, 7, 6)] == sorted(text.index(f"task-{n}") for n in (8, 7, 6))
    assert "task-5" not in text
    assert text.endswith("; and 3 more names.")


def test_where_nobody_counts_attempts_the_records_tell_of_failures() -> None:
    assert told(Facts(listed_failures=3)) == [("busy", "Tasks fail")]
    assert find(Facts(listed_failures=2)) == []


@pytest.mark.parametrize(("listed", "said"), [(99, "99 tasks failed"), (100, "100 or more tasks failed")])
def test_of_more_failures_than_are_listed_nobody_knows_how_many(listed: int, said: str) -> None:
    (finding,) = find(Facts(listed_failures=listed))
    assert finding.sentence.startswith(said)


@pytest.mark.parametrize(
    ("facts", "level", "words", "page"),
    [
        (Facts(queues=[waiting(0, 0.0, dead=2)]), "busy", "Dead tasks", "/dead"),
        (Facts(queues=[waiting(0, 0.0, unknown=1)]), "busy", "Unknown tasks", "/queues"),
        (Facts(overdue=1), "bad", "Schedules overdue", "/schedules"),
        (Facts(broken=1), "bad", "Schedules broken", "/schedules"),
        (Facts(broken=1, workers=1), "bad", "Schedules broken", "/schedules"),
        (Facts(broken=1, workers=2), "busy", "Schedules broken", "/schedules"),  # the other may run it
        (Facts(missed=2), "busy", "Schedules missed", "/schedules"),
        (Facts(redelivered=2), "busy", "Workers died", "/workers"),
        (Facts(unfit=["no_persistence"]), "busy", "Broker unfit", "/queues"),
        (Facts(collectors=["queue"]), "busy", "Collectors fail", ""),
        (Facts(components=[Check("scheduler", False, "not running")]), "bad", "Scheduler unhealthy", "/schedules"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_of_the_rest_has_a_page_that_shows_more(facts: Facts, level: str, words: str, page: str) -> None:
    (found,) = find(facts)
    assert (found.level, found.words, found.page) == (level, words, page)
    assert found.sentence.endswith(".")


def test_the_worst_comes_first() -> None:
    facts = Facts(queues=[waiting(0, 0.0, dead=2)], overdue=1, missed=1, collectors=["queue"])
    assert [each.level for each in find(facts)] == ["bad", "busy", "busy", "busy"]


def test_a_collector_of_our_own_fails_for_reasons_of_its_own() -> None:
    facts = Facts(components=[Check("broker", False, REFUSED)], collectors=["app", "python", "queue"])
    assert told(facts) == [("bad", "Broker away"), ("busy", "Collectors fail")]
    assert "these fail: python." in find(facts)[1].sentence
