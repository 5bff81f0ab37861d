"""Causal transformer decoders, of generators and language models, with caches as values.

RMSNorm (arXiv 1910.07467), SwiGLU (arXiv 2002.05202), rotary positions (arXiv 2104.09864) and
grouped keys and values (arXiv 2305.13245), in the order of Llama (arXiv 2302.13971). The flags of
`Sizes` are those of Llama 2 and 3, Qwen2 and Qwen3.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import attention, elementwise, layers
from unitok_jax.models.recomputation import product, run_blocks


class Cache(NamedTuple):
    """Keys and values of positions seen, block by block, and where the next ones go.

    Rows from `length` on are not seen. `Decoder.extend` returns another value; donated, or carried
    by a loop, the arrays are updated in place.
    """

    keys: tuple[jax.Array, ...]  # (B, G, S, d) of each block; S positions, G heads of keys
    values: tuple[jax.Array, ...]  # the same
    length: jax.Array  # scalar int32, positions that are filled

    def first(self, count: int) -> "Cache":
        """Returns the cache of the first `count` samples."""
        keys, values = ([x[:count] for x in arrays] for arrays in self[:2])
        return Cache(tuple(keys), tuple(values), self.length)


class Sizes(NamedTuple):
    """Sizes of a decoder's blocks, and their kind."""

    width: int
    heads: int
    hidden: int  # of SwiGLU
    depth: int  # blocks
    groups: int  # heads of keys and values; as many as `heads`, or a divisor
    head_width: int
    epsilon: float = 1e-5
    bias: bool = False  # of queries, keys and values, as Qwen2
    qk_norm: bool = False  # RMSNorm of each head's queries and keys, as Qwen3
    halves: bool = False  # rope turns channels c and c + d / 2, as Llama; else 2 c and 2 c + 1
    lora_rank: int = 0  # of the adapters beside linear layers; 0: none


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + epsilon) over the last axis in float32, then a factor in `dtype`."""

    def __init__(self, width: int, epsilon: float, dtype):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon, self.dtype = epsilon, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale[...].astype(self.dtype)
        return elementwise.rms_norm(x, scale, self.epsilon, self.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, sizes: Sizes, *, dtype, rngs: nnx.Rngs):
        width, hidden, rank = sizes.width, sizes.hidden, sizes.lora_rank
        self.gate = linear(width, hidden, dtype, rngs, rank=rank)
        self.up = linear(width, hidden, dtype, rngs, rank=rank)
        self.down = linear(hidden, width, dtype, rngs, rank=rank)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(elementwise.swiglu(self.gate(x), self.up(x)))


class Attention(nnx.Module):
    """Self-attention of `heads` queries over `groups` keys and values of `head_width` each."""

    def __init__(self, sizes: Sizes, *, dtype, rngs: nnx.Rngs):
        width, heads, groups = sizes.head_width, sizes.heads, sizes.groups
        outputs, rank = (heads + 2 * groups) * width, sizes.lora_rank
        self.qkv = linear(sizes.width, outputs, dtype, rngs, sizes.bias, rank)
        self.out = linear(heads * width, sizes.width, dtype, rngs, rank=rank)
        if sizes.qk_norm:
            self.q_norm = RMSNorm(width, sizes.epsilon, dtype)
            self.k_norm = RMSNorm(width, sizes.epsilon, dtype)
        self.sizes = sizes

    def __call__(self, x, rope, mask):
        """Returns the output (B, T, D), and the keys and values (B, G, T, d) of `x`.

        Args:
          x: (B, T, D).
          rope: (T, d / 2, 2) or (B, T, d / 2, 2), as `rotate`; None: positions are not told.
          mask: (B or 1, T, T) bool, what each position sees; None: all before it, by cuDNN, if
            `attention.by_cudnn` is true.
        """
        q, k, v = self._project(x, rope)
        return self._join(causal(q, k, v) if mask is None else attend(q, k, v, mask)), (k, v)

    def extend(self, x, rope, mask, past, at):
        """Runs as a call, with the positions before: `x` is put behind them.

        Args:
          x: (B, T, D).
          rope: as for a call.
          mask: (B or 1, T, S) bool, what each position sees of all that there is room for.
          past: keys and values (B, G, S, d).
          at: scalar int32, the place of the first position of `x`.

        Returns:
          (B, T, D), and the keys and values (B, G, S, d) with those of `x`.
        """
        q, *new = self._project(x, rope)
        k, v = (
            lax.dynamic_update_slice(old, more.astype(old.dtype), (0, 0, at, 0))
            for old, more in zip(past, new, strict=True)
        )
        return self._join(attend(q, k, v, mask)), (k, v)

    def _project(self, x, rope):
        """Returns q (B, H, T, d), k and v (B, G, T, d)."""
        b, t, _ = x.shape
        heads, groups = self.sizes.heads, self.sizes.groups
        parts = self.qkv(x).reshape(b, t, heads + 2 * groups, self.sizes.head_width)
        q, k, v = jnp.split(parts, (heads, heads + groups), axis=2)
        if self.sizes.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = (rotate(each, rope, self.sizes.halves) for each in (q, k))
        return q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)

    def _join(self, x):
        return self.out(x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1))


class Block(nnx.Module):
    """x += attention(norm(x)); x += swiglu(norm(x))."""

    def __init__(self, sizes: Sizes, *, dtype, rngs: nnx.Rngs):
        width = sizes.width
        self.norm1 = RMSNorm(width, sizes.epsilon, dtype)
        self.attention = Attention(sizes, dtype=dtype, rngs=rngs)
        self.norm2 = RMSNorm(width, sizes.epsilon, dtype)
        self.mlp = SwiGLU(sizes, dtype=dtype, rngs=rngs)

    def __call__(self, x, rope, mask, drop):
        """Returns the output, and the keys and values; `drop` acts on what is added to `x`."""
        first, second = drop
        out, new = self.attention(self.norm1(x), rope, mask)
        x = x + first(out)
        return x + second(self.mlp(self.norm2(x))), new

    def extend(self, x, rope, mask, past, at):
        """Returns the output, and the keys and values: `Attention.extend`."""
        out, new = self.attention.extend(self.norm1(x), rope, mask, past, at)
        x = x + out
        return x + self.mlp(self.norm2(x)), new


class Dropout(NamedTuple):
    """Rates of what is dropped in training from what the blocks add to the stream."""

    residual: float = 0.0  # single values, behind attention and MLP
    path: float = 0.0  # whole samples, from 0 in the first block to this in the last; replaces it


class Decoder(nnx.Module):
    """Equal blocks, held as one with a leading depth axis and run by a scan, and a final norm."""

    def __init__(self, sizes: Sizes, *, dropout: Dropout, remat: str, dtype, rngs: nnx.Rngs):
        """Builds the blocks; `remat` is one of `recomputation.BLOCKS`."""

        def make(rngs):
            return Block(sizes, dtype=dtype, rngs=rngs)

        graph = nnx.graphdef(nnx.eval_shape(lambda: make(layers.Keys(0))))
        keys = jax.random.split(rngs.params(), sizes.depth)
        init = jax.vmap(lambda key: nnx.to_pure_dict(nnx.state(make(layers.Keys(key)))))
        self.blocks = nnx.merge(graph, init(keys))
        self.norm = RMSNorm(sizes.width, sizes.epsilon, dtype)
        self.sizes, self.dropout, self.remat = sizes, dropout, remat
        self.dtype = jnp.dtype(dtype)
        self.gather = None  # function of a block's parameters before it runs, such as a sharding

    def __call__(self, x, *, rope=None, mask=None, key=None):
        """Runs the blocks.

        Args:
          x: (B, T, D), the stream; its dtype is the stream's.
          rope: as for `Attention`.
          mask: (B or 1, T, T) bool, what each position sees; causal if None.
          key: for dropout; None: nothing is dropped.

        Returns:
          (B, T, D) after the norm, and the keys and values (L, B, G, T, d) of all L blocks.
        """
        x, new, _ = self._scan(x, rope, mask, key, every=False)
        return self.norm(x), new

    def streams(self, x, *, rope=None, mask=None) -> jax.Array:
        """Returns the stream (L, B, T, D) after every block."""
        return self._scan(x, rope, mask, None, every=True)[2]

    def one_by_one(self) -> list[Block]:
        """Returns the blocks with arrays of their own, in the compute dtype, for `extend`.

        To be called outside of the loop over tokens: a loop that runs the stacked blocks by a scan
        copies the weights of each, in every round, before it reads them.
        """
        graph, params = nnx.split(self.blocks)
        params = jax.tree.map(lambda a: a.astype(self.dtype), nnx.to_pure_dict(params))
        return [
            nnx.merge(graph, jax.tree.map(lambda a, i=i: a[i], params))
            for i in range(self.sizes.depth)
        ]

    def empty_cache(self, batch: int, positions: int, filled=None) -> Cache:
        """Returns a cache for so many positions.

        Args:
          batch: number of samples.
          positions: S.
          filled: None, or the keys and values (L, B, G, T, d) of the first positions.
        """
        sizes = self.sizes
        shape = (sizes.depth, batch, sizes.groups, positions, sizes.head_width)
        keys, values = jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)
        length = 0
        if filled is not None:
            length = filled[0].shape[3]
            keys, values = (
                x.at[..., :length, :].set(y) for x, y in zip((keys, values), filled, strict=True)
            )
        return Cache(tuple(keys), tuple(values), jnp.int32(length))

    def extend(self, blocks: list[Block], x, cache: Cache, *, rope=None, seen=None):
        """Runs the blocks on positions behind those of a cache.

        Args:
          blocks: as `one_by_one` returns them.
          x: (B, T, D).
          cache: of the positions before, with room for T more.
          rope: of `x`, as for `Attention`.
          seen: (B, S) bool, which positions of the cache may be seen; None: all.

        Returns:
          (B, T, D) after the norm, and the cache with T positions more.
        """
        places, own = jnp.arange(cache.keys[0].shape[2]), cache.length + jnp.arange(x.shape[1])
        mask = (places <= own[:, None])[None]
        if seen is not None:
            mask = mask & seen[:, None] | (places == own[:, None])
        keys, values = [], []
        for block, *past in zip(blocks, cache.keys, cache.values, strict=True):
            x, (k, v) = block.extend(x, rope, mask, past, cache.length)
            keys.append(k)
            values.append(v)
        return self.norm(x), Cache(tuple(keys), tuple(values), cache.length + len(own))

    def _scan(self, x, rope, mask, key, every):
        graph, params = nnx.split(self.blocks)
        t = x.shape[1]
        queries = jax.ShapeDtypeStruct(
            (len(x), t, self.sizes.heads, self.sizes.head_width), self.dtype
        )
        if mask is None and not attention.by_cudnn(queries):
            mask = jnp.tril(jnp.ones((1, t, t), bool))
        rates = jnp.linspace(0.0, self.dropout.path, self.sizes.depth)
        keys = None if key is None else jax.random.split(key, self.sizes.depth)

        def step(x, layer):
            params, rate, key = layer
            params = params if self.gather is None else self.gather(params)
            x, new = nnx.merge(graph, params)(x, rope, mask, self._drop(rate, key))
            return x, (new, x if every else None)

        blocks = nnx.to_pure_dict(params), rates, keys
        x, (new, streams) = run_blocks(step, x, blocks, self.remat)
        return x, new, streams

    def _drop(self, rate, key):
        """Returns the functions that drop from the two residuals of a block."""
        if key is None:
            return (lambda y: y,) * 2
        keys = jax.random.split(key)
        if self.dropout.path:
            return tuple(lambda y, k=k: layers.drop_path(y, rate, k) for k in keys)
        return tuple(lambda y, k=k: drop(y, self.dropout.residual, k) for k in keys)


class AdaptedLinear(nnx.LoRALinear):
    """Linear layer with an adapter: x W + x A B of narrow A and B (LoRA, arXiv 2106.09685).

    B begins as zero. The output is marked as a product: see `recomputation`.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return product(super().__call__(x))


