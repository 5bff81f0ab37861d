"""From encoded bytes to an image of the model's size: decoding for all, resizing for evaluation and
inference. Training's crops are in `crops`."""

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from unitok_jax.data.records import SampleError

# A hostile file of a few kilobytes can unpack to gigabytes. This is the size at which Pillow
# refuses to open a file, stated here so that it does not move with Pillow's.
MAX_PIXELS = 178_956_970
MAX_SIDE = 8192  # of what a model takes: its attention is over (side / 16)^2 tokens

# Raster formats only: Pillow also opens others, and one of them runs an external program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# EXIF tag 0x0112 says how the camera was held; the pixels must be turned back.
ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise on damaged files (found by damaging files of every format).
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    struct.error,
)
_BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageError(SampleError):
    """An image that cannot be decoded. The message names the file and the reason."""

    def __init__(self, message: str, reason: str = "damaged"):
        super().__init__(message, reason)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an encoded image to upright RGB.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits,
    grey, palette and CMYK become RGB, and of an animation the first frame is taken.

    Args:
        data: an encoded image in one of `FORMATS`.
        name: what errors call it.
        max_pixels: of the image; at most `MAX_PIXELS`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: empty, not an image, damaged, or larger than `max_pixels`.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes)", "empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{name}: {width}x{height} is over {max_pixels} pixels", "too_large"
                )
            image.load()
            orientation = _orientation(image)
            image = _to_rgb(image, name)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image; formats read: {', '.join(FORMATS)}", "not_an_image"
        ) from error
    except _BOMB_ERRORS as error:
        raise ImageError(f"{name}: over {MAX_PIXELS} pixels ({error})", "too_large") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{name}: cannot be decoded ({error})") from error
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.asarray(image)


def resize_center_crop(image: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """Scales an image, its aspect kept, until it just covers `size`, and cuts out the centre.

    Args:
        image: uint8 (H, W, 3).
        size: n or (height, width) of the result.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = _pair(size)
    old_height, old_width = image.shape[:2]
    if height * old_width >= width * old_height:  # the height is what limits the scale
        new_height, new_width = height, max(width, old_width * height // old_height)
    else:
        new_height, new_width = max(height, old_height * width // old_width), width
    image = _resize(image, (new_height, new_width))
    top, left = round((new_height - height) / 2), round((new_width - width) / 2)
    return image[top : top + height, left : left + width]


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 pixels to float32 in [-1, 1], the range of the model. Any shape."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] to uint8 pixels, rounded; what lies outside is clipped. Any shape."""
    return np.clip(np.rint((np.asarray(image, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def check_size(
    size: int | Sequence[int], stride: int = 16, key: str = "data.image_size"
) -> tuple[int, int]:
    """The (height, width) that `size` stands for: n, (n,) or (height, width).

    Raises:
        ValueError: not one or two positive multiples of `stride`, the pixels per token, up to
            `MAX_SIDE`.
    """
    sides = tuple(size) if isinstance(size, Sequence | np.ndarray) else (size,)
    whole = all(isinstance(side, int | np.integer) and side is not True for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise ValueError(f"{key}={size!r}: give one integer or (height, width)")
    for side in sides:
        if side > MAX_SIDE:
            raise ValueError(f"{key}={size!r}: {side} is over {MAX_SIDE}, the longest side")
        if side <= 0 or side % stride:
            below = side // stride * stride
            nearest = [str(near) for near in (below, below + stride) if near > 0]
            raise ValueError(
                f"{key}={size!r}: {side} is not a positive multiple of {stride}; "
                f"nearest: {' or '.join(nearest or [str(stride)])}"
            )
    return int(sides[0]), int(sides[-1])


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except DECODE_ERRORS:  # the pixels are whole; without a legible tag they are upright
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no fixed range; convert to 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _to_8_bits(image, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bits(image: Image.Image, name: str) -> Image.Image:
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"{name}: 32-bit pixels outside 0..65535 have no fixed range")
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic with antialiasing, to (height, width). Pixels outside `image` play no part."""
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
