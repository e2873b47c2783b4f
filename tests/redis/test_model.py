"""Random histories of a queue against a model of it: whatever happens in whatever order, each task that was accepted is
in exactly one place, and the figures say where."""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, codec
from flowrra.brokers.base import Cancellation, LeasingBroker, Outcome, QueuedTask, Verb, Verdict
from flowrra.partitions import cell_namespace, partition_of
from flowrra.task import Task, TaskResult, TaskStatus
from tests.redis.apps import leftovers, let_lapse

SEEDS = int(os.environ.get("FLOWRRA_MODEL_SEEDS", "12"))
STEPS = 150
HOUR = 3600.0
WORKERS = 3
IDS = 12
SORTED_SETS = {"ready", "since", "delayed", "leases", "unknown:of:work", "dead"}
FINISHED = {TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED}


@dataclass
class Modelled:
    """What the model knows of one task."""

    place: str = "pending"  # pending, delayed, held, unknown, finished, dead
    priority: int = 0
    order: int = 0
    text: str = ""
    holder: int = -1
    deliveries: int = 0
    is_cancelled: bool = False
    number: int = 0  # of the latest delivery


@dataclass
class Mark:
    """What the server remembers of the latest hold of an id that has ended but for its task's end."""

    is_settled: bool
    number: int

    def outdates(self, number: int) -> bool:
        return 0 < number < self.number or (self.is_settled and number <= self.number)


