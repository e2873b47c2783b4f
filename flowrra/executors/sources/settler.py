"""Tells a broker what became of the tasks that were taken from it: many at a time, and for as long as it takes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections import deque
from collections.abc import Callable

from flowrra import codec
from flowrra.brokers.base import MAX_BATCH, LeasingBroker, Outcome, Verb, Verdict
from flowrra.codec import EncodedRecord
from flowrra.exceptions import BackendError, RequestRefusedError, ServerUnavailableError
from flowrra.executors.job import Job
from flowrra.executors.outcomes import describe
from flowrra.outage import Outage
from flowrra.task import RUNNING

logger = logging.getLogger(__name__)

MIN_BACKOFF = 0.05
MAX_BACKOFF = 1.0
# Seconds: only of attempts that last longer is the running state written at all, and so long after that at the latest,
# for several together.
RUNNING_AFTER = 0.02
RUNNING_TOGETHER = 0.02
# Seconds by which a timer may come too early.
EARLY = 0.001
# It changes nothing, and is refused only by a broker that refuses everything.
PROBE = Outcome(Verb.RUNNING, "-")


class Settler:
    """Collects outcomes while a request is under way, and sends them together with the next one. An outcome that can't
    be told is told again: the worker's hold is renewed meanwhile. One that the broker refuses is found by halving the
    batch, and put aside, so that it holds up no other.

    Args:
        broker: Whose tasks they are.
        kind: Names the executor in the log.
        on_settled: Called after each request with the ids of the tasks that are not this worker's any more.
        on_lost: Called with an outcome after which the task is to run again, but which the broker doesn't know.
        on_refused: Called with an outcome that is given up, and why, to say so; returns the record that does, if the
            broker keeps it.
        on_error: Called with each failure, and with None when there is none any more.
    """

    def __init__(
        self,
        broker: LeasingBroker,
        kind: str,
        on_settled: Callable[[list[str]], None],
        on_lost: Callable[[Outcome], None],
        on_refused: Callable[[Outcome, Exception], EncodedRecord | None],
        on_error: Callable[[BaseException | None], None],
    ) -> None:
        self._broker = broker
        self._kind = kind
        self._on_settled = on_settled
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._on_error = on_error
        self._waiting: deque[Outcome] = deque()
        # Ids of tasks that were delivered since the request that is under way began.
        self._delivered_anew: set[str] = set()
        self._started: dict[str, Job] = {}
        self._timer: asyncio.Handle | None = None
        self._sender: asyncio.Task[None] | None = None
        self.is_failing = False
        self._outage = Outage(logger, "outcomes not told", f"executor={kind}")

    @property
    def backlog(self) -> int:
        """How many outcomes have still to be told."""
        return len(self._waiting)

    def add(self, outcome: Outcome) -> None:
        """Tell an outcome soon."""
        self._started.pop(outcome.task_id, None)
        self._waiting.append(outcome)
        self._send_soon()

    def _is_idle(self) -> bool:
        return self._sender is None or self._sender.done()

    def _send_soon(self) -> asyncio.Task[None]:
        if self._sender is None or self._sender.done():
            loop = asyncio.get_running_loop()
            self._sender = loop.create_task(self._send_all(), context=contextvars.Context())
        return self._sender

    def forget(self, task_id: str) -> None:
        """Tell nothing more of a task that has come anew: the broker knows what became of it before, and would take
        that, told again, for what becomes of it now."""
        self._waiting = deque(outcome for outcome in self._waiting if outcome.task_id != task_id)
        self._delivered_anew.add(task_id)

    def mark_running(self, job: Job) -> None:
        """Tell that an attempt is under way, and of its progress, unless it is over soon."""
        self._started[job.task.id] = job
        if self._timer is None:
            self._start_timer(RUNNING_AFTER)

    def _start_timer(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._let_end, 2, context=contextvars.Context())

    def _let_end(self, turns: int) -> None:
        """Go on after so many turns of the loop, in which those attempts end that were only waiting for theirs: a loop
        that is busy comes to them late, and they would all be told as running."""
        loop = asyncio.get_running_loop()
        if turns:
            self._timer = loop.call_soon(self._let_end, turns - 1)
        else:
            self._timer = None
            self._tell_running()

    def _tell_running(self) -> None:
        if self.is_failing:  # what waits would grow by each task's progress, until the broker is back
            self._start_timer(MAX_BACKOFF)
            return
        started, horizon = self._started, time.monotonic() - RUNNING_AFTER
        while started:
            # The first one was marked first: it began before the others, or has told of its progress.
            job = next(iter(started.values()))
            if job.started_at > horizon + EARLY:
                self._start_timer(max(RUNNING_TOGETHER, job.started_at - horizon))
                return
            del started[job.task.id]
            if job.record.status is RUNNING and not job.settled:
                record = codec.encode_record(job.record, job.call)
                self.add(Outcome(Verb.RUNNING, job.task.id, record=record, queue=job.task.queue, delivery=job.delivery))

    # ── sending ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _send_all(self) -> None:
        backoff = MIN_BACKOFF
        while self._waiting:
            self._delivered_anew.clear()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            try:
                await self._send(batch)
            except BackendError as error:
                self.is_failing = True
                self._on_error(error)
                self._outage.failed(f"{error} waiting={len(self._waiting)}")
                await asyncio.sleep(backoff * random.uniform(0.5, 1))  # noqa: S311 - spreads load, guards nothing
                backoff = min(2 * backoff, MAX_BACKOFF)
                continue
            self._recovered()
            backoff = MIN_BACKOFF
        if self.is_failing:  # what was untold needs to be told no more
            self._recovered()
            self._on_settled([])

    def _recovered(self) -> None:
        if self.is_failing:
            self.is_failing = False
            self._on_error(None)
            self._outage.over()

    async def _send(self, batch: list[Outcome]) -> None:
        """Tell the outcomes of a batch.

        Raises:
            BackendError: The broker can't be told anything now; what was not told waits again.
        """
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                try:
                    self._report(part, await self._broker.settle(part))
                except Exception as error:
                    if isinstance(error, BackendError) and not isinstance(error, RequestRefusedError):
                        raise
                    if len(part) > 1:
                        middle = len(part) // 2
                        parts += [part[middle:], part[:middle]]
                    else:
                        await self._put_aside(part[0], error)
            except (BackendError, asyncio.CancelledError):
                untold = [outcome for left in (part, *reversed(parts)) for outcome in left]
                self._waiting.extendleft(each for each in reversed(untold) if each.task_id not in self._delivered_anew)
                raise

    async def _put_aside(self, outcome: Outcome, error: Exception) -> None:
        """Give up the task of an outcome that can't be told.

        Raises:
            BackendError: It isn't the outcome's doing: the broker refuses everything, or is away.
        """
        try:
            await self._broker.settle([PROBE._replace(queue=outcome.queue)])
        except RequestRefusedError as refusal:
            raise ServerUnavailableError(str(refusal)) from refusal
        self._on_error(error)
        self._on_error(None)
        reason = f"its outcome could not be told: {describe(error)}"
        record = self._on_refused(outcome, error)
        try:
            burial = outcome._replace(verb=Verb.DEAD_LETTER, delay=0.0, text=reason, record=record, status=None)
            await self._broker.settle([burial])
        except ServerUnavailableError:
            raise
        except Exception:
            logger.exception("task not put aside, it will run again executor=%s id=%s", self._kind, outcome.task_id)
        self._on_settled([outcome.task_id])

    def _report(self, batch: list[Outcome], verdicts: list[Verdict]) -> None:
        for outcome, verdict in zip(batch, verdicts, strict=True):
            if outcome.verb is Verb.RUNNING or verdict in (Verdict.SETTLED, Verdict.KNOWN):
                continue
            if verdict is Verdict.LOST and outcome.verb in (Verb.RELEASE, Verb.NACK):
                self._on_lost(outcome)
            logger.warning(
                "%s executor=%s id=%s outcome=%s", _MEANINGS[verdict], self._kind, outcome.task_id, outcome.verb
            )
        self._on_settled([outcome.task_id for outcome in batch if outcome.verb is not Verb.RUNNING])

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    async def told(self, timeout: float) -> None:
        """Return when everything was told, or after so many seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0 and (self._waiting or not self._is_idle()):
            await asyncio.wait({self._send_soon()}, timeout=left)

    async def flush(self, timeout: float) -> None:
        """Return when everything was told, or after that time."""
        if self._sender is None or self._sender.done():
            return
        _, late = await asyncio.wait({self._sender}, timeout=timeout)
        if late:
            logger.error(
                "outcomes not told, their tasks will run again executor=%s count=%d", self._kind, len(self._waiting)
            )
            self._sender.cancel()
            await asyncio.wait({self._sender})

    def close(self) -> None:
        """Forget what was not told, so that it can begin anew."""
        self._sender = None  # over, or of an event loop that is gone
        self._waiting.clear()
        self.is_failing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._started.clear()


_MEANINGS = {
    Verdict.LATE: "outcome came late, the task is another worker's by now, and what that one says counts",
    Verdict.OVER: "outcome came late, the task had ended before",
    Verdict.LOST: "the broker did not know the task any more (lost writes?), its outcome was taken on all the same",
}
