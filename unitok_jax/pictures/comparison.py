"""Pictures beside each other: originals, reconstructions and their errors."""

import numpy as np


def error_picture(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the absolute error x 2 of two uint8 pictures of one shape, uint8."""
    error = np.abs(image.astype(np.int16) - other.astype(np.int16))
    return np.minimum(2 * error, 255).astype(np.uint8)


def comparison(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Draws a row per image: original | reconstruction | absolute error x 2.

    Args:
      images, reconstructions: (B, H, W, 3) uint8.

    Returns:
      (B H, 3 W, 3) uint8, with thin white gaps.
    """
    error = error_picture(images, reconstructions)
    gap = ((0, 0), (2, 2), (2, 2), (0, 0))
    panels = [np.pad(x, gap, constant_values=255) for x in (images, reconstructions, error)]
    rows = np.concatenate(panels, axis=2)
    return rows.reshape(-1, *rows.shape[2:])


def tile(rows: list[np.ndarray], height: int = 6) -> np.ndarray:
    """Arranges uint8 (h, w, 3) pictures of any size in columns of `height` pictures."""
    columns = [_stack(rows[i : i + height], 0) for i in range(0, len(rows), height)]
    return _stack(columns, 1)


def _stack(pictures, axis):
    """Concatenates along one axis; the other is padded with white."""
    other = 1 - axis
    length = max(picture.shape[other] for picture in pictures)
    pads = [[(0, 0)] * 3 for _ in pictures]
    for pad, picture in zip(pads, pictures, strict=True):
        pad[other] = (0, length - picture.shape[other])
    padded = [np.pad(x, p, constant_values=255) for x, p in zip(pictures, pads, strict=True)]
    return np.concatenate(padded, axis)
