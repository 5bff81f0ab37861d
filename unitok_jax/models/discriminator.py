"""Trained part of the discriminator: five heads on the features of a frozen DINOv2."""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import convolutions, layers
from unitok_jax.models.pretrained.dinov2 import PATCH


class Head(nnx.Module):
    """Head of one depth: one logit per token, (B, N, D) -> (B, N), by 1-D convolutions over N."""

    def __init__(self, width: int, *, kernel_size: int, groups: int, dtype, rngs: nnx.Rngs):
        def conv(size, outputs):
            return nnx.Conv(
                width,
                outputs,
                (size,),
                padding="CIRCULAR",
                kernel_init=convolutions.xavier_init,
                dtype=dtype,
                rngs=rngs,
            )

        def norm():
            # The fast variance is too inexact for parity with PyTorch.
            return nnx.GroupNorm(
                width,
                num_groups=groups,
                epsilon=1e-6,
                dtype=dtype,
                use_fast_variance=False,
                rngs=rngs,
            )

        self.conv1, self.norm1 = conv(1, width), norm()
        self.conv2, self.norm2 = conv(kernel_size, width), norm()
        self.conv3 = conv(1, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _leaky_relu(self.norm1(self.conv1(x)))
        x = (_leaky_relu(self.norm2(self.conv2(x))) + x) * 0.5**0.5
        return self.conv3(x)[..., 0]


class DiscriminatorHeads(nnx.Module):
    """Discriminator heads: logits of real (positive) and rebuilt (negative) images.

    As in StyleGAN-T (arXiv 2301.09515), one head for each of several depths of a frozen network.
    """

    def __init__(
        self,
        *,
        depths: int = 5,
        width: int = 384,
        kernel_size: int = 9,
        groups: int = 32,
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Builds heads for `depths` feature arrays of width D = `width`."""
        kwargs = dict(kernel_size=kernel_size, groups=groups, dtype=dtype, rngs=rngs)
        self.heads = nnx.List([Head(width, **kwargs) for _ in range(depths)])

    def __call__(self, features: tuple[jax.Array, ...]) -> jax.Array:
        """Computes logits (B, depths N) float32 from one (B, N, D) array per depth."""
        logits = [head(x) for head, x in zip(self.heads, features, strict=True)]
        return jnp.concatenate(logits, axis=1).astype(jnp.float32)


def fit_to_patches(images: jax.Array, crop: jax.Array, offset: jax.Array) -> jax.Array:
    """Crops or resizes images to sides of whole DINOv2 patches: 256 px become 252 px.

    Args:
      images: (B, H, W, 3) float32, sides of at least 14 px.
      crop: bool scalar; True crops, False resizes by area averaging, or bicubically if one side
        fits already, as the reference does.
      offset: (2,) in [0, 1), start of a crop as a fraction of the excess pixels.

    Returns:
      (B, H // 14 * 14, W // 14 * 14, 3); images that fit are returned unchanged.
    """
    h, w = images.shape[1:3]
    if h < PATCH or w < PATCH:
        raise ValueError(f"images of {h}x{w} px are smaller than DINOv2's patch of {PATCH} px")
    if not (h % PATCH or w % PATCH):
        return images
    by_areas = bool(h % PATCH and w % PATCH)
    rows, columns = (
        _fit_matrix(side, crop, u, by_areas) for side, u in zip((h, w), offset, strict=True)
    )
    return jnp.einsum("ih,bhwc,jw->bijc", rows, images, columns, precision="highest")


def _fit_matrix(side, crop, offset, by_areas):
    fitted = side // PATCH * PATCH
    start = jnp.floor(offset * (side - fitted + 1)).astype(jnp.int32)
    window = jnp.arange(side) == start + jnp.arange(fitted)[:, None]
    if by_areas:
        resized = layers.pooling_matrix(side, fitted).T
    else:
        resized = layers.bicubic_matrix(side, fitted, side / fitted)
    return jnp.where(crop, window, resized)


def _leaky_relu(x):
    return jax.nn.leaky_relu(x, 0.2)
