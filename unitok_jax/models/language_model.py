"""Language models of the Llama family: a table of ids, a causal decoder, and logits of ids."""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.transformer import Decoder, Dropout, Rope, Sizes


class LanguageModel(nnx.Module):
    """Language model whose decoder takes embeddings, so that not all of them need be of ids."""

    def __init__(
        self,
        sizes: Sizes,
        *,
        vocabulary: int,
        tied: bool,
        rope: Rope,
        remat: str,
        dtype,
        rngs: nnx.Rngs,
    ):
        """Builds a model with random weights.

        Args:
          sizes: of the blocks.
          vocabulary: number of ids.
          tied: logits are products with the table of ids; else with a kernel of their own.
          rope: rotary positions.
          remat: one of `recomputation.BLOCKS`.
          dtype: compute dtype; parameters, stream and logits are float32.
          rngs: the stream `params`.
        """
        init = layers.linear_init
        self.embedding = nnx.Param(init(rngs.params(), (vocabulary, sizes.width), jnp.float32))
        self.decoder = Decoder(sizes, dropout=Dropout(), remat=remat, dtype=dtype, rngs=rngs)
        self.kernel = (
            None if tied else nnx.Param(init(rngs.params(), (sizes.width, vocabulary), jnp.float32))
        )
        self._rope = rope

    def rope(self, positions: jax.Array) -> jax.Array:
        """Returns the rotary positions (B, T, d / 2, 2) of positions (B, T)."""
        return self._rope.table(positions, self.decoder.sizes.head_width)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Embeds ids (...) to the vectors of the table (..., D), float32."""
        return self.embedding[...][ids]

    def output_kernel(self, dtype) -> jax.Array:
        """Returns what the decoder's output is multiplied with, (D, vocabulary) in `dtype`."""
        kernel = self.embedding[...].T if self.kernel is None else self.kernel[...]
        return kernel.astype(dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes float32 logits (..., vocabulary) of the next id from the decoder's output."""
        kernel = self.output_kernel(hidden.dtype)
        return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
