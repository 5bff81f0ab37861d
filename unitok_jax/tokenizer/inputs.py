"""Checks of the inputs of a `Tokenizer`'s methods: images, codes and their grid."""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.data.images.pillow_images import pillow_pixels
from unitok_jax.data.images.transforms import check_size
from unitok_jax.system.arrays import as_numpy


def check_images(images) -> np.ndarray:
    """Returns images for the devices, (B, H, W, 3): uint8, or float32 in [-1, 1].

    Args:
      images: an array (B, H, W, 3) or (H, W, 3), a batch of one; a Pillow image of any mode; or a
        list of either, of one size. uint8, or floats of any width, bfloat16 too.

    Raises:
      ValueError, TypeError: another shape, dtype or range, or values that are not finite.
    """
    images = _array(images)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images of shape {images.shape}: expected (B, H, W, 3), or (H, W, 3) for one"
        )
    check_size(images.shape[1:3], STRIDE, "the image size")
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images have dtype {images.dtype}; pass uint8, or float in [-1, 1]")
    with np.errstate(over="ignore"):  # infinite values are refused below
        images = images.astype(np.float32, copy=False)
    if not images.size:
        return images
    low, high = images.min(), images.max()
    if not np.isfinite([low, high]).all():
        bad = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
        raise ValueError(f"image {bad} of the batch holds nan or inf; floats must be in [-1, 1]")
    if low < -1.001 or high > 1.001:
        raise ValueError(
            f"float images reach from {low:.4g} to {high:.4g}; they must be in [-1, 1]: pass uint8 "
            "images, or images / 127.5 - 1"
        )
    if 0 <= low < high:
        _warn_of_range()
    return images


def check_image(image, index: int) -> np.ndarray:
    """Returns image number `index` for the devices, (H, W, 3); errors name the number.

    Raises:
      ValueError, TypeError: another shape, dtype or range.
    """
    try:
        image = _array(image)
        if image.ndim != 3:
            raise ValueError(f"it has the shape {image.shape}: expected (H, W, 3)")
        return check_images(image)[0]
    except (ValueError, TypeError) as error:
        raise type(error)(f"image {index}: {error}") from error


@functools.cache  # once in a process, whatever the warning filters
def _warn_of_range() -> None:
    warnings.warn(
        "float images without a value below 0: they are taken to be in [-1, 1]; if they are in "
        "[0, 1], pass uint8 images, or 2 * images - 1",
        stacklevel=4,
    )


def _array(images) -> np.ndarray:
    """Converts images from users to an array: any array, a Pillow image, or a list of either."""
    if isinstance(images, jax.core.Tracer):
        raise TypeError(_TRACED)
    if isinstance(images, Image.Image):
        return pillow_pixels(images)
    if not isinstance(images, list | tuple) or not images:
        return as_numpy(images)
    arrays = [_array(image) for image in images]
    first = arrays[0]
    for number, array in enumerate(arrays):
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"image {number} of the list is {array.dtype} {array.shape} and the first is "
                f"{first.dtype} {first.shape}: give images of one size and dtype, or call "
                "encode_each"
            )
    return np.stack(arrays)


_TRACED = (
    "a Tokenizer's methods run programs of their own and take arrays, not what jit, vmap or grad "
    "trace; inside these call tokenizer.functions, as in "
    "tokenizer.functions.encode(tokenizer.params, images)"
)


def check_codes(codes, books: int, rows: int) -> np.ndarray:
    """Returns codes for the devices, int32 (B, K, N), for K = `books` of V = `rows` entries.

    Args:
      codes: (B, K, N), or (K, N) of one image.
      books: K, the number of codebooks.
      rows: V, the entries of a codebook.

    Raises:
      ValueError, TypeError: another shape, dtype or range.
    """
    if isinstance(codes, jax.core.Tracer):
        raise TypeError(_TRACED)
    codes = as_numpy(codes)
    if codes.ndim == 2:
        codes = codes[None]
    if not np.issubdtype(codes.dtype, np.integer):
        raise TypeError(f"codes have dtype {codes.dtype}; they are integers in [0, {rows})")
    if codes.ndim != 3 or codes.shape[1] != books:
        raise ValueError(f"codes of shape {codes.shape}: expected (B, {books}, N)")
    if codes.size and (codes.min() < 0 or codes.max() >= rows):
        raise ValueError(
            f"codes reach from {codes.min()} to {codes.max()}; this tokenizer's are in "
            f"[0, {rows}): were they made by another one?"
        )
    return codes.astype(np.int32)


def check_grid(cells: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the grid (rows, columns) of `cells` image tokens; the default is a square.

    Raises:
      ValueError: `cells` is not a square, or the grid does not fit.
    """
    if grid is None:
        side = math.isqrt(max(cells, 0))
        if cells < 1 or side * side != cells:
            raise ValueError(
                f"codes hold {cells} image tokens, which are no square; pass grid=(rows, columns)"
            )
        return side, side
    grid = tuple(int(n) for n in grid)
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != cells:
        raise ValueError(f"grid={grid} does not have the {cells} image tokens of the codes")
    return grid


def grid_of(image) -> tuple[int, int]:
    """Returns the grid (rows, columns) of the tokens of an (H, W, 3) image."""
    return image.shape[0] // STRIDE, image.shape[1] // STRIDE
