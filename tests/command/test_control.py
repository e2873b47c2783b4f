"""What the command does to tasks, queues and workers, and what it asks before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable

import pytest
import redis

from flowrra.management import FlowrraManager
from tests.command import shop
from tests.command.conftest import APP, Flowrra, Process, Ran, finished, until
from tests.redis.apps import QUEUE


@pytest.fixture
def submit(flowrra: Flowrra) -> Callable[..., str]:
    """Submit a task; returns its id."""
    return lambda *arguments: flowrra("submit", *arguments).out.strip()


def statuses(flowrra: Flowrra) -> list[str]:
    return [task["status"] for task in flowrra("tasks", "--json").answer["tasks"]]


def test_submit(flowrra: Flowrra, worker: Process) -> None:
    task_id = flowrra("submit", "send", '{"name": "me"}', "-k", "copies=3", "--task-id", "mine", "--json").answer[
        "task_id"
    ]
    assert task_id == "mine"
    assert finished(flowrra, "mine")["result"] == "3 sent to {'name': 'me'}"


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "[NaN]", "1e999", "[-1e400]", "[" * 60_000, "me", '{"a": 1']
)
def test_what_is_no_json_is_text(flowrra: Flowrra, submit: Callable[..., str], text: str) -> None:
    task_id = submit("send", "-k", "copies=2", "--", text)
    task = flowrra("task", task_id, "--json").answer
    assert (task["args"], task["kwargs"]) == ([text], {"copies": 2})


def test_an_id_is_told_as_text_that_a_terminal_does_not_act_on(flowrra: Flowrra) -> None:
    assert flowrra("submit", "send", "me", "--task-id", "pay-7\n\x1b[2J").out == "pay-7\\n\\x1b[2J\n"


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["nothing"], 1, "Task 'nothing' not registered: expected a task of the app that --app names"),
        (["send"], 2, "missing a required argument: 'to'"),
        (["send", "me", "-k", "copies"], 2, "'copies' is no KEY=VALUE"),
        (["send", "me", "-k", "copies=1", "-k", "copies=2"], 2, "'copies' is given twice"),
        (["send", "me", "--queue", "no queue"], 2, "no queue"),
    ],
)
def test_submissions_that_can_t_be(flowrra: Flowrra, arguments: list[str], status: int, reason: str) -> None:
    ran = flowrra("submit", *arguments)
    assert ran.status == status
    assert reason in ran.reason


def test_a_server_alone_has_no_tasks_to_submit(flowrra: Flowrra, url: str) -> None:
    assert "expected a task of the app that --app names" in flowrra("submit", "send", "me", "--broker", url).reason


def test_cancel_by_id(flowrra: Flowrra, submit: Callable[..., str]) -> None:
    task_id = submit("hold")
    ran = flowrra("cancel", task_id, "nobody")
    assert (ran.status, ran.out.splitlines()) == (1, [f"{task_id}: cancelled", "nobody: not cancelled"])
    assert statuses(flowrra) == ["cancelled"]


def test_cancel_by_filter(flowrra: Flowrra, submit: Callable[..., str]) -> None:
    submit("hold"), submit("hold"), submit("send", "me")
    assert flowrra("cancel", "--name", "hold", "--yes").out == "2 cancelled, 0 left\n"
    assert statuses(flowrra) == ["pending", "cancelled", "cancelled"]


def test_a_running_task_is_cancelled(flowrra: Flowrra, submit: Callable[..., str], worker: Process) -> None:
    task_id = submit("hold")
    until(lambda: statuses(flowrra) == ["running"])
    assert flowrra("cancel", task_id).status == 0
    assert finished(flowrra, task_id)["status"] == "cancelled"


@pytest.mark.parametrize("command", ["cancel", "requeue", "forget"])
def test_ids_or_options_but_not_both_and_not_none(flowrra: Flowrra, command: str) -> None:
    for arguments in ([], ["some", "--name", "hold"]):
        ran = flowrra(command, *arguments)
        assert ran.status == 2
        assert "Give either the ids of tasks or options that say which are meant: --" in ran.reason


@pytest.mark.slow
def test_retry(flowrra: Flowrra, submit: Callable[..., str], worker: Process) -> None:
    task_id = submit("fail")
    finished(flowrra, task_id)
    new_id = flowrra("retry", task_id, "--json").answer[task_id]
    assert finished(flowrra, new_id)["retry_of"] == task_id
    assert flowrra("retry", task_id).out == f"{task_id}: runs anew as {new_id}\n"


@pytest.mark.slow
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_was_run_anew_is_told_before_an_error(
    flowrra: Flowrra, submit: Callable[..., str], worker: Process, form: list[str]
) -> None:
    task_id = submit("fail")
    finished(flowrra, task_id)
    ran = flowrra("retry", task_id, "nobody", *form)
    assert ran.status == 1
    assert flowrra("task", task_id, "--json").answer["retried_as"] in ran.out
    assert "nobody" in ran.reason


def test_retry_of_what_is_unknown_or_unfinished(flowrra: Flowrra, submit: Callable[..., str]) -> None:
    assert flowrra("retry", "nobody").status == 1
    ran = flowrra("retry", submit("hold"))
    assert ran.status == 2
    assert "only one that has finished is run anew" in ran.reason


@pytest.fixture
def dead(url: str, flowrra: Flowrra, look: redis.Redis) -> list[str]:
    """The ids of two tasks that were given up, as nobody can read them."""
    for number in (b"first", b"second"):
        look.rpush(QUEUE, number)
    with Process(url, "worker", APP):
        until(lambda: len(flowrra("dead", "--json").answer) == 2)
    return [task["task_id"] for task in flowrra("dead", "--json").answer]


def test_dead_tasks(flowrra: Flowrra, dead: list[str]) -> None:
    assert [row[0] for row in flowrra("dead").rows] == dead
    assert flowrra("forget", dead[0], "--yes").out == f"{dead[0]}: deleted\n"
    assert flowrra("requeue", "nobody").status == 1
    assert flowrra("requeue", "--name", "send").out == "0 pending again, 0 left\n"
    assert flowrra("requeue", "--all").out == "1 pending again, 0 left\n"
    assert flowrra("dead", "--json").answer == []


def test_purge(flowrra: Flowrra, submit: Callable[..., str]) -> None:
    submit("send", "me"), submit("hold")
    assert flowrra("purge", "mail", "--yes", "--json").answer == {"done": 1, "left": 0}
    assert statuses(flowrra) == ["pending", "cancelled"]


def test_pauses(flowrra: Flowrra) -> None:
    said = [flowrra(*words.split()).out for words in ("pause mail", "pause mail", "resume mail", "resume mail")]
    assert said == [
        "Queue mail is paused\n",
        "Queue mail is paused already\n",
        "Queue mail is resumed\n",
        "Queue mail is not paused\n",
    ]
    assert flowrra("pause", "--task", "send", "--json").answer == {"changed": True}
    assert flowrra("resume", "--task", "send").out == "Task send is resumed\n"
    assert flowrra("pause").status == flowrra("pause", "mail", "--task", "send").status == 2
    assert flowrra("pause", "no queue").status == 2


def test_what_is_paused_is_shown(flowrra: Flowrra) -> None:
    flowrra("pause", "mail")
    assert flowrra("stats", "--json").answer["paused"] == ["mail (io)"]
    assert flowrra("queues").rows[1][-1] == "yes"


@pytest.mark.slow
def test_resize_and_drain(flowrra: Flowrra, worker: Process) -> None:
    (known,) = flowrra("workers", "--json").answer
    assert flowrra("resize", "io", "9").out == "1 worker told to run 9 io tasks at once\n"
    assert flowrra("drain", known["id"]).out == f"Worker {known['id']} drains\n"
    until(lambda: flowrra("workers", "--json").answer[0]["draining"])
    assert flowrra("workers", "--json").answer[0]["executors"]["io"]["slots"] == 9
    assert (ran := flowrra("health")).status == 1
    assert "workers: 1 alive, 1 draining" in ran.out
    assert flowrra("resume-worker", known["id"]).out == f"Worker {known['id']} takes tasks again\n"
    assert flowrra("drain", "nobody").status == 2
    assert flowrra("drain", "all").status == flowrra("resume-worker", "all").status == 2
    assert "the id of one worker" in flowrra("drain", "all").reason
    until(lambda: not flowrra("workers", "--json").answer[0]["draining"])
    assert flowrra("resize", "io", "0").status == 2


# Before something is destroyed.


@pytest.mark.slow
@pytest.mark.parametrize("command", [["purge", "mail"], ["cancel", "--name", "send"], ["forget", "--all"]])
def test_nobody_can_be_asked(url: str, flowrra: Flowrra, submit: Callable[..., str], command: list[str]) -> None:
    submit("send", "me")
    with Process(url, *command, "-A", APP) as process:
        ran = process.end()
    assert ran.status == 2
    assert ran.reason.endswith("Nobody can be asked here: give --yes")
    assert statuses(flowrra) == ["pending"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "status", "left"), [(b"y\n", 0, "cancelled"), (b"n\n", 130, "pending"), (b"", 130, "pending")]
)
def test_somebody_is_asked(
    url: str, flowrra: Flowrra, submit: Callable[..., str], answer: bytes, status: int, left: str
) -> None:
    submit("send", "me")
    ran, shown = at_terminal(url, "purge", "mail", "-A", APP, question=b"[y/N]: ", answer=answer)
    assert "Cancel the tasks that wait in the queue mail?" in shown
    assert ran.status == status
    assert statuses(flowrra) == [left]


def at_terminal(url: str, *arguments: str, question: bytes, answer: bytes) -> tuple[Ran, str]:
    """Run the command at a pseudo-terminal that answers its question; without an answer, as Ctrl-C does."""
    ours, theirs = pty.openpty()
    with Process(url, *arguments, stdin=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while question not in shown:
            shown += os.read(ours, 1000)
        # Again and again: the question is shown before the terminal is read, and what came earlier may be dropped. A
        # signal less often, as a second one would find a process that ends.
        while process.popen.poll() is None:
            os.write(ours, answer) if answer else process.popen.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(0.2 if answer else 4)
        ran = process.end()
    os.close(ours)
    return ran, shown.decode()


# Watching.


@pytest.mark.slow
async def test_watch(url: str, flowrra: Flowrra) -> None:
    with Process(url, "watch", "-A", APP, "--name", "hold") as process:
        async with shop.app.producer() as producer:
            manager = FlowrraManager(producer)
            assert process.popen.stdout is not None
            # Until it watches, nothing is told: it is asked again and again.
            reading = asyncio.ensure_future(asyncio.to_thread(process.popen.stdout.readline))
            while not reading.done():
                await manager.cancel_task(await producer.submit("hold"))
                await asyncio.wait({reading}, timeout=0.1)
        ran = process.end(signal.SIGINT)
    assert "hold  pending" in reading.result() or "hold  cancelled" in reading.result()
    assert (ran.status, ran.err.strip()) == (130, "")


@pytest.mark.slow
def test_watching_one_ends_with_it(flowrra: Flowrra, submit: Callable[..., str], worker: Process) -> None:
    sent, failed, copied = submit("send", "me"), submit("fail"), submit("copy", "1")
    watched = flowrra("watch", "--task", copied)
    assert watched.status == 0
    assert watched.out.splitlines()[-1].endswith(f"{copied}  copy  success  1 of 1 file 1")
    finished(flowrra, failed)
    ran = flowrra("watch", "--task", failed)
    assert ran.status == 1
    assert ran.out.strip().endswith(f"{failed}  fail  failed  ValueError: boom")
    finished(flowrra, sent)
    assert json.loads(flowrra("watch", "--task", sent, "--json").out)["task"]["status"] == "success"


def test_watching_one_that_nobody_knows(flowrra: Flowrra) -> None:
    ran = flowrra("watch", "--task", "nobody")
    assert (ran.status, ran.reason) == (1, "Task 'nobody' not found: it was never submitted, or its result has expired")


async def test_how_far_a_call_on_many_is(url: str) -> None:
    shop.use(url)
    async with shop.app.producer() as producer:
        manager, told = FlowrraManager(producer), list[int]()
        await producer.submit_many([("hold", (), {})] * 250)
        assert await manager.cancel_tasks(name="hold", limit=120, progress=told.append) == {"done": 120, "left": 130}
        assert (told[-1], sorted(told)) == (120, told)
        told.clear()
        assert await manager.purge_queue(progress=told.append) == {"done": 130, "left": 0}
        assert told == [100, 130]
