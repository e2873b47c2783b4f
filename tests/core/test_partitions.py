"""Which partition a task belongs to is a function of its id that no release may change: tasks would be lost."""

from __future__ import annotations

from collections import Counter
from uuid import UUID, uuid5

import pytest
from redis.crc import key_slot

from flowrra.partitions import cell_namespace, partition_of


@pytest.mark.parametrize(
    ("task_id", "partition"),
    [("a", 3), ("b", 1), ("order-1", 3), ("täsk", 3), ("550e8400-e29b-41d4-a716-446655440000", 1), ("\udcff", 3)],
)
def test_the_partition_of_an_id_is_always_the_same(task_id, partition):
    assert partition_of(task_id, 4) == partition


def test_ids_spread_evenly():
    ids = [str(uuid5(UUID(int=0), str(number))) for number in range(10_000)]
    counts = Counter(partition_of(task_id, 4) for task_id in ids)
    assert set(counts) == {0, 1, 2, 3}
    assert all(2_300 < count < 2_700 for count in counts.values())


def test_one_partition_has_all_tasks():
    assert partition_of("anything", 1) == 0


@pytest.mark.parametrize(
    ("partitions", "namespaces"),
    [
        (1, ["{shop.0}"]),
        (3, ["{shop.0}", "{shop.1-51}", "{shop.2-63}"]),
        (4, ["{shop.0}", "{shop.1-33}", "{shop.2-1}", "{shop.3-73}"]),
    ],
)
def test_the_namespace_of_a_cell_is_always_the_same_hash_tag(partitions, namespaces):
    assert [cell_namespace("shop", number, partitions) for number in range(partitions)] == namespaces


def test_a_namespace_that_is_no_text_has_cells_as_well():
    assert [cell_namespace("\udcff", number, 2) for number in range(2)] == ["{\udcff.0}", "{\udcff.1-40}"]


@pytest.mark.parametrize("namespace", ["flowrra", "shop", "jobs", "täsks", "a.b"])
@pytest.mark.parametrize("partitions", [2, 3, 4, 6, 12, 32, 64])
def test_primaries_that_share_the_slots_evenly_get_equally_many_partitions(namespace, partitions):
    slots = [key_slot(cell_namespace(namespace, number, partitions).encode()) for number in range(partitions)]
    for primaries in (2, 3, 4, 6):
        counts = Counter(slot * primaries // 16384 for slot in slots)
        # One more or less where a partition lies on the border of two.
        assert max(counts.values()) <= partitions // primaries + 1 + (partitions % primaries > 0)
    steps = sorted((second - first) % 16384 for first, second in zip(slots, slots[1:] + slots[:1], strict=True))
    assert steps[0] > 0.8 * 16384 / partitions
    assert steps[-1] < 1.2 * 16384 / partitions


@pytest.mark.parametrize("namespace", ["{shop}", "sh}op", "sh{op"])
def test_a_namespace_that_would_break_the_hash_tag_is_refused(namespace):
    with pytest.raises(ValueError, match="namespace must have no braces where it has partitions"):
        cell_namespace(namespace, 0, 4)
