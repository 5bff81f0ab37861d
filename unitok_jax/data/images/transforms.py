"""Image decoding to RGB, and resizing to the model's size for evaluation and inference. Training
crops are in `crops`."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.metadata import MAX_SCANS, orientation, scans, without_metadata
from unitok_jax.system.paths import printable

# A file of a few kilobytes can unpack to gigabytes. Decoding takes 12 bytes per pixel, or 24 for a
# WebP: 3 for the result, 4 in Pillow, the rest in the codec, such as the coefficients of a
# progressive JPEG. So no image takes more than 1.5 GiB.
MAX_PIXELS = 1 << 27
_MAX_WEBP_PIXELS = MAX_PIXELS // 2
MAX_SIDE = 1 << 20  # pixels: codecs also buffer whole rows
MAX_INPUT_SIDE = 8192  # pixels of a model input: attention is over (side / 16)^2 tokens

# Raster formats only: Pillow opens other formats, too, one of them through an external program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Views of the stored pixels that are upright, by the number of `metadata.orientation`.
_STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}

_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # TIFF tags
_BLOCK = 1024  # side in pixels of the blocks that are converted
_WHOLE = 1 << 24  # pixels up to which an image is resized whole before its centre crop


class ImageError(SampleError):
    """An image that cannot be decoded. The message names the file and the reason."""

    def __init__(self, message: str, reason: str = "damaged"):
        super().__init__(message, reason)


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turns a library's errors in the block, at an image's bytes, into `ImageError`s of `name`."""
    try:
        yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{printable(name)}: not an image; formats read: {', '.join(FORMATS)}", "not_an_image"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{printable(name)}: over {MAX_PIXELS} pixels ({error})", "too_large"
        ) from error
    except MemoryError as error:
        raise ImageError(f"{printable(name)}: no memory for its pixels", "too_large") from error
    except Exception as error:  # Python decoders raise any exception on damaged files
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{printable(name)}: cannot be decoded ({said})") from error


def check_pixels(
    shape: tuple[int, int], kind: str, name: str, max_pixels: int = MAX_PIXELS
) -> None:
    """Raises an `ImageError` for an image that needs too much memory to decode.

    Args:
        shape: (height, width), as stated in the file.
        kind: one of `FORMATS`.
        name: what errors call it.
        max_pixels: the pixel limit, at most `MAX_PIXELS`.
    """
    height, width = shape
    limit = min(max_pixels, _MAX_WEBP_PIXELS if kind == "WEBP" else MAX_PIXELS)
    if height * width > limit:
        reason = f"is over {limit} pixels"
    elif max(shape) > MAX_SIDE:
        reason = f"has a side over {MAX_SIDE} pixels"
    else:
        return
    raise ImageError(f"{printable(name)}: {width}x{height} {reason}", "too_large")


