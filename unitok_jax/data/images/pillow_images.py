"""Pixels of Pillow images, by the rule of files."""

import io
import struct

import numpy as np
from PIL import Image

from unitok_jax.data.images.transforms import decode_image

_ORIENTATION = 0x0112  # the EXIF tag
_PNG = ("1", "L", "LA", "P", "I;16", "RGB", "RGBA")  # modes that a PNG holds as they are
_WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image of any mode to uint8 (H, W, 3), as files: upright, on white.

    Raises:
      ValueError: floating-point pixels, or 32-bit ones outside 0..65535, have no fixed range.
    """
    image.load()  # Pillow turns a TIFF upright only here, and removes its tag
    if image.mode.startswith("I;16") and image.mode not in _PNG:  # of another order of bytes
        image = image.convert("I")
    if image.mode not in (*_PNG, "I", "F"):
        image = image.convert(_WITH_ALPHA.get(image.mode, "RGB"))
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        orientation = 1  # the default for a file without a legible tag
    if image.mode == "RGB" and orientation == 1 and not image.has_transparency_data:
        return np.asarray(image)
    exif, file = Image.Exif(), io.BytesIO()
    exif[_ORIENTATION] = orientation
    if image.mode in _PNG:
        image.save(file, "PNG", exif=exif, compress_level=0)
    else:
        image.save(file, "TIFF", tiffinfo={_ORIENTATION: orientation})
    return decode_image(file.getvalue(), "the image")
