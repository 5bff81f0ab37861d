"""Actions of the demo page on uploaded files: rebuild, name, edit and blend them."""

import functools
import os
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.codes import STRIDE
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_float, to_uint8
from unitok_jax.demo import editing
from unitok_jax.evaluation.metrics.reconstruction import psnr
from unitok_jax.pictures.codes import code_maps, outline
from unitok_jax.pictures.comparison import error_picture

NATIVE = "native"
MAX_FILE_PIXELS = 50_000_000  # pixel limit of an uploaded image
MAX_NATIVE_PIXELS = 1024 * 1024  # pixel limit of an image used at its own size
MAX_LABELS = 100  # each is six sentences through the text tower, while others wait
MAX_LABEL_CHARACTERS = 10_000  # total length of the labels of one request
GREY = 128  # value of the flat image whose codes erase a region


class Encoded(NamedTuple):
    """An image of the model's size, uint8 (H, W, 3), its (K, N) codes and their grid."""

    image: np.ndarray
    codes: np.ndarray
    grid: tuple[int, int]


@functools.lru_cache(maxsize=8)  # uploads are stored under their hash: a path is its content
def read_image(path: str, size: str | tuple[int, int]) -> np.ndarray:
    """Reads the image of a file at a size.

    Args:
      path: a file; errors call it by its name.
      size: a number of pixels, or (height, width), to resize and crop to; or 'native': cut to
        multiples of 16.

    Returns:
      uint8 (H, W, 3).

    Raises:
      ValueError: not an image, a damaged or too large image.
    """
    name = os.path.basename(path)
    image = decode_image(Path(path).read_bytes(), name, MAX_FILE_PIXELS)
    if size != NATIVE:
        return resize_center_crop(image, size if isinstance(size, tuple) else int(size))
    height, width = (side // STRIDE * STRIDE for side in image.shape[:2])
    if not height or not width:
        raise ValueError(
            f"{name} is smaller than a token, {STRIDE} x {STRIDE} pixels: choose a size"
        )
    if height * width > MAX_NATIVE_PIXELS:
        raise ValueError(
            f"{name}: {height} x {width} is over the {MAX_NATIVE_PIXELS} pixels that are encoded "
            "at native size; choose a size"
        )
    return resize_center_crop(image, (height, width))


def classify(tokenizer, image: np.ndarray, labels: str) -> dict[str, float]:
    """Returns probabilities of comma-separated labels for a uint8 (H, W, 3) image. Raises the
    errors of `Tokenizer.classify`, and a ValueError for too few or too many labels."""
    # Never `label_set`: a visitor of the page must not name files of this machine.
    if labels is None or len(labels) > MAX_LABEL_CHARACTERS:
        raise ValueError(f"labels: give 1 to {MAX_LABEL_CHARACTERS} characters")
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not 2 <= len(names) <= MAX_LABELS:
        raise ValueError(
            f"{len(names)} labels: give 2 to {MAX_LABELS} different ones, with commas between them"
        )
    return dict(zip(names, tokenizer.classify(image[None], names)[0].tolist(), strict=True))


class Models:
    """Tokenizers of a page, each loaded at first use and cached, and their latest encodings."""

    def __init__(self, load):
        """Takes `load`: path -> `Tokenizer`."""
        self._lock = threading.Lock()
        self._load, self._loaded = load, {}
        self.encoded = functools.lru_cache(maxsize=8)(self._encoded)

    def __getitem__(self, checkpoint: str):
        with self._lock:
            if checkpoint not in self._loaded:
                self._loaded[checkpoint] = self._load(checkpoint)
            return self._loaded[checkpoint]

    def _encoded(self, checkpoint: str, path: str, size: str | tuple[int, int]) -> Encoded:
        image = read_image(path, size)
        codes = self[checkpoint].encode(image[None])
        return Encoded(image, np.asarray(codes[0]), codes.grid)

    def decode(self, checkpoint: str, codes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Decodes (K, N) codes to uint8 (H, W, 3)."""
        return to_uint8(self[checkpoint].decode(codes[None], grid))[0]

    def pair(self, checkpoint: str, first: str, second: str, size: str) -> tuple[Encoded, Encoded]:
        """Encodes two images with one grid; the second is resized to the first."""
        one = self.encoded(checkpoint, first, size)
        if size != NATIVE:
            return one, self.encoded(checkpoint, second, size)
        image = resize_center_crop(
            decode_image(Path(second).read_bytes(), os.path.basename(second), MAX_FILE_PIXELS),
            one.image.shape[:2],
        )
        return one, Encoded(image, np.asarray(self[checkpoint].encode(image[None])[0]), one.grid)


def reconstruction(models: Models, checkpoint: str, path: str, size: str):
    """Returns (original, rebuilt, error image, facts as text, [(code map, number)]) of a file."""
    image, codes, grid = models.encoded(checkpoint, path, size)
    tokenizer = models[checkpoint]
    books, rows = tokenizer.codebook_shape
    rebuilt = models.decode(checkpoint, codes, grid)
    error = np.mean((to_float(rebuilt) - to_float(image)) ** 2, dtype=np.float64)
    bits = codes.size * np.log2(rows)
    height, width = image.shape[:2]
    facts = (
        f"**PSNR {float(psnr(error)):.2f} dB** · {height} × {width} pixels · "
        f"{grid[0]} × {grid[1]} tokens · {codes.size:,} codes "
        f"({books} codebooks of {rows:,}) · {bits:,.0f} bits, "
        f"{bits / (height * width):.3f} a pixel"
    )
    maps = code_maps(codes, grid, rows, STRIDE)
    pairs = [(picture, str(number)) for number, picture in enumerate(maps, 1)]
    return image, rebuilt, error_picture(image, rebuilt), facts, pairs


def edit(models: Models, checkpoint, first, second, size, region, action, books, seed):
    """Applies one of `ACTIONS` to a region: outlined images before and after, and facts."""
    one = models.encoded(checkpoint, first, size)
    tokens = editing.region_tokens(one.codes, one.grid, region)
    if action == "shuffle":
        check_seed(seed)
        codes = editing.shuffle(one.codes, tokens, books, seed)
    else:
        if action == "swap":
            other = models.pair(checkpoint, first, second, size)[1].codes
        elif action == "grey":
            grey = np.full_like(one.image, GREY)
            other = np.asarray(models[checkpoint].encode(grey[None])[0])
        else:
            other = editing.most_frequent(one.codes)
        codes = editing.replace(one.codes, other, tokens, books)
    before, after = (models.decode(checkpoint, c, one.grid) for c in (one.codes, codes))
    inside = np.zeros(before.shape[:2], bool)
    top, left, height, width = (STRIDE * n for n in region)
    inside[top : top + height, left : left + width] = True
    moved = np.abs(before.astype(int) - after).mean(axis=-1)
    facts = (
        f"{np.count_nonzero(codes != one.codes):,} of {codes.size:,} codes changed. Pixels moved "
        f"by {moved[inside].mean():.1f} levels inside the region"
    )
    if not inside.all():
        facts += f" and by {moved[~inside].mean():.1f} outside"
    return *(outline(picture, region, STRIDE) for picture in (before, after)), facts + "."


def blend(models: Models, checkpoint, first, second, size, way, books, share, split, seed):
    """Returns (first rebuilt, mixture, second rebuilt) of two files; `way` is one of `BLENDS`."""
    one, two = models.pair(checkpoint, first, second, size)
    if way == "books":
        codes = editing.blend_books(one.codes, two.codes, books)
    elif way == "share":
        check_seed(seed)
        codes = editing.blend_share(one.codes, two.codes, share, seed)
    else:
        if not 0 <= split <= 1:
            raise ValueError(f"a width of {split}: it is a number from 0 to 1")
        codes = editing.blend_split(one.codes, two.codes, one.grid, round(split * one.grid[1]))
    return [models.decode(checkpoint, c, one.grid) for c in (one.codes, codes, two.codes)]


def check_seed(seed: int | None) -> None:
    """Raises ValueError for a field of a seed that was left empty."""
    if seed is None:
        raise ValueError("give a seed: a whole number from 0")
