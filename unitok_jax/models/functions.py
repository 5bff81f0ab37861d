"""The methods of a model as pure functions: what every inference program is made of."""

import contextlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import precision
from unitok_jax.models.images import to_float
from unitok_jax.models.unitok import UniTok, abstract_model


class Functions:
    """Functions of a UniTok's parameters in one precision, for use inside `jit`, `vmap`, `grad`.

    Tokenizer, evaluation and export compile these, so that all of them compute the same. Nothing
    is checked: `Tokenizer`'s methods do that.
    """

    def __init__(self, model: Mapping, name: str, platform: str):
        """Makes no parameters.

        Args:
          model: the keyword arguments of `UniTok`; its dtype is that of training, and not used.
          name: a row of `precision.PRECISIONS`.
          platform: that will compute, as `jax.Device.platform` names it.

        Raises:
          ValueError: keys that do not fit, a precision that is unknown or not of the platform.
        """
        found = precision.find(name, platform)
        self._products = found.products
        self._graph, self.shapes = abstract_model(dict(model) | {"dtype": found.dtype})

    def encode(self, params, images: jax.Array) -> jax.Array:
        """(B, H, W, 3), uint8 or float in [-1, 1] -> codes (B, K, N) int32."""
        with self._model(params) as model:
            return model.encode(to_float(images))

    def decode(self, params, codes: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Codes (B, K, N) and their grid (rows, columns) -> images (B, H, W, 3) in [-1, 1]."""
        with self._model(params) as model:
            return jnp.clip(model.decode(codes, grid), -1.0, 1.0)

    def features(self, params, codes: jax.Array) -> jax.Array:
        """Codes (B, K, N) -> unit vectors (B, E) of the images they are of."""
        with self._model(params) as model:
            return model.features(codes)

    def encode_image(self, params, images: jax.Array) -> jax.Array:
        """Images as for `encode` -> unit vectors (B, E), after the quantizer."""
        return self.features(params, self.encode(params, images))

    def encode_text(self, params, tokens: jax.Array) -> jax.Array:
        """Token ids (B, L) -> unit vectors (B, E)."""
        with self._model(params) as model:
            return model.encode_text(tokens)

    @contextlib.contextmanager
    def _model(self, params) -> Iterator[UniTok]:
        with jax.default_matmul_precision(self._products):
            yield nnx.merge(self._graph, params)
