"""Views of the samples of a range of shards, read ahead in batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.codes.views import VIEWS, views
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.patience import read_for_good
from unitok_jax.data.reading import stream
from unitok_jax.data.records import LabelledSource, Source
from unitok_jax.data.workers import BatchStream


class ShardedViews:
    """Reads the views of the samples of a range of shards, in batches that never span two shards.

    Args:
        source: where the samples come from.
        shards: shard numbers; shard k starts at sample k * shard_size.
        shard_size: samples per shard.
        batch_size: samples per batch; the last batch of a shard is padded.
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
        """Returns the number of samples of a shard; the last shard may hold fewer."""
        return min(self._shard_size, len(self._source) - shard * self._shard_size)

    def batches(self, shard: int) -> int:
        """Returns the number of batches of a shard."""
        return -(-self.samples(shard) // self._batch_size)

    def stream(self, data) -> BatchStream:
        """Returns an iterator over all batches, read ahead by `data`'s threads and workers.

        Yields:
            {'image': uint8 (batch_size, VIEWS[kind], H, W, 3), 'facts': object (batch_size,)}: for
            each sample {'name', 'captions'} and perhaps 'label'; {'reason', 'message'} for a sample
            that cannot be used; None past the end.
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
            record = read_for_good(self._source, index)
            image = decode_image(record["image"], record["name"])
        except SampleError as error:
            return {"reason": error.reason, "message": str(error)}
        out[...] = views(image, self._size, self._kind, self._crop_scale)
        facts = {"name": record["name"], "captions": record["captions"]}
        if self._labelled:
            facts["label"] = self._source.label(index)
        return facts


def of_shards(batches: Iterator, reader: ShardedViews, shards: Sequence[int]) -> Iterator[tuple]:
    """Yields (shard, its batches) of an ordered stream; use each up before taking the next."""
    for shard in shards:
        yield shard, (next(batches) for _ in range(reader.batches(shard)))