def linear(
    inputs: int, outputs: int, dtype, rngs: nnx.Rngs, bias: bool = False, rank: int = 0
) -> nnx.Linear:
    """Builds a linear layer, without bias unless told, with an adapter if `rank` is not 0."""
    settings = dict(use_bias=bias, kernel_init=layers.linear_init, dtype=dtype, rngs=rngs)
    if rank:
        return AdaptedLinear(inputs, outputs, lora_rank=rank, lora_dtype=dtype, **settings)
    return layers.Linear(inputs, outputs, **settings)


def drop(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Drops single values with probability `rate` and scales the others by 1 / (1 - rate)."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def attend(q, k, v, mask):
    """Computes attention of H heads over G keys and values, G a divisor of H.

    Args:
      q: (B, H, T, d).
      k, v: (B, G, S, d).
      mask: (B or 1, T, S) bool.

    Returns:
      (B, H, T, d). The softmax is float32. A position that sees nothing gets the mean.
    """
    b, heads, t, width = q.shape
    q = q.reshape(b, k.shape[1], -1, t, width)
    scores = jnp.einsum("bgrtd,bgsd->bgrts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * width**-0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bgrts,bgsd->bgrtd", weights, v).reshape(b, heads, t, width)


def causal(q, k, v):
    """Computes `attend` of T positions that see those before them, on GPUs by cuDNN."""

    def plain(*qkv):
        q, k, v = (x.swapaxes(1, 2) for x in qkv)
        mask = jnp.tril(jnp.ones((1, q.shape[2], q.shape[2]), bool))
        return attend(q, k, v, mask).swapaxes(1, 2)

    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return attention.fused(plain, q, k, v, causal=True).swapaxes(1, 2)


def rotate(x: jax.Array, rope: jax.Array, halves: bool = False) -> jax.Array:
    """Turns pairs of channels by the angles of their positions, in float32.

    Args:
      x: (B, T, H, d).
      rope: (T, d / 2, 2) or (B, T, d / 2, 2) float32, cosine and sine.
      halves: pairs are the channels c and c + d / 2; else neighbours.
    """
    axis, shape = (-2, (2, -1)) if halves else (-1, (-1, 2))
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], *shape)
    a, b = jnp.moveaxis(pairs, axis, 0)
    cos, sin = (rope[..., None, :, i] for i in (0, 1))  # the same for all heads
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=axis)
    return turned.reshape(x.shape).astype(x.dtype)


