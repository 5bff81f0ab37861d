"""Colour bitmap fonts: where systems keep them, which sequences one has, and its pictures.

Two tables hold colour bitmaps: CBDT with its index CBLC (Noto) and sbix (Apple). Each has strikes:
sets of pictures drawn at one size, the only sizes at which FreeType draws them.
"""

import os
import statistics
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from unitok_jax.system.paths import expand, open_regular, printable

FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
)
FILES = ("NotoColorEmoji.ttf", "Apple Color Emoji.ttc")
INSTALL = (
    "install Noto's (Debian, Ubuntu: apt install fonts-noto-color-emoji), or name the file of a "
    "font with CBDT or sbix bitmaps, as data.path=NotoColorEmoji.ttf"
)
LARGEST = 1024  # pixels: larger pictures are refused

_NO_CHARACTER = "\U0010ffff"
_NO_COUNTRY = "🇽🇽"
_CANCEL_TAG = "\U000e007f"  # ends a flag, then invisible letters that name a region


class ColourFont:
    """The largest strike of a colour bitmap font. Picklable; threads may share it.

    Args:
        path: a font file, or the first font of a collection.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no font, is damaged, or has no colour bitmaps.
        ImportError: Pillow without Raqm, which joins sequences into one picture.
    """

    def __init__(self, path: str | os.PathLike):
        if not features.check("raqm"):
            raise ImportError(
                "data.source=emoji needs Pillow with Raqm, for skin tones, families and flags: "
                "Pillow's wheels have it and look for the library FriBiDi (Debian, Ubuntu: "
                "apt install libfribidi0; macOS: brew install fribidi)"
            )
        self.path = str(expand(path))
        size = _strike(self.path)
        try:
            self._font = ImageFont.truetype(self.path, size, layout_engine=ImageFont.Layout.RAQM)
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(f"{self._where}: the font is damaged ({error})") from error

    def having(self, sequences: Sequence[str]) -> list[str]:
        """Selects the sequences that the font draws as one picture, in their order.

        A font draws what it has no picture of as nothing, as its picture of missing characters or
        of unknown flags, or as the parts: side by side, or the first if the others are invisible.

        Raises:
            ValueError: a picture cannot be read.
        """
        try:
            single = {text for text in sequences if len(text) == 1 and self._has(text)}
            widest = 1.5 * statistics.median(map(self._font.getlength, single or [""]))
            return [
                text
                for text in sequences
                if text in single
                or (len(text) > 1 and self._font.getlength(text) <= widest and self._has(text))
            ]
        except (OSError, ValueError, MemoryError) as error:
            raise ValueError(f"{self._where}: the font is damaged ({error})") from error

    def draw(self, sequence: str, background: tuple[int, int, int]) -> np.ndarray:
        """Draws one picture in the middle of a square, uint8 (side, side, 3).

        The side is the longer one of the picture, in the font's own pixels.

        Raises:
            OSError: the picture cannot be read.
        """
        left, top, right, bottom = self._font.getbbox(sequence)
        width, height = right - left, bottom - top
        side = max(width, height)
        canvas = Image.new("RGB", (side, side), background)
        corner = (side - width) // 2 - left, (side - height) // 2 - top
        ImageDraw.Draw(canvas).text(corner, sequence, font=self._font, embedded_color=True)
        return np.asarray(canvas)

    def _has(self, text: str) -> bool:
        left, top, right, bottom = self._font.getbbox(text)
        if not (0 < right - left <= LARGEST and 0 < bottom - top <= LARGEST):
            return False
        return not any(self._same(text, other) for other in _stand_ins(text))

    def _same(self, one: str, other: str) -> bool:
        if self._font.getbbox(one) != self._font.getbbox(other):
            return False
        return np.array_equal(*(self.draw(text, (255, 255, 255)) for text in (one, other)))

    @property
    def _where(self) -> str:
        return f"data.path={printable(self.path)}"


def find_font() -> Path:
    """Finds the colour bitmap font of the system.

    Raises:
        FileNotFoundError: none of `FILES` lies below one of `FOLDERS`.
    """
    for name in FILES:
        for folder in FOLDERS:
            for path in sorted(expand(folder).rglob(name)):
                return path
    raise FileNotFoundError(
        f"data.source=emoji draws from a colour font, and there is no {' or '.join(FILES)} below "
        f"{', '.join(FOLDERS)}: {INSTALL}"
    )


def _stand_ins(text: str) -> list[str]:
    """Returns texts whose picture a font may draw for one that it does not have."""
    if "🇦" <= text[0] <= "🇿":
        return [_NO_CHARACTER, _NO_COUNTRY]
    return [_NO_CHARACTER, text[0]] if text.endswith(_CANCEL_TAG) else [_NO_CHARACTER]


def _strike(path: str) -> int:
    """Returns the pixels per em of the largest strike."""
    where = f"data.path={printable(path)}"
    try:
        with open_regular(path) as file:
            sizes = _sizes(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: no such font file, and no such split") from error
    except OSError as error:
        raise OSError(f"{where}: {error.strerror}") from error
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{where}: this is no font, or a damaged one") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not sizes:
        raise ValueError(f"{where}: this font has no colour bitmaps: {INSTALL}")
    if not 0 < max(sizes) <= LARGEST:
        raise ValueError(
            f"{where}: pictures of {max(sizes)} pixels per em; 1 to {LARGEST} are drawn"
        )
    return max(sizes)


def _sizes(file: BinaryIO) -> list[int]:
    """Returns the sizes of the colour strikes in pixels per em, after checks of their pictures."""
    start = _read(file, 12, ">I")[0] if _read(file, 0, ">4s")[0] == b"ttcf" else 0
    tables = {}
    for number in range(_read(file, start + 4, ">H")[0]):
        name, _, offset, _ = _read(file, start + 12 + 16 * number, ">4s3I")
        tables[name] = offset
    if b"CBLC" in tables:
        sizes = tables[b"CBLC"]
        count = _read(file, sizes + 4, ">I")[0]
        return [_read(file, sizes + 8 + 48 * k, ">44x4B")[1] for k in range(min(count, LARGEST))]
    if b"sbix" not in tables:
        return []
    glyphs = _read(file, tables[b"maxp"] + 4, ">H")[0] if b"maxp" in tables else 0
    sbix = tables[b"sbix"]
    found = []
    for number in range(min(_read(file, sbix + 4, ">I")[0], LARGEST)):
        strike = sbix + _read(file, sbix + 8 + 4 * number, ">I")[0]
        found.append(_read(file, strike, ">H")[0])
        _check_pictures(file, strike, glyphs)
    return found


def _check_pictures(file: BinaryIO, strike: int, glyphs: int) -> None:
    """Refuses a PNG of more than `LARGEST` pixels a side, which a small file may hold.

    The pictures in CBDT need no such check: their index limits them to 255.
    """
    offsets = _read(file, strike + 4, f">{glyphs + 1}I")
    for offset, end in zip(offsets, offsets[1:], strict=False):
        if end - offset < 32:
            continue
        kind, width, height = _read(file, strike + offset, ">4x4s16x2I")
        if kind == b"png " and max(width, height) > LARGEST:
            raise ValueError(f"a picture of {width} x {height} pixels; {LARGEST} are the limit")


def _read(file: BinaryIO, offset: int, layout: str) -> tuple:
    file.seek(offset)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
