"""The methods of a model as compiled programs, for batches of any size."""

import functools

import jax
import numpy as np

from unitok_jax.models.images import to_float
from unitok_jax.tokenizer.batching import Batcher, fetch

METHODS = ("encode", "decode", "encode_image", "encode_text")
# Pairs of a method and an image size that are kept; beyond these the longest unused are dropped.
PROGRAMS = 64


class CompiledModel:
    """A UniTok, or another network, with its weights on the devices of a `Batcher`."""

    def __init__(self, functions, params, batcher: Batcher):
        """Keeps functions of a network, such as `Functions`, and its parameters, a nested dict."""
        self.functions, self._batcher = functions, batcher
        self.params = jax.device_put(params, batcher.replicated)
        self._program = functools.lru_cache(maxsize=PROGRAMS)(self._make_program)
        self._to_float = jax.jit(to_float)

    def run(self, method: str, rows: np.ndarray, grid=None):
        """Computes results of (B, ...) rows: whole pieces of the batch size, then the remainder.

        A method may return a tree of arrays; so does this, in NumPy.

        Args:
          method: one of `METHODS`, or another of the functions.
          rows: inputs of the method; images may be uint8 pixels.
          grid: the second argument of 'decode'.

        Raises:
          ValueError: no rows.
        """
        if not len(rows):
            raise ValueError("the batch is empty")
        size = self._batcher.batch_size
        pieces = (rows[start : start + size] for start in range(0, len(rows), size))
        started = ((self.start(method, piece, grid=grid), len(piece)) for piece in pieces)
        whole = [
            jax.tree.map(lambda x, count=count: x[:count], output)
            for output, count in fetch(started)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *whole)

    def start(self, method: str, rows: np.ndarray, size: int | None = None, grid=None) -> jax.Array:
        """Starts the program of at most one batch of rows, padded as `Batcher.place` does."""
        placed = self._batcher.place(rows, size)
        if placed.dtype == np.uint8:
            # A separate program, so that the model's program is the same for pixels and floats.
            placed = self._to_float(placed)
        return self._program(method, placed.shape[1:], grid)(self.params, placed)

    def _make_program(self, method, shape, grid):
        # The shape of a row only keys the programs: each has its own jit, to be dropped alone.
        function = getattr(self.functions, method)
        if method == "decode":
            return jax.jit(lambda params, codes: function(params, codes, grid))
        return jax.jit(lambda params, rows: function(params, rows))
