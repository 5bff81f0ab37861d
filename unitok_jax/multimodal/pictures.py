"""Pictures as a multimodal model takes them: padded to the shape of the grid, and resized."""

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unitok_jax.codes import STRIDE
from unitok_jax.data.images.transforms import decode_image

PADDING = (122, 116, 104)
"""Colour beside a picture: CLIP's mean, as the release has it."""
_WHOLE = 1 << 26  # pixels up to which a picture is padded before it is resized


def fitted(picture, grid: tuple[int, int], name: str) -> np.ndarray:
    """Returns a picture in the size of a grid, uint8 (H, W, 3): padded, then resized bilinearly.

    Args:
      picture: uint8 (h, w, 3), a Pillow image, or the path of a file.
      grid: rows and columns of visual tokens; a square grid pads to a square.
      name: of the picture, for messages.

    Raises:
      ValueError, TypeError: another shape or dtype, or a file that is no image.
      OSError: the file cannot be read.
    """
    image = Image.fromarray(_pixels(picture, name))
    height, width = (STRIDE * side for side in grid)
    stretch = max(image.width / width, image.height / height)
    whole = round(width * stretch), round(height * stretch)
    if whole[0] * whole[1] > _WHOLE:  # a strip, whose padded form would be far larger than itself
        sides = (max(round(side / stretch), 1) for side in image.size)
        image, whole = image.resize(tuple(sides), Image.Resampling.BILINEAR), (width, height)
    if whole != image.size:
        padded = Image.new("RGB", whole, PADDING)
        padded.paste(image, ((whole[0] - image.width) // 2, (whole[1] - image.height) // 2))
        image = padded
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _pixels(picture, name: str) -> np.ndarray:
    if isinstance(picture, str | os.PathLike):
        path = Path(picture).expanduser()
        return decode_image(path.read_bytes(), str(path))
    if isinstance(picture, Image.Image):
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(
            f"{name} is {pixels.dtype} of shape {pixels.shape}: expected pixels, uint8 (H, W, 3), "
            "a Pillow image, a path, or codes (K, N)"
        )
    return pixels
