"""Frozen teachers, whose features a tokenizer learns: vision transformers, CLIP's text tower."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.pretrained import dinov2
from unitok_jax.models.pretrained.vit import Shape, ViT
from unitok_jax.models.text_encoder import TextEncoder

_HALF = (0.5, 0.5, 0.5)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Text(NamedTuple):
    """Sizes of a CLIP's text tower and of the joint space."""

    embed_dim: int
    width: int
    heads: int
    depth: int = 12
    vocab_size: int = 49_408
    context_length: int = 77
    gelu: str = "exact"  # a key of `elementwise.GELUS`


class Kind(NamedTuple):
    """Kind of teacher: its networks and where its files are."""

    image: Shape
    text: Text | None  # None: no text tower that reads CLIP's token ids
    files: str  # where to get them, for messages


def _siglip2(name: str, width: int, depth: int, heads: int, hidden: int) -> Kind:
    image = Shape(
        *(width, depth, heads, 16, 16, hidden, _HALF, _HALF), class_token=False, gelu="tanh"
    )
    return Kind(image, None, f"huggingface.co/google/siglip2-{name}-patch16-256")


def _clip(files: str, image: tuple, patch: int, text: Text, gelu: str = "exact") -> Kind:
    width = image[0]
    shape = Shape(
        *(*image, patch, 224 // patch, 4 * width, *_CLIP), norm_before=True, epsilon=1e-5, gelu=gelu
    )
    files = f"huggingface.co/{files}, or another CLIP with {gelu} GELU"
    return Kind(shape, text._replace(gelu=gelu), files)


def _dinov2(name: str, *sizes: int, registers: int = 0) -> Kind:
    files = f"dinov2{'-with-registers' if registers else ''}-{name}"
    return Kind(dinov2.shape(*sizes, registers), None, f"huggingface.co/facebook/{files}")


def _dinov3(name: str, width: int, depth: int, heads: int, *, gated: bool = False) -> Kind:
    image = Shape(
        *(width, depth, heads, 16, 0, 4 * width, dinov2.MEAN, dinov2.STD),
        layer_scale=True,
        gelu="swiglu" if gated else "exact",
        epsilon=1e-5,
        registers=4,
    )
    return Kind(image, None, f"huggingface.co/facebook/dinov3-{name}-pretrain-lvd1689m")


_B, _L = (768, 12, 12), (1024, 24, 16)  # width, blocks, heads
_CLIP_B, _CLIP_L = Text(512, 512, 8), Text(768, 768, 12)


KINDS = {
    "dinov2_b14": _dinov2("base", *_B),
    "dinov2_l14": _dinov2("large", *_L),
    "dinov2_b14_reg": _dinov2("base", *_B, registers=4),
    "dinov2_l14_reg": _dinov2("large", *_L, registers=4),
    "dinov3_s16": _dinov3("vits16", 384, 12, 6),
    "dinov3_s16plus": _dinov3("vits16plus", 384, 12, 6, gated=True),
    "dinov3_b16": _dinov3("vitb16", *_B),
    "dinov3_l16": _dinov3("vitl16", *_L),
    "dinov3_h16plus": _dinov3("vith16plus", 1280, 32, 20, gated=True),
    "siglip2_b16": _siglip2("base", *_B, 3072),
    "siglip2_l16": _siglip2("large", *_L, 4096),
    "siglip2_so400m": _siglip2("so400m", 1152, 27, 16, 4304),
    "clip_b16": _clip("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", _B, 16, _CLIP_B),
    "clip_l14": _clip("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", _L, 14, _CLIP_L),
    "clip_b16_quick": _clip("openai/clip-vit-base-patch16", _B, 16, _CLIP_B, "quick"),
    "clip_l14_quick": _clip("openai/clip-vit-large-patch14", _L, 14, _CLIP_L, "quick"),
}
"""Teachers by `teacher.kind`."""


class Teacher(nnx.Module):
    """Frozen networks of one teacher; a fresh one is a random stand-in."""

    def __init__(self, kind: Kind, *, relation: bool, dtype, stream=jnp.float32, rngs: nnx.Rngs):
        """Builds a stand-in.

        Args:
          kind: a row of `KINDS`.
          relation: True for the text tower and the joint space too, which `kind` must have.
          dtype: of products and convolutions.
          stream: dtype of the residual streams, at least `dtype`.
          rngs: the stream `params`.
        """
        width, text = kind.image.width, kind.text
        self.image = ViT(kind.image, dtype=dtype, stream=stream, rngs=rngs)
        self.norm = layers.layer_norm(width, kind.image.epsilon, jnp.float32, rngs)
        self.first = kind.image.before
        if relation:
            self.projection = nnx.Param(
                layers.linear_init(rngs.params(), (width, text.embed_dim), jnp.float32)
            )
            self.text_encoder = TextEncoder(
                **text._asdict(), remat="none", dtype=dtype, stream=stream, rngs=rngs
            )
            self.logit_scale = nnx.Param(jnp.zeros(()))

    def tokens(self, images: jax.Array, shallow: int = 0) -> tuple[dict, jax.Array]:
        """Computes the features of every patch.

        Args:
          images: (B, H, W, 3) in [-1, 1], sides of whole patches.
          shallow: number of blocks behind which features are taken too; 0: none.

        Returns:
          'deep': (B, N, D) float32 behind the last norm, and, with `shallow`, 'shallow': the same
          of an early block, whose channels are normalised as there is no norm of their own; and
          the class token (B, D) behind the last norm, or the first token's for a teacher without.
        """
        found = {}
        if shallow:
            outputs = self.image.outputs(images)
            x = outputs[-1]
            found["shallow"] = _normalise(outputs[shallow - 1][:, self.first :])
        else:
            x = self.image.last(images)
        x = self.norm(x.astype(jnp.float32))
        return found | {"deep": x[:, self.first :]}, x[:, 0]

    def image_vectors(self, pooled: jax.Array) -> jax.Array:
        """Computes the images' side of CLIP's logits, float32 (B, E): unit vectors times its scale.

        pooled: (B, D) class tokens, of `tokens`.
        """
        with jax.default_matmul_precision("highest"):
            image = layers.l2_normalize(pooled @ self.projection[...])
        return jnp.exp(self.logit_scale[...]) * image

    def text_vectors(self, text: jax.Array) -> jax.Array:
        """Computes the texts' side, float32 unit vectors (B, E), of token ids (B, L)."""
        return layers.l2_normalize(self.text_encoder(text))


def input_size(kind: Kind, grid: Sequence[int]) -> tuple[int, int]:
    """Returns the height and width at which a teacher has one patch for each token of a grid."""
    rows, columns = grid
    return rows * kind.image.patch, columns * kind.image.patch


def _normalise(x):
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)
