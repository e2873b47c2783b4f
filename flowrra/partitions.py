"""Queues over partitions: which of them a task belongs to, and what its names begin with.

A partition is a cell: queues and records whose names begin with a hash tag of their own, so that a Redis cluster keeps
all that belongs to one task on one node. Nothing inside a cell knows that there are others.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from itertools import count
from zlib import crc32

# Each costs an idle worker a connection of its own, for each kind of task.
MAX_PARTITIONS = 64
# Of a Redis cluster. Each of its primaries has as many, one after the other, if nobody has shared them out otherwise.
SLOTS = 16384
# Of the way from one partition to the next, so much is near enough.
NEAR = 1 / 8


def partition_of(task_id: str, partitions: int) -> int:
    """The partition of a task: of its id alone, so that everybody finds it without asking.

    Args:
        task_id: The task's id; any text.
        partitions: How many there are.

    Returns:
        A number from 0 to ``partitions - 1``.
    """
    # Of what is no text, too, there is one answer: that it can't be sent is said by whoever sends it.
    return crc32(task_id.encode(errors="surrogatepass")) % partitions


@cache
def cell_namespace(namespace: str, partition: int, partitions: int) -> str:
    """The namespace of a partition, such as ``{flowrra.0}``: a Redis cluster puts a key where the text in braces goes.

    That text is one whose slot lies as far from those of the partitions before and after as these are many, so that
    primaries get equally many of them: if their slots were left to chance, some would get none, and another one half.
    The first partition's is the same whatever their number.

    Args:
        namespace: The app's; without braces, which would end the hash tag, or begin another one.
        partition: The partition's number.
        partitions: How many there are.

    Raises:
        ValueError: The namespace has a brace in it.
    """
    if "{" in namespace or "}" in namespace:
        raise ValueError(f"namespace must have no braces where it has partitions, not {namespace!r:.100}")
    if partition == 0:
        return f"{{{namespace}.0}}"
    step = SLOTS / partitions
    place = _slot_of(f"{namespace}.0") + partition * step
    # No other namespace has such a tag: nothing behind its last point has one.
    tags = (f"{namespace}.{partition}-{number}" for number in count())
    return next(f"{{{tag}}}" for tag in tags if (_slot_of(tag) - place) % SLOTS < NEAR * step)


def _slot_of(tag: str) -> int:
    """The slot of the keys with a hash tag, as Redis computes it."""
    return crc_hqx(tag.encode(errors="surrogatepass"), 0) % SLOTS
