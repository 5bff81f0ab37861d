"""Order of training in batches of one image size each, so that images keep their aspect ratio."""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from unitok_jax.data import order
from unitok_jax.data.images.aspect_ratios import aspect_sizes, nearest_buckets
from unitok_jax.data.images.transforms import check_size
from unitok_jax.data.records import Source

KEY = "data.bucket_ratio"
PACK = "pack it, with the same data.* keys, by unitok data pack, and set data.source=array_record"
_BLOCK = 4096  # images whose buckets are looked through for one of them

log = logging.getLogger(__name__)


class Buckets:
    """Endless order of training: position -> index in the source, a batch from one bucket.

    A bucket has an endless order of its own, every image once in each pass over it. In an epoch
    each takes as many turns as it fills whole batches, and what is left over comes first in the
    next one: no image is left out, and none is seen more often than another. A batch that begins
    with the last images of a pass ends with others of the next one: in the contrastive loss an
    image that comes twice would be its own negative. The turns of an epoch are shuffled anew. All
    follows from the position alone.

    Picklable, and read by several threads.

    Attributes:
        sizes: (height, width) of the images of each bucket, from the tallest to the widest.
        counts: images of each bucket.
    """

    def __init__(
        self, sizes: Sequence[tuple[int, int]], of: np.ndarray, seed: int, batch_size: int
    ):
        """Takes the bucket of every image.

        Args:
            sizes: of the buckets, each of which has two batches of images at least.
            of: uint16 (n,), the bucket of each image of the source.
            seed: at least 0.
            batch_size: of the global batches.
        """
        self.sizes, self._of, self._seed, self._batch_size = list(sizes), of, seed, batch_size
        starts = range(0, len(of), _BLOCK)
        rows = [np.bincount(of[start : start + _BLOCK], minlength=len(sizes)) for start in starts]
        # (buckets, blocks): images of each bucket up to the end of each block
        self._ends = np.cumsum(np.stack(rows, axis=1), axis=1)
        self.counts = self._ends[:, -1].tolist()
        self._orders = [
            order.order(range(count), seed + number, 1) for number, count in enumerate(self.counts)
        ]
        # Pure functions: a second thread that calls at the same time computes the same values.
        self._turns = functools.lru_cache(maxsize=2)(self._turns)
        self._first = functools.lru_cache(maxsize=2 * len(sizes))(self._first)

    def __reduce__(self):
        return type(self), (self.sizes, self._of, self._seed, self._batch_size)

    def __getitem__(self, position: int) -> int:
        batch, row = divmod(position, self._batch_size)
        bucket, turn = self._turn(batch)
        rank = self._rank(bucket, turn * self._batch_size + row)
        ends = self._ends[bucket]
        block = int(np.searchsorted(ends, rank, side="right"))
        before = int(ends[block - 1]) if block else 0
        inside = self._of[block * _BLOCK : (block + 1) * _BLOCK]
        return block * _BLOCK + int(np.flatnonzero(inside == bucket)[rank - before])

    def size_of(self, batch: int) -> tuple[int, int]:
        """Returns the (height, width) of the images of a global batch."""
        return self.sizes[self._turn(batch)[0]]

    def facts(self) -> dict[str, int]:
        """Returns the images of each bucket, by its size."""
        return {_show(size): count for size, count in zip(self.sizes, self.counts, strict=True)}

    def line(self) -> str:
        """Formats the buckets for people."""
        shares = (f"{name} px {count / len(self._of):.1%}" for name, count in self.facts().items())
        return ", ".join(shares)

    def _rank(self, bucket: int, position: int) -> int:
        """Returns the place among a bucket's images of the one at a position of its order."""
        number, place = divmod(position, self.counts[bucket])
        if place < self._batch_size:
            return int(self._first(bucket, number)[place])
        return int(self._orders[bucket][position])

    def _first(self, bucket: int, number: int) -> np.ndarray:
        """Returns the first batch of a pass; images that its batch has already come at the end."""
        size, start = self._batch_size, number * self.counts[bucket]
        first, last = (
            np.array([self._orders[bucket][each] for each in range(begin, end)], np.int64)
            for begin, end in ((start, start + size), (start - start % size, start))
        )
        again = np.isin(first, last)
        # Those behind the batch stay where they are; two batches have room for all of this.
        end = int(np.flatnonzero(~again)[size - len(last) - 1]) + 1
        head, again = first[:end], again[:end]
        return np.concatenate([head[~again], head[again], first[end:]])

    def _turn(self, batch: int) -> tuple[int, int]:
        """Returns the bucket of a batch, and which of this bucket's batches it is, from 0."""
        # At most the epoch: rounding down makes epochs begin early.
        epoch = batch * self._batch_size // len(self._of)
        while sum(self._begun(epoch + 1)) <= batch:
            epoch += 1
        begun = self._begun(epoch)
        buckets, turns = self._turns(epoch)
        place = batch - sum(begun)
        bucket = int(buckets[place])
        return bucket, begun[bucket] + int(turns[place])

    def _begun(self, epoch: int) -> list[int]:
        """Returns the batches of each bucket before an epoch."""
        return [epoch * count // self._batch_size for count in self.counts]

    def _turns(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bucket of each batch of an epoch, and its number among this bucket's."""
        counts = np.subtract(self._begun(epoch + 1), self._begun(epoch))
        buckets = np.repeat(np.arange(len(counts)), counts)
        turns = np.concatenate([np.arange(count) for count in counts])
        rng = np.random.default_rng((self._seed, epoch))
        shuffled = rng.permutation(buckets)
        numbers = np.empty_like(turns)
        numbers[np.argsort(shuffled, kind="stable")] = turns
        return shuffled, numbers


def bucket_sizes(data) -> list[tuple[int, int]]:
    """Returns the (height, width) of all buckets, from the tallest to the widest.

    Their sides are multiples of 16, and none has more pixels than `data.image_size`.

    Args:
        data: the `data` config; `image_size` and `bucket_ratio` are read.

    Raises:
        ValueError: a ratio below 1, or one that no size has.
    """
    size, ratio = check_size(data.image_size), data.bucket_ratio
    if not 1 <= ratio < np.inf:
        raise ValueError(
            f"{KEY}={ratio} is the longer side of the longest images over the shorter one: set it "
            "to 1 or more, as 2.0, or to 0 for images of data.image_size alone"
        )
    try:
        return aspect_sizes(size, 16, ratio)
    except ValueError as error:
        raise ValueError(
            f"{KEY}={ratio}: no sides that are multiples of 16 have up to this ratio and the area "
            f"of data.image_size={_show(size)}; raise one of them"
        ) from error


def open_buckets(source: Source, data, seed: int, batch_size: int) -> Buckets:
    """Puts every image of a source into the bucket whose aspect ratio is nearest.

    A bucket with less than two batches of images is given up, as a batch must not hold one twice,
    and its images go to the nearest of the others.

    Args:
        source: one with `shapes`.
        data: the `data` config.
        seed: of the order, at least 0.
        batch_size: of the global batches.

    Raises:
        ValueError: a source that does not know its images' shapes, or without two batches of images
            in any bucket; or as for `bucket_sizes`.
    """
    if not hasattr(source, "shapes"):
        raise ValueError(
            f"{KEY}={data.bucket_ratio} needs the sizes of all images, which data.source="
            f"{data.source} does not tell; {PACK}"
        )
    sizes, shapes = bucket_sizes(data), source.shapes()
    of = nearest_buckets(shapes, sizes)
    counts = np.bincount(of, minlength=len(sizes))
    kept = [size for size, count in zip(sizes, counts, strict=True) if count >= 2 * batch_size]
    if not kept:
        largest = int(counts.argmax())
        raise ValueError(
            f"{KEY}={data.bucket_ratio}: no bucket has the images of two batches of {batch_size}; "
            f"the largest, {_show(sizes[largest])} px, has {counts[largest]}: lower data.batch_size"
        )
    if len(kept) < len(sizes):
        few = ", ".join(_show(size) for size in sizes if size not in kept)
        log.info("buckets with less than two batches of images, which others take: %s", few)
        of = nearest_buckets(shapes, kept)
    return Buckets(kept, of, seed, batch_size)


def _show(size: Sequence[int]) -> str:
    return "{}x{}".format(*size)
