"""Augmentations of the discriminator's inputs: DiffAug (arXiv 2006.10738) after a fading blur.

Keyed, differentiable, and of static shapes: nothing recompiles while the blur fades.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SHIFT = 0.125  # maximum translation, as a fraction of a side
_CUTOUT = 0.2  # side of the box, as a fraction of the image's


class Draws(NamedTuple):
    """Random numbers of one call of `diff_aug`."""

    coins: jax.Array  # (3,) bool: translate, colour, cut out; one for the whole batch
    uniform: jax.Array  # (7, B): shift h, shift w, brightness, saturation, contrast, cutout y, x


def draw(key: jax.Array, batch: int, probability: float) -> Draws:
    """Draws the random numbers for `batch` images; each transform has probability `probability`."""
    coins, uniform = jax.random.split(key)
    return Draws(
        jax.random.uniform(coins, (3,)) < probability, jax.random.uniform(uniform, (7, batch))
    )


def diff_aug(images: jax.Array, draws: Draws) -> jax.Array:
    """Applies translation, colour and cutout to images (B, H, W, 3) float32, each by its coin."""
    u = draws.uniform
    for coin, transform in zip(
        draws.coins,
        (
            lambda x: translate(x, u[0], u[1]),
            lambda x: colour(x, u[2], u[3], u[4]),
            lambda x: cutout(x, u[5], u[6]),
        ),
        strict=True,
    ):
        # Not `lax.cond`: the compiler of GPUs would gather its result on every device.
        images = jnp.where(coin, transform(images), images)
    return images


def translate(images: jax.Array, vertical: jax.Array, horizontal: jax.Array) -> jax.Array:
    """Shifts every image by up to an eighth of its sides; the uncovered border is zero.

    Args:
      images: (B, H, W, 3).
      vertical, horizontal: (B,) in [0, 1); 0.5 is no shift.
    """
    b, h, w, c = images.shape
    limits = [round(side * _SHIFT) for side in (h, w)]
    padded = jnp.pad(images, ((0, 0), *((limit, limit) for limit in limits), (0, 0)))
    starts = [
        jnp.floor(u * (2 * limit + 1)).astype(jnp.int32)
        for u, limit in zip((vertical, horizontal), limits, strict=True)
    ]

    def window(image, top, left):
        return jax.lax.dynamic_slice(image, (top, left, 0), (h, w, c))

    return jax.vmap(window)(padded, *starts)


def colour(
    images: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array
) -> jax.Array:
    """Adds [-.5, .5], then scales saturation by [0, 2] and contrast by [.5, 1.5].

    Args:
      images: (B, H, W, 3).
      brightness, saturation, contrast: (B,) in [0, 1).
    """
    brightness, saturation, contrast = (
        u[:, None, None, None] for u in (brightness, saturation, contrast)
    )
    images = images + (brightness - 0.5)
    grey = images.mean(axis=3, keepdims=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (contrast + 0.5)


def cutout(images: jax.Array, vertical: jax.Array, horizontal: jax.Array) -> jax.Array:
    """Zeroes a box of a fifth of the sides around a random point of every image.

    Args:
      images: (B, H, W, 3).
      vertical, horizontal: (B,) in [0, 1), the point.
    """

    def outside(side, u):
        length = round(side * _CUTOUT)
        start = jnp.floor(u * (side + 1 - length % 2)).astype(jnp.int32) - length // 2
        offset = jnp.arange(side) - start[:, None]
        return (offset < 0) | (offset >= length)

    rows, columns = outside(images.shape[1], vertical), outside(images.shape[2], horizontal)
    keep = rows[:, :, None] | columns[:, None, :]
    return images * keep[..., None]


def blur(images: jax.Array, fade: jax.Array) -> jax.Array:
    """Blurs with a Gaussian of sigma = sqrt(S / 2) * fade pixels, reflecting at the border.

    S is the side of a square of the image's area, so that a tall image and a wide one blur alike.

    The kernel is 2 ** -(i / sigma)^2 up to |i| = floor(3 sigma); no blur when that is 0.

    Args:
      images: (B, H, W, 3) float32.
      fade: scalar in [0, 1]; may be traced.
    """
    largest = math.sqrt(math.sqrt(images.shape[1] * images.shape[2]) / 2)
    reach = math.floor(3 * largest)
    sigma = largest * fade
    offsets = jnp.arange(-reach, reach + 1)
    kernel = jnp.exp2(-jnp.square(offsets / jnp.maximum(sigma, 1e-6)))
    kernel = jnp.where(jnp.abs(offsets) <= jnp.floor(3 * sigma), kernel, 0.0)
    kernel /= kernel.sum()
    rows, columns = (_blur_matrix(side, reach, kernel) for side in images.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, images, columns, precision="highest")


def _blur_matrix(side, reach, kernel):
    # As a matrix: its product is fast on every device for any width of the kernel.
    source = np.pad(np.arange(side), reach, mode="reflect")
    columns = source[np.arange(side)[:, None] + np.arange(2 * reach + 1)]
    return jnp.zeros((side, side)).at[np.arange(side)[:, None], columns].add(kernel)
