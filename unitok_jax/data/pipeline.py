"""Batches for this process. The position in the data is the step: nothing is saved, and any step
of the stream can be computed from (seed, step) alone. A global batch is the same array, row by row,
for any number of processes, worker processes and threads; a process reads the rows that its devices
hold."""

import logging
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from unitok_jax.data import order
from unitok_jax.data.health import Health, Notes, SampleError
from unitok_jax.data.images.crops import decode_random_crop
from unitok_jax.data.images.transforms import check_size, decode_image, resize_center_crop
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.reading import stream
from unitok_jax.data.records import Source
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import Tokenizer
from unitok_jax.data.workers import Told

REPLACEMENT_TRIES = 16  # samples in a row that may be bad before training stops
NEIGHBOURS = 4  # of them lie next to the first, the others all over the source

_log = logging.getLogger(__name__)
_warned: set[str] = set()


def effective_batch_size(data, source_length: int, divisor: int = 1) -> int:
    """The global batch size that a source can fill: `data.batch_size`, or less for a small source.

    A sample that a contrastive batch holds twice is its own negative. Only a batch that crosses the
    end of an epoch may hold one twice.

    Args:
        data: the `data` config; `batch_size` is read.
        source_length: samples in the source.
        divisor: what the batch must be a multiple of: devices times micro-batches times the stride
            of the images that are decoded.

    Raises:
        ValueError: `data.batch_size` is not a positive multiple of `divisor`, or the source has
            fewer samples than that.
    """
    if data.batch_size < 1:
        raise ValueError(f"data.batch_size={data.batch_size} must be at least 1")
    if data.batch_size % divisor:
        below = data.batch_size // divisor * divisor
        nearest = [str(near) for near in (below, below + divisor) if near]
        raise ValueError(
            f"data.batch_size={data.batch_size} is not a multiple of {divisor}, "
            "the number of devices times optim.accumulation / data.decode_fraction; nearest: "
            + " or ".join(nearest)
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


class Batches:
    """Batches of this process, without end, and the health of what they are read from.

    It owns threads or worker processes: call `close()`, or wrap it in `contextlib.closing`, when
    done with it.

    Attributes:
        health: a `Health` of what came so far.
    """

    def __init__(self, stream: Told, health: Health):
        self._stream, self.health = stream, health

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._stream)
        notes = batch.pop("notes")
        for reason, messages in notes.skipped.names.items():
            _warn_once(
                f"a sample is left out, the next good one takes its place ({reason}): "
                f"{messages[0]}; further ones are counted as data/skipped/{reason}",
                key=reason,
            )
        self.health.update(notes)
        return batch

    def close(self) -> None:
        """Ends the threads and worker processes."""
        self._stream.close()


def train_batches(
    data,
    seed: int,
    *,
    source: Source | None = None,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    divisor: int = 1,
) -> Batches:
    """This process's rows of the global batches from `start_step` on, without end.

    Every epoch is a new permutation of the source (`order.order`), and every sample comes exactly
    once in it: what does not fill an epoch's last batch is joined by the first samples of the next
    epoch. Crops and the choice among several captions depend on the seed and on the sample's place
    in the stream, on nothing else.

    A sample that cannot be used is replaced by the next good one of the source and counted;
    `REPLACEMENT_TRIES` bad ones in a row, or a share of more than `data.max_bad`, are an error.

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
        ValueError: a batch, rows, image size, crop or source that does not fit, or too many samples
            that the source left out; from the iterator, `SampleError` after too many bad samples in
            a row and `TooManyBadSamples` after too many in all.
    """
    if start_step < 0:
        raise ValueError(f"start_step={start_step} must be at least 0")
    if data.window < 1:
        raise ValueError(f"data.window={data.window} must be at least 1 block")
    source = open_source(data) if source is None else source
    health = Health(data.max_bad)
    health.check_source(source)
    batch_size = effective_batch_size(data, len(source), divisor)
    if isinstance(source, Mixture):
        source.check_batch(batch_size)
    read = _TrainingRows(
        source,
        order.order(source, seed, data.window),
        seed,
        Tokenizer(data.context_length),
        check_size(data.image_size),
        _check_range(data.crop_scale, "data.crop_scale", 1.0),
        _check_range(data.crop_ratio, "data.crop_ratio", math.inf),
    )
    rows = _check_rows(rows, batch_size)
    return Batches(stream(read, batch_size, rows, data, first_batch=start_step), health)


