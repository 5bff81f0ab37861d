"""The pictures of a card: reconstructions, how often codes are used, and where they lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from unitok_jax.codes import STRIDE
from unitok_jax.pictures.codes import code_maps
from unitok_jax.pictures.comparison import comparison, tile

EACH = 3  # reconstructions of each kind
_SIDE = 150  # pixels of a code map, about
_INK, _GREY, _RED = (38, 98, 181), (120, 120, 120), (196, 60, 50)


def choose(psnr: np.ndarray) -> dict[str, list[int]]:
    """The images to show, by PSNR: {'worst', 'median', 'best'} -> positions, none twice."""
    order = np.argsort(psnr, kind="stable")
    middle = max(0, (len(order) - EACH) // 2)
    spans = {"worst": order[:EACH], "median": order[middle : middle + EACH], "best": order[::-1]}
    taken, chosen = set(), {}
    for name in ("worst", "best", "median"):
        free = [int(i) for i in spans[name] if int(i) not in taken][:EACH]
        taken.update(free)
        chosen[name] = free
    return {name: chosen[name] for name in ("best", "median", "worst")}


def panel(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """original | reconstruction | error of one uint8 (H, W, 3) image, enlarged if it is small."""
    picture = comparison(image[None], reconstruction[None])
    factor = max(1, 128 // image.shape[0])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def code_use(counts: np.ndarray, numbers: Mapping[str, Sequence]) -> np.ndarray:
    """The frequencies of the codes of each codebook, most frequent first.

    Args:
      counts: (K, V).
      numbers: `usage` and `perplexity`, (K,) each.

    Returns:
      uint8 (H, W, 3): a panel of each codebook; dead rows are the empty part at its right.
    """
    width, height, panels = 260, 70, []
    for book, row in enumerate(counts):
        picture = Image.new("RGB", (width + 20, height + 40), "white")
        draw = ImageDraw.Draw(picture)
        title = f"codebook {book}: {numbers['usage'][book]:.1%} used, "
        draw.text((10, 4), title + f"perplexity {numbers['perplexity'][book]:.0f}", fill="black")
        ordered = np.sort(row)[::-1]
        bins = ordered[(np.arange(width) * len(row)) // width]
        top = max(float(ordered[0]), 1.0)
        for x, value in enumerate(bins):
            if value:
                bar = max(1, round(height * value / top))
                draw.line((10 + x, 22 + height - bar, 10 + x, 22 + height), fill=_INK)
        used = round(width * float((row > 0).mean()))
        draw.line((10, 23 + height, 10 + used, 23 + height), fill=_GREY)
        draw.line((10 + used, 23 + height, 10 + width, 23 + height), fill=_RED)
        draw.text((10, 26 + height), f"most chosen: {int(ordered[0])} times", fill=_GREY)
        panels.append(np.asarray(picture))
    return tile(panels, -(-len(panels) // 3))


def code_map(image: np.ndarray, codes: np.ndarray, query: int) -> np.ndarray:
    """The codes of one image: a map of each codebook, where equal codes have equal colours.

    Args:
      image: (H, W, 3) uint8.
      codes: (K, N) int.
      query: tokens in front of those of the image.

    Returns:
      uint8 picture: the image, then K maps of rows x columns.
    """
    rows, columns = image.shape[0] // STRIDE, image.shape[1] // STRIDE
    cell = max(4, _SIDE // max(rows, columns))
    size = columns * cell, rows * cell
    pictures = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))]
    pictures += [*code_maps(codes[:, query:], (rows, columns), int(codes.max()) + 1, cell)]
    gap = ((3, 3), (3, 3), (0, 0))
    padded = [np.pad(picture, gap, constant_values=255) for picture in pictures]
    per_row = min(len(padded), max(1, 900 // padded[0].shape[1]))
    lines = [
        np.concatenate(padded[start : start + per_row], axis=1)
        for start in range(0, len(padded), per_row)
    ]
    return tile(lines, len(lines))
