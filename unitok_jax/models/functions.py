"""Methods of a model as pure functions, the basis of all inference programs."""

import contextlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import precision
from unitok_jax.models.images import to_float
from unitok_jax.models.layers import l2_normalize
from unitok_jax.models.text_encoder import abstract_tower
from unitok_jax.models.unitok import UniTok, abstract_model


class Functions:
    """Functions of a UniTok's parameters in one precision, for use inside `jit`, `vmap`, `grad`.

    Tokenizer, evaluation and export compile these functions, so that their results are equal.
    Inputs are not checked here: `Tokenizer`'s methods check them.
    """

    def __init__(self, model: Mapping, name: str, platform: str):
        """Builds the model's graph, without parameters.

        Args:
          model: the keyword arguments of `UniTok`; its dtype is that of training, and not used.
          name: a row of `precision.PRECISIONS`.
          platform: platform of the computation, as `jax.Device.platform` names it.

        Raises:
          ValueError: keys that do not fit, or a precision that is unknown or not supported by the
            platform.
        """
        found = precision.find(name, platform)
        self._matmul_precision = found.matmul_precision
        self._graph, self.shapes = abstract_model(dict(model) | {"dtype": found.dtype})

    def encode(self, params, images: jax.Array) -> jax.Array:
        """Encodes images (B, H, W, 3), uint8 or float in [-1, 1], to codes (B, K, N) int32."""
        with self._model(params) as model:
            return model.encode(to_float(images))

    def decode(self, params, codes: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Decodes codes (B, K, N) of a grid (rows, columns) to images (B, H, W, 3) in [-1, 1]."""
        with self._model(params) as model:
            return jnp.clip(model.decode(codes, grid), -1.0, 1.0)

    def features(self, params, codes: jax.Array) -> jax.Array:
        """Computes image features, unit vectors (B, E), from codes (B, K, N)."""
        with self._model(params) as model:
            return model.features(codes)

    def encode_image(self, params, images: jax.Array) -> jax.Array:
        """Encodes images, as for `encode`, to unit vectors (B, E), after the quantizer."""
        return self.features(params, self.encode(params, images))

    def encode_text(self, params, tokens: jax.Array) -> jax.Array:
        """Encodes token ids (B, L) to unit vectors (B, E)."""
        with self._model(params) as model:
            return model.encode_text(tokens)

    @contextlib.contextmanager
    def _model(self, params) -> Iterator[UniTok]:
        with jax.default_matmul_precision(self._matmul_precision):
            yield nnx.merge(self._graph, params)


class TextTower:
    """Text tower of a UniTok as a function of its parameters alone, in one precision."""

    def __init__(self, model: Mapping, name: str, platform: str):
        """Builds the tower's graph, without parameters; arguments and errors as of `Functions`."""
        found = precision.find(name, platform)
        self._matmul_precision = found.matmul_precision
        self._graph, self.shapes = abstract_tower(model, found.dtype)

    def encode_text(self, params, tokens: jax.Array) -> jax.Array:
        """Encodes token ids (B, L) to unit vectors (B, E) float32.

        params: of the tower, `params['text_encoder']` of a UniTok.
        """
        with jax.default_matmul_precision(self._matmul_precision):
            return l2_normalize(nnx.merge(self._graph, params)(tokens))
