"""A mixture of several sources in one, sampled in given proportions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unitok_jax.data.health import Tally
from unitok_jax.data.records import Source


class Mixture:
    """Concatenated sources with weights, which `order` uses.

    Args:
        parts: the sources.
        weights: a positive weight for each; only the proportions matter.
    """

    def __init__(self, parts: Sequence[Source], weights: Sequence[float]):
        self.parts, self.weights = tuple(parts), tuple(weights)
        self._starts = np.cumsum([0, *map(len, self.parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, place = self.place(index)
        return self.parts[part][place]

    def place(self, index: int) -> tuple[int, int]:
        """Returns the number of the part that holds a sample, and its index there."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return part, index - int(self._starts[part])

    def check_batch(self, batch_size: int) -> None:
        """Refuses parts smaller than their share of a batch, which would repeat within the batch.

        Raises:
            ValueError: the message names the part.
        """
        for number, (part, weight) in enumerate(zip(self.parts, self.weights, strict=True)):
            share = math.ceil(batch_size * weight / sum(self.weights))
            if share > len(part):
                raise ValueError(
                    f"data.mixture[{number}] holds {len(part)} samples, and its weight {weight} "
                    f"makes {share} of a batch of {batch_size}, which must not hold a sample "
                    "twice; lower the weight or data.batch_size"
                )

    @property
    def tally(self) -> Tally:
        """Samples skipped by all parts together."""
        tally = Tally()
        tally.update(part.tally for part in self.parts if hasattr(part, "tally"))
        return tally
