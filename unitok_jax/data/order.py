"""The order of training: which sample stands at a position of the endless stream of samples.

An order is a function of (source, seed, position), so any position can be resumed at without
anything saved but its number, by any number of processes.
"""

import functools
from typing import Any

import grain
import numpy as np

from unitok_jax.data.mixture import Mixture
from unitok_jax.data.records import Source

_ENDLESS = 2**62  # positions


def order(source: Source, seed: int, window: int):
    """The endless order in which training reads a source.

    * A source of random access is shuffled as a whole, anew in every epoch.
    * A source that is read in blocks is shuffled near by: its blocks anew in every epoch, and then
      the samples of `window` blocks that follow one another. So a reader that keeps `window` blocks
      reads each of them once per epoch.
    * A mixture takes from its parts in turn, by their weights, and each part has an order, and
      epochs, of its own.

    Either way every sample of a source, or of a part, comes exactly once in each of its epochs.

    Args:
        source: what is read; its `blocks` decide.
        seed: at least 0.
        window: blocks that are shuffled together, at least 1.

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
    """The randomness of the sample at a position: its crop, and the choice of its caption."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))


class _Shifted:
    """The order of one part, as indices of the whole mixture."""

    def __init__(self, order: Any, start: int):
        self._order, self._start = order, start

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> int:
        return self._order[position] + self._start


class _BlockOrder:
    """Blocks in random order, and the samples of every `window` of them in random order."""

    def __init__(self, blocks: np.ndarray, seed: int, window: int):
        self._blocks, self._seed, self._window = blocks, seed, window
        # Pure functions: a second thread that asks at the same time computes the same.
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
        # Counted from the end of its block, which `_blocks` holds.
        return int(self._blocks[blocks[slot]]) - (int(ends[slot]) - place)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of an epoch, and where each ends in it."""
        sizes = np.diff(self._blocks, prepend=0)
        blocks = np.random.default_rng((self._seed, epoch)).permutation(len(sizes))
        return blocks, np.cumsum(sizes[blocks])

    def _permutation(self, epoch: int, window: int, size: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch, window)).permutation(size)
