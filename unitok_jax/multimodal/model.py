"""Language model that reads and draws images as UniTok's codes (arXiv 2502.20321, section 4).

A decoder of the Llama family over rows of text and images. The K codes of a visual token come in as
one vector; going out, a depth head predicts them one after the other, as a generator's does.

Symbols beside those of `layers`: T positions of a row, M images of a row, L visual tokens of an
image, K codebooks, V entries of one codebook, W width of the language model.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import elementwise, layers, recomputation
from unitok_jax.models.code_heads import DepthHead, IndependentHead
from unitok_jax.models.language_model import LanguageModel
from unitok_jax.models.projection import Past, make_projection
from unitok_jax.models.quantizers.multi_codebook import MultiCodebookQuantizer
from unitok_jax.models.transformer import Dropout, Rope, Scaling, Sizes, segment_mask

PROJECTIONS = ("causal", "full", "linear")
FROZEN = ("image.quantizer.*",)
"""Names of the parameters that are never trained, as globs: the tokenizer's codebooks."""


class Connector(nnx.Module):
    """LayerNorm and an MLP with exact GELU, from the tokenizer's width to the language model's.

    Without the norm it is LLaVA-1.5's.
    """

    def __init__(self, inputs: int, width: int, *, normed: bool, dtype, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(inputs, 1e-6, dtype, rngs) if normed else None
        self.fc1 = layers.linear(inputs, width, dtype, rngs)
        self.fc2 = layers.linear(width, width, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x if self.norm is None else self.norm(x)
        return self.fc2(elementwise.gelu(self.fc1(x)))


class ImageInput(nnx.Module):
    """Codes to vectors: rows of the tokenizer's codebooks, a projection, and an MLP."""

    def __init__(
        self,
        *,
        num_codebooks: int,
        vocab_size: int,
        latent_width: int,
        projection: str,
        projection_width: int,
        projection_heads: int,
        width: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.quantizer = MultiCodebookQuantizer(
            vocab_size, num_codebooks, latent_width, commitment_weight=0.0, rngs=rngs
        )
        self.causal, self.full = projection == "causal", projection == "full"
        self.projection = make_projection(
            "linear" if projection == "linear" else "attention",
            *(latent_width, projection_width, projection_heads),
            causal=self.causal,
            rngs=rngs,
        )
        self.mlp = Connector(projection_width, width, normed=not self.full, dtype=dtype, rngs=rngs)

    def quantized(self, codes: jax.Array) -> jax.Array:
        """Looks up codes (B, K, L): unit rows, joined (B, L, K C), without a gradient."""
        return jax.lax.stop_gradient(self.quantizer.lookup(codes))

    def __call__(self, codes: jax.Array) -> jax.Array:
        """Embeds the codes (B, K, L) of whole images to vectors (B, L, W), float32."""
        return self._embed(self.projection(self.quantized(codes)))

    def extend(self, codes: jax.Array, past: Past | None, at: jax.Array):
        """Embeds the codes (B, K, T) of the tokens from place `at` on, which see those before.

        Returns:
          (B, T, W) float32, and the keys and values of the projection with those of these tokens.

        Raises:
          ValueError: the projection is full: each token sees those behind it.
        """
        if self.full:
            raise ValueError("a full projection takes whole images alone")
        if not self.causal:
            return self(codes), None
        projected, past = self.projection.extend(self.quantized(codes), past, at)
        return self._embed(projected), past

    def empty(self, batch: int, tokens: int) -> Past | None:
        """Returns what `extend` begins with; None: tokens do not see each other."""
        return self.projection.attn.empty(batch, tokens) if self.causal else None

    def _embed(self, projected):
        return self.mlp(projected).astype(jnp.float32)  # as the stream that it enters


class Multimodal(nnx.Module):
    """Language model with images; `config.model` has the keyword arguments that must be given."""

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        heads: int,
        groups: int,
        head_width: int,
        hidden: int,
        depth: int,
        epsilon: float,
        rope_base: float,
        rope_scaling: Mapping,
        qkv_bias: bool,
        qk_norm: bool,
        tied: bool,
        num_codebooks: int,
        vocab_size: int,
        latent_width: int,
        grid: tuple[int, int],
        projection: str,
        projection_width: int,
        projection_heads: int,
        head_depth: int,
        depth_head_width: int,
        remat: str,
        dtype: str,
        rngs: nnx.Rngs,
        lora_rank: int = 0,
    ):
        """Builds a model with random weights, whose logits of codes are zero.

        Args:
          vocabulary: number of text ids.
          width, heads, hidden, depth: of the decoder, W; `hidden` is SwiGLU's width.
          groups: heads of keys and values, a divisor of `heads`.
          head_width: width of each head of the decoder's attention.
          epsilon: of the RMSNorms.
          rope_base: of the rotary positions.
          rope_scaling: fields of `transformer.Scaling`; factor 1: none.
          qkv_bias: queries, keys and values have a bias, as Qwen2's.
          qk_norm: queries and keys are normalised head by head, as Qwen3's.
          tied: logits of text are products with the table of ids.
          num_codebooks: K.
          vocab_size: entries of all codebooks together, K V, as of a tokenizer.
          latent_width: K C values of a quantized token, as of a tokenizer.
          grid: rows and columns of visual tokens.
          projection: 'causal', the tokenizer's `post_quant_proj` under a causal mask; 'full', the
            same without a mask and no LayerNorm behind it, for models that draw nothing; or
            'linear'.
          projection_width: D, width of the projected tokens: that of the tokenizer.
          projection_heads: attention heads of a causal or full projection.
          head_depth: blocks of the depth head, equal to the decoder's; 0: a linear layer for each
            codebook, by which the codes of a token do not depend on each other.
          depth_head_width: width of the depth head, whose heads and SwiGLU are as many times
            narrower than the decoder's; 0: the decoder's.
          remat: activations of the blocks recomputed in the backward pass: one of
            `recomputation.BLOCKS`, or a bool of older files.
          dtype: compute dtype; parameters, stream and logits are float32, and so is the projection.
          rngs: the stream `params`.
          lora_rank: rank of the adapters beside the decoder's linear layers; 0: none.

        Raises:
          ValueError: a value that is unknown or does not fit another.
        """
        if heads % groups:
            raise ValueError(f"model.groups={groups} does not divide model.heads={heads}")
        if head_width % 2:
            raise ValueError(f"model.head_width={head_width} is odd, and rope turns pairs")
        if vocab_size % num_codebooks:
            raise ValueError(
                f"model.num_codebooks={num_codebooks} does not divide model.vocab_size={vocab_size}"
            )
        if projection not in PROJECTIONS:
            raise ValueError(f"model.projection={projection!r} is none of {', '.join(PROJECTIONS)}")
        if max(latent_width, projection_width) % projection_heads:
            raise ValueError(
                f"model.projection_heads={projection_heads} does not divide the larger of "
                f"model.projection_width={projection_width} and model.latent_width={latent_width}"
            )
        self.num_codebooks, self.entries = num_codebooks, vocab_size // num_codebooks
        self.grid, self.tokens, self.dtype = tuple(grid), math.prod(grid), jnp.dtype(dtype)
        what, remat = dict(dtype=self.dtype, rngs=rngs), recomputation.find(remat)
        sizes = Sizes(
            width=width,
            heads=heads,
            hidden=hidden,
            depth=depth,
            groups=groups,
            head_width=head_width,
            epsilon=epsilon,
            bias=qkv_bias,
            qk_norm=qk_norm,
            halves=True,
            lora_rank=lora_rank,
        )
        rope = Rope(rope_base, Scaling(**rope_scaling))
        self.language = LanguageModel(
            sizes, vocabulary=vocabulary, tied=tied, rope=rope, remat=remat, **what
        )
        self.image = ImageInput(
            num_codebooks=num_codebooks,
            vocab_size=vocab_size,
            latent_width=latent_width,
            projection=projection,
            projection_width=projection_width,
            projection_heads=projection_heads,
            width=width,
            **what,
        )
        if head_depth:
            self.head = DepthHead(
                width,
                _head_sizes(sizes, head_depth, depth_head_width or width),
                num_codebooks,
                self.entries,
                rope=rope,
                dropout=Dropout(),
                remat=remat,
                **what,
            )
        else:
            self.head = IndependentHead(width, num_codebooks, self.entries, dtype=self.dtype)

    def embed(self, ids: jax.Array, image_at: jax.Array, codes: jax.Array) -> jax.Array:
        """Embeds rows of text and images to the decoder's input (B, T, W), float32.

        Args:
          ids: (B, T) int32, ids of the text; not read where an image stands.
          image_at: (B, T) int32, m L + l where token l of the row's image m stands; -1 for text.
          codes: (B, M, K, L) int32, M at least 1.
        """
        b, images, books, tokens = codes.shape
        visual = self.image(codes.reshape(b * images, books, tokens))
        visual = visual.reshape(b, images * tokens, -1)
        at = jnp.maximum(image_at, 0)[..., None]
        return jnp.where(
            image_at[..., None] < 0,
            self.language.embed(ids),
            jnp.take_along_axis(visual, at, axis=1),
        )

    def hidden(self, ids, image_at, codes, segments, positions) -> jax.Array:
        """Computes what the next id, or the next codes, are predicted from.

        Args:
          ids, image_at, codes: as for `embed`.
          segments: (B, T) int32, number of the sample that stands there; 0 is padding. Samples of
            one row do not see each other.
          positions: (B, T) int32, places within the samples.

        Returns:
          (B, T, W), the decoder's output after its norm.
        """
        return self.language.decoder(
            self.embed(ids, image_at, codes),
            rope=self.language.rope(positions),
            mask=segment_mask(segments),
        )[0]


def abstract_model(model: Mapping, lora_rank: int = 0) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a model and the shapes of its parameters, without any arrays.

    Args:
      model: `config.model`.
      lora_rank: as for `Multimodal`.
    """
    make = nnx.eval_shape(lambda: Multimodal(**model, rngs=layers.Keys(0), lora_rank=lora_rank))
    graph, params = nnx.split(make)
    return graph, nnx.to_pure_dict(params)


def _head_sizes(sizes: Sizes, depth: int, width: int) -> Sizes:
    """Returns the sizes of a depth head: those of the decoder, in the proportion of the widths.

    Raises:
      ValueError: a width of which a part would be no whole number.
    """
    parts = {key: getattr(sizes, key) * width for key in ("heads", "groups", "hidden")}
    if broken := [key for key, value in parts.items() if value % sizes.width]:
        raise ValueError(
            f"model.depth_head_width={width} is {width}/{sizes.width} of model.width, and "
            f"model.{broken[0]}={getattr(sizes, broken[0])} cannot be divided so"
        )
    whole = {key: value // sizes.width for key, value in parts.items()}
    return sizes._replace(width=width, depth=depth, lora_rank=0, **whole)
