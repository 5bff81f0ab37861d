"""LPIPS, the learned perceptual distance (arXiv 1801.03924), on VGG16 (arXiv 1409.1556)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import convolutions, layers

# widths and numbers of the convolutions before each tap: relu1_2, 2_2, 3_3, 4_3, 5_3
SLICES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
MIN_SIZE = 2 ** (len(SLICES) - 1)  # four poolings
# what the published heads were trained behind, for images in [-1, 1]
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Lpips(nnx.Module):
    """Perceptual distance of image pairs; the backbone computes in `dtype`, the rest in float32.

    A fresh one has random kernels of unit gain and equal heads: a stand-in that depends on its
    inputs as the trained network does, whose values mean nothing against published ones.
    """

    def __init__(self, *, dtype, rngs: nnx.Rngs, remat: bool = False):
        """remat: keep only what goes from slice to slice for the backward pass."""
        init = nnx.initializers.he_normal()
        slices, inputs = [], 3
        for width, count in SLICES:
            convs = []
            for _ in range(count):
                convs.append(convolutions.conv3x3(inputs, width, dtype, rngs, init))
                inputs = width
            slices.append(nnx.List(convs))
        self.slices = nnx.List(slices)
        self.heads = nnx.List([nnx.Param(jnp.full((w, 1), 1 / w)) for w, _ in SLICES])
        self.remat = remat

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Distance of every pair.

        Args:
          x, y: (B, H, W, 3) in [-1, 1], H and W at least 16.

        Returns:
          (B,) float32, not negative where the heads are not: the mean over space of every tap,
          summed over the taps.

        Raises:
          ValueError: shapes that differ, images that are too small.
        """
        if x.shape != y.shape or x.shape[-1] != 3:
            raise ValueError(
                f"LPIPS compares (B, H, W, 3) images of one shape, not {x.shape} with {y.shape}"
            )
        # Two passes, not one of 2 B: a gradient is mostly wanted for one side only.
        return self.distance(self.features(x), self.features(y))

    def distance(self, x: list[jax.Array], y: list[jax.Array]) -> jax.Array:
        """Distance, (B,) float32, of every pair of images from their `features`."""
        distance = jax.checkpoint(_distance) if self.remat else _distance
        taps = zip(x, y, self.heads, strict=True)
        return sum(distance(a, b, head[...]) for a, b, head in taps)

    def gram_distance(self, x: list[jax.Array], y: list[jax.Array]) -> jax.Array:
        """Distance, (B,) float32, of the Gram matrices of every pair of images.

        As AToken's loss (arXiv 2509.14476, equation 5), the squared Frobenius norm of the
        difference of G(F) = F F^T at every tap, summed over the taps. Layers and scale, which that
        paper leaves open: the five taps of LPIPS, after the ReLU and without their normalisation to
        length one; F, (D, H W), has G divided by D H W, as in arXiv 1603.08155. The distance does
        not depend on where in the image a texture is.

        Args:
          x, y: `features` of both images.
        """
        distance = jax.checkpoint(_gram_distance) if self.remat else _gram_distance
        return sum(distance(a, b) for a, b in zip(x, y, strict=True))

    def taps(self, images: jax.Array) -> list[jax.Array]:
        """VGG16 features of (B, H, W, 3) images: five (B, H / 2^i, W / 2^i, D) float32 arrays."""
        return [x.astype(jnp.float32) for x in self.features(images)]

    def features(self, images: jax.Array) -> list[jax.Array]:
        """VGG16 features as `taps`, in the compute dtype.

        Raises:
          ValueError: images that are too small.
        """
        if min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(
                f"LPIPS needs images of at least {MIN_SIZE} pixels, not {images.shape}"
            )
        x = (images.astype(jnp.float32) - np.float32(SHIFT)) / np.float32(SCALE)
        out = []
        for i, convs in enumerate(self.slices):
            x = _max_pool(x) if i else x
            x = layers.call(_Slice(convs), x, "blocks" if self.remat else "none")
            out.append(x)
        return out


class _Slice(nnx.Module):
    """3x3 convolutions, each followed by a ReLU."""

    def __init__(self, convs: nnx.List):
        self.convs = convs

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x


def _distance(x, y, head):
    """Computes the distance at one tap, (B, H, W, D) twice and (D, 1) -> (B,)."""
    square = (_unit(x.astype(jnp.float32)) - _unit(y.astype(jnp.float32))) ** 2
    return jnp.sum(square * head[:, 0], axis=-1).mean(axis=(1, 2))


def _gram_distance(x, y):
    """Computes the distance of Gram matrices at one tap, (B, H, W, D) twice -> (B,)."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # X^T X - Y^T Y as the symmetric part of (X - Y)^T (X + Y): no difference of nearly equal
    # products, which would lose the digits of products in few bits; and one product, not two.
    product = jnp.einsum("bhwc,bhwd->bcd", x - y, x + y) / math.prod(x.shape[1:])
    return jnp.sum(((product + product.mT) / 2) ** 2, axis=(1, 2))


def _max_pool(x):
    return lax.reduce_window(
        x, np.array(-np.inf, x.dtype), lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )


def _unit(x):
    """Channels of length one. The small terms keep the gradient finite where all are zero."""
    return x / (jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-9) + 1e-10)
