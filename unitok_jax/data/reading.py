"""Reading of batches a few rows at a time, in threads or worker processes, by Grain."""

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from unitok_jax.data.health import Notes
from unitok_jax.data.workers import BatchStream, check_shared_memory, end_with_parent

CHUNK = 16  # most samples that one thread reads at a time
ENDLESS = 2**40  # batches


def stream(
    read: Callable[[Sequence[int], np.ndarray], dict[str, Any]],
    batch_size: int,
    rows: Sequence[int],
    data,
    *,
    first_batch: int = 0,
    batches: int = ENDLESS,
    shape_of: Callable[[int], tuple[int, ...]] | None = None,
) -> BatchStream:
    """Reads this process's rows of global batches ahead, in order, in threads or worker processes.

    Args:
        read: (n positions, uint8 (n, *read.image_shape) to write the images to) -> arrays by name,
            n rows each, and perhaps 'notes', a `Notes`. It is pickled for worker processes. Its
            `row_bytes`, by default the bytes of an image, are those of a row.
        batch_size: rows of a global batch; row r of batch b is position b * batch_size + r.
        rows: of every global batch, ascending.
        data: the `data` config; `num_threads` and `num_workers` are read.
        first_batch, batches: the first batch, and the number of batches from it on.
        shape_of: shape of the images of a batch, by its number, at most as large as
            `read.image_shape`; None: that one always.

    Yields:
        The results of `read` for all rows of a batch.

    Raises:
        ValueError: no thread, a negative number of workers, or too little shared memory; from
            the iterator, a LostWorker if one was killed.
    """
    if data.num_threads < 1 or data.num_workers < 0:
        raise ValueError(
            f"data.num_threads={data.num_threads} must be at least 1 and data.num_workers="
            f"{data.num_workers} at least 0"
        )
    parallel = data.num_threads * max(1, data.num_workers)
    chunks = _Chunks(read, batch_size, rows, first_batch, batches, parallel, shape_of)
    # One batch is read ahead: memory holds about two, for any number of threads.
    ahead = -(-max(chunks.per_batch, 2 * parallel) // max(1, data.num_workers))
    read_options = grain.ReadOptions(data.num_threads, ahead)
    examples = grain.MapDataset.source(chunks).to_iter_dataset(read_options)
    cv2.setNumThreads(1)  # parallelism comes from the reading threads
    if data.num_workers:
        # Grain passes its absl flags to the workers and refuses unparsed ones; outside app.run
        # (a test, a notebook) they have their defaults.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        # Chunks ready or in progress in each worker, and the batch being joined.
        check_shared_memory((data.num_workers * (ahead + 1) + chunks.per_batch) * chunks.bytes)
        options = grain.MultiprocessingOptions(data.num_workers, per_worker_buffer_size=ahead)
        examples = examples.mp_prefetch(options, _begin_worker)
    batched = examples.batch(chunks.per_batch, drop_remainder=True, batch_fn=_join)
    return BatchStream(iter(batched), workers=data.num_workers > 0)


class _Chunks:
    """Chunks of this process's rows of every global batch; a source for Grain.

    A chunk is small enough that all threads work on the next batch, and no smaller, since Grain's
    overhead is per element.
    """

    def __init__(self, read: Callable, batch_size, rows, first_batch, batches, parts, shape_of):
        self._read, self._batch_size, self._shape_of = read, batch_size, shape_of
        self._first, self._batches = first_batch, batches
        size = min(CHUNK, -(-len(rows) // parts))
        self._parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        self._shape, self._size = (len(rows), *read.image_shape), size
        self._images = _Images()

    @property
    def per_batch(self) -> int:
        return len(self._parts)

    @property
    def bytes(self) -> int:
        """Bytes of the images in one chunk, and of what else `read` counts."""
        return self._size * getattr(self._read, "row_bytes", math.prod(self._shape[1:]))

    def __len__(self) -> int:
        return self._batches * len(self._parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch, part = divmod(index, len(self._parts))
        begin = (self._first + batch) * self._batch_size
        shape = self._shape
        if self._shape_of is not None:
            shape = shape[0], *self._shape_of(self._first + batch)
        images = self._images.of_batch(batch, shape)
        images = images[part * self._size : (part + 1) * self._size]
        return self._read([begin + row for row in self._parts[part]], images)


class _Images:
    """Memory for the images of whole batches, filled jointly by the threads of a process.

    A batch lives as long as any of its chunks.
    """

    def __init__(self):
        self._batches = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def __reduce__(self):
        return type(self), ()

    def of_batch(self, batch: int, shape: tuple[int, ...]) -> np.ndarray:
        """Returns uint8 `shape`, the same array for every caller with this batch."""
        with self._lock:
            images = self._batches.get(batch)
            if images is None:
                self._batches[batch] = images = np.empty(shape, np.uint8)
            return images


def _join(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins the chunks of one batch."""
    batch = {
        key: _concatenate([chunk[key] for chunk in chunks]) for key in chunks[0] if key != "notes"
    }
    if "notes" in chunks[0]:
        batch["notes"] = notes = Notes()
        for chunk in chunks:
            notes.update(chunk["notes"])
    return batch


def _concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    whole = arrays[0].base  # the shared array of the threads; worker processes send copies
    if isinstance(whole, np.ndarray) and all(array.base is whole for array in arrays):
        if whole.ndim == arrays[0].ndim and len(whole) == sum(map(len, arrays)):
            return whole
    return np.concatenate(arrays)


def _begin_worker(*_) -> None:
    cv2.setNumThreads(1)
    end_with_parent()