def check_scans(data: bytes, name: str) -> None:
    """Raises an `ImageError` for a JPEG that takes too long: a pass over all pixels for each scan.

    Args:
        data: the file.
        name: what errors call it.
    """
    if scans(data) > MAX_SCANS:
        raise ImageError(f"{printable(name)}: more than {MAX_SCANS} scans", "too_large")


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an encoded image to upright RGB.

    The orientation is applied (`metadata.orientation`), transparency is put on white, 16-bit grey
    is scaled to 8 bits, grey, palette and CMYK become RGB, and the first frame of an animation is
    used. Decoding takes at most 12 bytes per pixel, or 24 for a WebP.

    Args:
        data: an encoded image in one of `FORMATS`.
        name: what errors call it.
        max_pixels: the pixel limit; at most `MAX_PIXELS`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: empty, not an image, damaged, or too large (`check_pixels`).
    """
    if not data:
        raise ImageError(f"{printable(name)}: the file is empty (0 bytes)", "empty")
    with decoding(name):
        file = io.BytesIO(without_metadata(data))
        with Image.open(file, formats=FORMATS) as image:
            shape = image.height, image.width
            check_pixels(shape, image.format, name, max_pixels)
            if image.format == "TIFF":  # tiles are unpacked whole, and may exceed the image
                tile = image.tag_v2.get(_TILE_HEIGHT, 0), image.tag_v2.get(_TILE_WIDTH, 0)
                check_pixels(tuple(map(max, shape, tile)), image.format, name, max_pixels)
            elif image.format == "JPEG":
                check_scans(data, name)
            image.load()
            if image.format == "PNG" and "transparency" in image.info:
                image.info["transparency"] = _png_transparency(image, data)
            return _upright(image, orientation(data), name)


def upright_shape(data: bytes) -> tuple[int, int]:
    """Returns the (height, width) that `decode_image` gives an image, from its header alone.

    Args:
        data: an encoded image, as for `decode_image`.

    Returns:
        (0, 0) if it has no header that can be read. What follows the header may be damaged.
    """
    try:
        with decoding("an image"):
            with Image.open(io.BytesIO(without_metadata(data)), formats=FORMATS) as image:
                width, height = image.size
    except ImageError:
        return 0, 0
    return (height, width) if orientation(data) < 5 else (width, height)


def resize_center_crop(image: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """Scales an image to just cover `size`, keeping its aspect ratio, and crops the centre.

    Args:
        image: uint8 (H, W, 3).
        size: n or (height, width) of the result.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = _pair(size)
    old_height, old_width = image.shape[:2]
    if height * old_width >= width * old_height:  # the height limits the scale
        new_height, new_width = height, max(width, old_width * height // old_height)
    else:
        new_height, new_width = max(height, old_height * width // old_width), width
    top, left = round((new_height - height) / 2), round((new_width - width) / 2)
    if new_height * new_width > _WHOLE:  # a strip: the whole would be far larger than the crop
        down, right = old_height / new_height, old_width / new_width
        box = left * right, top * down, (left + width) * right, (top + height) * down
        return _resize(image, (height, width), box)
    image = _resize(image, (new_height, new_width))
    return image[top : top + height, left : left + width]


def to_float(image: np.ndarray) -> np.ndarray:
    """Maps uint8 pixels of any shape to float32 in [-1, 1], the range of the model."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Maps floats in [-1, 1] of any shape to uint8 pixels, rounded and clipped."""
    return np.clip(np.rint((np.asarray(image, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def check_size(
    size: int | Sequence[int], stride: int = STRIDE, key: str = "data.image_size"
) -> tuple[int, int]:
    """Returns the (height, width) of `size`: n, (n,) or (height, width).

    Raises:
        ValueError: not one or two positive multiples of `stride`, the pixels per token, up to
            `MAX_INPUT_SIDE`.
    """
    sides = tuple(size) if isinstance(size, Sequence | np.ndarray) else (size,)
    whole = all(isinstance(side, int | np.integer) and side is not True for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise ValueError(f"{key}={size!r}: give one integer or (height, width)")
    for side in sides:
        if side > MAX_INPUT_SIDE:
            raise ValueError(f"{key}={size!r}: {side} is over {MAX_INPUT_SIDE}, the longest side")
        if side <= 0 or side % stride:
            below = side // stride * stride
            nearest = [str(near) for near in (below, below + stride) if near > 0]
            raise ValueError(
                f"{key}={size!r}: {side} is not a positive multiple of {stride}; "
                f"nearest: {' or '.join(nearest or [str(stride)])}"
            )
    return int(sides[0]), int(sides[-1])


def _upright(image: Image.Image, turned: int, name: str) -> np.ndarray:
    """Returns upright pixels, uint8 (H, W, 3), converted in blocks: some modes need much memory."""
    if image.mode == "F":
        raise ImageError(
            f"{printable(name)}: floating-point pixels have no fixed range; convert to 8 bits"
        )
    width, height = image.size
    upright = np.empty((height, width, 3) if turned < 5 else (width, height, 3), np.uint8)
    stored = _STORED[turned](upright)
    if max(width, height) <= _BLOCK:
        stored[...] = _to_rgb(image, name)
        return upright
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            bottom, right = min(top + _BLOCK, height), min(left + _BLOCK, width)
            block = image.crop((left, top, right, bottom))
            stored[top:bottom, left:right] = _to_rgb(block, name)
    return upright


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """Converts to RGB, uint8 (H, W, 3)."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.broadcast_to(_to_8_bits(image, name)[..., None], (*image.size[::-1], 3))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _to_8_bits(image: Image.Image, name: str) -> np.ndarray:
    grey = np.asarray(image).astype(np.int32)
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"{printable(name)}: 32-bit pixels outside 0..65535 have no fixed range")
    shown = ((grey * 255 + 32767) // 65535).astype(np.uint8)
    shown[grey == image.info.get("transparency", -1)] = 255  # white
    return shown


def _png_transparency(image: Image.Image, data: bytes):
    """Returns a PNG's transparent value on the scale of Pillow's pixels.

    Pillow reports the value of the file, in the file's bits per sample.
    """
    value, depth = image.info["transparency"], data[24]
    if image.mode == "L":
        return (value & (1 << depth) - 1) * 255 // ((1 << depth) - 1)
    if image.mode == "RGB" and depth == 16:
        return tuple(part >> 8 for part in value)
    return value


def _resize(image: np.ndarray, size: tuple[int, int], box=None) -> np.ndarray:
    """Resizes by antialiased bicubic to (height, width). Pixels outside `image` do not contribute.

    box: (left, top, right, bottom) in pixels of `image`, the part to which the result is cropped.
    """
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box)
    return np.asarray(resized)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
