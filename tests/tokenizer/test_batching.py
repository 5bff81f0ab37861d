"""Batches cut into few sizes, and what comes back in order."""

import jax
import numpy as np
import pytest

from unitok_jax.tokenizer.batching import Batcher, by_shape, fetch, in_order


@pytest.mark.parametrize(
    "batch_size, devices, sizes",
    [
        (1, 1, (1,)),
        (2, 1, (1, 2)),
        (32, 1, (1, 2, 4, 8, 16, 32)),
        (12, 1, (1, 2, 4, 8, 12)),
        (8, 8, (8,)),
        (24, 8, (8, 16, 24)),
        (None, 1, (1,)),
        (None, 8, (8,)),
    ],
)
def test_sizes_are_powers_of_two_of_the_devices(batch_size, devices, sizes):
    batcher = Batcher(batch_size, jax.local_devices()[:devices])
    assert batcher.sizes == sizes and batcher.batch_size == sizes[-1]
    for count in range(1, batcher.batch_size + 1):
        rows = np.arange(3 * count, dtype=np.int32).reshape(count, 3)
        placed = batcher.place(rows)
        assert placed.shape[0] == min(size for size in sizes if size >= count)
        assert len(placed.sharding.device_set) == devices
        np.testing.assert_array_equal(placed[:count], rows)
        assert not np.any(placed[count:])
    assert batcher.place(rows[:1], sizes[-1]).shape[0] == sizes[-1]


@pytest.mark.parametrize("batch_size", [None, 4])
def test_without_devices(batch_size):
    with pytest.raises(ValueError, match=r"devices=\[\]"):
        Batcher(batch_size, [])


def test_one_is_started_before_one_is_waited_for():
    events = []

    def started():
        for number in range(4):
            events.append(f"start {number}")
            yield jax.numpy.full(2, number), number

    for output, number in fetch(started()):
        assert output.tolist() == [number, number]
        events.append(f"have {number}")
    assert events == [
        *("start 0", "start 1", "have 0", "start 2", "have 1", "start 3", "have 2", "have 3"),
    ]
    assert list(fetch([])) == []


class TestShapes:
    def groups(self, lengths, size, window):
        arrays = (np.full(length, number) for number, length in enumerate(lengths))
        found = list(by_shape(arrays, size, window))
        for group in found:
            assert len({array.shape for _, array in group}) == 1
            assert all(array[0] == number for number, array in group)
        return [[number for number, _ in group] for group in found]

    def test_full_groups_leave_at_once_and_the_rest_at_the_end(self):
        assert self.groups([1, 2, 1, 1, 2, 1, 3], 2, 100) == [[0, 2], [1, 4], [3, 5], [6]]

    def test_the_oldest_does_not_wait_longer_than_the_window(self):
        assert self.groups([1, 2, 2, 2, 2, 1], 9, 4) == [[0], [1, 2, 3, 4], [5]]
        assert self.groups([1, 2, 2, 2, 1], 9, 4) == [[0], [1, 2, 3], [4]]
        assert self.groups([1, 2, 3], 9, 1) == [[0], [1], [2]]

    def test_another_dtype_is_another_group(self):
        arrays = [np.zeros(1, np.uint8), np.zeros(1, np.float32)]
        assert [len(group) for group in by_shape(arrays, 2, 9)] == [1, 1]

    def test_order_is_restored(self):
        lengths = np.random.default_rng(0).integers(1, 4, 40)
        numbers = [n for group in self.groups(lengths, 3, 7) for n in group]
        assert numbers != sorted(numbers)
        assert list(in_order((n, n) for n in numbers)) == list(range(40))
