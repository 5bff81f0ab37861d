"""Layers shared by the networks.

Symbols of the whole package: B batch, H W pixels or grid cells, N tokens, D width, K codebooks,
V entries of one codebook, C width of one codebook. Images are NHWC.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax.models import attention, elementwise
from unitok_jax.models.recomputation import product, recomputing, run_blocks

# PyTorch's trunc_normal_(std=0.02) cuts at +-2 in absolute terms, 100 sigma: a plain normal.
linear_init = nnx.initializers.normal(0.02)


class Keys:
    """Keys for `rngs=` of Flax modules: those of `nnx.Rngs`, counted by a Python number.

    The counter of `nnx.Rngs` is an array, and every increment under tracing searches all operations
    traced so far: half of the time in which a model is traced.
    """

    def __init__(self, key: jax.Array | int):
        """key: a key, or the seed of one."""
        self._key = jax.random.key(key) if isinstance(key, int) else key
        self._count = 0

    def params(self) -> jax.Array:
        """Returns the next key."""
        key = jax.random.fold_in(self._key, self._count)
        self._count += 1
        return key


def layer_norm(width: int, epsilon: float, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Builds LayerNorm over the last axis, statistics in float32, output in `dtype`."""
    return elementwise.LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)


class Linear(nnx.Linear):
    """Linear layer whose output is marked as a product: see `recomputation`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return product(super().__call__(x))


def linear(inputs: int, outputs: int, dtype, rngs: nnx.Rngs, init=linear_init) -> Linear:
    """Builds a linear layer on the last axis, which on NHWC images is a 1x1 convolution."""
    return Linear(inputs, outputs, kernel_init=init, dtype=dtype, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D), qkv with bias."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dtype,
        rngs: nnx.Rngs,
        causal: bool = False,
        qkv_init=linear_init,
        out_init=linear_init,
    ):
        self.qkv = linear(width, 3 * width, dtype, rngs, qkv_init)
        self.proj = linear(width, width, dtype, rngs, out_init)
        self.heads, self.causal = heads, causal

    def __call__(self, x: jax.Array, turn: Callable | None = None) -> jax.Array:
        """Returns (B, N, D); `turn` is applied to queries and to keys (B, N, heads, D / heads)."""
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if turn is not None:
            q, k = turn(q), turn(k)
        out = attention.self_attention(q, k, v, self.causal)
        return self.proj(out.reshape(b, n, d))


class GeGLU(nnx.Module):
    """GeGLU MLP: LayerNorm, then tanh-GELU(w0 x) * (w1 x), then w2 (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, *, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(width, 1e-6, dtype, rngs)
        self.w0 = linear(width, hidden, dtype, rngs)
        self.w1 = linear(width, hidden, dtype, rngs)
        self.w2 = linear(hidden, width, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(x)
        return self.w2(elementwise.geglu(self.w0(x), self.w1(x)))


def drop_path(x: jax.Array, rate: jax.Array, key: jax.Array | None) -> jax.Array:
    """Drops whole samples of a residual (B, ...): stochastic depth (arXiv 1603.09382).

    Kept samples are scaled by 1 / (1 - rate). Without a key nothing is dropped.
    """
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return x * (keep / (1.0 - rate)).astype(x.dtype)


class Block(nnx.Module):
    """Pre-norm transformer block with a GeGLU MLP of hidden width 2 D."""

    def __init__(self, width: int, heads: int, *, dtype, stream, rngs: nnx.Rngs):
        """Builds the block; `stream` is the dtype of the residual stream, at least `dtype`."""
        self.norm1 = layer_norm(width, 1e-6, dtype, rngs)
        self.attn = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        # Its output is normalised again, not multiplied, so that rounding would save nothing.
        self.norm2 = layer_norm(width, 1e-6, stream, rngs)
        self.mlp = GeGLU(width, 2 * width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, rate: jax.Array, key: jax.Array | None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        x = x + drop_path(self.attn(self.norm1(x)), rate, keys[0])
        return x + drop_path(self.mlp(self.norm2(x)), rate, keys[1])


class Stack(nnx.Module):
    """Stack of equal blocks, held as one block with a leading depth axis, run by a scan.

    One block is compiled however deep the stack is. `block` is called as block(x, rate, key) and,
    if `shared` is given, with that as one more argument, the same for all blocks. It returns the
    dtype of `x`: that of the residual stream, which the caller chooses.
    """

    def __init__(self, make_block, depth: int, *, rngs: nnx.Rngs, drop_path: float, remat: str):
        """Builds the blocks by make_block(rngs); drop-path rates grow from 0 to `drop_path`.

        remat: one of `recomputation.BLOCKS`.
        """
        graph = nnx.graphdef(nnx.eval_shape(lambda: make_block(Keys(0))))
        keys = jax.random.split(rngs.params(), depth)
        init = jax.vmap(lambda key: nnx.to_pure_dict(nnx.state(make_block(Keys(key)))))
        self.block = nnx.merge(graph, init(keys))
        self.depth, self.drop_path, self.remat = depth, drop_path, remat

    def __call__(self, x: jax.Array, key: jax.Array | None = None, shared=None) -> jax.Array:
        """Returns the output of the last block."""
        return self._scan(x, key, shared, every=False)[0]

    def outputs(self, x: jax.Array, key: jax.Array | None = None, shared=None) -> jax.Array:
        """Returns the outputs of all blocks, on a new leading axis."""
        return self._scan(x, key, shared, every=True)[1]

    def _scan(self, x, key, shared, every):
        graph, params = nnx.split(self.block)
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        keys = None if key is None or self.drop_path == 0 else jax.random.split(key, self.depth)
        more = () if shared is None else (shared,)

        def step(x, layer):
            params, rate, key = layer
            x = nnx.merge(graph, params)(x, rate, key, *more)
            return x, x if every else None

        return run_blocks(step, x, (nnx.to_pure_dict(params), rates, keys), self.remat)


def call(module: nnx.Module, x: jax.Array, remat: str) -> jax.Array:
    """Returns module(x); of its activations the backward pass recomputes what `remat` names."""
    if remat == "none":
        return module(x)
    graph, params = nnx.split(module)
    run = recomputing(lambda p, x: nnx.merge(graph, p)(x), remat)
    return run(nnx.to_pure_dict(params), x)


def uniform_init(limit: float):
    """Returns an initializer, uniform in [-limit, limit]."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def l2_normalize(x: jax.Array) -> jax.Array:
    """Returns x / max(||x||, 1e-12) over the last axis, as PyTorch's `F.normalize`."""
    # The maximum is taken under the root, as the gradient of a norm at 0 is NaN.
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))


@functools.cache
def bicubic_matrix(inputs: int, outputs: int, step: float) -> np.ndarray:
    """Returns (outputs, inputs) weights of PyTorch's bicubic resize: a = -0.75, no antialias.

    The weights are float32. `step` is the distance between the centres of two outputs in samples,
    near inputs / outputs. Samples beyond the border repeat the border sample.
    """
    source = (np.arange(outputs) + 0.5) * step - 0.5
    left = np.floor(source)
    matrix = np.zeros((outputs, inputs))
    for offset in (-1, 0, 1, 2):
        index = np.clip(left + offset, 0, inputs - 1).astype(int)
        np.add.at(matrix, (np.arange(outputs), index), _cubic(np.abs(source - left - offset)))
    return matrix.astype(np.float32)


def _cubic(distance, a=-0.75):
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def pooling_matrix(inputs: int, outputs: int) -> jax.Array:
    """Returns (inputs, outputs) weights of adaptive average pooling with PyTorch's windows."""
    rows = []
    for i in range(outputs):
        start, stop = i * inputs // outputs, math.ceil((i + 1) * inputs / outputs)
        rows.append([1 / (stop - start) if start <= j < stop else 0.0 for j in range(inputs)])
    return jnp.array(rows).T
