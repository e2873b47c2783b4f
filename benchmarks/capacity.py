"""What a fleet could do on machines with enough cores, calculated from the microseconds that a task takes of a
worker and of a server: a core does 1,000,000 microseconds' work a second."""

from __future__ import annotations

import math
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from statistics import mean

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from flowrra.partitions import cell_namespace, partition_of

SECOND = 1e6
DRAWS = 20


def limit(microseconds: float, share: float = 1.0) -> float:
    """The tasks a second at which a core is full.

    Args:
        microseconds: What each task takes of it.
        share: Of all tasks, those that it has to do with.
    """
    return SECOND / (microseconds * share)


def rate(workers: int, worker_us: float, server_us: float, share: float = 1.0, waiting: float = math.inf) -> float:
    """The tasks a second of some worker processes, each with a core of its own.

    Args:
        workers: How many.
        worker_us: Microseconds that a task takes of its worker.
        server_us: Microseconds that it takes of its server.
        share: Of all tasks, those of the busiest server.
        waiting: The tasks a second that the slots of a worker can wait for.
    """
    return min(workers * min(limit(worker_us), waiting), limit(server_us, share))


def owners(namespace: str, partitions: int, primaries: int) -> list[int]:
    """The primary that each partition of an app is on, where the slots are shared out evenly, in order, as they are by
    ``redis-cli --cluster create``."""
    slots = [key_slot(cell_namespace(namespace, number, partitions).encode()) for number in range(partitions)]
    return [slot * primaries // REDIS_CLUSTER_HASH_SLOTS for slot in slots]


def busiest_share(of_partitions: Sequence[int]) -> float:
    """The share of all tasks that the busiest primary has, if partitions have equal ones."""
    return max(Counter(of_partitions).values()) / len(of_partitions)


def largest_partition(tasks: int, partitions: int) -> float:
    """How many times the mean the largest partition has, if that many tasks are spread by their ids; the mean of some
    draws, which are the same ones each time."""
    source = random.Random(partitions)
    return mean(_largest(source, tasks, partitions) for _ in range(DRAWS)) * partitions / tasks


def _largest(source: random.Random, tasks: int, partitions: int) -> int:
    ids = (str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(tasks))
    return max(Counter(partition_of(task_id, partitions) for task_id in ids).values())
