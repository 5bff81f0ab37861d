"""Multi-codebook quantization (UniTok, arXiv 2502.20321) and the projections around it.

Everything here is float32 with the highest matmul precision, whatever the rest of the model uses:
a lookup in bf16 changes 1 to 4 % of the codes, and accelerators multiply float32 in fewer bits
unless told not to.

A quantizer is a module with three methods, `indices`, `lookup` and `__call__`, and two attributes,
`num_codebooks` (K) and `entries` (V). Its siblings stand in `residual_quantizer.py` and
`lookup_free.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from unitok_jax.models import layers


class Quantized(NamedTuple):
    """What a quantizer returns."""

    latent: jax.Array  # (B, N, latent_width) float32, with straight-through gradients
    codes: jax.Array  # (B, K, N) int32
    loss: jax.Array  # scalar: codebook and commitment loss
    entropy_loss: jax.Array  # scalar, 0 unless asked for


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


class MultiCodebookQuantizer(nnx.Module):
    """K codebooks of V rows: chunk k of a latent becomes the row of book k nearest by cosine."""

    def __init__(
        self,
        vocab_size: int,
        num_codebooks: int,
        latent_width: int,
        *,
        commitment_weight: float,
        rngs: nnx.Rngs,
    ):
        """vocab_size counts the rows of all codebooks, latent_width the K C values of a token."""
        self.num_codebooks, self.commitment_weight = num_codebooks, commitment_weight
        self.entries = split_evenly("vocab_size", vocab_size, num_codebooks)
        width = split_evenly("latent_width", latent_width, num_codebooks)
        init = layers.uniform_init(width**-0.5 / 36)
        self.codebook = nnx.Param(init(rngs.params(), (num_codebooks, self.entries, width)))

    def rows(self) -> jax.Array:
        """The unit-length codebook rows, (K, V, C)."""
        return layers.l2_normalize(self.codebook[...])

    def indices(self, latent: jax.Array) -> jax.Array:
        """Codes of a latent: (B, N, K C) -> (B, K, N) int32."""
        chunks = layers.l2_normalize(split_chunks(latent, self.num_codebooks))
        return self._nearest(chunks, self.rows())

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Quantized latent of codes: (B, K, N) -> (B, N, K C). Codes must be in [0, V)."""
        return join_chunks(self._take(codes, self.rows()))

    def __call__(self, latent: jax.Array, entropy: bool = False) -> Quantized:
        """Quantize (B, N, K C).

        The loss of a codebook is weight * mse(sg[row], chunk) + mse(row, sg[chunk]), a mean over
        all elements and codebooks. The output equals the row; its gradient goes to the normalised
        chunk unchanged (straight through).
        """
        chunks = layers.l2_normalize(split_chunks(latent, self.num_codebooks))
        rows = self.rows()
        codes = self._nearest(chunks, rows)
        chosen = self._take(codes, rows)
        commitment = jnp.mean((lax.stop_gradient(chosen) - chunks) ** 2)
        codebook = jnp.mean((chosen - lax.stop_gradient(chunks)) ** 2)
        straight_through = chunks + lax.stop_gradient(chosen - chunks)
        return Quantized(
            join_chunks(straight_through),
            codes,
            self.commitment_weight * commitment + codebook,
            entropy_loss(chunks, rows) if entropy else jnp.zeros(()),
        )

    @staticmethod
    def _nearest(chunks, rows):
        # One codebook at a time: all cosines at once are K times the memory, (B, K, N, V) floats.
        def nearest(book):
            return lax.platform_dependent(*book, cpu=_fold_rows, default=_argmax_rows)

        codes = lax.map(nearest, (chunks.swapaxes(0, 1), rows))
        return lax.stop_gradient(codes).swapaxes(0, 1)

    @staticmethod
    def _take(codes, rows):
        return jax.vmap(lambda codes, rows: rows[codes], in_axes=(1, 0), out_axes=1)(codes, rows)


