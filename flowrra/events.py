"""Tells subscribers what happens to tasks, without letting them slow the tasks down."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, Final

from flowrra.changes import Change, Changes
from flowrra.forks import tell_of_forks
from flowrra.outage import Outage
from flowrra.ranges import shown
from flowrra.supervision import Supervised, is_for_caller
from flowrra.task import TaskResult

logger = logging.getLogger(__name__)

Event = dict[str, Any]
Subscriber = Callable[[Event], Any]

MAILBOX_SIZE = 10_000
FLUSH_TIMEOUT = 2.0
# Seconds for which changes are remembered after the last who watched has gone.
WATCH_LINGER = 30.0
REPLACEMENT_DELAY = 0.05


async def _deliver(subscriber: Subscriber, event: Event) -> None:
    """Call a subscriber: on the loop if it is async, in a thread otherwise, as it may block."""
    if inspect.iscoroutinefunction(subscriber) or inspect.iscoroutinefunction(
        getattr(subscriber, "__call__", None)  # noqa: B004 - an object whose __call__ is async
    ):
        await subscriber(event)
        return
    outcome = await asyncio.to_thread(subscriber, event)
    if inspect.isawaitable(outcome):
        await outcome


class EventBus:
    """A list of subscribers: functions, async or plain, that take an event.

    An event is a dict with a ``type``; a change of a task is
    ``{"type": "task.update", "app": Flowrra.id, "task": TaskResult.to_dict}``. The bus of all apps of a process tells
    by ``app`` whose task it was; of an executor without an app it is None.

    Attributes:
        subscribers: Who is subscribed now, in order of subscription; for reading only.
        changing: Held while that changes, which any thread may do.
    """

    def __init__(self) -> None:
        self.subscribers: tuple[Subscriber, ...] = ()
        # To be entered again, as comparing subscribers may run user code.
        self.changing = threading.RLock()
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: who held the lock is not there."""
        self.changing = threading.RLock()

    def subscribe(self, fn: Subscriber) -> None:
        """Send events to ``fn`` from now on; once only, however often it is subscribed."""
        with self.changing:
            if fn not in self.subscribers:
                self.subscribers = (*self.subscribers, fn)

    async def async_subscribe(self, fn: Subscriber) -> None:
        """The same as :meth:`subscribe`."""
        self.subscribe(fn)

    async def unsubscribe(self, fn: Subscriber) -> None:
        """Send nothing more to ``fn``; unknown ones are ignored."""
        with self.changing:
            self.subscribers = tuple(each for each in self.subscribers if each != fn)

    async def emit(self, event: Event) -> None:
        """Send an event to all subscribers at once, and return when all are done. A failure is logged."""
        await asyncio.gather(*(self._emit_to(subscriber, event) for subscriber in self.subscribers))

    async def _emit_to(self, subscriber: Subscriber, event: Event) -> None:
        try:
            await _deliver(subscriber, event)
        except BaseException as error:
            if is_for_caller(error):
                raise
            logger.exception("event subscriber failed subscriber=%r event=%s", subscriber, event.get("type"))


event_bus = EventBus()


# What hands over the event that the subscriber takes which is called here.
_served_by: Final[ContextVar[_Mailbox | None]] = ContextVar("flowrra_served_by", default=None)


class _Mailbox:
    """The events that one subscriber has still to get, in order, and the asyncio task that hands them over."""

    def __init__(self, subscriber: Subscriber, publisher: EventPublisher) -> None:
        self._subscriber = subscriber
        self.publisher = publisher
        self.is_handing_over = False
        about = f"subscriber={shown(subscriber)}"
        self._failing = Outage(logger, "event subscriber failed", about, level=logging.ERROR)
        self._events: deque[Event] = deque()
        self._arrival = asyncio.Event()
        self._empty = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._handing_over = Supervised(
            self._work,
            "flowrra-events",
            REPLACEMENT_DELAY,
            lambda error: logger.warning("event delivery died, replaced subscriber=%r error=%r", subscriber, error),
        )
        self._handing_over.start()

    def belongs_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is loop

    def put(self, event: Event) -> None:
        if len(self._events) >= MAILBOX_SIZE:
            self.publisher.count_drop(self._subscriber)
            return
        self._events.append(event)
        self._empty.clear()
        self._arrival.set()

    async def _work(self) -> None:
        _served_by.set(self)
        while True:
            while self._events:
                await self._hand_over(self._events.popleft())
            self._empty.set()
            self._arrival.clear()
            await self._arrival.wait()

    async def _hand_over(self, event: Event) -> None:
        self.is_handing_over = True
        try:
            await _deliver(self._subscriber, event)
        except BaseException as error:
            if is_for_caller(error):
                raise
            self.publisher.errors += 1
            self._failing.failed(type(error).__name__, error)
        else:
            self._failing.over()
        finally:
            self.is_handing_over = False

    async def flush(self) -> None:
        """Return once everything was handed over."""
        await self._empty.wait()

    def close(self) -> int:
        """End it. Returns how many events it still had: they are not handed over any more."""
        worker = self._handing_over.release()
        if worker is not None and not self._loop.is_closed():
            worker.cancel()
        left = len(self._events)
        self._events.clear()
        return left


