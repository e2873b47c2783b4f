"""Records in the order of their tasks' submission, though they come in the order of their ends."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from flowrra.backends.listing import Place

# Places of one chunk: what is changed is never more than that at once.
CHUNK = 1024


class SubmissionOrder:
    """Places, in order. They lie in chunks, as in a B-tree of one level: many are added at once, most of them at the
    end, and what has gone is dropped one chunk at a time."""

    def __init__(self) -> None:
        self._chunks: list[list[Place]] = []
        self._length = 0
        # The next chunk that is looked at for what has gone.
        self._swept = 0

    def add_all(self, places: list[Place]) -> None:
        """Add places, in any order."""
        places.sort()
        self._length += len(places)
        latest: list[Place] = []
        if self._chunks and (places[0] < self._chunks[-1][-1] or len(self._chunks[-1]) < CHUNK):
            # Those that are about as late as the latest go into one chunk with them; others are stragglers.
            latest = self._chunks[-1]
            straggling = bisect_left(places, latest[0])
            for place in places[:straggling]:
                self._insert(place)
            latest = self._chunks[-1]
            later = places[straggling:]
            is_in_order = not later or latest[-1] <= later[0]
            places = latest + later if is_in_order else sorted(latest + later)
        chunks = [places[first : first + CHUNK] for first in range(0, len(places), CHUNK)]
        # In one step, as another thread may be reading.
        self._chunks[len(self._chunks) - bool(latest) :] = chunks

    def _insert(self, place: Place) -> None:
        at = bisect_left(self._chunks, place, key=_last)
        chunk = self._chunks[at]
        insort(chunk, place)
        if len(chunk) > 2 * CHUNK:
            self._chunks[at : at + 1] = [chunk[:CHUNK], chunk[CHUNK:]]

    def sweep(self, is_there: Callable[[Place], bool]) -> None:
        """Drop what has gone, and what stands there twice, from the next chunk in turn.

        Args:
            is_there: Whether what stands at a place is still there.
        """
        if self._chunks:
            at = self._swept % len(self._chunks)
            chunk = self._chunks[at]
            left = list(filter(is_there, dict.fromkeys(chunk)))
            self._length -= len(chunk) - len(left)
            self._chunks[at : at + 1] = [left] if left else []
            self._swept = at + 1 if left else at

    def before(self, place: Place | None, last: float) -> Iterator[Place]:
        """The places in front of one, the latest first; all if that is None.

        Args:
            place: The one.
            last: The earliest time of submission that is of interest, in seconds since 1970.
        """
        at = len(self._chunks) - 1 if place is None else bisect_left(self._chunks, place, key=_last)
        for chunk in reversed(self._chunks[: at + 1]):
            end = len(chunk) if place is None else bisect_left(chunk, place)
            for each in reversed(chunk[:end]):
                if each[0] < last:
                    return
                yield each

    def __len__(self) -> int:
        return self._length


def _last(chunk: list[Place]) -> Place:
    return chunk[-1]
