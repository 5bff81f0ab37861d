"""Measures of images: arrays in, one float32 value per image out."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2  # Wang et al.'s K1 and K2


def ssim(x: jax.Array, y: jax.Array, window: Literal["gaussian", "uniform"]) -> jax.Array:
    """Structural similarity (Wang et al. 2004, equation 13) of every image, mean over its channels.

    The mean runs over the places where the whole window lies inside the image.

    Args:
      x, y: (B, H, W, 3) uint8, or floats in [0, 255].
      window: 'gaussian' is the paper's, 11x11 with sigma 1.5 and population covariance; 'uniform'
        is scikit-image's default, 7x7 with sample covariance.

    Returns:
      (B,) float32, -1 to 1; 1 for equal images.

    Raises:
      ValueError: another window, shapes that differ, or images smaller than the window.
    """
    if window == "gaussian":
        weights = [math.exp(-0.5 * (offset / 1.5) ** 2) for offset in range(-5, 6)]
        weights, correction = [weight / sum(weights) for weight in weights], 1.0
    elif window == "uniform":
        weights, correction = [1 / 7] * 7, 49 / 48
    else:
        raise ValueError(f"window={window!r} is neither 'gaussian' nor 'uniform'")
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"images {x.shape} and {y.shape} are not two arrays (B, H, W, 3)")
    if min(x.shape[1:3]) < len(weights):
        raise ValueError(
            f"images of {x.shape[1]}x{x.shape[2]} pixels are smaller than the {window} window of "
            f"SSIM, {len(weights)}x{len(weights)}"
        )
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    zero = jnp.zeros_like(x)
    moments = _gather(_gather((x, y, zero, zero, zero), weights, axis=2), weights, axis=1)
    mean_x, mean_y, variance_x, variance_y, covariance = moments
    variances, covariance = correction * (variance_x + variance_y), correction * covariance
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _gather(moments, weights, axis):
    """Means, variances and covariance of all windows along an axis, from those of their parts.

    Variances are sums of squares about the mean: E[x^2] - E[x]^2 cancels in float32. Shifts instead
    of a convolution, which a TPU would compute in bfloat16.
    """
    length = moments[0].shape[axis] - len(weights) + 1
    parts = [
        [jax.lax.slice_in_dim(array, start, start + length, axis=axis) for array in moments]
        for start in range(len(weights))
    ]
    pairs = list(zip(weights, parts, strict=True))
    mean_x = sum(weight * part[0] for weight, part in pairs)
    mean_y = sum(weight * part[1] for weight, part in pairs)
    return (
        mean_x,
        mean_y,
        sum(weight * (part[2] + (part[0] - mean_x) ** 2) for weight, part in pairs),
        sum(weight * (part[3] + (part[1] - mean_y) ** 2) for weight, part in pairs),
        sum(weight * (part[4] + (part[0] - mean_x) * (part[1] - mean_y)) for weight, part in pairs),
    )
