"""From encoded bytes to an image of the model's size: decoding for all, resizing for evaluation and
inference. Training's crops are in `crops`."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.metadata import MAX_SCANS, orientation, scans, without_metadata
from unitok_jax.system.paths import printable

# A file of a few kilobytes can unpack to gigabytes. Decoding takes 12 bytes for a pixel, or 24 of a
# WebP: 3 are the result, 4 are Pillow's, and a codec has its own, as the coefficients of a
# progressive JPEG. So no image takes more than 1.5 GiB.
MAX_PIXELS = 1 << 27
_MAX_WEBP_PIXELS = MAX_PIXELS // 2
MAX_SIDE = 1 << 20  # pixels: codecs keep whole rows besides
MAX_INPUT_SIDE = 8192  # of what a model takes: its attention is over (side / 16)^2 tokens

# Raster formats only: Pillow also opens others, and one of them runs an external program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# Where the stored pixels lie in the upright ones, as views; the number is `metadata.orientation`.
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

_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF
_BLOCK = 1024  # pixels of a side of what is converted at a time
_WHOLE = 1 << 24  # pixels of a resized image that is made whole before its centre is cut out


class ImageError(SampleError):
    """An image that cannot be decoded. The message names the file and the reason."""

    def __init__(self, message: str, reason: str = "damaged"):
        super().__init__(message, reason)


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """What a library raises within, at the bytes of an image, becomes an `ImageError` of `name`."""
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
    except Exception as error:  # decoders in Python fail at damaged files in any way there is
        said = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{printable(name)}: cannot be decoded ({said})") from error


def check_pixels(
    shape: tuple[int, int], kind: str, name: str, max_pixels: int = MAX_PIXELS
) -> None:
    """Raises an `ImageError` for an image that takes too much memory to decode.

    Args:
        shape: (height, width), as the file states them.
        kind: one of `FORMATS`.
        name: what errors call it.
        max_pixels: of an image, at most `MAX_PIXELS`.
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

    The orientation is applied (`metadata.orientation`), transparency is laid on white, 16-bit grey
    is scaled to 8 bits, grey, palette and CMYK become RGB, and of an animation the first frame is
    taken. It takes 12 bytes for each pixel at most, or 24 of a WebP.

    Args:
        data: an encoded image in one of `FORMATS`.
        name: what errors call it.
        max_pixels: of the image; at most `MAX_PIXELS`.

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
            if image.format == "TIFF":  # a tile is unpacked whole, and may be larger
                tile = image.tag_v2.get(_TILE_HEIGHT, 0), image.tag_v2.get(_TILE_WIDTH, 0)
                check_pixels(tuple(map(max, shape, tile)), image.format, name, max_pixels)
            elif image.format == "JPEG":
                check_scans(data, name)
            image.load()
            if image.format == "PNG" and "transparency" in image.info:
                image.info["transparency"] = _png_transparency(image, data)
            return _upright(image, orientation(data), name)


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
    top, left = round((new_height - height) / 2), round((new_width - width) / 2)
    if new_height * new_width > _WHOLE:  # of a strip: the whole would be far larger than the part
        down, right = old_height / new_height, old_width / new_width
        box = left * right, top * down, (left + width) * right, (top + height) * down
        return _resize(image, (height, width), box)
    image = _resize(image, (new_height, new_width))
    return image[top : top + height, left : left + width]


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 pixels to float32 in [-1, 1], the range of the model. Any shape."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] to uint8 pixels, rounded; what lies outside is clipped. Any shape."""
    return np.clip(np.rint((np.asarray(image, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def check_size(
    size: int | Sequence[int], stride: int = STRIDE, key: str = "data.image_size"
) -> tuple[int, int]:
    """The (height, width) that `size` stands for: n, (n,) or (height, width).

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
    """uint8 (H, W, 3), converted block by block: several modes need many bytes for a pixel."""
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
    """uint8 (H, W, 3)."""
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
    """The transparent value of a PNG, as Pillow scales the pixels that have it.

    Pillow leaves it as the file has it, in as many bits as the file has for a sample.
    """
    value, depth = image.info["transparency"], data[24]
    if image.mode == "L":
        return (value & (1 << depth) - 1) * 255 // ((1 << depth) - 1)
    if image.mode == "RGB" and depth == 16:
        return tuple(part >> 8 for part in value)
    return value


def _resize(image: np.ndarray, size: tuple[int, int], box=None) -> np.ndarray:
    """Bicubic with antialiasing, to (height, width). Pixels outside `image` play no part.

    box: (left, top, right, bottom), the part that is resized, as if cut out afterwards.
    """
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, box)
    return np.asarray(resized)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])