class Model:
    """A queue with workers that crash, and the same in Python.

    Args:
        url: The server's address.
        look: A client of it.
        seed: What happens, and in which order.
        partitions: How many the queue has; 1 is a queue without any.
    """

    def __init__(self, url: str, look: redis.Redis, seed: int, partitions: int) -> None:
        self.chance = random.Random(seed)
        self.look = look
        self.namespaces = (
            [cell_namespace("flowrra", n, partitions) for n in range(partitions)] if partitions > 1 else ["flowrra"]
        )
        self.results = BackendConfig(url=url, partitions=partitions).create_backend()
        self.workers = [self._broker(url) for _ in range(WORKERS)]
        self.url = url
        self.knowing: set[int] = set()
        self.is_paused = self.is_name_paused = False
        self.tasks: dict[str, Modelled] = {}
        self.marks: dict[str, Mark] = {}
        # By worker and id, the numbers of all deliveries.
        self.given: dict[tuple[int, str], list[int]] = defaultdict(list)
        self.order = 0
        self.history: list[str] = []

    def _broker(self, url: str) -> LeasingBroker:
        broker = BrokerConfig(url=url, partitions=len(self.namespaces), lease=HOUR).create_broker(":io")
        assert isinstance(broker, LeasingBroker)
        assert broker.keeps_records_of(self.results)
        return broker

    def cell_of(self, task_id: str) -> str:
        """The key of the queue in which a task is."""
        return f"{self.namespaces[partition_of(task_id, len(self.namespaces))]}:queue:io"

    def members(self, part: str) -> list[str]:
        """What is in a part of the queue, in all partitions."""
        keys = [f"{namespace}:queue:io:{part}" for namespace in self.namespaces]
        if part in SORTED_SETS:
            found = [self.look.zrange(key, 0, -1) for key in keys]
        else:
            found = [(self.look.smembers if part == "unknown:names" else self.look.hkeys)(key) for key in keys]
        return [member.decode() for members in found for member in members]  # type: ignore[union-attr]

    async def close(self) -> None:
        for each in (*self.workers, self.results):
            await each.close()

    def ids(self, *places: str) -> list[str]:
        return [task_id for task_id, task in self.tasks.items() if task.place in places]

    def _next_order(self) -> int:
        self.order += 1
        return self.order

    def _make_ready(self, task: Modelled, *, keeps_place: bool = False) -> None:
        task.place, task.holder = "pending", -1
        if not keeps_place:
            task.order = self._next_order()

    def _forget(self, task: Modelled, place: str) -> None:
        task.place, task.holder, task.is_cancelled = place, -1, False

    def _due_order(self, number: int) -> list[str]:
        """What a worker is given next: what is due, and what waits for one that knows it, unless it is paused."""
        if self.is_paused:
            return []
        waits = number in self.knowing and not self.is_name_paused
        ids = self.ids("pending", "unknown") if waits else self.ids("pending")
        return sorted(ids, key=lambda task_id: (self.tasks[task_id].priority, self.tasks[task_id].order))

    # ── steps ───────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self) -> None:
        entries = []
        for task_id in self.chance.sample([f"t{n}" for n in range(IDS)], self.chance.randint(1, 3)):
            delay = self.chance.choice([0.0, 0.0, HOUR])
            task = Task(task_id, "work", (), {}, priority=self.chance.randint(-1, 1))
            record = TaskResult(task_id, TaskStatus.PENDING, "work", submitted_at=datetime.now(UTC))
            call = codec.encode_call((), {}, "work")
            text, kept = codec.encode_task(task, record.submitted_at, call), codec.encode_record(record, call)
            entries.append(QueuedTask(task_id, task.priority, delay, text, kept))
        added = await self.chance.choice(self.workers).submit(entries)
        for entry, is_new in zip(entries, added, strict=True):
            assert is_new is (entry.task_id not in self.tasks), entry.task_id
            order = self._next_order()
            if is_new:
                place = "delayed" if entry.delay else "pending"
                self.tasks[entry.task_id] = Modelled(place, int(entry.priority), order, entry.text)

    async def take(self) -> None:
        number = self.chance.randrange(WORKERS)
        due, limit = self._due_order(number), self.chance.randint(0, 4)
        deliveries, _ = await self.workers[number].take(limit)
        assert len(deliveries) == min(limit, len(due))
        for cell in {self.cell_of(task_id) for task_id in due}:  # the order of each holds
            taken = [each.task_id for each in deliveries if self.cell_of(each.task_id) == cell]
            assert taken == [each for each in due if self.cell_of(each) == cell][: len(taken)]
        for each in deliveries:
            task = self.tasks[each.task_id]
            assert (each.deliveries, each.is_cancelled) == (task.deliveries, task.is_cancelled)
            assert each.is_paused is self.is_name_paused
            task.place, task.holder, task.number = "held", number, each.number
            self.given[number, each.task_id].append(each.number)

    async def settle(self) -> None:
        """By whoever holds them, or by one who no longer does; perhaps of an earlier delivery, or once more."""
        known = list(self.tasks)
        if not known:
            return
        number = self.chance.randrange(WORKERS)
        outcomes = [
            self._outcome(self.chance.choice([*Verb, Verb.COMPLETE]), task_id, self.given[number, task_id])
            for task_id in self.chance.sample(known, min(len(known), self.chance.randint(1, 4)))
        ]
        expected = [self._expected(outcome, number) for outcome in outcomes]
        assert await self.workers[number].settle(outcomes) == expected, outcomes
        for outcome, verdict in zip(outcomes, expected, strict=True):
            task = self.tasks[outcome.task_id]
            if verdict is Verdict.SETTLED:
                self._settled(task, outcome, number)
            elif verdict is Verdict.LATE and outcome.verb is not Verb.RUNNING:
                self._late(task, outcome)

    def _late(self, task: Modelled, outcome: Outcome) -> None:
        """Its worker lives: that takes back what its lapse counted for, once."""
        mark = self.marks.get(outcome.task_id)
        if task.deliveries and not (mark and mark.outdates(outcome.delivery)):
            task.deliveries -= 1
            self.marks[outcome.task_id] = Mark(True, mark.number if mark else outcome.delivery)

    def _outcome(self, verb: Verb, task_id: str, numbers: list[int]) -> Outcome:
        status = {
            Verb.COMPLETE: self.chance.choice([TaskStatus.SUCCESS, TaskStatus.FAILED]),
            Verb.DEAD_LETTER: TaskStatus.FAILED,
            Verb.RUNNING: TaskStatus.RUNNING,
            Verb.RETRY: TaskStatus.RETRYING,
        }.get(verb)
        record, text = None, ""
        if status is not None:
            record = codec.encode_record(TaskResult(task_id, status, "work", submitted_at=datetime.now(UTC)))
        if verb is Verb.RETRY:
            task = Task(task_id, "work", (), {}, current_retry=self.chance.randint(1, 2))
            text = codec.encode_task(task, None, codec.encode_call((), {}, "work"))
        elif verb is Verb.NACK:
            text = "work"
        elif verb is Verb.DEAD_LETTER:
            text = "a reason"
        number = self.chance.choice(numbers) if numbers else 0
        return Outcome(verb, task_id, HOUR if verb is Verb.RETRY else 0.0, text, record, delivery=number)

    def _expected(self, outcome: Outcome, number: int) -> Verdict:
        task, verb = self.tasks[outcome.task_id], outcome.verb
        is_success = outcome.record is not None and outcome.record.status == "success"
        is_held, mark = task.place == "held", self.marks.get(outcome.task_id)
        is_outdated = mark is not None and mark.outdates(outcome.delivery)
        is_settled = mark is not None and mark.is_settled
        is_told_again = is_settled and outcome.delivery == mark.number > 0  # type: ignore[union-attr]
        if is_held and task.holder == number and (outcome.delivery in (0, task.number) or not is_outdated):
            return Verdict.SETTLED
        if task.place == "finished":
            return Verdict.KNOWN if is_told_again else Verdict.OVER
        if is_success:  # the first one counts, whoever tells it
            return Verdict.SETTLED
        if task.place == "dead":
            return Verdict.OVER
        if verb is not Verb.RUNNING and (is_told_again or (is_settled and not outcome.delivery and not is_held)):
            return Verdict.KNOWN
        if is_outdated:
            return Verdict.LATE
        if task.place == "pending" and verb is not Verb.RUNNING:  # nobody else has begun
            return Verdict.SETTLED
        is_waiting = task.place in ("delayed", "unknown")
        is_repeated = (is_waiting and verb is Verb.RETRY and task.text == outcome.text) or (
            task.place == "unknown" and verb is Verb.NACK
        )
        return Verdict.KNOWN if is_repeated else Verdict.LATE

    def _settled(self, task: Modelled, outcome: Outcome, number: int) -> None:
        verb = outcome.verb
        held = task.number if task.place == "held" and task.holder == number else 0
        if verb not in (Verb.RUNNING, Verb.COMPLETE):
            self.marks[outcome.task_id] = Mark(True, max(outcome.delivery, held))
        elif verb is Verb.COMPLETE and task.place == "held" and not held:
            self.marks[outcome.task_id] = Mark(False, task.number)
        if verb is Verb.COMPLETE:
            self._forget(task, "finished")
        elif verb is Verb.DEAD_LETTER:
            self._forget(task, "dead")
        elif verb is Verb.RELEASE:
            self._make_ready(task, keeps_place=True)
        elif verb is Verb.NACK:
            task.place, task.holder = "unknown", -1
        elif verb is Verb.RETRY:
            task.text, task.deliveries = outcome.text, 0
            if task.is_cancelled:
                self._make_ready(task)
            else:
                task.place, task.holder = "delayed", -1

    async def announce(self) -> None:
        """A worker comes to know the tasks' name, or is replaced by one that doesn't."""
        number = self.chance.randrange(WORKERS)
        self.knowing ^= {number}
        names = ["work", "other"] if number in self.knowing else ["other"]
        answer = await asyncio.to_thread(self.workers[number].announce, None, names, HOUR)
        assert answer == (True, [])

    async def pause(self) -> None:
        """The queue, or the tasks' name, is paused or resumed, or was already."""
        wanted = self.chance.random() < 0.5
        if self.chance.random() < 0.5:
            assert await self.workers[0].pause_queue("default", wanted) is (wanted is not self.is_paused)
            self.is_paused = wanted
        else:
            assert await self.workers[0].pause_name("work", wanted) is (wanted is not self.is_name_paused)
            self.is_name_paused = wanted

    async def lapse(self) -> None:
        """A worker crashes: all that it holds lapses, and is there for the next take."""
        number = self.chance.randrange(WORKERS)
        lost = [task_id for task_id in self.ids("held") if self.tasks[task_id].holder == number]
        for task_id in lost:
            let_lapse(self.look, task_id, queue=self.cell_of(task_id))
        await self.workers[number].take(0)
        for task_id in lost:
            self.tasks[task_id].deliveries += 1
            self.marks[task_id] = Mark(False, self.tasks[task_id].number)
            self._make_ready(self.tasks[task_id], keeps_place=True)

    async def jump(self) -> None:
        """The clock goes on by hours: everything that was delayed is due, in the order of its times."""
        times = {each: self.look.zscore(f"{self.cell_of(each)}:delayed", each) for each in self.ids("delayed")}
        due = sorted(times, key=lambda each: (times[each], each))
        for n, task_id in enumerate(due):
            self.look.zadd(f"{self.cell_of(task_id)}:delayed", {task_id: 1 + n}, xx=True)
        await self.workers[0].take(0)
        for task_id in due:
            self._make_ready(self.tasks[task_id])

    async def renew(self) -> None:
        number = self.chance.randrange(WORKERS)
        asked = self.chance.sample(list(self.tasks), min(len(self.tasks), 4))
        renewal = await asyncio.to_thread(self.workers[number].renew, asked)
        others = [each for each in asked if self.tasks[each].holder != number]
        assert [each for each in others if each in renewal.lost or each in renewal.missing] == others
        assert len(renewal.lost) + len(renewal.missing) == len(others)
        # What is over may have been forgotten; what is somewhere in the queue never is.
        assert all(self.tasks[each].place == "finished" for each in renewal.missing)
        assert sorted(renewal.cancelled) == sorted(each for each in asked if self.tasks[each].is_cancelled)

    async def cancel(self) -> None:
        if not self.tasks:
            return
        task_id = self.chance.choice(list(self.tasks))
        task = self.tasks[task_id]
        record = TaskResult(task_id, TaskStatus.CANCELLED, "work", submitted_at=datetime.now(UTC))
        answer = await self.chance.choice(self.workers).cancel(record)
        if task.place in ("pending", "delayed", "unknown"):
            assert answer is Cancellation.CANCELLED
            self._forget(task, "finished")
        elif task.place == "held":
            assert answer is (Cancellation.ASKED if task.is_cancelled else Cancellation.RUNNING)
            task.is_cancelled = True
        else:
            assert answer is Cancellation.UNKNOWN

    async def requeue(self) -> None:
        if not self.tasks:
            return
        task_id = self.chance.choice(list(self.tasks))
        task = self.tasks[task_id]
        record = TaskResult(task_id, TaskStatus.PENDING, "work", submitted_at=datetime.now(UTC))
        answer = await self.workers[0].requeue_dead(task_id, record)
        assert answer is (task.place == "dead")
        if answer:
            task.deliveries = 0
            self._make_ready(task)

    async def forget_finished(self) -> None:
        """Records expire; their ids may be used again."""
        for task_id in self.ids("finished"):
            assert await self.results.delete(task_id)
            del self.tasks[task_id]

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────

    async def check(self) -> None:
        where: dict[str, list[str]] = defaultdict(list)
        for name, prefix in (("ready", 16), ("delayed", 0), ("leases", 0), ("unknown:of:work", 16), ("dead", 0)):
            for member in self.members(name):
                where[member[prefix:]].append(name)
        names = {"pending": "ready", "held": "leases", "unknown": "unknown:of:work"}
        expected = {
            task_id: [names.get(task.place, task.place)]
            for task_id, task in self.tasks.items()
            if task.place != "finished"
        }
        assert where == expected
        waiting = set(self.ids("pending", "delayed", "held", "unknown"))
        assert set(self.members("holders")) == set(self.ids("held"))
        assert set(self.members("unknown")) == set(self.ids("unknown"))
        assert set(self.members("unknown:names")) == set(self.members("unknown:since"))
        assert set(self.members("unknown:names")) == ({"work"} if self.ids("unknown") else set())
        assert set(self.members("tasks")) == waiting
        assert set(self.members("since")) == set(self.ids("pending"))
        assert set(self.members("dead:tasks")) == set(self.ids("dead"))
        assert all(self.look.llen(f"{namespace}:queue:io:wake") <= 1 for namespace in self.namespaces)
        figures = await self.workers[0].figures()
        pending, delayed, held, dead, unknown = (
            len(self.ids(place)) for place in ("pending", "delayed", "held", "dead", "unknown")
        )
        # What waits for the end of a pause is pending, wherever it waits.
        pending, unknown = (pending + unknown, 0) if self.is_name_paused else (pending, unknown)
        found = [figures.pending, figures.delayed, figures.in_flight, figures.dead, figures.unknown]
        assert found == [pending, delayed, held, dead, unknown]
        assert (figures.oldest_pending_at is not None) is bool(self.ids("pending"))
        assert figures.paused is self.is_paused
        assert figures.paused_tasks == (len(self.ids("unknown")) if self.is_name_paused else 0)
        await self.check_records()

    async def check_records(self) -> None:
        """Each record is in the list of its status, and says finished exactly when the task is."""
        listed: dict[str, list[TaskStatus]] = defaultdict(list)
        for status in TaskStatus:
            lists = [self.look.zrange(f"{each}:status:{status.value}", 0, -1) for each in self.namespaces]
            on_list = {each.decode() for listed in lists for each in listed}  # type: ignore[union-attr]
            assert on_list == {each.task_id for each in await self.results.list_by_status(status)}, status
            for record in await self.results.list_by_status(status):
                listed[record.task_id].append(status)
        assert set(listed) == set(self.tasks)
        for task_id, statuses in listed.items():
            assert len(statuses) == 1, (task_id, statuses)
            is_over = self.tasks[task_id].place in ("finished", "dead")
            assert (statuses[0] in FINISHED) is is_over, (task_id, statuses, self.tasks[task_id])

    async def finish(self) -> None:
        """Everything is run to its end: nothing stays behind."""
        await self.workers[0].pause_queue("default", False)
        await self.workers[0].pause_name("work", False)
        for task_id in self.ids("dead"):
            assert await self.workers[0].requeue_dead(task_id, None)
            self._make_ready(self.tasks[task_id])
        for number in range(WORKERS):
            for task_id in [each for each in self.ids("held") if self.tasks[each].holder == number]:
                assert await self.workers[number].settle([Outcome(Verb.RELEASE, task_id)]) == [Verdict.SETTLED]
                self._make_ready(self.tasks[task_id], keeps_place=True)
        await self.jump()
        await asyncio.to_thread(self.workers[0].announce, None, ["work"], HOUR)
        deliveries, _ = await self.workers[0].take(100)
        assert {each.task_id for each in deliveries} == {
            task_id for task_id, task in self.tasks.items() if task.place != "finished"
        }
        done = [
            Outcome(
                Verb.COMPLETE, each.task_id, record=codec.encode_record(TaskResult(each.task_id, TaskStatus.SUCCESS))
            )
            for each in deliveries
        ]
        assert set(await self.workers[0].settle(done)) <= {Verdict.SETTLED}
        for task_id in self.tasks:
            await self.results.delete(task_id)
        kept = tuple(f"{space}:{part}" for space in self.namespaces for part in ("finished:", "listed", "partitions"))
        assert [name for name in leftovers(self.look) if not name.startswith(kept)] == []


STEPS_BY_WEIGHT = {
    Model.submit: 5,
    Model.take: 6,
    Model.settle: 8,
    Model.lapse: 1,
    Model.jump: 1,
    Model.renew: 1,
    Model.announce: 1,
    Model.pause: 1,
    Model.cancel: 2,
    Model.requeue: 2,
    Model.forget_finished: 1,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "partitions"), [*((seed, 1) for seed in range(SEEDS)), *((seed, 4) for seed in range(max(1, SEEDS // 12)))]
)
async def test_every_task_is_in_exactly_one_place(url: str, look: redis.Redis, seed: int, partitions: int) -> None:
    model = Model(url, look, seed, partitions)
    try:
        for _ in range(STEPS if partitions == 1 else STEPS // 3):
            (step,) = model.chance.choices(list(STEPS_BY_WEIGHT), list(STEPS_BY_WEIGHT.values()))
            model.history.append(step.__name__)
            await step(model)
            await model.check()
        await model.finish()
    except AssertionError as error:
        error.add_note(f"seed {seed}, after: {' '.join(model.history)}")
        raise
    finally:
        await model.close()
        for worker in model.workers:
            worker.withdraw(None)
