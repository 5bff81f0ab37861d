"""Visualisation of codes: a colour for each, maps of them, and the frame of a region."""

from collections.abc import Sequence

import numpy as np

from unitok_jax.codes import first_image_token


def palette(rows: int) -> np.ndarray:
    """Returns a fixed colour per code, (rows, 3) uint8; neighbours differ in hue."""
    index = np.arange(rows)
    hue = index * 0.6180339887 % 1  # golden section: no two of a short run come near each other
    saturation, value = 0.35 + 0.6 * (index * 0.3819 % 1), 1 - 0.5 * (index * 0.7548 % 1)
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - np.clip(wheel, 0, 1)))
    return np.rint(255 * rgb).astype(np.uint8)


def code_maps(codes: np.ndarray, grid: tuple[int, int], rows: int, cell: int) -> np.ndarray:
    """Draws a picture per codebook: a square of `cell` pixels per token, coloured by its code.

    Args:
      codes: (K, N) in [0, rows), the tokens of the image last.
      grid: rows and columns of image tokens.
      rows: rows of a codebook; more rows leave the colours unchanged.
      cell: pixels of a square's side.

    Returns:
      (K, h cell, w cell, 3) uint8.
    """
    height, width = grid
    cells = codes[:, first_image_token(codes, grid) :].reshape(-1, height, width)
    return palette(rows)[cells].repeat(cell, axis=1).repeat(cell, axis=2)


def outline(image: np.ndarray, region: Sequence[int], cell: int) -> np.ndarray:
    """Draws a frame around a region of tokens.

    Args:
      image: (H, W, 3) uint8.
      region: (top, left, height, width) in tokens.
      cell: pixels of a token's side.

    Returns:
      uint8 of the shape of `image`.
    """
    top, left, height, width = (cell * n for n in region)
    out = np.array(image)
    line = max(1, min(out.shape[:2]) // 128)
    for margin, colour in ((0, (255, 40, 40)), (line, (255, 255, 255))):
        inside = np.zeros(out.shape[:2], bool)
        inside[top + margin : top + height - margin, left + margin : left + width - margin] = True
        edge = inside.copy()
        margin += line
        edge[top + margin : top + height - margin, left + margin : left + width - margin] = False
        out[edge] = colour
    return out
