"""Heads that predict the K codes of a token from one vector, the trunk's output.

Symbols beside those of `layers`: M tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.transformer import Block, Decoder, Rope, Sizes, linear


class DepthHead(nnx.Module):
    """Depth head: a causal decoder over the K codes of one token.

    Position 0 is the trunk's output, position k the vector of code k - 1. Each codebook has a table
    of its own, and one linear layer, with a bias, serves all of them.
    """

    def __init__(
        self,
        width: int,
        sizes: Sizes,
        num_codebooks: int,
        entries: int,
        *,
        rope: Rope | None = None,
        dropout,
        remat: str,
        dtype,
        rngs: nnx.Rngs,
    ):
        """Builds a head whose logits are zero; `rope` None: no positions are told."""
        self.enter = None if width == sizes.width else linear(width, sizes.width, dtype, rngs)
        shape = (num_codebooks - 1, entries, sizes.width)
        # None for one codebook: an array without elements could not be saved.
        self.embedding = (
            nnx.Param(layers.linear_init(rngs.params(), shape, jnp.float32)) if shape[0] else None
        )
        self.decoder = Decoder(sizes, dropout=dropout, remat=remat, dtype=dtype, rngs=rngs)
        self.kernel = nnx.Param(jnp.zeros((sizes.width, entries)))
        self.bias = nnx.Param(jnp.zeros((entries,)))
        self.num_codebooks, self.entries, self._rope = num_codebooks, entries, rope

    @property
    def rope(self) -> jax.Array | None:
        """Rotary positions (K, d / 2, 2) float32, or None."""
        if self._rope is None:
            return None
        return self._rope.table(jnp.arange(self.num_codebooks), self.decoder.sizes.head_width)

    def first(self, hidden: jax.Array) -> jax.Array:
        """Returns the input (M, D) of position 0."""
        return hidden if self.enter is None else self.enter(hidden)

    def inputs(self, hidden: jax.Array, codes: jax.Array) -> jax.Array:
        """Returns the input (M, K, D) of all positions, given the codes (M, K)."""
        first = self.first(hidden)[:, None]
        if self.embedding is None:
            return first.astype(jnp.float32)
        rows = jax.vmap(lambda table, index: table[index], (0, 1), 1)
        rest = rows(self.embedding[...], codes[:, :-1])
        return jnp.concatenate([first.astype(rest.dtype), rest], axis=1)

    def __call__(self, hidden: jax.Array, codes: jax.Array, key=None) -> jax.Array:
        """Computes float32 logits (M, K, V) of the codes (M, K), each given the codes before."""
        return self.output(self.decoder(self.inputs(hidden, codes), rope=self.rope, key=key)[0])

    def steps(self) -> "HeadSteps":
        """Returns what single steps need, to be made outside of the loop over tokens."""
        rows = None
        if self.embedding is not None:
            rows = self.embedding[...].reshape(-1, self.embedding.shape[-1])
        kernel = self.kernel[...].astype(self.decoder.dtype)
        return HeadSteps(self.decoder.one_by_one(), rows, kernel, self.rope)

    def output(self, x: jax.Array) -> jax.Array:
        """Computes float32 logits (..., V) from the decoder's output."""
        kernel = self.kernel[...].astype(x.dtype)
        return jnp.matmul(x, kernel, preferred_element_type=jnp.float32) + self.bias[...]


class HeadSteps(NamedTuple):
    """Weights of a depth head as single steps read them, made once outside of the loop."""

    blocks: list[Block]
    rows: jax.Array | None  # ((K - 1) V, D), the vectors of all codes; None for one codebook
    kernel: jax.Array  # (D, V) in the compute dtype
    rope: jax.Array | None  # (K, d / 2, 2)


class IndependentHead(nnx.Module):
    """Linear layer for each codebook: the codes of a token do not depend on each other."""

    def __init__(self, width: int, num_codebooks: int, entries: int, *, dtype):
        """Builds a head whose logits are zero."""
        self.kernels = nnx.Param(jnp.zeros((num_codebooks, width, entries)))
        self.bias = nnx.Param(jnp.zeros((num_codebooks, entries)))
        self.num_codebooks, self.entries, self.dtype = num_codebooks, entries, jnp.dtype(dtype)

    def __call__(self, hidden: jax.Array, codes=None, key=None) -> jax.Array:
        """Computes float32 logits (M, K, V) from `hidden` (M, D); nothing else is read."""
        kernels = self.kernels[...].astype(self.dtype)
        out = jnp.einsum("md,kdv->mkv", hidden, kernels, preferred_element_type=jnp.float32)
        return out + self.bias[...]

    def steps(self) -> None:
        """Returns None: no step follows another."""
