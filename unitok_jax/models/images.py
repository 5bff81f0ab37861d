"""Images on the device: their pixels as floats, and how far two are apart."""

import jax
import jax.numpy as jnp
import numpy as np


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [-1, 1]; float images as they are. Any shape.

    Bit for bit `data.transforms.to_float`, the host's, compiled or not.
    """
    if images.dtype != jnp.uint8:
        return images
    # The host's x / 127.5 - 1, rounded twice, is an integer times 2^-24. A compiler that divides,
    # or fuses what follows, rounds otherwise; integers leave it no choice. 255 * 65793 = 2^24 - 1.
    x = images.astype(jnp.int32)
    rounded = (x >= 128).astype(jnp.int32) - (x < 64).astype(jnp.int32)
    return ((2 * x - 255) * 65793 + rounded).astype(jnp.float32) * np.float32(2**-24)


def squared_error(reconstruction: jax.Array, images: jax.Array) -> jax.Array:
    """Mean squared error of every image, (B, H, W, 3) twice -> (B,)."""
    return jnp.mean((reconstruction - images) ** 2, axis=(1, 2, 3))
