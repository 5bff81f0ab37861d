"""Wrong codes in training, as a generator's errors: tokens get near codes (arXiv 2503.08354)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 1024  # rows compared at once with all rows of their codebook


class Wrong(NamedTuple):
    """What is replaced in a batch."""

    key: jax.Array  # random key
    share: jax.Array  # float32 scalar in [0, 1]: probability of a token
    near: int  # number of nearest rows that a wrong code is drawn from


def replace_codes(codes: jax.Array, rows: jax.Array, wrong: Wrong | None) -> jax.Array:
    """Replaces all codes of some tokens, each by that of a row near its own.

    Args:
      codes: (B, K, N) int32.
      rows: (K, V, C).
      wrong: which tokens and how; None: no token.

    Returns:
      (B, K, N) int32.
    """
    if wrong is None:
        return codes
    b, _, n = codes.shape
    of_tokens, of_rows = jax.random.split(wrong.key)
    replaced = jax.random.bernoulli(of_tokens, wrong.share, (b, 1, n))
    draws = jax.random.randint(of_rows, codes.shape, 0, wrong.near)
    others = jax.vmap(lambda near, code, draw: near[code, draw], in_axes=(0, 1, 1), out_axes=1)
    near = jax.lax.cond(  # the share falls to 0 on the way, and most of the cost is here
        wrong.share > 0,
        lambda: near_rows(rows, wrong.near),
        lambda: jnp.zeros((*rows.shape[:2], wrong.near), jnp.int32),
    )
    return jnp.where(replaced, others(near, codes, draws), codes)


def near_rows(rows: jax.Array, count: int) -> jax.Array:
    """Finds the nearest other rows of each row by distance: (K, V, C) -> (K, V, count) int32."""
    rows = jax.lax.stop_gradient(rows)

    def of_book(book):
        squares = jnp.sum(book**2, axis=-1)

        def of_row(row):
            index, vector = row
            distance = squares - 2 * jnp.einsum("vc,c->v", book, vector, precision="highest")
            return jax.lax.top_k(-distance.at[index].set(jnp.inf), count)[1]

        return jax.lax.map(of_row, (jnp.arange(len(book)), book), batch_size=_BLOCK)

    return jax.lax.map(of_book, rows).astype(jnp.int32)
