"""Projections between the trunk's width and the latent's, around the quantizer.

Projections are float32 with the highest matmul precision, whatever the rest of the model uses: the
inputs of the quantizer decide the codes, see `quantizers.base`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from unitok_jax.models import attention, layers


class Past(NamedTuple):
    """Keys and values of the tokens that a causal projection has seen, of N there is room for."""

    keys: jax.Array  # (B, N, heads, head width) float32
    values: jax.Array  # the same


class ProjectionAttention(nnx.Module):
    """Attention between two widths, (B, N, D) -> (B, N, E), no k bias; causal if it is told.

    Head width is max(D, E) / heads. If E < D the heads are averaged (and pooled to E if the head
    width is not E), otherwise concatenated.
    """

    def __init__(
        self, inputs: int, outputs: int, heads: int, *, causal=False, dtype, rngs: nnx.Rngs
    ):
        width = max(inputs, outputs)
        if heads < 1 or width % heads:
            fitting = [count for count in range(1, width + 1) if width % count == 0]
            nearest = min(fitting, key=lambda count: abs(count - heads))
            raise ValueError(
                f"model.quant_heads={heads} does not divide {width}, the larger of "
                f"model.latent_width and the width of model.size; nearest: {nearest}"
            )
        self.qkv = nnx.Linear(
            inputs,
            3 * width,
            use_bias=False,
            kernel_init=layers.linear_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.q_bias = nnx.Param(jnp.zeros((width,)))
        self.v_bias = nnx.Param(jnp.zeros((width,)))
        self.proj = layers.linear(outputs, outputs, dtype, rngs)
        self.inputs, self.outputs, self.heads, self.causal = inputs, outputs, heads, causal

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = jnp.tri(x.shape[1], dtype=bool) if self.causal else None
        return self._join(attention.attend(*self._project(x), mask))

    def extend(self, x: jax.Array, past: Past, at: jax.Array) -> tuple[jax.Array, Past]:
        """Runs tokens (B, T, D) at the places `at`, at + 1, ..., which see those before.

        Returns:
          (B, T, E), and keys and values with those of `x`.
        """
        q, *new = self._project(x)
        k, v = (
            lax.dynamic_update_slice(old, more, (0, at, 0, 0))
            for old, more in zip(past, new, strict=True)
        )
        mask = jnp.arange(k.shape[1]) <= at + jnp.arange(x.shape[1])[:, None]
        return self._join(attention.attend(q, k, v, mask)), Past(k, v)

    def empty(self, batch: int, tokens: int) -> Past:
        """Returns keys and values with room for so many tokens."""
        shape = (batch, tokens, self.heads, max(self.inputs, self.outputs) // self.heads)
        return Past(jnp.zeros(shape), jnp.zeros(shape))

    def _project(self, x):
        """Returns q, k and v, each (B, N, heads, head width)."""
        b, n, _ = x.shape
        zero = jnp.zeros_like(self.q_bias[...])
        qkv = self.qkv(x) + jnp.concatenate([self.q_bias[...], zero, self.v_bias[...]])
        qkv = qkv.reshape(b, n, 3, self.heads, -1)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def _join(self, out):
        b, n, *_ = out.shape
        if self.inputs > self.outputs:
            out = out.mean(axis=2)
            if out.shape[-1] != self.outputs:
                out = out @ layers.pooling_matrix(out.shape[-1], self.outputs)
        else:
            out = out.reshape(b, n, -1)
        return self.proj(out)


class AttentionProjection(nnx.Module):
    """Projection of tokens by attention and an MLP, (B, N, D) -> (B, N, E), in float32."""

    def __init__(self, inputs: int, outputs: int, heads: int, *, causal=False, rngs: nnx.Rngs):
        dtype = jnp.float32
        self.norm1 = layers.layer_norm(inputs, 1e-5, dtype, rngs)
        self.attn = ProjectionAttention(
            inputs, outputs, heads, causal=causal, dtype=dtype, rngs=rngs
        )
        self.norm3 = layers.layer_norm(inputs, 1e-5, dtype, rngs)
        self.proj = layers.linear(inputs, outputs, dtype, rngs)
        self.norm2 = layers.layer_norm(outputs, 1e-5, dtype, rngs)
        self.mlp = layers.GeGLU(outputs, 2 * outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return self._rest(x, self.attn(self.norm1(x)))

    def extend(self, x: jax.Array, past: Past, at: jax.Array) -> tuple[jax.Array, Past]:
        """Runs tokens (B, T, D) behind others: `ProjectionAttention.extend`."""
        with jax.default_matmul_precision("highest"):
            attended, past = self.attn.extend(self.norm1(x), past, at)
            return self._rest(x, attended), past

    def _rest(self, x, attended):
        x = self.proj(self.norm3(x)) + attended
        return x + self.mlp(self.norm2(x))


def make_projection(
    kind: str, inputs: int, outputs: int, heads: int, *, causal: bool = False, rngs: nnx.Rngs
):
    """Builds an 'attention' or 'linear' projection between the trunk's width and the latent's.

    Raises:
      ValueError: an unknown kind, heads that do not fit, or a causal linear projection.
    """
    if kind == "attention":
        return AttentionProjection(inputs, outputs, heads, causal=causal, rngs=rngs)
    if kind == "linear":
        if causal:
            raise ValueError(
                "model.quant_causal=True is of model.quant_proj=attention: by a linear one no "
                "token sees another; set model.quant_causal=False"
            )
        return nnx.Linear(
            inputs,
            outputs,
            kernel_init=layers.linear_init,
            dtype=jnp.float32,
            precision="highest",
            rngs=rngs,
        )
    raise ValueError(f"model.quant_proj={kind!r} is not one of 'attention', 'linear'")
