"""What the methods of a `Tokenizer` take, checked: images, codes and their grid."""

import math

import numpy as np

from unitok_jax.data.transforms import check_size
from unitok_jax.models.vitamin import STRIDE


class Codes(np.ndarray):
    """int32 (B, K, N) codes that remember their grid, so that `decode` needs nothing else.

    `grid` is (rows, columns) of image tokens. It survives slicing along B; any other array can be
    decoded by passing `grid` to `decode`.
    """

    grid: tuple[int, int] | None

    def __new__(cls, codes, grid: tuple[int, int]):
        """Copy of an int array with a grid: what a device computed is read-only."""
        out = np.array(codes, np.int32).view(cls)
        out.grid = tuple(grid)
        return out

    def __array_finalize__(self, source):
        self.grid = getattr(source, "grid", None)

    def __reduce__(self):
        # ndarray's own pickling would lose the grid between processes.
        return Codes, (np.asarray(self), self.grid)


def check_images(images) -> np.ndarray:
    """(B, H, W, 3) images as they go to the devices: uint8, or float32 in [-1, 1].

    Raises:
      ValueError, TypeError: another shape, dtype or range.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images of shape {images.shape}: expected (B, H, W, 3); a single image is images[None]"
        )
    check_size(images.shape[1:3], STRIDE, "the image size")
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"images have dtype {images.dtype}; pass uint8, or float in [-1, 1]")
    low, high = images.min(initial=0), images.max(initial=0)
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"float images reach from {low:.4g} to {high:.4g}; they must be in [-1, 1]: pass uint8 "
            "images, or images / 127.5 - 1"
        )
    return images.astype(np.float32, copy=False)


def check_image(image, index: int) -> np.ndarray:
    """(H, W, 3) image number `index` as it goes to the devices; errors name the number.

    Raises:
      ValueError, TypeError: another shape, dtype or range.
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"image {index} has the shape {image.shape}: expected (H, W, 3)")
    try:
        return check_images(image[None])[0]
    except (ValueError, TypeError) as error:
        raise type(error)(f"image {index}: {error}") from error


def check_codes(codes, books: int, rows: int) -> np.ndarray:
    """Codes as they go to the devices: int32 (B, K, N) for K = `books` of V = `rows` entries.

    Raises:
      ValueError, TypeError: another shape, dtype or range.
    """
    codes = np.asarray(codes)
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
    """(rows, columns) of `cells` image tokens; without a grid they must be a square.

    Raises:
      ValueError: no square, or a grid that does not fit.
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
    """(rows, columns) of the tokens of an (H, W, 3) image."""
    return image.shape[0] // STRIDE, image.shape[1] // STRIDE
