"""Sheet of a reconstruction: original, reconstruction and error of each image, with names."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from unitok_jax.pictures.comparison import error_picture
from unitok_jax.pictures.sheet import (
    FONT_SIZE,
    GAP,
    INK,
    NARROWEST,
    PAPER,
    load_font,
    magnification,
)
from unitok_jax.system.paths import printable

COLUMNS = ("original", "reconstruction", "error x 2")
ROWS = 6  # of images in a column, at most
LARGEST = 384  # pixels of a panel's side: larger pictures are made smaller

_BETWEEN = 6  # pixels between two panels
_SOFT = "#6a6a6a"  # of titles and figures
_LINE = round(1.4 * FONT_SIZE)
_TITLES = _LINE + GAP // 2


class Row(NamedTuple):
    """One image on the sheet."""

    name: str
    psnr: float  # dB
    panels: tuple[Image.Image, ...]  # as `COLUMNS`


def row(name: str, psnr: float, image: np.ndarray, rebuilt: np.ndarray) -> Row:
    """Makes the row of an image, scaled for the sheet.

    Args:
      name: its caption; what cannot be printed is escaped.
      psnr: in dB.
      image, rebuilt: uint8 (H, W, 3). Small ones are magnified a whole number of times.
    """
    panels = (image, rebuilt, error_picture(image[None], rebuilt[None])[0])
    return Row(printable(name), psnr, tuple(map(_fitted, panels)))


def draw(rows: Sequence[Row]) -> Image.Image:
    """Draws the sheet of at least one row, in columns from the top."""
    font = load_font()
    width = max(NARROWEST, *(row.panels[0].width for row in rows))
    across = len(COLUMNS) * width + (len(COLUMNS) - 1) * _BETWEEN
    each = -(-len(rows) // -(-len(rows) // ROWS))  # columns of one length
    groups = [rows[i : i + each] for i in range(0, len(rows), each)]
    heights = [sum(_LINE + row.panels[0].height + GAP for row in group) for group in groups]
    size = (GAP + len(groups) * (across + GAP), GAP + _TITLES + max(heights))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, group in enumerate(groups):
        left, top = GAP + number * (across + GAP), GAP
        places = [left + column * (width + _BETWEEN) for column in range(len(COLUMNS))]
        for place, title in zip(places, COLUMNS, strict=True):
            pen.text((place, top), title, fill=_SOFT, font=font)
        top += _TITLES
        for row in group:
            figure = "identical" if np.isinf(row.psnr) else f"{row.psnr:.2f} dB"
            room = across - font.getlength(figure) - GAP
            pen.text((left, top), shortened(row.name, room, font), fill=INK, font=font)
            pen.text((left + across, top), figure, fill=_SOFT, font=font, anchor="ra")
            top += _LINE
            for place, panel in zip(places, row.panels, strict=True):
                sheet.paste(panel, (place, top))
            top += row.panels[0].height + GAP
    return sheet


def shortened(text: str, width: float, font) -> str:
    """Shortens text wider than `width` pixels in the middle: names differ at the end."""
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2:
        kept -= 1
        short = f"{text[: kept // 3]}...{text[kept // 3 - kept :]}"
        if font.getlength(short) <= width:
            return short
    return "..."


def _fitted(pixels: np.ndarray) -> Image.Image:
    picture, scale = Image.fromarray(pixels), magnification(pixels.shape[1])
    if scale * max(picture.size) <= LARGEST:
        size = scale * picture.width, scale * picture.height
        return picture.resize(size, Image.Resampling.NEAREST)
    factor = min(1.0, LARGEST / max(picture.size))
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture.resize(size, Image.Resampling.BOX)
