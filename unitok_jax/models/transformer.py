"""Causal transformer decoders, of generators and language models, with caches as values.

RMSNorm (arXiv 1910.07467), SwiGLU (arXiv 2002.05202), rotary positions (arXiv 2104.09864) and
grouped keys and values (arXiv 2305.13245), in the order of Llama (arXiv 2302.13971).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import layers


class Cache(NamedTuple):
    """Keys and values of positions seen, and where the next ones go.

    Rows from `length` on are not read. `append` returns another value; donated, or carried by a
    scan, the arrays are updated in place.
    """

    keys: jax.Array  # (L, B, S, G, d), L blocks, S positions at most, G heads of keys and values
    values: jax.Array  # the same
    length: jax.Array  # scalar int32, positions that are filled

    def append(self, new: tuple[jax.Array, jax.Array]) -> "Cache":
        """Adds the keys and values (L, B, T, G, d) of T more positions."""
        at = (0, 0, self.length, 0, 0)
        keys, values = (
            lax.dynamic_update_slice(old, more.astype(old.dtype), at)
            for old, more in zip(self[:2], new, strict=True)
        )
        return Cache(keys, values, self.length + new[0].shape[2])


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + epsilon) over the last axis in float32, then a factor in `dtype`."""

    def __init__(self, width: int, epsilon: float, dtype):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x.astype(self.dtype) * self.scale[...].astype(self.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.gate = linear(width, hidden, dtype, rngs)
        self.up = linear(width, hidden, dtype, rngs)
        self.down = linear(hidden, width, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Attention(nnx.Module):
    """Self-attention of `heads` queries over `groups` keys and values of `head_width` each."""

    def __init__(self, width, heads, groups, head_width, *, dtype, rngs: nnx.Rngs):
        self.qkv = linear(width, (heads + 2 * groups) * head_width, dtype, rngs)
        self.out = linear(heads * head_width, width, dtype, rngs)
        self.heads, self.groups, self.head_width = heads, groups, head_width

    def __call__(self, x, rope, mask, past):
        """Returns the output, and the keys and values of `x`.

        Args:
          x: (B, T, D).
          rope: (T, d / 2, 2) or (B, T, d / 2, 2), as `rotate`; None: positions are not told.
          mask: (B or 1, T, S + T) bool, what each position sees, the past first.
          past: None, or keys and values (B, S, G, d) of positions before.
        """
        b, t, _ = x.shape
        parts = self.qkv(x).reshape(b, t, self.heads + 2 * self.groups, self.head_width)
        q, k, v = jnp.split(parts, (self.heads, self.heads + self.groups), axis=2)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        out = attend(q, k, v, mask, past)
        return self.out(out.reshape(b, t, self.heads * self.head_width)), (k, v)


class Block(nnx.Module):
    """x += attention(norm(x)); x += swiglu(norm(x))."""

    def __init__(self, sizes: "Sizes", *, dtype, rngs: nnx.Rngs):
        width = sizes.width
        self.norm1 = RMSNorm(width, sizes.epsilon, dtype)
        self.attention = Attention(
            width, sizes.heads, sizes.groups, sizes.head_width, dtype=dtype, rngs=rngs
        )
        self.norm2 = RMSNorm(width, sizes.epsilon, dtype)
        self.mlp = SwiGLU(width, sizes.hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x, rope, mask, past, drop):
        """Returns the output, and the keys and values; `drop` acts on what is added to `x`."""
        first, second = drop
        out, new = self.attention(self.norm1(x), rope, mask, past)
        x = x + first(out)
        return x + second(self.mlp(self.norm2(x))), new


class Sizes(NamedTuple):
    """Sizes of a decoder's blocks."""

    width: int
    heads: int
    hidden: int  # of SwiGLU
    depth: int  # blocks
    groups: int  # heads of keys and values; as many as `heads`, or a divisor
    head_width: int
    epsilon: float = 1e-5


class Dropout(NamedTuple):
    """Rates of what is dropped in training from what the blocks add to the stream."""

    residual: float = 0.0  # single values, behind attention and MLP
    path: float = 0.0  # whole samples, from 0 in the first block to this in the last; replaces it


class Decoder(nnx.Module):
    """Equal blocks, held as one with a leading depth axis and run by a scan, and a final norm."""

    def __init__(self, sizes: Sizes, *, dropout: Dropout, remat: bool, dtype, rngs: nnx.Rngs):
        """Builds the blocks; `remat` recomputes each in the backward pass."""

        def make(rngs):
            return Block(sizes, dtype=dtype, rngs=rngs)

        graph = nnx.graphdef(nnx.eval_shape(lambda: make(layers.Keys(0))))
        keys = jax.random.split(rngs.params(), sizes.depth)
        init = jax.vmap(lambda key: nnx.to_pure_dict(nnx.state(make(layers.Keys(key)))))
        self.blocks = nnx.merge(graph, init(keys))
        self.norm = RMSNorm(sizes.width, sizes.epsilon, dtype)
        self.sizes, self.dropout, self.remat = sizes, dropout, remat

    def __call__(self, x, *, rope=None, mask=None, past: Cache | None = None, seen=None, key=None):
        """Runs the blocks.

        Args:
          x: (B, T, D), the stream; its dtype is the stream's.
          rope: as for `Attention`.
          mask: (B or 1, T, T) bool, what each position sees of `x`; causal if None.
          past: cache of the positions before.
          seen: (B, S) bool, which positions of the cache are seen; None: all that are filled.
          key: for dropout; None: nothing is dropped.

        Returns:
          (B, T, D) after the norm, and the keys and values (L, B, T, G, d) for `Cache.append`.
        """
        x, new, _ = self._scan(x, rope, mask, past, seen, key, every=False)
        return self.norm(x), new

    def streams(self, x, *, rope=None, mask=None) -> jax.Array:
        """Returns the stream (L, B, T, D) after every block."""
        return self._scan(x, rope, mask, None, None, None, every=True)[2]

    def empty_cache(self, batch: int, positions: int, dtype) -> Cache:
        """Returns the cache of no position, for so many."""
        sizes = self.sizes
        shape = (sizes.depth, batch, positions, sizes.groups, sizes.head_width)
        return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0))

    def _scan(self, x, rope, mask, past, seen, key, every):
        graph, params = nnx.split(self.blocks)
        b, t, _ = x.shape
        if mask is None:
            mask = jnp.tril(jnp.ones((1, t, t), bool))
        if past is not None:
            filled = jnp.arange(past.keys.shape[2]) < past.length
            filled = filled[None] if seen is None else filled & seen
            rows = max(len(filled), len(mask))
            filled = jnp.broadcast_to(filled[:, None], (rows, t, filled.shape[-1]))
            mask = jnp.concatenate([filled, jnp.broadcast_to(mask, (rows, t, t))], axis=-1)
        rates = jnp.linspace(0.0, self.dropout.path, self.sizes.depth)
        keys = None if key is None else jax.random.split(key, self.sizes.depth)

        def step(x, layer):
            params, cached, rate, key = layer
            block = nnx.merge(graph, params)
            x, new = block(x, rope, mask, cached, self._drop(rate, key))
            return x, (new, x if every else None)

        step = jax.checkpoint(step) if self.remat else step
        cached = None if past is None else (past.keys, past.values)
        x, (new, streams) = lax.scan(step, x, (nnx.to_pure_dict(params), cached, rates, keys))
        return x, new, streams

    def _drop(self, rate, key):
        """Returns the functions that drop from the two residuals of a block."""
        if key is None:
            return (lambda y: y,) * 2
        keys = jax.random.split(key)
        if self.dropout.path:
            return tuple(lambda y, k=k: layers.drop_path(y, rate, k) for k in keys)
        return tuple(lambda y, k=k: drop(y, self.dropout.residual, k) for k in keys)


