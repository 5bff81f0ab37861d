"""Batches for this process. The position in the data is the step: nothing is saved, and any step
of the stream follows from (seed, step) alone. A global batch is the same array, row by row, for any
number of processes, worker processes and threads; a process reads the rows of its own devices."""

import functools
import logging
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from unitok_jax.codes import STRIDE
from unitok_jax.data import order
from unitok_jax.data.buckets import Buckets
from unitok_jax.data.health import Health, Notes, SampleError
from unitok_jax.data.images.crops import decode_random_crop
from unitok_jax.data.images.transforms import check_size, decode_image, resize_center_crop
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.patience import read_patiently
from unitok_jax.data.reading import ENDLESS, stream
from unitok_jax.data.records import Source
from unitok_jax.data.replacement import usable
from unitok_jax.data.sources import open_source
from unitok_jax.data.teacher_features import OF_CAPTIONS, TeacherFeatures
from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.text_features import TextFeatures
from unitok_jax.data.workers import BatchStream
from unitok_jax.system.passing import may_pass

KEPT_BYTES = 1 << 26  # maximum size of all images of a source that are kept in memory

_log = logging.getLogger(__name__)
_warned: set[str] = set()


def effective_batch_size(
    data,
    source_length: int,
    divisor: int = 1,
    reason: str = "the number of devices times optim.accumulation / data.decode_fraction",
) -> int:
    """Returns the largest global batch size a source can fill: `data.batch_size` or less.

    A sample that is twice in a contrastive batch is its own negative. Only a batch that crosses the
    end of an epoch may contain a sample twice.

    Args:
        data: the `data` config; `batch_size` is read.
        source_length: number of samples in the source.
        divisor: required divisor of the batch: devices times micro-batches times the stride
            of the decoded images.
        reason: what `divisor` is, for messages.

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
            f"data.batch_size={data.batch_size} is not a multiple of {divisor}, {reason}; "
            f"nearest: {' or '.join(nearest)}"
        )
    if data.batch_size <= source_length:
        return data.batch_size
    batch_size = source_length // divisor * divisor
    if not batch_size:
        raise ValueError(
            f"the data source holds {source_length} samples, too few for batches that are a "
            f"multiple of {divisor}, {reason}: a batch must not hold a sample twice"
        )
    _warn_once(
        f"data.batch_size={data.batch_size} is larger than the source ({source_length} samples); "
        f"training with batches of {batch_size}"
    )
    return batch_size


class Batches:
    """Endless batches of this process, with the health of their input.

    Owns threads or worker processes: call `close()`, or wrap it in `contextlib.closing`, when
    done with it.

    Attributes:
        health: the `Health` of the input so far.
    """

    def __init__(self, streams: Sequence[BatchStream], health: Health):
        """Takes streams, each of which begins where the one before ends; the last is endless."""
        self._streams, self.health = list(streams), health

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._streams[0], None)
        if batch is None:
            self._streams.pop(0).close()
            return next(self)
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
        """Stops the threads and worker processes."""
        for each in self._streams:
            each.close()


def train_batches(
    data,
    seed: int,
    *,
    source: Source | None = None,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    divisor: int = 1,
    text_features: TextFeatures | None = None,
    teacher_features: TeacherFeatures | None = None,
    sizes: Sequence[tuple[int, tuple[int, int]]] = (),
    buckets: Buckets | None = None,
) -> Batches:
    """Opens this process's rows of the global batches from `start_step` on, without end.

    Every epoch is a new permutation of the source (`order.order`), and every sample appears exactly
    once in it: an incomplete last batch of an epoch is filled with the first samples of the next
    epoch. Crops and the choice among several captions depend only on the seed and on the position
    in the stream.

    A sample that cannot be used is replaced by the next good one of the source and counted;
    `replacement.TRIES` consecutive bad samples, or a share above `data.max_bad`, are an error.

    Args:
        data: the `data` config.
        seed: at least 0.
        source: the result of `open_source(data)`; opened here if None.
        start_step: the first global batch; to resume, pass the step.
        rows: ascending rows of the global batch that this process reads; all if None.
        divisor: as in `effective_batch_size`, which returns the global batch size.
        text_features: stored features of the captions, which are read in place of their tokens.
        teacher_features: stored features of a teacher, which are read beside the images.
        sizes: (first step, (height, width)) of the images, ascending from step 0; by default
            `data.image_size` throughout. The samples, their captions and, at one aspect ratio,
            their crops do not depend on it.
        buckets: order of the samples, and size of the images of each batch; None: the order of
            `order.order`, and `sizes`.

    Yields:
        {'image': uint8 (len(rows), H, W, 3), 'text': int32 (len(rows), L), or float32
        (len(rows), E) with `text_features`}; with `teacher_features` also 'teacher_deep' and what
        else they hold, (len(rows), ...) each.

    Raises:
        ValueError: a batch, rows, image size, crop or source that does not fit, or too many skipped
            samples in the source; from the iterator, `SampleError` after too many consecutive bad
            samples and `TooManyBadSamples` after too many in total.
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
    rows = _check_rows(rows, batch_size)
    read = functools.partial(
        _TrainingRows,
        source,
        order.order(source, seed, data.window) if buckets is None else buckets,
        seed,
        TextTokenizer(data.context_length),
        text_features,
        teacher_features,
        scale=_check_range(data.crop_scale, "data.crop_scale", 1.0),
        ratio=_check_range(data.crop_ratio, "data.crop_ratio", math.inf),
    )
    sizes = sizes or ((0, check_size(data.image_size)),)
    ends = [*(first for first, _ in sizes[1:]), start_step + ENDLESS]
    streams = [
        # A stream starts its threads at its first batch; what it lacks is told now.
        stream(
            read(size=size),
            batch_size,
            rows,
            data,
            first_batch=max(first, start_step),
            batches=end - max(first, start_step),
            shape_of=None if buckets is None else functools.partial(_shape_of, buckets),
        )
        for (first, size), end in zip(sizes, ends, strict=True)
        if start_step < end
    ]
    return Batches(streams, health)


