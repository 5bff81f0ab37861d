"""Pictures as a multimodal model takes them: padded to the shape of the grid, and resized."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.data.images.padding import MEAN, Padding, pad_and_resize
from unitok_jax.data.images.pillow_images import pillow_pixels
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.system.arrays import as_numpy


def fitted(picture, grid: tuple[int, int], name: str, padding: Padding = MEAN) -> np.ndarray:
    """Returns a picture in the size of a grid, uint8 (H, W, 3): padded, then resized.

    Args:
      picture: uint8 (h, w, 3), a Pillow image, or the path of a file.
      grid: rows and columns of visual tokens; a square grid pads to a square.
      name: of the picture, for messages.
      padding: what is beside the picture, and how it is resized.

    Raises:
      ValueError, TypeError: another shape or dtype, or a file that is no image.
      OSError: the file cannot be read.
    """
    size = [STRIDE * side for side in grid]
    return pad_and_resize(_pixels(picture, name), size, padding)


def _pixels(picture, name: str) -> np.ndarray:
    if isinstance(picture, str | os.PathLike):
        path = Path(picture).expanduser()
        return decode_image(path.read_bytes(), str(path))
    if isinstance(picture, Image.Image):
        return pillow_pixels(picture)
    pixels = as_numpy(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(
            f"{name} is {pixels.dtype} of shape {pixels.shape}: expected pixels, uint8 (H, W, 3), "
            "a Pillow image, a path, or codes (K, N)"
        )
    return pixels