def _argmax_rows(chunk, rows):
    """The row nearest by cosine: (B, N, C), (V, C) -> (B, N) int32, of equal ones the first."""
    return jnp.argmax(_cosines(chunk, rows), axis=-1).astype(jnp.int32)


def _fold_rows(chunk, rows, parts: int = 32):
    """As `_argmax_rows`, 3 to 10 times faster on a CPU, where XLA's argmax compares one by one.

    Row i stands in part i % parts: the best of the parts is found for V / parts neighbours at once,
    and argmax sees only those.
    """
    entries, width = rows.shape
    if entries % parts or entries < parts**2:
        return _argmax_rows(chunk, rows)
    lanes = entries // parts
    rows = rows.reshape(lanes, parts, width).swapaxes(0, 1).reshape(entries, width)
    cosines = _cosines(chunk, rows).reshape(*chunk.shape[:2], parts, lanes)
    best = cosines[:, :, 0]
    part = jnp.zeros(best.shape, jnp.int32)
    for i in range(1, parts):
        better = cosines[:, :, i] > best
        best = jnp.where(better, cosines[:, :, i], best)
        part = jnp.where(better, i, part)
    lane = jnp.argmax(best, axis=-1, keepdims=True).astype(jnp.int32)
    return (lane * parts + jnp.take_along_axis(part, lane, axis=-1))[..., 0]


def _cosines(chunk, rows):
    return jnp.einsum("bnc,vc->bnv", chunk, rows, precision="highest")


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


class ProjectionAttention(nnx.Module):
    """Attention between two widths, (B, N, D) -> (B, N, E), no k bias.

    Head width is max(D, E) / heads. Going down the heads are averaged (and pooled to E where the
    head width differs from it), going up they are concatenated.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, *, dtype, rngs: nnx.Rngs):
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
        self.inputs, self.outputs, self.heads = inputs, outputs, heads

    def __call__(self, x: jax.Array) -> jax.Array:
        b, n, _ = x.shape
        zero = jnp.zeros_like(self.q_bias[...])
        qkv = self.qkv(x) + jnp.concatenate([self.q_bias[...], zero, self.v_bias[...]])
        qkv = qkv.reshape(b, n, 3, self.heads, -1)
        out = layers.attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        if self.inputs > self.outputs:
            out = out.mean(axis=2)
            if out.shape[-1] != self.outputs:
                out = out @ layers.pooling_matrix(out.shape[-1], self.outputs)
        else:
            out = out.reshape(b, n, -1)
        return self.proj(out)


class AttentionProjection(nnx.Module):
    """Factorises or expands tokens with attention, (B, N, D) -> (B, N, E), in float32."""

    def __init__(self, inputs: int, outputs: int, heads: int, *, rngs: nnx.Rngs):
        dtype = jnp.float32
        self.norm1 = layers.layer_norm(inputs, 1e-5, dtype, rngs)
        self.attn = ProjectionAttention(inputs, outputs, heads, dtype=dtype, rngs=rngs)
        self.norm3 = layers.layer_norm(inputs, 1e-5, dtype, rngs)
        self.proj = layers.linear(inputs, outputs, dtype, rngs)
        self.norm2 = layers.layer_norm(outputs, 1e-5, dtype, rngs)
        self.mlp = layers.GeGLU(outputs, 2 * outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))


def make_projection(kind: str, inputs: int, outputs: int, heads: int, *, rngs: nnx.Rngs):
    """'attention' or 'linear' projection between the trunk's width and the latent's."""
    if kind == "attention":
        return AttentionProjection(inputs, outputs, heads, rngs=rngs)
    if kind == "linear":
        return nnx.Linear(
            inputs,
            outputs,
            kernel_init=layers.linear_init,
            dtype=jnp.float32,
            precision="highest",
            rngs=rngs,
        )
    raise ValueError(f"model.quant_proj={kind!r} is not one of 'attention', 'linear'")
