"""Recogniser of the pictures that `data.formats.shapes` draws: colours, forms and places, by rule.

It has nothing to learn and needs no device, so that it reads what any model drew alike. A picture
is cut into regions that stand out from its grey background; of each, the colour is that of the
palette which its saturated pixels are nearest to, and the form the template that covers it best.
"""

import dataclasses
import functools

import numpy as np

from unitok_jax.data.formats.drawing import COLOURS, SHAPES

FOREGROUND = 45  # levels of a channel between a pixel of a shape and the background, at least
SATURATED = 60  # levels between the largest and the smallest channel of a coloured pixel
WHITE = 190  # level of the smallest channel of a pixel that may be a shape's second tone
SMALLEST = 0.01  # area of a shape, as a fraction of the picture's; less is dirt

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_COLOURS, _FORMS = tuple(COLOURS), tuple(SHAPES)
_ANGLES = np.linspace(-0.2, 0.2, 5)  # radians that shapes are turned by
_SIDE = 32  # pixels of a template's side, 3.2 radii of the shape's equal circle
_REACH = 1.6


@dataclasses.dataclass(frozen=True)
class Seen:
    """One recognised object, in the words of `drawing.Shape`."""

    colour: str
    shape: str
    cell: tuple[int, int]  # row and column of the third of the picture that holds its centre
    area: float  # as a fraction of the picture's


def recognise(picture: np.ndarray) -> tuple[Seen, ...]:
    """Names the objects of a picture, the largest first.

    Args:
      picture: uint8 (H, W, 3), a whole picture of any size.

    Raises:
      ValueError: another shape or dtype.
    """
    from scipy import ndimage  # --help does not wait for it

    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is {picture.dtype} {picture.shape}, not uint8 (H, W, 3)")
    pixels = picture.astype(np.float32)
    regions, count = ndimage.label(_foreground(pixels))
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:] / regions.size
    found = []
    for number in np.argsort(-areas, kind="stable"):
        if areas[number] < SMALLEST:
            break
        inside = ndimage.binary_fill_holes(mask := regions == number + 1)
        colour = _colour(pixels[mask])
        if colour is None:  # white alone, as a spot that a model left
            continue
        rows, columns = np.nonzero(inside)
        cell = tuple(
            int(min(3 * (places.mean() + 0.5) / side, 2))
            for places, side in zip((rows, columns), mask.shape, strict=True)
        )
        found.append(Seen(colour, _form(mask), cell, float(areas[number])))
    return tuple(found)


def share_read(pictures, colours, forms) -> dict[str, float]:
    """Measures how often the largest object of a picture is the one that was asked for.

    Args:
      pictures: N pictures, uint8 (H, W, 3) each.
      colours, forms: N words each, of `drawing.COLOURS` and `drawing.SHAPES`.

    Returns:
      {'colour', 'form', 'both': share of the pictures}; one without an object is wrong in each.

    Raises:
      ValueError: no pictures, or another number of words.
    """
    right = []
    for picture, colour, form in zip(pictures, colours, forms, strict=True):
        seen = recognise(picture)
        right.append((seen[0].colour == colour, seen[0].shape == form) if seen else (False, False))
    if not right:
        raise ValueError("there are no pictures to read")
    right = np.array(right)
    colour, form = right.mean(axis=0).tolist()
    return {"colour": colour, "form": form, "both": float(right.all(axis=1).mean())}


def _foreground(pixels: np.ndarray) -> np.ndarray:
    """Returns the mask (H, W) of what differs from the background, a grey plane."""
    chroma = pixels.max(axis=2) - pixels.min(axis=2)
    height, width = chroma.shape
    rows, columns = np.indices((height, width)) / max(height, width)
    plane = np.stack([np.ones_like(rows), rows, columns], axis=2)
    background = (chroma < SATURATED / 2) & (pixels.min(axis=2) < WHITE)
    for _ in range(3):  # each time without what the last plane did not explain
        if background.sum() < 3:
            return ~background
        fit, *_ = np.linalg.lstsq(plane[background], pixels[background], rcond=None)
        difference = np.abs(pixels - plane @ fit).max(axis=2)
        background = difference < FOREGROUND
    return ~background


def _colour(pixels: np.ndarray) -> str | None:
    """Names the colour that most of the saturated pixels (n, 3) are nearest to, weighted."""
    chroma = pixels.max(axis=1) - pixels.min(axis=1)
    coloured = chroma >= SATURATED
    if not coloured.any():
        return None
    distances = ((pixels[coloured, None] - _PALETTE) ** 2).sum(axis=2)
    votes = np.bincount(distances.argmin(axis=1), chroma[coloured], len(_PALETTE))
    return _COLOURS[int(votes.argmax())]


def _form(mask: np.ndarray) -> str:
    """Names the template that covers a region best, by intersection over union."""
    window = _normalised(mask)
    templates = _templates()
    both = np.minimum(templates, window).sum(axis=(2, 3))
    either = np.maximum(templates, window).sum(axis=(2, 3))
    return _FORMS[int((both / either).max(axis=1).argmax())]


def _normalised(mask: np.ndarray) -> np.ndarray:
    """Resamples a region about its centroid, scaled to an area of pi: (_SIDE, _SIDE) in 0 to 1."""
    from scipy import ndimage

    rows, columns = np.nonzero(mask)
    unit = np.sqrt(len(rows) / np.pi)
    steps = ((np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1) * _REACH * unit
    places = np.meshgrid(rows.mean() + steps, columns.mean() + steps, indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), places, order=1)


@functools.cache
def _templates() -> np.ndarray:
    """Returns the forms at every angle, normalised as a region is: (8, angles, _SIDE, _SIDE)."""
    x = (np.arange(160) + 0.5) / 80 - 1
    drawn = []
    for angle in _ANGLES:
        cos, sin = np.cos(angle), np.sin(angle)
        turned = cos * x + sin * x[:, None], cos * x[:, None] - sin * x
        drawn.append([_normalised(inside(*turned)) for inside in SHAPES.values()])
    return np.swapaxes(np.array(drawn), 0, 1)
