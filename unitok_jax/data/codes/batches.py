"""The views of the samples of some shards, read ahead, batch by batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.codes.views import VIEWS, views
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.reading import stream
from unitok_jax.data.records import LabelledSource, Source
from unitok_jax.data.workers import Told


class ShardedViews:
    """Reads the views of the samples of some shards, batch by batch; none crosses a shard.

    Args:
        source: of the samples.
        shards: their numbers; shard k holds samples k * shard_size and on.
        shard_size: samples of a shard.
        batch_size: samples of a batch; the last of a shard is filled up with nothing.
        size, kind, crop_scale: as in `views`.
    """

    def __init__(
        self,
        source: Source,
        shards: Sequence[int],
        shard_size: int,
        batch_size: int,
        size: Sequence[int],
        kind: str,
        crop_scale: float,
    ):
        self._source, self._shards, self._shard_size = source, list(shards), shard_size
        self._batch_size, self._per_shard = batch_size, -(-shard_size // batch_size)
        self._size, self._kind, self._crop_scale = tuple(size), kind, crop_scale
        self._labelled = isinstance(source, LabelledSource)
        self.image_shape = (VIEWS[kind], *size, 3)

    def samples(self, shard: int) -> int:
        """Of one shard; the last may hold fewer."""
        return min(self._shard_size, len(self._source) - shard * self._shard_size)

    def batches(self, shard: int) -> int:
        """Of one shard."""
        return -(-self.samples(shard) // self._batch_size)

    def stream(self, data) -> Told:
        """All batches, read ahead as `data.num_threads` and `data.num_workers` say.

        Yields:
            {'image': uint8 (batch_size, VIEWS[kind], H, W, 3), 'facts': object (batch_size,)}: of
            each sample {'name', 'captions'} and perhaps 'label', or {'reason', 'message'} of what
            cannot be used, or None past the end.
        """
        rows = range(self._batch_size)
        count = sum(map(self.batches, self._shards))
        return stream(self, self._batch_size, rows, data, batches=count)

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        facts = np.empty(len(positions), object)
        for place, position in enumerate(positions):
            batch, row = divmod(position, self._batch_size)
            number, batch = divmod(batch, self._per_shard)
            shard = self._shards[number]
            offset = batch * self._batch_size + row
            images[place] = 0
            if offset < self.samples(shard):
                facts[place] = self._read(shard * self._shard_size + offset, images[place])
        return {"image": images, "facts": facts}

    def _read(self, index: int, out: np.ndarray) -> dict[str, Any]:
        try:
            record = self._source[index]
            image = decode_image(record["image"], record["name"])
        except SampleError as error:
            return {"reason": error.reason, "message": str(error)}
        except OSError as error:
            return {"reason": "unreadable", "message": str(error)}
        out[...] = views(image, self._size, self._kind, self._crop_scale)
        facts = {"name": record["name"], "captions": record["captions"]}
        if self._labelled:
            facts["label"] = self._source.label(index)
        return facts


def of_shards(batches: Iterator, reader: ShardedViews, shards: Sequence[int]) -> Iterator[tuple]:
    """(shard, its batches) of what comes in order; each must be used up before the next."""
    for shard in shards:
        yield shard, (next(batches) for _ in range(reader.batches(shard)))
