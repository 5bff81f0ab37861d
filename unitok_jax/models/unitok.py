"""UniTok (arXiv 2502.20321): unified tokenizer for image generation and understanding."""

import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax import trees
from unitok_jax.codes import STRIDE
from unitok_jax.models import layers, limits, recomputation, vitamin
from unitok_jax.models.projection import make_projection
from unitok_jax.models.quantizers.base import PLAIN, Learning
from unitok_jax.models.quantizers.lookup_free import BinarySphericalQuantizer, FiniteScalarQuantizer
from unitok_jax.models.quantizers.multi_codebook import MultiCodebookQuantizer
from unitok_jax.models.quantizers.residual import ResidualQuantizer
from unitok_jax.models.text_encoder import TextEncoder

DTYPES = ("float32", "bfloat16")
QUANTIZERS = {
    "multi_codebook": MultiCodebookQuantizer,
    "residual": ResidualQuantizer,
    "fsq": FiniteScalarQuantizer,
    "bsq": BinarySphericalQuantizer,
}


class Logits(NamedTuple):
    """Parameters of the logits of image-text pairs at the start of training."""

    scale: float  # natural logarithm of the factor of the cosines
    bias: float | None = None  # added to them; None: no such parameter


LOGITS = {
    "softmax": Logits(np.log(1 / 0.07)),  # arXiv 2103.00020
    "sigmoid": Logits(np.log(10), -10.0),  # arXiv 2303.15343: all pairs begin as unlikely
}
"""Kinds of logits of image-text pairs by `contrastive_kind`, the kind of their loss."""


class Output(NamedTuple):
    """Outputs of one forward pass of training."""

    reconstruction: jax.Array  # (B, H, W, 3) float32, not bounded
    last_features: jax.Array  # (B, H, W, D), input of the decoder's last convolution
    codes: jax.Array  # (B, K, N) int32
    tokens: jax.Array  # (B, N, D) float32, behind the quantizer and its projection
    vq_loss: jax.Array  # scalar
    entropy_loss: jax.Array  # scalar
    image_features: jax.Array  # (B, E) float32, unit length
    text_features: jax.Array  # (B, E) float32, unit length
    logit_scale: jax.Array  # scalar, the factor itself and not its logarithm
    # (B, K, N, C) what each code was chosen for; None if codes have no rows
    quantized: jax.Array | None = None
    logit_bias: jax.Array | None = None  # scalar; None without contrastive_kind=sigmoid


