"""Encoder and decoder of a tokenizer, for evaluations of models that are trained on its codes."""

from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax.codes import STRIDE, Codes
from unitok_jax.models.functions import Functions


class Codec:
    """Tokenizer on one device of this process, in float32; every shape of a batch is a program."""

    def __init__(self, config: ConfigDict, params):
        """Places the weights.

        Args:
          config: of the tokenizer.
          params: its parameters, nested dict of float32 arrays.
        """
        self._device = jax.local_devices()[0]
        functions = Functions(config.model.to_dict(), "float32", self._device.platform)
        self._params = jax.device_put(params, self._device)
        self._encode = jax.jit(functions.encode)
        self._decode = jax.jit(functions.decode, static_argnums=2)

    def encode(self, images: np.ndarray) -> Codes:
        """Encodes uint8 (B, H, W, 3) to codes int32 (B, K, N)."""
        grid = tuple(side // STRIDE for side in images.shape[1:3])
        return Codes(jax.device_get(self._encode(self._params, self._place(images))), grid)

    def decode(self, codes: np.ndarray, grid: Sequence[int] | None = None) -> np.ndarray:
        """Decodes codes (B, K, N), by default of their own grid, to float32 (B, H, W, 3) in
        [-1, 1]."""
        grid = codes.grid if grid is None else grid
        return jax.device_get(self._decode(self._params, self._place(codes), tuple(grid)))

    def _place(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(np.asarray(array), self._device)