def eval_batches(
    source: Source,
    data,
    batch_size: int,
    rows: Sequence[int] | None = None,
    leave_out: bool = False,
) -> Told:
    """This process's rows of one pass over a source, in order, without randomness.

    All processes yield the same number of batches, ceil(len(source) / batch_size), all of one
    shape; past the end of the source, rows are zeros and `mask` is False. Nothing is replaced: an
    evaluation must not silently change. Close the iterator as that of `train_batches`.

    Args:
        source: what to evaluate on.
        data: the `data` config; its source and batch size play no part here.
        batch_size: of all processes together.
        rows: as in `train_batches`.
        leave_out: whether an image that cannot be used becomes a row with `mask` False, told in
            'notes', a `Notes`, instead of an error.

    Yields:
        {'image': uint8 (b, H, W, 3), the scaled centre; 'text': int32 (b, L), the first caption,
        zeros if there is none; 'mask': bool (b,); 'index': int32 (b,), the position in the
        source; 'crc32': uint32 (b,), of the image's bytes}, with b = len(rows).

    Raises:
        ValueError: a batch, rows or image size that does not fit; from the iterator,
            `ImageError` at a bad image.
    """
    if batch_size <= 0:
        raise ValueError(f"batch_size={batch_size} must be positive")
    size = check_size(data.image_size)
    read = _EvaluationRows(source, Tokenizer(data.context_length), size, leave_out)
    rows = _check_rows(rows, batch_size)
    return stream(read, batch_size, rows, data, batches=-(-len(source) // batch_size))


class _TrainingRows:
    """Reads the training examples at some positions of the stream."""

    def __init__(self, source, positions, seed, tokenizer, size, scale, ratio):
        self._source, self._order, self._seed = source, positions, seed
        self._tokenizer, self._size, self._scale, self._ratio = tokenizer, size, scale, ratio
        self.image_shape = (*size, 3)

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        captions, notes = [], Notes()
        for place, position in enumerate(positions):
            rng = order.generator(self._seed, position)
            texts = self._example(self._order[position], rng, notes, images[place])
            captions.append(texts[rng.integers(len(texts))])
        return {"image": images, "text": self._tokenizer(captions), "notes": notes}

    def _example(self, index, rng, notes, out):
        """Writes the crop at `index`, or at another position that can be used; its captions.

        Replacing here, and not filtering later, keeps the position in the stream and the step one.
        """
        length = len(self._source)
        tries = min(REPLACEMENT_TRIES, length)
        for attempt in range(tries):
            # After a few neighbours look elsewhere: a whole shard may be damaged.
            stride = 1 if attempt < NEIGHBOURS else max(1, length // tries)
            try:
                record = self._source[(index + attempt * stride) % length]
                data, name, captions = record["image"], record["name"], record["captions"]
                decode_random_crop(data, name, self._size, rng, self._scale, self._ratio, out)
            except (SampleError, OSError) as error:
                last, reason = error, getattr(error, "reason", "unreadable")
                if not attempt:  # a bad replacement is counted at its own place
                    notes.skipped.add(reason, str(error))
                continue
            if not captions:
                raise ValueError(
                    f"{name} has no caption; open the source with require_captions=True"
                )
            notes.samples += 1
            notes.bytes += len(data)
            return captions
        message = f"{tries} samples in a row cannot be used; the last: {last}"
        raise SampleError(message, reason) from last


class _EvaluationRows:
    """Reads the evaluation examples at some positions of the padded source."""

    def __init__(self, source, tokenizer, size, leave_out):
        self._source, self._tokenizer, self._size = source, tokenizer, size
        self._leave_out = leave_out
        self.image_shape = (*size, 3)

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        images[...] = 0
        texts = np.zeros((len(positions), self._tokenizer.context_length), np.int32)
        index = np.array(positions)
        mask, notes = index < len(self._source), Notes()
        for place in np.flatnonzero(mask):
            try:
                record = self._source[positions[place]]
                image = decode_image(record["image"], record["name"])
            except SampleError as error:
                if not self._leave_out:
                    raise
                notes.skipped.add(error.reason, str(error))
                mask[place] = False
                continue
            images[place] = resize_center_crop(image, self._size)
            if record["captions"]:
                texts[place] = self._tokenizer(record["captions"][0])[0]
        rows = {
            "image": images,
            "text": texts,
            "mask": mask,
            "index": np.where(mask, index, 0).astype(np.int32),
            "crc32": np.array(
                [zlib.crc32(image) if ok else 0 for ok, image in zip(mask, images, strict=True)],
                np.uint32,
            ),
        }
        return rows | ({"notes": notes} if self._leave_out else {})


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


def _warn_once(message: str, key: str = "") -> None:
    key = key or message
    if key not in _warned:
        _warned.add(key)
        _log.warning(message)