def linear(inputs: int, outputs: int, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """Builds a linear layer without bias."""
    return nnx.Linear(
        inputs, outputs, use_bias=False, kernel_init=layers.linear_init, dtype=dtype, rngs=rngs
    )


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Drops single values with probability `rate` and scales the others by 1 / (1 - rate)."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def attend(q, k, v, mask, past):
    """Computes attention over a past and over what is new.

    Args:
      q: (B, T, H, d).
      k, v: (B, T, G, d), G a divisor of H.
      mask: (B or 1, T, S + T) bool.
      past: None, or keys and values (B, S, G, d).

    Returns:
      (B, T, H, d). The softmax is float32. A position that sees nothing gets the mean.
    """
    b, t, heads, width = q.shape
    groups = k.shape[2]
    q = q.reshape(b, t, groups, heads // groups, width)
    pairs = [(k, v)] if past is None else [past, (k, v)]  # not joined: a past is not copied
    scores = [
        jnp.einsum("btgrd,bsgd->bgrts", q, key, preferred_element_type=jnp.float32)
        for key, _ in pairs
    ]
    scores = jnp.concatenate(scores, axis=-1) * width**-0.5
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    cuts = np.cumsum([key.shape[1] for key, _ in pairs])[:-1]
    out = sum(
        jnp.einsum("bgrts,bsgd->btgrd", part, value)
        for part, (_, value) in zip(jnp.split(weights, cuts, axis=-1), pairs, strict=True)
    )
    return out.reshape(b, t, heads, width)


def rotate(x: jax.Array, rope: jax.Array) -> jax.Array:
    """Turns pairs of neighbouring channels by the angles of their positions, in float32.

    Args:
      x: (B, T, H, d).
      rope: (T, d / 2, 2) or (B, T, d / 2, 2) float32, cosine and sine.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = (rope[..., None, :, i] for i in (0, 1))  # the same for all heads
    a, b = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def grid_rope(rows: int, columns: int, head_width: int, base: float = 10_000.0) -> np.ndarray:
    """Returns the table (rows * columns, d / 2, 2) of a grid of tokens in raster order.

    The first half of the pairs turns with the row, the second with the column.

    Raises:
      ValueError: a head width that is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"two-dimensional rope needs heads of a multiple of 4, not {head_width}")
    quarter = head_width // 4
    frequencies = base ** (-np.arange(quarter) / quarter)
    row, column = np.divmod(np.arange(rows * columns), columns)
    angles = np.concatenate([np.outer(row, frequencies), np.outer(column, frequencies)], axis=1)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
