"""Order of training: the sample at each position of the endless stream of samples.

An order is a function of (source, seed, position), so training can resume at any position
from its number alone, with any number of processes.
"""

import functools
from typing import Any

import grain
import numpy as np

from unitok_jax.data.mixture import Mixture
from unitok_jax.data.records import Source

_ENDLESS = 2**62  # positions


def order(source: Source, seed: int, window: int):
    """Returns the endless order in which training reads a source.

    * A source with random access is shuffled as a whole, anew in every epoch.
    * A source that is read in blocks is shuffled locally: its blocks anew in every epoch, and then
      the samples of each `window` consecutive blocks. So a reader that caches `window` blocks
      reads each block once per epoch.
    * A mixture interleaves its parts by their weights, and each part has an order, and
      epochs, of its own.

    In every case each sample of a source, or of a part, appears exactly once per epoch.

    Args:
        source: the source; its `blocks` select the kind of order.
        seed: at least 0.
        window: number of blocks shuffled together, at least 1.

    Returns:
        A picklable sequence: position -> index in the source.
    """
    if isinstance(source, Mixture):
        parts = [order(part, seed + number, window) for number, part in enumerate(source.parts)]
        starts = np.cumsum([0, *(len(part) for part in source.parts)]).tolist()
        shifted = [
            grain.MapDataset.source(_Shifted(part, start))
            for part, start in zip(parts, starts, strict=False)
        ]
        return grain.MapDataset.mix(shifted, source.weights)
    blocks = getattr(source, "blocks", None)
    if blocks is None:
        return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)
    return _BlockOrder(np.asarray(blocks, np.int64), seed, window)


def generator(seed: int, position: int) -> np.random.Generator:
    """Returns the random generator for the sample at a position: its crop and its caption."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))


class _Shifted:
    """Order of one part, as indices into the whole mixture."""

    def __init__(self, order: Any, start: int):
        self._order, self._start = order, start

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> int:
        return self._order[position] + self._start


class _BlockOrder:
    """Random order of blocks, and of the samples in every `window` blocks."""

    def __init__(self, blocks: np.ndarray, seed: int, window: int):
        self._blocks, self._seed, self._window = blocks, seed, window
        # Pure functions: a second thread that calls at the same time computes the same values.
        self._epoch = functools.lru_cache(maxsize=2)(self._epoch)
        self._permutation = functools.lru_cache(maxsize=4)(self._permutation)

    def __reduce__(self):
        return type(self), (self._blocks, self._seed, self._window)

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, int(self._blocks[-1]))
        blocks, ends = self._epoch(epoch)
        window = int(np.searchsorted(ends, place, side="right")) // self._window
        first = window * self._window
        start = int(ends[first - 1]) if first else 0
        end = int(ends[min(first + self._window, len(ends)) - 1])
        place = start + int(self._permutation(epoch, window, end - start)[place - start])
        slot = int(np.searchsorted(ends, place, side="right"))
        # Counted back from the end of its block, which `_blocks` holds.
        return int(self._blocks[blocks[slot]]) - (int(ends[slot]) - place)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the blocks in the order of an epoch, and the end of each in this order."""
        sizes = np.diff(self._blocks, prepend=0)
        blocks = np.random.default_rng((self._seed, epoch)).permutation(len(sizes))
        return blocks, np.cumsum(sizes[blocks])

    def _permutation(self, epoch: int, window: int, size: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch, window)).permutation(size)
