"""Aspect-ratio buckets: few sizes of similar area for images of all aspect ratios.

A program is compiled for one size, and a batch has one size. So images keep their shape only as
nearly as a short list allows: the aspect-ratio buckets of SDXL (arXiv 2307.01952, section 2.2).
"""

import math
from collections.abc import Sequence

import numpy as np

from unitok_jax.data.images.transforms import check_size

_BLOCK = 1 << 20  # images whose ratios are in memory at a time


def aspect_sizes(
    size: int | Sequence[int], step: int = 32, ratio: float = 2.0
) -> list[tuple[int, int]]:
    """Returns the (height, width) of each bucket, from the tallest to the widest.

    Args:
        size: n or (height, width); its area is the maximum of every bucket.
        step: every side is a multiple of `step`, which is a multiple of 16.
        ratio: the longer side is at most this many times the shorter.

    Raises:
        ValueError: a size or a step that is not a multiple, a ratio below 1, or no bucket fits.
    """
    height, width = check_size(size, key="size")
    check_size(step, key="step")
    if ratio < 1:
        raise ValueError(f"ratio={ratio} must be at least 1")
    area = height * width
    sizes = set()
    for short in range(step, math.isqrt(area) + 1, step):
        long = area // short // step * step
        if long <= ratio * short:
            sizes |= {(short, long), (long, short)}
    if not sizes:
        raise ValueError(f"no sides that are multiples of step={step} fit size={size!r}")
    return sorted(sizes, reverse=True)


def nearest_size(shape: Sequence[int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Selects the one of `sizes` whose aspect ratio is nearest to that of `shape` (H, W, ...).

    `transforms.resize_center_crop` to this size crops the least.
    """
    aspect = math.log(shape[0] / shape[1])
    return min(sizes, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))


def nearest_buckets(shapes: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Selects the `nearest_size` of many images.

    Args:
        shapes: int (n, 2), height and width of each; an image without pixels counts as a square.
        sizes: from the tallest to the widest, as `aspect_sizes` lists them, fewer than 65 536.

    Returns:
        uint16 (n,), positions in `sizes`.
    """
    aspects = np.log([width / height for height, width in sizes])
    between = (aspects[1:] + aspects[:-1]) / 2
    found = np.empty(len(shapes), np.uint16)
    for start in range(0, len(shapes), _BLOCK):
        height, width = np.maximum(shapes[start : start + _BLOCK], 1).T
        found[start : start + _BLOCK] = np.searchsorted(between, np.log(width / height))
    return found
