"""Residual quantization (RQ, arXiv 2203.01941): the sibling that UniTok's paper compares with."""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.quantizers.base import (
    GRADIENTS,
    PLAIN,
    Learning,
    Quantized,
    entropy_loss,
    split_evenly,
)
from unitok_jax.models.quantizers.wrong_codes import replace_codes


class ResidualQuantizer(nnx.Module):
    """K levels of V rows: level k takes the row nearest to what the levels before it left.

    The comparison with `MultiCodebookQuantizer` is at an equal code shape and an equal latent:
    K codes of V entries per token, latent_width values in and out. Every level therefore has a
    codebook of its own, whose rows are as wide as the whole latent. That gives it K times the
    parameters: the codes, which a generator must learn, are what is held equal, not the table.

    The latent is l2-normalised once, as a whole. A row is then chosen by Euclidean distance, not by
    cosine: the length of a residual says how much is left, and dividing by it would ask each level
    for a unit step. The one normalisation keeps what cosine gives the multi-codebook quantizer: the
    encoder cannot run away from the rows by growing, and losses and entropy have a fixed scale.
    """

    def __init__(
        self,
        vocab_size: int,
        num_codebooks: int,
        latent_width: int,
        *,
        commitment_weight: float,
        rngs: nnx.Rngs,
    ):
        """vocab_size counts the rows of all levels, num_codebooks the levels.

        Raises:
          ValueError: num_codebooks does not divide vocab_size, or a size is not positive.
        """
        self.num_codebooks, self.commitment_weight = num_codebooks, commitment_weight
        self.entries = split_evenly("vocab_size", vocab_size, num_codebooks)
        if latent_width < 1:
            raise ValueError(f"model.latent_width={latent_width} must be at least 1")
        # Short rows: at first every level sees about the whole latent and chooses by direction.
        init = layers.uniform_init(latent_width**-0.5 / 36)
        shape = (num_codebooks, self.entries, latent_width)
        self.levels = nnx.Param(init(rngs.params(), shape))

    def indices(self, latent: jax.Array) -> jax.Array:
        """Codes of a latent: (B, N, W) -> (B, K, N) int32."""
        return self._descend(layers.l2_normalize(latent))[0]

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Quantized latent of codes, the sum of their rows: (B, K, N) -> (B, N, W)."""
        # Level by level, as `_descend` adds: another order would round differently.
        rows, (b, _, n) = self.levels[...], codes.shape

        def add(total, level):
            rows, code = level
            return total + rows[code], None

        return jax.lax.scan(add, jnp.zeros((b, n, rows.shape[-1])), (rows, codes.swapaxes(0, 1)))[0]

    def __call__(
        self, latent: jax.Array, entropy: bool = False, learning: Learning = PLAIN
    ) -> Quantized:
        """Quantize (B, N, W).

        With r the residual that a level finds and e the row that it takes, the level's loss is
        weight * mse(sg[e], r) + mse(e, sg[r]), and the loss is the mean over levels. The output is
        the sum of the rows; its gradient goes to the normalised latent, unchanged (straight
        through) or as `learning` says. The entropy loss is the multi-codebook quantizer's, on
        residuals and rows. Rows that are moving means have no second term. Wrong codes
        are those of the output alone.
        """
        latent = layers.l2_normalize(latent)
        codes, residuals, chosen = self._descend(latent)
        total = self.lookup(replace_codes(codes, self.levels[...], learning.wrong))
        commitment = jnp.mean((jax.lax.stop_gradient(chosen) - residuals) ** 2)
        codebook = jnp.mean((chosen - jax.lax.stop_gradient(residuals)) ** 2)
        return Quantized(
            GRADIENTS[learning.gradient](latent, total),
            codes,
            self.commitment_weight * commitment + (0 if learning.means else codebook),
            entropy_loss(residuals, self.levels[...]) if entropy else jnp.zeros(()),
            jax.lax.stop_gradient(residuals),
        )

    def _descend(self, latent):
        """(B, N, W) -> codes (B, K, N), residuals and chosen rows (B, K, N, W) of every level."""

        def level(residual, rows):
            code = _nearest(jax.lax.stop_gradient(residual), jax.lax.stop_gradient(rows))
            chosen = rows[code]
            # Stopped: the commitment of a level moves the encoder, not the levels before.
            return residual - jax.lax.stop_gradient(chosen), (code, residual, chosen)

        _, stacked = jax.lax.scan(level, latent, self.levels[...])
        return tuple(array.swapaxes(0, 1) for array in stacked)


def _nearest(residual, rows):
    """Index of the nearest row by Euclidean distance: (B, N, W), (V, W) -> (B, N) int32."""
    # |r - e|^2 / 2 without |r|^2 / 2, which is the same for every row
    products = jnp.einsum("bnc,vc->bnv", residual, rows, precision="highest")
    return jnp.argmax(products - jnp.sum(rows**2, axis=-1) / 2, axis=-1).astype(jnp.int32)
