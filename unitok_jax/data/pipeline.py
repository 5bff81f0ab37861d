"""Batches for this process. The position in the data is the step: nothing is saved, and any step
of the stream can be computed from (seed, step) alone. A global batch is the same array, row by row,
for any number of processes, worker processes and threads; a process reads the rows that its devices
hold."""

import dataclasses
import logging
import math
import multiprocessing
import os
import threading
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from unitok_jax.data.records import Source
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import Tokenizer
from unitok_jax.data.transforms import (
    ImageError,
    check_size,
    decode_image,
    random_resized_crop,
    resize_center_crop,
)

REPLACEMENT_TRIES = 16  # images in a row that may be bad before training stops

_log = logging.getLogger(__name__)
_warned: set[str] = set()
_warned_lock = threading.Lock()


def effective_batch_size(data, source_length: int, divisor: int = 1) -> int:
    """The global batch size that a source can fill: `data.batch_size`, or less for a small source.

    A contrastive batch must not hold a sample twice, for it would be its own negative.

    Args:
        data: the `data` config; `batch_size` is read.
        source_length: samples in the source.
        divisor: what the batch must be a multiple of: devices times micro-batches times the stride
            of the images that are decoded.

    Raises:
        ValueError: `data.batch_size` is not a positive multiple of `divisor`, or the source has
            fewer samples than that.
    """
    if data.batch_size <= 0 or data.batch_size % divisor:
        raise ValueError(
            f"data.batch_size={data.batch_size} is not a positive multiple of {divisor}, "
            "the number of devices times optim.accumulation / data.decode_fraction"
        )
    if data.batch_size <= source_length:
        return data.batch_size
    batch_size = source_length // divisor * divisor
    if not batch_size:
        raise ValueError(
            f"the data source holds {source_length} samples, too few for batches that are a "
            f"multiple of {divisor}, the number of devices times optim.accumulation / "
            "data.decode_fraction: a batch must not hold a sample twice"
        )
    _warn_once(
        f"data.batch_size={data.batch_size} is larger than the source ({source_length} samples); "
        f"training with batches of {batch_size}"
    )
    return batch_size


def train_batches(
    data,
    seed: int,
    *,
    source: Source | None = None,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    divisor: int = 1,
) -> grain.DatasetIterator:
    """This process's rows of the global batches from `start_step` on, without end.

    Every epoch is a new permutation of the source, and every sample comes exactly once in it: what
    does not fill an epoch's last batch is joined by the first samples of the next epoch. Crops and
    the choice among several captions depend on the seed and on the sample's place in the stream, on
    nothing else.

    An image that cannot be read is replaced by the next good one of the source, with one warning
    per file and process; `REPLACEMENT_TRIES` bad ones in a row are an error.

    The iterator owns threads or worker processes: call its `close()`, or wrap it in
    `contextlib.closing`, when done with it.

    Args:
        data: the `data` config.
        seed: at least 0.
        source: what `open_source(data)` returned; opened here if None.
        start_step: the first global batch; resuming is passing the step.
        rows: of the global batch, ascending: those that this process reads; all if None.
        divisor: as in `effective_batch_size`; the global batch B is that function's result.

    Yields:
        {'image': uint8 (len(rows), H, W, 3), 'text': int32 (len(rows), L)}.

    Raises:
        ValueError: a batch, rows, image size, crop or source that does not fit; from the
            iterator, `ImageError` after too many bad images.
    """
    if start_step < 0:
        raise ValueError(f"start_step={start_step} must be at least 0")
    source = open_source(data) if source is None else source
    batch_size = effective_batch_size(data, len(source), divisor)
    example = _TrainExample(
        source=source,
        tokenizer=Tokenizer(data.context_length),
        size=check_size(data.image_size),
        scale=_check_range(data.crop_scale, "data.crop_scale", 1.0),
        ratio=_check_range(data.crop_ratio, "data.crop_ratio", math.inf),
    )
    # Rows are cut out of the finished stream, after repeat and random_map: cut earlier, epochs of
    # the processes would drift apart when the source does not divide, and crops depend on them.
    stream = grain.MapDataset.range(len(source)).seed(seed).shuffle()
    stream = stream.repeat(None).random_map(example)
    share = _Share(stream, batch_size, _check_rows(rows, batch_size), start_step)
    return _batched(grain.MapDataset.source(share), len(share.rows), data)


