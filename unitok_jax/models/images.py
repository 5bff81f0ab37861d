"""Images on the device: conversion of pixels to floats, and squared error."""

import jax
import jax.numpy as jnp
import numpy as np


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 pixels to float32 in [-1, 1]; returns float images unchanged. Any shape.

    Bit-identical to the host's `to_float`, compiled or not.
    """
    if images.dtype != jnp.uint8:
        return images
    # The host's x / 127.5 - 1, rounded twice, is an integer times 2^-24. A compiled division, or
    # one fused with later operations, rounds differently; integers are exact.
    # 255 * 65793 = 2^24 - 1.
    x = images.astype(jnp.int32)
    rounded = (x >= 128).astype(jnp.int32) - (x < 64).astype(jnp.int32)
    return ((2 * x - 255) * 65793 + rounded).astype(jnp.float32) * np.float32(2**-24)


def squared_error(reconstruction: jax.Array, images: jax.Array) -> jax.Array:
    """Computes the mean squared error of every image, (B,), from two (B, H, W, 3) arrays."""
    return jnp.mean((reconstruction - images) ** 2, axis=(1, 2, 3))
