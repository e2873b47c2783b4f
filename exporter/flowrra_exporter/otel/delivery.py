"""Delivers the batches of one push: what is refused is sent again in halves, until what the receiver can't take
is alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from flowrra_exporter.otel.answers import Answer, Verdict
from flowrra_exporter.otel.sender import MetricSender
from flowrra_exporter.otel.streams import Batch

# Refusals in a row after which nothing is halved any more: all sixteenths of a batch are refused by then.
_MAX_BARREN = 15
# Refused requests of one push that are halved: enough for twenty points apart from each other.
_MAX_HALVED = 200


@dataclass
class Delivery:
    """What became of a push.

    Attributes:
        taken: How many points were taken.
        rejected: How many were rejected by a receiver that took their request.
        dropped: How many were refused with their request.
        failure: Why not all was sent.
        complaint: Why points were rejected or dropped.
        remark: What a receiver that took all had to say.
    """

    taken: int = 0
    rejected: int = 0
    dropped: int = 0
    failure: str = ""
    complaint: str = ""
    remark: str = ""
    retry_after: float = 0.0
    _halved: int = field(default=0, repr=False)
    _barren: int = field(default=0, repr=False)

    def deliver(self, batches: Iterable[Batch], sender: MetricSender) -> None:
        """Sends batch after batch, until the receiver turns out to be away. Goes through all of them nevertheless."""
        for batch in batches:
            if not self.failure:
                self._send(batch, sender)
        if not self.taken and not self.failure and (self.rejected or self.dropped):
            # Nothing sets these points apart from those of the next push: their counts are not given up.
            self.failure, self.dropped = self.complaint, 0

    @property
    def result(self) -> str:
        """``success`` if all was taken, ``partial`` if some points were rejected or dropped, else ``failure``."""
        if self.failure:
            return "failure"
        return "partial" if self.rejected or self.dropped else "success"

    def _send(self, batch: Batch, sender: MetricSender) -> None:
        waiting = deque([batch])
        while waiting and not self.failure:
            batch = waiting.popleft()
            answer = sender.send(batch.data)
            match answer.verdict:
                case Verdict.TAKEN:
                    self._take(batch, answer)
                case Verdict.REFUSED:
                    waiting.extend(self._refused(batch, answer))
                case Verdict.AWAY:
                    self.failure, self.retry_after = answer.reason, answer.retry_after

    def _take(self, batch: Batch, answer: Answer) -> None:
        batch.sent()  # of the rejected ones nobody knows which they are, and they may not be sent again
        self._barren = 0
        rejected = min(answer.rejected, batch.points)
        self.taken += batch.points - rejected
        self.rejected += rejected
        if rejected:
            self.complaint = self.complaint or answer.message or "the OTLP receiver doesn't say why"
        else:
            self.remark = self.remark or answer.message

    def _refused(self, batch: Batch, answer: Answer) -> Iterable[Batch]:
        """What to send in its place."""
        self._barren += 1
        if batch.points > 1 and self._barren < _MAX_BARREN and self._halved < _MAX_HALVED:
            self._halved += 1
            return batch.halves()
        self.dropped += batch.points
        self.complaint = self.complaint or answer.reason
        return ()