def eval_batches(
    source: Source,
    data,
    batch_size: int,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """This process's rows of one pass over a source, in order, without randomness.

    All processes yield the same number of batches, ceil(len(source) / batch_size), all of one
    shape; past the end of the source, rows are zeros and `mask` is False. Nothing is replaced: an
    evaluation must not silently change. Close the iterator as that of `train_batches`.

    Args:
        source: what to evaluate on.
        data: the `data` config; its source and batch size play no part here.
        batch_size: of all processes together.
        rows: as in `train_batches`.

    Yields:
        {'image': uint8 (b, H, W, 3), the scaled centre; 'text': int32 (b, L), the first caption,
        zeros if there is none; 'mask': bool (b,); 'index': int32 (b,), the position in the
        source}, with b = len(rows).

    Raises:
        ValueError: a batch, rows or image size that does not fit; from the iterator,
            `ImageError` at a bad image.
    """
    if batch_size <= 0:
        raise ValueError(f"batch_size={batch_size} must be positive")
    example = _EvalExample(
        source=source,
        tokenizer=Tokenizer(data.context_length),
        size=check_size(data.image_size),
    )
    padded = -(-len(source) // batch_size) * batch_size
    stream = grain.MapDataset.range(padded).map(example)
    share = _Share(stream, batch_size, _check_rows(rows, batch_size))
    return _batched(grain.MapDataset.source(share), len(share.rows), data)


@dataclasses.dataclass(frozen=True)
class _Share:
    """Some rows of every global batch of a stream, as one sequence; a source for Grain."""

    stream: grain.MapDataset
    batch_size: int
    rows: tuple[int, ...]
    first_batch: int = 0

    def __len__(self) -> int:
        return (len(self.stream) // self.batch_size - self.first_batch) * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch, row = divmod(index, len(self.rows))
        return self.stream[(self.first_batch + batch) * self.batch_size + self.rows[row]]


@dataclasses.dataclass(frozen=True)
class _TrainExample:
    """Position in the source to training example."""

    source: Source
    tokenizer: Tokenizer
    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, captions, name = self._readable(index)
        if not captions:
            raise ValueError(f"{name} has no caption; open the source with require_captions=True")
        caption = captions[rng.integers(len(captions))]
        return {
            "image": random_resized_crop(image, self.size, rng, self.scale, self.ratio),
            "text": self.tokenizer(caption)[0],
        }

    def _readable(self, index: int) -> tuple[np.ndarray, tuple[str, ...], str]:
        """Image, captions and name at `index`, or at the next position that can be read.

        Replacing here, and not filtering later, keeps the position in the stream and the step one.
        """
        tries = min(REPLACEMENT_TRIES, len(self.source))
        for attempt in range(tries):
            try:
                record = self.source[(index + attempt) % len(self.source)]
                image = decode_image(record["image"], record["name"])
                return image, record["captions"], record["name"]
            except (ImageError, OSError) as error:
                reason = error
                _warn_once(f"replaced by another sample: {error}")
        raise ImageError(f"{tries} images in a row cannot be read; the last: {reason}") from reason


@dataclasses.dataclass(frozen=True)
class _EvalExample:
    """Position in the padded source to evaluation example."""

    source: Source
    tokenizer: Tokenizer
    size: tuple[int, int]

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        image = np.zeros((*self.size, 3), np.uint8)
        text = np.zeros(self.tokenizer.context_length, np.int32)
        real = index < len(self.source)
        if real:
            record = self.source[index]
            image = resize_center_crop(decode_image(record["image"], record["name"]), self.size)
            if record["captions"]:
                text = self.tokenizer(record["captions"][0])[0]
        return {
            "image": image,
            "text": text,
            "mask": np.bool_(real),
            "index": np.int32(index if real else 0),
        }


def _batched(examples: grain.MapDataset, batch_size: int, data: Any) -> grain.DatasetIterator:
    """Reads examples ahead, in threads or worker processes, in order, and stacks them."""
    # Examples are read ahead, not batches: all threads work on the next batch, and memory holds
    # about two batches whatever the number of threads.
    ahead = max(batch_size, 2 * data.num_threads)
    if data.num_workers:
        # Grain hands its absl flags to the workers and refuses unparsed ones; whoever has not come
        # through absl's app.run (a test, a notebook) has them at their defaults.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        ahead = -(-ahead // data.num_workers)
    stream = examples.to_iter_dataset(grain.ReadOptions(data.num_threads, ahead))
    if data.num_workers:
        options = grain.MultiprocessingOptions(data.num_workers, per_worker_buffer_size=ahead)
        stream = stream.mp_prefetch(options, _end_with_parent)
    return iter(stream.batch(batch_size, drop_remainder=True))


def _end_with_parent(*_) -> None:
    """Ends a worker whose parent was killed: it would wait for ever, with its memory."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_rows(rows: Sequence[int] | None, batch_size: int) -> tuple[int, ...]:
    rows = tuple(range(batch_size)) if rows is None else tuple(int(row) for row in rows)
    ascending = all(low < high for low, high in zip(rows, rows[1:], strict=False))
    if not rows or not ascending or not 0 <= rows[0] <= rows[-1] < batch_size:
        raise ValueError(f"rows={rows} are not ascending rows of a global batch of {batch_size}")
    return rows


def _check_range(limits, key: str, largest: float) -> tuple[float, float]:
    limits = tuple(limits)
    if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= largest:
        bound = "" if math.isinf(largest) else f" <= {largest}"
        raise ValueError(f"{key}={limits}: give two numbers with 0 < low <= high{bound}")
    return limits


def _warn_once(message: str) -> None:
    with _warned_lock:
        first = message not in _warned
        _warned.add(message)
    if first:
        _log.warning(message)