class Scaling(NamedTuple):
    """Llama 3's scaling of rotary frequencies, for a context longer than that of pretraining.

    Waves longer than original / low are stretched by `factor`, those shorter than original / high
    stay, and between them the stretch grows. A factor of 1 is no scaling.
    """

    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192  # positions of the pretraining


class Rope(NamedTuple):
    """Rotary positions of a sequence."""

    base: float
    scaling: Scaling = Scaling()

    def frequencies(self, head_width: int) -> np.ndarray:
        """Returns the angles of the pairs from a position to the next, (d / 2,) float32."""
        base, scaling = self
        plain = base ** (-np.arange(0, head_width, 2) / head_width)
        waves = scaling.original * plain / (2 * math.pi)  # in the original context
        kept = np.clip((waves - scaling.low) / (scaling.high - scaling.low), 0, 1)
        return (plain * (kept + (1 - kept) / scaling.factor)).astype(np.float32)

    def table(self, positions: jax.Array, head_width: int) -> jax.Array:
        """Returns cosine and sine (..., T, d / 2, 2) of positions (..., T), by row if they are."""
        angles = positions[..., None].astype(jnp.float32) * self.frequencies(head_width)
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def segment_mask(segments: jax.Array) -> jax.Array:
    """Returns what each position of packed rows sees, (B, T, T) bool: its own segment before it.

    segments: (B, T) int32, the number of the sample that stands there; 0 is padding.
    """
    t = segments.shape[1]
    return jnp.tri(t, dtype=bool) & (segments[:, :, None] == segments[:, None])


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