class Watchers(Changes):
    """Takes the changes of one app's tasks at once, without a mailbox. It is among the subscribers only while somebody
    watches, and for a while after, so that whoever comes back has missed nothing."""

    def __init__(self, bus: EventBus, app: str | None) -> None:
        super().__init__(app)
        self._bus = bus
        self._leaves_at = 0.0
        self._is_closed = False

    async def __call__(self, event: Event) -> None:
        """An event that was put on the bus by hand: none of its business."""

    def add(self, record: TaskResult) -> None:
        self._is_closed = False
        if self.watchers or time.monotonic() < self._leaves_at:
            super().add(record)
        else:
            self.leave()

    async def watch(self, after: str | None) -> AsyncGenerator[Change, None]:
        self._leaves_at = time.monotonic() + WATCH_LINGER
        try:
            async with aclosing(super().watch(after)) as changes:
                async for change in changes:
                    yield change
        finally:
            self._leaves_at = time.monotonic() + WATCH_LINGER
            if self._is_closed:
                self.leave()

    def _join(self, news: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        with self._bus.changing:  # the app's thread may be about to leave
            self._bus.subscribe(self)
            super()._join(news, loop)

    def close(self) -> None:
        """The app stops: whoever watches still is the last to take changes."""
        self._is_closed = True
        self.leave()

    def leave(self) -> None:
        """Take no more changes, unless somebody watches."""
        with self._bus.changing:
            if not self.watchers:
                self.forget()
                self._bus.subscribers = tuple(each for each in self._bus.subscribers if each is not self)


class EventPublisher:
    """Publishes the changes of an app's tasks to a bus: each subscriber has a bounded mailbox and its own pace.

    Attributes:
        bus: Where they are published.
        app: The id of the app, which each event says.
        dropped: Events that a subscriber was too slow for, be it while the app ran or at its stop.
        errors: Events that a subscriber failed on.
        watchers: Who watches the app's tasks.
    """

    def __init__(self, bus: EventBus = event_bus, app: str | None = None) -> None:
        self.bus = bus
        self.app = app
        self.watchers = Watchers(bus, app)
        self._mailboxes: dict[Subscriber, _Mailbox] = {}
        self.dropped = 0
        self.errors = 0

    def publish(self, record: TaskResult) -> None:
        """Hand the state of a task to every subscriber's mailbox, a copy for each; never waits, never fails.

        To be called on the event loop.
        """
        for subscriber in self.bus.subscribers:
            if isinstance(subscriber, Watchers):
                if subscriber is self.watchers:
                    subscriber.add(record)
                continue
            try:
                event = {"type": "task.update", "app": self.app, "task": record.copy().to_dict}
                self._mailbox(subscriber).put(event)
            except KeyboardInterrupt:
                raise
            except BaseException:  # user code: it may not be hashable, or raise when it is compared
                if self.errors % 1000 == 0:
                    logger.exception("event not handed to subscriber subscriber=%r", type(subscriber))
                self.errors += 1

    def _mailbox(self, subscriber: Subscriber) -> _Mailbox:
        mailbox = self._mailboxes.get(subscriber)
        if mailbox is None or not mailbox.belongs_to(asyncio.get_running_loop()):
            self._close_unsubscribed()
            if mailbox is not None:
                self._close_mailbox(subscriber)
            mailbox = self._mailboxes[subscriber] = _Mailbox(subscriber, self)
        return mailbox

    def _close_unsubscribed(self) -> None:
        for subscriber in [each for each in self._mailboxes if each not in self.bus.subscribers]:
            self._mailboxes.pop(subscriber).close()  # what it still had is wanted no more

    def _close_mailbox(self, subscriber: Subscriber) -> None:
        left = self._mailboxes.pop(subscriber).close()
        if left:
            self.dropped += left
            logger.warning(
                "event subscriber too slow, events dropped at the stop subscriber=%r dropped=%d dropped_total=%d",
                subscriber,
                left,
                self.dropped,
            )

    def is_handing_over(self) -> bool:
        """Whether this is called by a subscriber of its events: :meth:`close` waits for that."""
        mailbox = _served_by.get()
        return mailbox is not None and mailbox.publisher is self and mailbox.is_handing_over

    def count_drop(self, subscriber: Subscriber) -> None:
        """Count an event that found a full mailbox; the first of a thousand is logged."""
        if self.dropped % 1000 == 0:
            logger.warning(
                "event subscriber too slow, events dropped subscriber=%r dropped_total=%d",
                subscriber,
                self.dropped + 1,
            )
        self.dropped += 1

    async def close(self) -> None:
        """Give the mailboxes a moment to empty, then let them go."""
        self._close_unsubscribed()
        loop = asyncio.get_running_loop()
        alive = [mailbox for mailbox in self._mailboxes.values() if mailbox.belongs_to(loop)]
        flushes = [loop.create_task(mailbox.flush()) for mailbox in alive]
        try:
            if flushes:
                await asyncio.wait(flushes, timeout=FLUSH_TIMEOUT)
        finally:
            for flush in flushes:
                flush.cancel()
            for subscriber in list(self._mailboxes):
                self._close_mailbox(subscriber)
            self.watchers.close()
