"""Quantizers without a learned codebook: FSQ (arXiv 2309.15505) and BSQ (arXiv 2406.07548).

Both are grouped: the latent is cut into K chunks of C channels and each chunk makes one code, so
that codes have the shape of the multi-codebook quantizer's, (B, K, N) int32 in [0, V). A code is a
number whose digits are the channels' values, the first channel the lowest digit.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax.models import layers, limits
from unitok_jax.models.quantizers.base import (
    PLAIN,
    Learning,
    Quantized,
    check_rowless,
    join_chunks,
    split_chunks,
    split_evenly,
)


def choose_levels(entries: int, channels: int) -> tuple[int, ...] | None:
    """Levels of `channels` channels whose product is exactly `entries`, largest first.

    Of all such products the most even one, that with the smallest sum: 4096 entries are (8, 8, 8,
    8) on four channels and (4, 4, 4, 4, 2, 2, 2, 2) on eight. It gives the rows of the FSQ paper's
    table too: 240 is (8, 6, 5), 1000 is (8, 5, 5, 5). None if there is no product of numbers from
    2 up.
    """
    return min(_products(entries, channels, entries), key=sum, default=None)


class FiniteScalarQuantizer(nnx.Module):
    """K chunks of C channels; each channel is bounded and rounded to one of its L levels.

    A channel is bounded to [-1, 1] by tanh and rounded to the nearest of L evenly spaced values
    from -1 to 1. For odd L that is the paper's. For even L the paper shifts the input and lets the
    values be lopsided, so that 0 is one; the cells are the same, and the layers around the
    quantizer take up the two constant shifts. There are no rows to learn and there is no loss: what
    the encoder sends is the only thing that training moves. The paper advises levels of 5 and more,
    that is few channels: 4096 entries on 4 channels.
    """

    def __init__(
        self,
        vocab_size: int,
        num_codebooks: int,
        latent_width: int,
        *,
        commitment_weight: float,
        rngs: nnx.Rngs,
        levels: Sequence[int] = (),
    ):
        """vocab_size counts the codes of all chunks, K V; latent_width the K C values of a token.

        The levels of the C channels multiply to V; if not given, they follow by `choose_levels`.
        commitment_weight and rngs have no use here; every quantizer is made with the same
        arguments.

        Raises:
          ValueError: num_codebooks does not divide a size, V is no product of C levels, or not that
            of `levels`.
        """
        del commitment_weight, rngs
        self.num_codebooks = num_codebooks
        self.entries = split_evenly("vocab_size", vocab_size, num_codebooks)
        channels = split_evenly("latent_width", latent_width, num_codebooks)
        if levels and (len(levels) != channels or math.prod(levels) != self.entries):
            raise ValueError(
                f"model.fsq_levels={limits.show(tuple(levels))} must be {channels} levels, "
                f"model.latent_width={latent_width} over model.num_codebooks={num_codebooks}, that "
                f"multiply to {self.entries}, model.vocab_size={vocab_size} over it"
            )
        levels = tuple(levels) or choose_levels(self.entries, channels)
        if levels is None:
            most = _count_prime_factors(self.entries)
            fix = (
                f"set model.latent_width to at most {most * num_codebooks}, "
                f"{most} per chunk, or another model.vocab_size"
                if most
                else "set a larger model.vocab_size"
            )
            raise ValueError(
                f"model.quantizer='fsq': model.vocab_size={vocab_size} over model.num_codebooks="
                f"{num_codebooks} is {self.entries} codes per chunk, no product of {channels} "
                f"levels (model.latent_width={latent_width}) of at least 2; {fix}"
            )
        self.levels = levels

    def indices(self, latent: jax.Array) -> jax.Array:
        """Codes of a latent: (B, N, K C) -> (B, K, N) int32."""
        return self._codes(self._digits(jnp.tanh(split_chunks(latent, self.num_codebooks))))

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Quantized latent of codes: (B, K, N) -> (B, N, K C) float32 in [-1, 1]."""
        base, levels = _base(self.levels), np.array(self.levels, np.int32)
        return join_chunks(self._values(codes[..., None] // base % levels))

    def __call__(
        self, latent: jax.Array, entropy: bool = False, learning: Learning = PLAIN
    ) -> Quantized:
        """Quantize (B, N, K C); the output's gradient goes to tanh(latent) unchanged.

        Raises:
          ValueError: entropy is asked for. FSQ has none: no distribution over codes is defined.
            Or another way to learn than the default.
        """
        if entropy:
            raise ValueError(
                "model.quantizer='fsq' has no entropy loss; set loss.entropy=0, or use "
                "model.quantizer='bsq'"
            )
        check_rowless("fsq", learning)
        bounded = jnp.tanh(split_chunks(latent, self.num_codebooks))
        digits = self._digits(bounded)
        straight_through = bounded + jax.lax.stop_gradient(self._values(digits) - bounded)
        zero = jnp.zeros(())
        return Quantized(join_chunks(straight_through), self._codes(digits), zero, zero)

    def _digits(self, bounded):
        steps = np.array(self.levels, np.float32) - 1
        digits = jnp.round((bounded + 1) / 2 * steps).astype(jnp.int32)
        return jax.lax.stop_gradient(digits)

    def _values(self, digits):
        steps = np.array(self.levels, np.float32) - 1
        return digits / steps * 2 - 1

    def _codes(self, digits):
        return jnp.sum(digits * _base(self.levels), axis=-1, dtype=jnp.int32)


class BinarySphericalQuantizer(nnx.Module):
    """K chunks of C = log2(V) channels; a chunk on the unit sphere becomes its nearest hypercorner.

    The corners are (+-1, ..., +-1) / sqrt(C), so that the nearest one is that of the signs, and bit
    c of a code says whether channel c is positive.
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
        """vocab_size counts the codes of all chunks, K V; latent_width the K C values of a token.

        rngs has no use here; every quantizer is made with the same arguments.

        Raises:
          ValueError: num_codebooks does not divide one of the sizes, or V is not 2^C.
        """
        del rngs
        self.num_codebooks, self.commitment_weight = num_codebooks, commitment_weight
        self.entries = split_evenly("vocab_size", vocab_size, num_codebooks)
        self.channels = split_evenly("latent_width", latent_width, num_codebooks)
        if self.entries != 2**self.channels:
            bits = self.entries.bit_length() - 1
            fixes = ["a smaller model.latent_width"]
            if self.channels < 32:  # more bits are no int32, and a number of many digits
                fixes = [f"model.vocab_size={num_codebooks << self.channels}"]
            if bits and self.entries == 1 << bits:
                fixes.insert(0, f"model.latent_width={bits * num_codebooks}")
            raise ValueError(
                f"model.quantizer='bsq': model.vocab_size={vocab_size} over model.num_codebooks="
                f"{num_codebooks} is {self.entries} codes per chunk, not 2^{self.channels} for "
                f"model.latent_width={latent_width}; set {' or '.join(fixes)}"
            )

    def indices(self, latent: jax.Array) -> jax.Array:
        """Codes of a latent: (B, N, K C) -> (B, K, N) int32."""
        return self._codes(layers.l2_normalize(split_chunks(latent, self.num_codebooks)))

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Quantized latent of codes: (B, K, N) -> (B, N, K C) float32, chunks of unit length."""
        bits = codes[..., None] >> np.arange(self.channels, dtype=np.int32) & 1
        return join_chunks((2 * bits - 1) * np.float32(self.channels**-0.5))

    def __call__(
        self, latent: jax.Array, entropy: bool = False, learning: Learning = PLAIN
    ) -> Quantized:
        """Quantize (B, N, K C).

        The loss is weight * mse(sg[corner], chunk), a mean over all elements; there is nothing else
        to learn. The output equals the corner; its gradient goes to the normalised chunk unchanged.

        Raises:
          ValueError: another way to learn than the default.
        """
        check_rowless("bsq", learning)
        chunks = layers.l2_normalize(split_chunks(latent, self.num_codebooks))
        codes = self._codes(chunks)
        corners = split_chunks(self.lookup(codes), self.num_codebooks)
        commitment = jnp.mean((corners - chunks) ** 2)
        straight_through = chunks + jax.lax.stop_gradient(corners - chunks)
        return Quantized(
            join_chunks(straight_through),
            codes,
            self.commitment_weight * commitment,
            _bit_entropy_loss(chunks) if entropy else jnp.zeros(()),
        )

    def _codes(self, chunks):
        bits = (chunks >= 0).astype(jnp.int32)
        return jnp.sum(bits << np.arange(self.channels, dtype=np.int32), axis=-1, dtype=jnp.int32)


def _bit_entropy_loss(chunks, temperature=0.01):
    """Mean entropy of a sample minus the entropy of the mean distribution, mean over codebooks.

    With the logits of the multi-codebook quantizer, -|chunk - corner|^2 / temperature, the bits are
    independent, each a sigmoid: the entropy of a sample is exactly the sum over its bits. That of
    the mean distribution is replaced by the sum over bits too, an upper bound of it (the paper's
    approximation): 2^C terms become C.
    """
    logits = chunks * (4 * chunks.shape[-1] ** -0.5 / temperature)  # (B, K, N, C)
    p = jax.nn.sigmoid(logits)
    sample = jnp.mean(_binary_entropy(p), axis=(0, 2))
    mean = _binary_entropy(jnp.mean(p, axis=(0, 2)))
    return jnp.mean(jnp.sum(sample - mean, axis=-1))


def _binary_entropy(p):
    return -(p * jnp.log(p + 1e-7) + (1 - p) * jnp.log(1 - p + 1e-7))


def _base(levels):
    """Place values of the digits of a mixed-radix number, lowest first."""
    return np.cumprod((1, *levels[:-1])).astype(np.int32)


def _products(number, count, largest):
    """All non-increasing tuples of `count` factors in [2, largest] with the product `number`."""
    if count == 1:
        if 2 <= number <= largest:
            yield (number,)
        return
    for factor in range(2, min(number, largest) + 1):
        # The rest is at least 2 per factor, and at most this factor each.
        if number % factor == 0 and 2 ** (count - 1) <= number // factor <= factor ** (count - 1):
            for rest in _products(number // factor, count - 1, factor):
                yield (factor, *rest)


def _count_prime_factors(number):
    count, prime = 0, 2
    while prime <= math.isqrt(number):
        if number % prime:
            prime += 1
        else:
            number, count = number // prime, count + 1
    return count + (number > 1)
