"""Runs batches of any size through programs of few sizes, overlapping host and devices."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


class Batcher:
    """Pads pieces of batches to few sizes and places them on the devices.

    Programs are compiled for the sizes in `sizes`: devices * 1, 2, 4, ... below `batch_size`, and
    `batch_size` itself; never more than 1 + log2(batch_size / devices), rounded up.
    """

    def __init__(self, batch_size: int | None, devices: Sequence[jax.Device]):
        """Sets the batch sizes and the sharding.

        Args:
          batch_size: rows of the largest piece, a multiple of the number of devices; None is 1
            for each device on a CPU, where larger batches are no faster, and 32 elsewhere.
          devices: devices that share the rows.
        """
        if not len(devices):
            raise ValueError("devices=[]: a tokenizer needs at least one")
        if batch_size is None:
            batch_size = (1 if devices[0].platform == "cpu" else 32) * len(devices)
        if batch_size < 1 or batch_size % len(devices):
            raise ValueError(
                f"batch_size={batch_size} must be a positive multiple of the {len(devices)} devices"
            )
        mesh = Mesh(np.array(devices), ("batch",))
        self._split = NamedSharding(mesh, PartitionSpec("batch"))
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.batch_size = batch_size
        per_device = batch_size // len(devices)
        powers = range((per_device - 1).bit_length())
        self.sizes = (*(len(devices) << power for power in powers), batch_size)

    def place(self, rows: np.ndarray, size: int | None = None) -> jax.Array:
        """Places at most `batch_size` rows on the devices, padded with zeros to `size`.

        The default size is the smallest of `sizes` that holds the rows.
        """
        size = next(size for size in self.sizes if size >= len(rows)) if size is None else size
        # Always a copy: on a CPU device_put shares the memory of the array, whose owner may write
        # to it while the program still runs.
        padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return jax.device_put(padded, self._split)


def fetch(started: Iterable[tuple[Any, T]]) -> Iterator[tuple[Any, T]]:
    """Yields results of programs, arrays or trees of these, on the host, in order, each with the
    value paired with it.

    The next program is started before a result is waited for: while the devices compute, the host
    prepares and places the next piece. At most two pieces are on the devices.
    """
    waiting = collections.deque()
    for output, beside in started:
        for array in jax.tree.leaves(output):
            array.copy_to_host_async()
        waiting.append((output, beside))
        if len(waiting) == 2:
            output, beside = waiting.popleft()
            yield jax.tree.map(np.asarray, output), beside
    for output, beside in waiting:
        yield jax.tree.map(np.asarray, output), beside


def by_shape(
    arrays: Iterable[np.ndarray], size: int, window: int
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Yields groups of at most `size` arrays of one shape and dtype, each with its number.

    A group is yielded when it is full, or when its first array is `window` behind the last one
    read: so a caller that puts the results back in order never holds more than `window` of them.
    """
    groups = {}  # in the order of their first arrays
    for number, array in enumerate(arrays):
        key = array.shape, array.dtype
        groups.setdefault(key, []).append((number, array))
        if len(groups[key]) == size:
            yield groups.pop(key)
        oldest = next(iter(groups), None)
        if oldest is not None and number - groups[oldest][0][0] + 1 >= window:
            yield groups.pop(oldest)
    yield from groups.values()


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Yields numbered items in the order of their numbers, from 0."""
    waiting, due = {}, 0
    for number, item in numbered:
        waiting[number] = item
        while due in waiting:
            yield waiting.pop(due)
            due += 1
