"""A contact sheet: pictures in rows, each with its caption below it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 15  # pixels
GAP = 16  # pixels between cells, and around them
WIDTH = 1680  # pixels of a sheet, about
NARROWEST = 192  # pixels of a cell: narrower pictures are magnified, a whole number of times

PAPER, INK, MARKED = "white", "#202020", "#b00020"


def load_font(name: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loads a font of `FONT_SIZE`: Pillow's own, mostly ASCII, or a named font.

    Args:
        name: a font file, or the name of a system font, such as DejaVuSans.ttf.

    Raises:
        OSError: the font does not exist.
    """
    if not name:
        return ImageFont.load_default(FONT_SIZE)
    try:
        return ImageFont.truetype(name, FONT_SIZE)
    except OSError as error:
        raise OSError(f"--font={name}: {error}; give a .ttf, .otf or .ttc file") from error


def contact_sheet(
    images: np.ndarray, captions: Sequence[str], marked: Sequence[bool], font
) -> Image.Image:
    """Draws pictures in reading order. A character that the font lacks becomes a box.

    Args:
        images: uint8 (n, H, W, 3), n at least 1; their pixels are copied, and magnified
            `magnification(W)` times.
        captions: n texts.
        marked: n booleans; a caption marked True is drawn in red.
        font: a result of `load_font`.
    """
    scale = magnification(images.shape[2])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = images.shape[1:3]
    columns = min(len(images), max(1, (WIDTH - GAP) // (width + GAP)))
    line_height = round(1.3 * FONT_SIZE)
    texts = [wrap(caption, width, font) for caption in captions]
    rows = [range(i, min(i + columns, len(images))) for i in range(0, len(images), columns)]
    depths = [height + GAP // 2 + line_height * max(len(texts[i]) for i in row) for row in rows]
    size = (GAP + columns * (width + GAP), GAP + sum(depth + GAP for depth in depths))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, depth in zip(rows, depths, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (width + GAP)
            sheet.paste(Image.fromarray(images[i]), (left, top))
            for number, line in enumerate(texts[i]):
                place = (left, top + height + GAP // 2 + number * line_height)
                draw.text(place, line, fill=MARKED if marked[i] else INK, font=font)
        top += depth + GAP
    return sheet


def magnification(width: int) -> int:
    """Returns the whole factor by which pictures of this width are magnified on a sheet."""
    return max(1, -(-NARROWEST // width))


def wrap(text: str, width: int, font) -> list[str]:
    """Breaks text into lines of at most `width` pixels, at spaces or, if needed, in a word."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line]


def missing_glyphs(text: str, font) -> set[str]:
    """Returns the characters of a text that the font draws as its box for unknown ones."""
    box = bytes(font.getmask("\uffff"))
    return {c for c in set(text) if not c.isspace() and bytes(font.getmask(c)) == box}
