"""Common parts of the quantizers: their result, chunks of latents, entropy, and use of codebooks.

A quantizer is a module with three methods, `indices`, `lookup` and `__call__`, and two attributes,
`num_codebooks` (K) and `entries` (V).

All of them are float32 with the highest matmul precision, whatever the rest of the model uses: a
lookup in bf16 changes 1 to 4 % of the codes, and accelerators multiply float32 in fewer bits unless
told not to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unitok_jax.models import layers
from unitok_jax.models.quantizers.wrong_codes import Wrong


class Quantized(NamedTuple):
    """Output of a quantizer."""

    latent: jax.Array  # (B, N, latent_width) float32, with straight-through gradients
    codes: jax.Array  # (B, K, N) int32
    loss: jax.Array  # scalar: codebook and commitment loss
    entropy_loss: jax.Array  # scalar, 0 unless asked for
    # (B, K, N, C) what each code was chosen for: chunks or residuals; None if there are no rows
    inputs: jax.Array | None = None


class Learning(NamedTuple):
    """How a quantizer with rows learns. Nothing here changes the codes that it gives."""

    gradient: str = "straight_through"  # a key of `GRADIENTS`
    means: bool = False  # True if the rows are moving means: they have no loss
    wrong: Wrong | None = None  # tokens that go on with other codes than theirs; None: no token


PLAIN = Learning()
"""Learning by the paper's recipe."""


def check_rowless(kind: str, learning: Learning) -> None:
    """Checks that a quantizer without rows is told no other way to learn.

    Raises:
      ValueError: the message names the keys.
    """
    if learning != PLAIN:
        raise ValueError(
            f"model.quantizer={kind!r} has no rows: the keys of config.codebook must keep their "
            "defaults; set them so, or model.quantizer=multi_codebook"
        )


def straight_through(unit: jax.Array, row: jax.Array) -> jax.Array:
    """Returns `row`, whose gradient goes to `unit` unchanged (arXiv 1308.3432)."""
    return unit + lax.stop_gradient(row - unit)


def rotation(unit: jax.Array, row: jax.Array) -> jax.Array:
    """Returns `row`, whose gradient goes to `unit` turned and scaled (arXiv 2410.06424).

    The output is |row| R unit, R the rotation of `unit` into the direction of `row`; R and |row|
    are constants. So the angle between gradient and vector is the same on both sides, and what lies
    in one cell of the codebook gets different gradients.

    Args:
      unit: (..., C) float32 of length 1, or 0 where there is no direction.
      row: (..., C) float32.
    """
    start, row = lax.stop_gradient((unit, row))
    target = layers.l2_normalize(row)
    middle = layers.l2_normalize(start + target)
    length = jnp.sqrt(jnp.sum(row * row, axis=-1, keepdims=True))

    def dot(constant):
        return jnp.sum(constant * unit, axis=-1, keepdims=True)

    turned = length * (unit - 2 * middle * dot(middle) + 2 * target * dot(start))
    return turned + lax.stop_gradient(row - turned)


GRADIENTS = {"straight_through": straight_through, "rotation": rotation}
"""Ways from the gradient of a quantized vector to that of the vector, by `codebook.gradient`."""


def split_chunks(latent: jax.Array, num_codebooks: int) -> jax.Array:
    """(B, N, K C) -> (B, K, N, C)."""
    b, n, width = latent.shape
    return latent.reshape(b, n, num_codebooks, width // num_codebooks).transpose(0, 2, 1, 3)


def join_chunks(chunks: jax.Array) -> jax.Array:
    """(B, K, N, C) -> (B, N, K C)."""
    b, k, n, c = chunks.shape
    return chunks.transpose(0, 2, 1, 3).reshape(b, n, k * c)


def split_evenly(key: str, value: int, num_codebooks: int) -> int:
    """value / num_codebooks of `model.<key>`, or a ValueError that names both."""
    if num_codebooks < 1 or value < 1 or value % num_codebooks:
        raise ValueError(
            f"model.num_codebooks={num_codebooks} does not divide model.{key}={value}; "
            "it must be a positive multiple of the number of codebooks"
        )
    return value // num_codebooks


def entropy_loss(chunks: jax.Array, rows: jax.Array, temperature: float = 0.01) -> jax.Array:
    """Mean entropy of a sample minus the entropy of the mean distribution, mean over codebooks.

    The distribution of a chunk is the softmax of -|chunk - row|^2 / temperature.

    Args:
      chunks: (B, K, N, C).
      rows: (K, V, C).
      temperature: fits chunks and rows of about unit length.
    """

    def one_book(book):
        chunk, rows = book
        square = jnp.sum(chunk**2, -1, keepdims=True) + jnp.sum(rows**2, -1)
        distance = square - 2 * jnp.einsum("bnc,vc->bnv", chunk, rows, precision="highest")
        probabilities = jax.nn.softmax(-distance / temperature, axis=-1)
        mean = jnp.mean(probabilities, axis=(0, 1))
        return jnp.mean(_entropy(probabilities)) - _entropy(mean)

    # Recomputed in the backward pass: the distributions are (B, N, V) floats for every codebook.
    one_book = jax.checkpoint(one_book)
    return jnp.mean(lax.map(one_book, (chunks.swapaxes(0, 1), rows)))


def _entropy(p):
    return -jnp.sum(p * jnp.log(p + 1e-7), axis=-1)


def codebook_counts(codes: jax.Array, rows: int, weights: jax.Array | None = None) -> jax.Array:
    """Counts the uses of each row of each codebook: (B, K, N) -> (K, V) float32.

    weights: (B,) factor of each image; 1 if not given.
    """
    b, k, n = codes.shape
    weights = jnp.ones((b,)) if weights is None else weights.astype(jnp.float32)
    index = codes + rows * jnp.arange(k)[:, None]
    weights = jnp.broadcast_to(weights[:, None, None], codes.shape)
    counts = jnp.zeros((k * rows,)).at[index.ravel()].add(weights.ravel())
    return counts.reshape(k, rows)


def codebook_health(counts: jax.Array) -> dict[str, jax.Array]:
    """Counts (K, V) -> usage (part of the rows in use, 0 to 1) and perplexity, both (K,)."""
    p = counts / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1)
    entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)
    return {"usage": jnp.mean(counts > 0, axis=-1), "perplexity": jnp.exp(entropy)}
