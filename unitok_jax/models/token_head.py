"""Head that predicts a teacher's features from the tokens of a tokenizer."""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import elementwise, layers


class TokenHead(nnx.Module):
    """LayerNorm, linear, GELU, linear: (B, N, D) -> (B, N, width) float32."""

    def __init__(self, inputs: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(inputs, 1e-6, dtype, rngs)
        self.fc1 = layers.linear(inputs, width, dtype, rngs)
        self.fc2 = layers.linear(width, width, dtype, rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.fc2(elementwise.gelu(self.fc1(self.norm(tokens)))).astype(jnp.float32)
