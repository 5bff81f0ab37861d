"""CLIP's text transformer (arXiv 2103.00020)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import elementwise, layers


class TextMLP(nnx.Module):
    """MLP of the text tower: linear to 4 D, GELU, linear to D."""

    def __init__(self, width: int, *, gelu: str, out_init, dtype, rngs: nnx.Rngs):
        init = nnx.initializers.normal((2 * width) ** -0.5)
        self.c_fc = layers.linear(width, 4 * width, dtype, rngs, init)
        self.c_proj = layers.linear(4 * width, width, dtype, rngs, out_init)
        self.gelu = gelu

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c_proj(elementwise.GELUS[self.gelu](self.c_fc(x)))


class TextBlock(nnx.Module):
    """Pre-norm causal transformer block. The drop-path arguments of `Stack` are not used."""

    def __init__(self, width: int, heads: int, depth: int, *, gelu: str, dtype, rngs: nnx.Rngs):
        init = nnx.initializers.normal(width**-0.5)
        out_init = nnx.initializers.normal(width**-0.5 * (2 * depth) ** -0.5)
        self.ln_1 = layers.layer_norm(width, 1e-5, dtype, rngs)
        self.attn = layers.SelfAttention(
            width, heads, dtype=dtype, rngs=rngs, causal=True, qkv_init=init, out_init=out_init
        )
        self.ln_2 = layers.layer_norm(width, 1e-5, dtype, rngs)
        self.mlp = TextMLP(width, gelu=gelu, out_init=out_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, rate, key) -> jax.Array:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nnx.Module):
    """CLIP's text tower: token ids (B, L) int32 -> features (B, E) float32, not normalised.

    The feature is taken at the end-of-text token, which has the largest id.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        depth: int,
        vocab_size: int,
        context_length: int,
        embed_dim: int,
        remat: str,
        dtype,
        stream,
        rngs: nnx.Rngs,
        gelu: str = "exact",
    ):
        """Builds the tower.

        gelu: a key of `elementwise.GELUS`.
        remat: one of `recomputation.BLOCKS`.
        stream: dtype of the residual stream, at least `dtype`.
        """
        if heads < 1 or width % heads:
            raise ValueError(f"model.text.heads={heads} does not divide model.text.width={width}")

        def table(std, *shape):
            return nnx.Param(nnx.initializers.normal(std)(rngs.params(), shape, jnp.float32))

        def block(rngs):
            return TextBlock(width, heads, depth, gelu=gelu, dtype=dtype, rngs=rngs)

        self.token_embedding = table(0.02, vocab_size, width)
        self.positional_embedding = table(0.01, context_length, width)
        self.blocks = layers.Stack(block, depth, rngs=rngs, drop_path=0.0, remat=remat)
        self.ln_final = layers.layer_norm(width, 1e-5, dtype, rngs)
        self.text_projection = table(width**-0.5, width, embed_dim)
        self.dtype, self.stream = dtype, stream

    def __call__(self, text: jax.Array) -> jax.Array:
        x = self._stream(text)
        x = jnp.take_along_axis(x, text.argmax(axis=-1)[:, None, None], axis=1)[:, 0]
        projection = self.text_projection[...].astype(self.dtype)
        return (self.ln_final(x) @ projection).astype(jnp.float32)

    def states(self, text: jax.Array) -> jax.Array:
        """Computes a state for every token (B, L, D), after the last norm and not projected."""
        return self.ln_final(self._stream(text))

    def _stream(self, text):
        length = text.shape[1]
        if length > self.positional_embedding.shape[0]:
            raise ValueError(
                f"text of {length} tokens is longer than model.text.context_length="
                f"{self.positional_embedding.shape[0]}"
            )
        x = self.token_embedding[...][text] + self.positional_embedding[...][:length]
        return self.blocks(x.astype(self.stream))


def abstract_tower(model: Mapping[str, Any], dtype: str) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a UniTok's text tower alone, and the shapes of its parameters.

    Args:
      model: the keyword arguments of `UniTok`; `text` and `embed_dim` are read.
      dtype: dtype that it computes in; its residual stream is float32.
    """
    text = model["text"]
    tower = nnx.eval_shape(
        lambda: TextEncoder(
            width=text["width"],
            heads=text["heads"],
            depth=text["layers"],
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            embed_dim=model["embed_dim"],
            remat="none",
            dtype=jnp.dtype(dtype),
            stream=jnp.float32,
            rngs=layers.Keys(0),
        )
    )
    graph, params = nnx.split(tower)
    return graph, nnx.to_pure_dict(params)
