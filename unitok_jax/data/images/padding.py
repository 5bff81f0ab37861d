"""Pictures padded to the shape that a model reads, of which nothing is cut off, and resized."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

_WHOLE = 1 << 26  # pixels up to which a picture is padded before it is resized


class Padding(NamedTuple):
    """Colour beside a picture, and what resizes it."""

    colour: tuple[int, int, int]
    resample: Image.Resampling


MEAN = Padding((122, 116, 104), Image.Resampling.BILINEAR)
"""CLIP's mean colour, as UniTok's release answers questions."""
GREY = Padding((127, 127, 127), Image.Resampling.BICUBIC)
"""Grey, as LLaVA-1.5 with UniTok's features."""


def pad_and_resize(image: np.ndarray, size: Sequence[int], padding: Padding) -> np.ndarray:
    """Pads a picture on two sides alike until it has the shape of `size`, and resizes it.

    Args:
      image: uint8 (H, W, 3).
      size: (height, width) of the result.
      padding: `MEAN` or `GREY`.

    Returns:
      uint8 (height, width, 3).
    """
    colour, resample = padding
    picture, (height, width) = Image.fromarray(image), size
    stretch = max(picture.width / width, picture.height / height)
    whole = round(width * stretch), round(height * stretch)
    if whole[0] * whole[1] > _WHOLE:  # a strip, whose padded form would be far larger than itself
        sides = (max(round(side / stretch), 1) for side in picture.size)
        picture, whole = picture.resize(tuple(sides), resample), (width, height)
    if whole != picture.size:
        padded = Image.new("RGB", whole, colour)
        corner = (whole[0] - picture.width) // 2, (whole[1] - picture.height) // 2
        padded.paste(picture, corner)
        picture = padded
    return np.asarray(picture.resize((width, height), resample))