def abstract_model(model: Mapping) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a UniTok and the shapes of its parameters, without any arrays.

    Args:
      model: the keyword arguments of `UniTok`; keys that older files lack have defaults there.

    Returns:
      A graph for `nnx.merge(graph, params)`, and a nested dict of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: keys are missing or unknown, a value is out of `limits.BOUNDS` or does not fit
        another, or the model is too large.
    """
    known = {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(UniTok.__init__).parameters.items()
        if name not in ("self", "rngs")
    }
    missing = {name for name, needed in known.items() if needed} - model.keys()
    unknown = model.keys() - known.keys()
    if missing or unknown:
        raise ValueError(
            f"these are not the keys of a model of this version: missing {sorted(missing)}, "
            f"unknown {limits.show(sorted(map(str, unknown)))}"
        )
    limits.check(model)
    graph, params = _traced(_Arguments(copy.deepcopy(dict(model))))
    limits.check_parameters({name: leaf.shape for name, leaf in trees.flatten(params).items()})
    return graph, jax.tree.map(lambda leaf: leaf, params)  # a dict of the caller's own


class _Arguments(dict):
    """Keyword arguments of `UniTok` as a key of a cache."""

    def __hash__(self):
        return hash(repr(sorted(self.items())))


@functools.lru_cache(maxsize=16)
def _traced(model: _Arguments) -> tuple[nnx.GraphDef, dict]:
    """Traces a model once: a command needs the same one several times, at a second each."""
    graph, params = nnx.split(nnx.eval_shape(lambda: UniTok(**model, rngs=layers.Keys(0))))
    return graph, nnx.to_pure_dict(params)


class UniTok(nnx.Module):
    """UniTok model: encoder, quantizer, decoder and text tower.

    The keyword arguments are exactly the keys of `config.model`.
    """

    def __init__(
        self,
        *,
        size: str,
        dtype: str,
        quantizer: str,
        vocab_size: int,
        num_codebooks: int,
        latent_width: int,
        quant_proj: str,
        quant_heads: int,
        commitment_weight: float,
        num_query: int,
        drop_path: float,
        embed_dim: int,
        text: Mapping,
        remat: str,
        rngs: nnx.Rngs,
        residual_dtype: str = "float32",
        fsq_levels: Sequence[int] = (),
        quant_causal: bool = False,
        contrastive_kind: str = "softmax",
    ):
        """Builds a model with random weights.

        Args:
          size: a row of `vitamin.SIZES`.
          dtype: dtype of products and convolutions outside the quantizer; parameters are float32.
          quantizer: a row of `QUANTIZERS`; the paper's is 'multi_codebook'.
          vocab_size: total rows of all codebooks, K V.
          num_codebooks: K, codes per token; the number of levels of 'residual'.
          latent_width: quantized values per token, K C; 'residual' does not split the latent.
          quant_proj: 'attention' or 'linear'.
          quant_heads: heads of the attention projections, without effect on the weights' shapes.
          commitment_weight: beta of the VQ loss; 'fsq' has no such loss.
          num_query: number of register tokens before the image tokens.
          drop_path: highest stochastic-depth rate, of the last block.
          embed_dim: width of the joint image-text space.
          text: width, heads, layers, vocab_size and context_length of the text tower.
          remat: activations recomputed in the backward pass: one of `recomputation.TOKENIZER`.
          rngs: the stream `params`.
          residual_dtype: dtype of the transformers' residual stream, at least `dtype`.
          fsq_levels: levels of the channels of one code of 'fsq'; none: as even as they can be.
          quant_causal: True: behind the quantizer a token sees none that comes after it, so that a
            model which draws tokens in turn sees the tokens of whole images.
          contrastive_kind: loss that the logits of image-text pairs are for, a row of `LOGITS`;
            'sigmoid' has the parameter `logit_bias` too.

        Raises:
          ValueError: an unknown value, or values that do not fit each other; the message names
            both.
        """
        limits.check_choice("size", size, tuple(vitamin.SIZES))
        limits.check_choice("dtype", dtype, DTYPES)
        limits.check_choice("residual_dtype", residual_dtype, DTYPES)
        limits.check_choice("quantizer", quantizer, tuple(QUANTIZERS))
        limits.check_choice("contrastive_kind", contrastive_kind, tuple(LOGITS))
        recomputation.find(remat, recomputation.TOKENIZER)
        limits.check_choice("quant_proj", quant_proj, ("attention", "linear"))
        if fsq_levels and quantizer != "fsq":
            raise ValueError(
                f"model.fsq_levels={limits.show(tuple(fsq_levels))} is of model.quantizer=fsq, and "
                f"it is {quantizer}; set model.fsq_levels=()"
            )
        row = vitamin.SIZES[size]
        dtypes = dict(dtype=jnp.dtype(dtype), stream=jnp.promote_types(dtype, residual_dtype))
        kwargs = dict(num_query=num_query, drop_path=drop_path, remat=remat, rngs=rngs, **dtypes)
        self.encoder = vitamin.Encoder(row, **kwargs)
        self.quant_proj = make_projection(
            quant_proj, row.width, latent_width, quant_heads, rngs=rngs
        )
        self.quantizer = QUANTIZERS[quantizer](
            vocab_size,
            num_codebooks,
            latent_width,
            commitment_weight=commitment_weight,
            rngs=rngs,
            **({"levels": fsq_levels} if fsq_levels else {}),
        )
        self.post_quant_proj = make_projection(
            quant_proj, latent_width, row.width, quant_heads, causal=quant_causal, rngs=rngs
        )
        self.decoder = vitamin.Decoder(row, **kwargs)
        self.text_encoder = TextEncoder(
            width=text["width"],
            heads=text["heads"],
            depth=text["layers"],
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            embed_dim=embed_dim,
            remat=recomputation.of_blocks(remat),
            rngs=rngs,
            **dtypes,
        )
        self.fc_norm = layers.layer_norm(row.width, 1e-6, jnp.float32, rngs)
        self.projection = layers.linear(row.width, embed_dim, jnp.float32, rngs)
        logits = LOGITS[contrastive_kind]
        self.logit_scale = nnx.Param(jnp.array(logits.scale, jnp.float32))
        if logits.bias is not None:
            self.logit_bias = nnx.Param(jnp.array(logits.bias, jnp.float32))
        self.num_query = num_query

    def encode(self, images: jax.Array) -> jax.Array:
        """Encodes images (B, H, W, 3) in [-1, 1] to codes (B, K, N) int32.

        N = num_query + H/16 * W/16.
        """
        return self.quantizer.indices(self.latent(images))

    def decode(self, codes: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Decodes codes (B, K, N) of a grid (rows, columns) to images (B, H, W, 3), not bounded."""
        return self.decoder(self.tokens(codes), grid)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Encodes images (B, H, W, 3) in [-1, 1] to unit vectors (B, E) of the joint space."""
        return self.features(self.encode(images))

    def features(self, codes: jax.Array) -> jax.Array:
        """Computes unit vectors (B, E) of the joint space from codes (B, K, N)."""
        return self._pool(self.tokens(codes))

    def reconstruct(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes (reconstruction, not bounded; codes; image features) in one pass."""
        codes = self.encode(images)
        tokens = self.tokens(codes)
        return self.decoder(tokens, _grid(images)), codes, self._pool(tokens)

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Encodes token ids (B, L) to unit vectors (B, E) of the joint space."""
        return layers.l2_normalize(self.text_encoder(text))

    def __call__(
        self,
        images: jax.Array,
        text: jax.Array,
        keys: tuple[jax.Array | None, jax.Array | None] = (None, None),
        entropy: bool = False,
        decode_every: int = 1,
        learning: Learning = PLAIN,
    ) -> Output:
        """Computes the forward pass of training.

        Args:
          images: (B, H, W, 3) in [-1, 1].
          text: (B, L) token ids, or in their place (B, E) float32, unit vectors that
            `encode_text` made of them: then nothing of the text tower is computed.
          keys: random keys of the encoder's and the decoder's stochastic depth; None:
            deterministic.
          entropy: True to compute the entropy loss of the codebooks too.
          decode_every: stride of the decoded images; 2 decodes images 0, 2, 4, ..., which keeps the
            sharding of the batch.
          learning: how the codebooks learn.
        """
        known = jnp.issubdtype(text.dtype, jnp.floating)
        quantized = self.quantizer(self.latent(images, keys[0]), entropy, learning)
        tokens = self.post_quant_proj(quantized.latent)
        last_features = self.decoder.features(tokens[::decode_every], _grid(images), keys[1])
        return Output(
            reconstruction=self.decoder.to_rgb(last_features),
            last_features=last_features,
            codes=quantized.codes,
            tokens=tokens,
            vq_loss=quantized.loss,
            entropy_loss=quantized.entropy_loss,
            image_features=self._pool(tokens),
            text_features=text if known else self.encode_text(text),
            logit_scale=jnp.exp(self.logit_scale[...]),
            quantized=quantized.inputs,
            logit_bias=self.logit_bias[...] if hasattr(self, "logit_bias") else None,
        )

    def latent(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Encodes images (B, H, W, 3) in [-1, 1] to latents (B, N, K C) float32, unnormalised."""
        return self.quant_proj(self.encoder(images, key).astype(jnp.float32))

    def tokens(self, codes: jax.Array) -> jax.Array:
        """Computes post-quantizer tokens (B, N, D) float32, inputs of a generator, from codes."""
        return self.post_quant_proj(self.quantizer.lookup(codes))

    def _pool(self, tokens):
        with jax.default_matmul_precision("highest"):
            return layers.l2_normalize(self.projection(self.fc_norm(tokens.mean(axis=1))))


def _grid(images):
    return images.shape[1] // STRIDE, images.shape[2] // STRIDE
