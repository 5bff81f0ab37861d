"""Aspect-ratio buckets: few sizes of similar area for images of all aspect ratios.

A program is compiled for one size, and a batch has one size. So images keep their shape only as
nearly as a short list allows: the aspect-ratio buckets of SDXL (arXiv 2307.01952, section 2.2).
"""

import math
from collections.abc import Sequence

from unitok_jax.data.images.transforms import check_size


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
