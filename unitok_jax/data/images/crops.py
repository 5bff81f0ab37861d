"""Random crops for training, from images decoded no larger than needed.

A training crop need not equal Pillow's to the last bit, and Pillow's resize limits the throughput
of an input pipeline. So JPEGs are decoded by libjpeg-turbo, at 1/2, 1/4 or 1/8 of their size where
the crop keeps enough pixels, and resized by OpenCV. Evaluation and inference do neither
(`transforms`). `python -m benchmarks.data quality` measures the distance of the crops to Pillow's
antialiased bicubic ones.
"""

import functools
import math
import threading
from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from unitok_jax.data.images.metadata import JPEG, orientation
from unitok_jax.data.images.transforms import (
    ImageError,
    check_pixels,
    check_scans,
    decode_image,
    decoding,
)

_TRIES = 10  # random boxes before the centre is used
_FACTORS = (8, 4, 2)  # reductions that libjpeg-turbo decodes without extra cost
# Minimum pixels of a reduced crop per pixel of the result, on each axis.
_ENOUGH = 2.0


def decode_random_crop(
    data: bytes,
    name: str,
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: Sequence[float],
    ratio: Sequence[float],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes a random part of an image and resizes it: `random_resized_crop` of `decode_image`.

    For a JPEG much larger than the result needs, the edges of the box lie on multiples of the
    reduction factor.

    Args:
        data: an encoded image, as for `decode_image`.
        name: what errors call it.
        size: (height, width) of the result.
        rng, scale, ratio: as in `random_resized_crop`.
        out: uint8 (height, width, 3), contiguous, to write the result to.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ImageError: as `decode_image`.
    """
    header = _jpeg_header(data, name)
    if header is None:
        return random_resized_crop(decode_image(data, name), size, rng, scale, ratio, out)
    box = random_box(header, size, rng, scale, ratio)
    factor = reduction(box, size)
    try:
        with decoding(name):
            image = simplejpeg.decode_jpeg(
                data,
                min_height=-(-header[0] // factor),
                min_width=-(-header[1] // factor),
                min_factor=factor,
                buffer=_scratch.array("decoded", -(-header[0] // factor), -(-header[1] // factor)),
            )
    except ImageError:  # damaged, or a format for Pillow, which decides and explains
        image, factor = decode_image(data, name), 1
    edges = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    top, left, bottom, right = (round(edge / factor) for edge in edges)
    return resize(image[top:bottom, left:right], size, out)


def random_resized_crop(
    image: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: Sequence[float],
    ratio: Sequence[float],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Returns a random crop of an image, resized: the sampling of "Going Deeper with Convolutions"
    (Szegedy et al., 2014) with the retries and the fall-back of torchvision's RandomResizedCrop.

    Args:
        image: uint8 (H, W, 3).
        size: (height, width) of the result.
        rng: the only source of randomness.
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width / height, relative to that of `size`.
        out: as in `decode_random_crop`.

    Returns:
        uint8 (height, width, 3).
    """
    top, left, height, width = random_box(image.shape[:2], size, rng, scale, ratio)
    return resize(image[top : top + height, left : left + width], size, out)


def random_box(
    shape: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[int, int, int, int]:
    """Samples the (top, left, height, width) that `random_resized_crop` crops of an image.

    Args:
        shape, size: (height, width) of the image and of the result.
        rng, scale, ratio: as in `random_resized_crop`.
    """
    height, width = shape
    target = size[1] / size[0]
    low, high = ratio[0] * target, ratio[1] * target
    for _ in range(_TRIES):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return top, left, h, w
    # No box fits: use the largest centred box of an allowed aspect ratio.
    h, w = height, width
    if width / height < low:
        h = max(1, min(height, round(width / low)))
    elif width / height > high:
        w = max(1, min(width, round(height * high)))
    return (height - h) // 2, (width - w) // 2, h, w


def reduction(box: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    """Returns the factor by which a JPEG may be decoded smaller for a box: 1, 2, 4 or 8."""
    enough = min(box[2] / size[0], box[3] / size[1]) / _ENOUGH
    return next((factor for factor in _FACTORS if factor <= enough), 1)


def resize(image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Resizes like an antialiased bicubic filter; pixels outside `image` do not contribute.

    OpenCV's bicubic filter does not antialias. A short symmetric filter before it makes the
    combination the least-squares fit to the wide cubic that Pillow applies (`_prefilter`).

    Args:
        image: uint8 (H, W, 3).
        size: (height, width) of the result.
        out: as in `decode_random_crop`.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = size
    out = np.empty((height, width, 3), np.uint8) if out is None else out
    # Box means first if the image is far too large, so that the filter stays short.
    rows, columns = min(image.shape[0], 4 * height), min(image.shape[1], 4 * width)
    if image.shape[:2] != (rows, columns):
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    if (rows, columns) == (height, width):
        out[...] = image
        return out
    across, along = _prefilter(round(64 * columns / width)), _prefilter(round(64 * rows / height))
    smooth = _scratch.array("smooth", rows, columns)
    cv2.sepFilter2D(image, -1, across, along, dst=smooth, borderType=cv2.BORDER_REPLICATE)
    cv2.resize(smooth, (width, height), dst=out, interpolation=cv2.INTER_CUBIC)
    return out


class _Scratch(threading.local):
    """Scratch memory of this thread for a crop: fresh memory costs as much as the filter, since the
    system clears every page of it."""

    _KEPT = 16 << 20  # bytes; larger images are rare and are not kept

    def __init__(self):
        self._kept = {}

    def array(self, name: str, height: int, width: int) -> np.ndarray:
        """Returns uint8 (height, width, 3), valid until the next call with this name."""
        size = height * width * 3
        memory = self._kept.get(name)
        if memory is None or memory.size < size:
            memory = np.empty(size, np.uint8)
            if size <= self._KEPT:
                self._kept[name] = memory
        return memory[:size].reshape(height, width, 3)


_scratch = _Scratch()


def _jpeg_header(data: bytes, name: str) -> tuple[int, int] | None:
    """Returns (height, width) of an upright JPEG in grey or colour; None for all others."""
    if not data.startswith(JPEG) or orientation(data) != 1:
        return None
    try:
        with decoding(name):
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ImageError:
        return None
    check_pixels((height, width), "JPEG", name)
    check_scans(data, name)
    return (height, width) if colours in ("Gray", "YCbCr", "RGB") else None


@functools.lru_cache(maxsize=4096)
def _prefilter(ratio: int) -> np.ndarray:
    """Returns taps p that minimise |sum_k p_k c(t - k) - w(t)|^2, c OpenCV's cubic, w Pillow's.

    Args:
        ratio: old size / new size in units of 1/64; below 64 there is no averaging.

    Returns:
        float32 (2m + 1,), symmetric, with sum 1.
    """
    width = max(ratio / 64, 1.0)
    m = math.ceil(1.5 * width)
    t = np.arange(-2 * width - m - 2, 2 * width + m + 2, 1 / 32)
    narrow = [_cubic(t, -0.75)]
    narrow += [_cubic(t - k, -0.75) + _cubic(t + k, -0.75) for k in range(1, m + 1)]
    wide = _cubic(t / width, -0.5) / width
    # p_0 is 1 minus the other taps, so that a flat image is unchanged.
    others = np.stack([basis - 2 * narrow[0] for basis in narrow[1:]], axis=1)
    side = np.linalg.lstsq(others, wide - narrow[0], rcond=None)[0]
    return np.concatenate([side[::-1], [1 - 2 * side.sum()], side]).astype(np.float32)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Evaluates the cubic kernel of Keys, "Cubic convolution interpolation" (1981)."""
    t = np.abs(t)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4)
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
