"""Loss of a generator: cross-entropy of every code, computed a few tokens at a time."""

import jax
import jax.numpy as jnp
import optax

from unitok_jax.generate.model import Generator


def losses(
    model: Generator, codes, prompt, *, valid=None, weights=None, key=None, chunk: int = 16
) -> jax.Array:
    """Computes the mean cross-entropy of each codebook, in nats.

    The logits of `chunk` tokens of each image exist at a time, and are computed again in the
    backward pass: those of a whole image are K N V floats, 33.6 MB at 8 x 256 x 4096.

    Args:
      model: generator.
      codes: (B, K, N) integers.
      prompt: (B, T, D), as `model.prompt` returns it.
      valid: as for `Generator.hidden`.
      weights: (B,) weights of the images, not all 0; None: 1 each.
      key: for dropout; None: nothing is dropped.
      chunk: number of tokens, a divisor of N.

    Returns:
      (K,) float32.
    """
    codes = codes.astype(jnp.int32)
    b, books, tokens = codes.shape
    keys = (None, None) if key is None else jax.random.split(key)
    hidden = model.hidden(codes, prompt, valid, keys[0])
    weights = jnp.ones(b) if weights is None else weights.astype(jnp.float32)
    weights = weights / weights.sum()
    numbers = jnp.arange(tokens // chunk)

    @jax.checkpoint
    def part(total, piece):
        hidden, codes, number = piece
        rows = codes.transpose(0, 2, 1).reshape(b * chunk, books)
        drop = None if key is None else jax.random.fold_in(keys[1], number)
        logits = model.logits(hidden.reshape(b * chunk, -1), rows, drop)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, rows)
        return total + jnp.einsum("b,bnk->k", weights, nats.reshape(b, chunk, books)), None

    pieces = (
        hidden.reshape(b, -1, chunk, hidden.shape[-1]).swapaxes(0, 1),
        codes.reshape(b, books, -1, chunk).transpose(2, 0, 1, 3),
        numbers,
    )
    total, _ = jax.lax.scan(part, jnp.zeros(books), pieces)
    return total / tokens