def _shape_of(buckets: Buckets, batch: int) -> tuple[int, int, int]:
    return *buckets.size_of(batch), 3


def eval_batches(
    source: Source,
    data,
    batch_size: int,
    rows: Sequence[int] | None = None,
    leave_out: bool = False,
    stride: int = STRIDE,
) -> BatchStream:
    """Opens this process's rows of one pass over a source, in order, without randomness.

    All processes yield the same number of batches, ceil(len(source) / batch_size), all of one
    shape; past the end of the source, rows are zeros and `mask` is False. No sample is replaced: an
    evaluation must not change silently. Close the iterator like that of `train_batches`.

    Args:
        source: the source to evaluate on.
        data: the `data` config; its source and batch size are ignored.
        batch_size: the global batch size.
        rows: as in `train_batches`.
        leave_out: whether an unusable image becomes a row with `mask` False, counted in
            'notes', a `Notes`, instead of an error.
        stride: what the sides of the images must be multiples of.

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
    size = check_size(data.image_size, stride)
    read = _EvaluationRows(source, TextTokenizer(data.context_length), size, leave_out)
    rows = _check_rows(rows, batch_size)
    return stream(read, batch_size, rows, data, batches=-(-len(source) // batch_size))


class _TrainingRows:
    """Reads the training examples at positions of the stream."""

    def __init__(self, source, positions, seed, tokenizer, features, taught, *, size, scale, ratio):
        self._source, self._order, self._seed = source, positions, seed
        self._tokenizer, self._features, self._taught = tokenizer, features, taught
        self._scale, self._ratio = scale, ratio
        self.image_shape = (*size, 3)
        self.row_bytes = math.prod(self.image_shape) + (taught.row_bytes if taught else 0)
        self._whole = scale == ratio == (1.0, 1.0)
        # Whole images of a small source are decoded once: one of 512 x 512 takes 7 ms, and the step
        # of a small model little more.
        small = len(source) * math.prod(self.image_shape) <= KEPT_BYTES
        self._kept = {} if self._whole and small else None

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        chosen, taught, notes = [], [], Notes()
        for place, position in enumerate(positions):
            rng = order.generator(self._seed, position)
            texts, features = self._example(self._order[position], rng, notes, images[place])
            caption = rng.integers(len(texts))
            chosen.append(texts[caption])
            taught.append({k: x[caption] if k in OF_CAPTIONS else x for k, x in features.items()})
        text = self._tokenizer(chosen) if self._features is None else np.stack(chosen)
        stored = {
            f"teacher_{name}": np.stack([each[name] for each in taught]) for name in taught[0]
        }
        return {"image": images, "text": text, "notes": notes, **stored}

    def _example(self, index, rng, notes, out):
        """Writes the crop at `index`, or at a usable replacement.

        Returns its captions, or their features (captions, E) if these are stored; and the features
        of a teacher, if these are.
        """

        def read(tried):
            record = self._source[tried]
            data, name, captions = record["image"], record["name"], record["captions"]
            texts, taught = captions, {}
            if self._features is not None:
                texts = self._features.of(tried, name, captions)
            if self._taught is not None:
                taught = self._taught.of(tried, name, data, captions)
            self._crop(tried, data, name, rng, out)  # last: no try to read takes draws from `rng`
            return data, name, texts, taught

        data, name, texts, taught = usable(read, index, len(self._source), notes)
        if not len(texts):
            raise ValueError(f"{name} has no caption; open the source with require_captions=True")
        notes.samples += 1
        notes.bytes += len(data)
        return texts, taught

    def _crop(self, index, data, name, rng, out):
        size = out.shape[:2]
        if not self._whole:
            decode_random_crop(data, name, size, rng, self._scale, self._ratio, out)
        elif self._kept is None:
            out[...] = resize_center_crop(decode_image(data, name), size)
        else:
            # In place of a bad one an image has the size of another bucket.
            if (index, size) not in self._kept:
                self._kept[index, size] = resize_center_crop(decode_image(data, name), size)
            out[...] = self._kept[index, size]


class _EvaluationRows:
    """Reads the evaluation examples at positions of the padded source."""

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
                record = read_patiently(self._source.__getitem__, positions[place])
                image = decode_image(record["image"], record["name"])
            except (SampleError, OSError) as error:
                if not self._leave_out or may_pass(error):
                    raise
                notes.skipped.add(getattr(error, "reason", "unreadable"), str(error))
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
