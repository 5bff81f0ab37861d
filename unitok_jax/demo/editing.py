"""Codes as something to change by hand: regions and mixtures.

Codes here are those of one image, int (K, N): K codebooks, and N tokens, of which the last
rows * columns of the grid are the image's, row by row, and those before belong to no place.
Functions return new arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.codes import first_image_token


class Region(NamedTuple):
    """A rectangle of the grid, in tokens."""

    top: int
    left: int
    height: int
    width: int


def check_region(region: Region, grid: tuple[int, int]) -> Region:
    """The region, if it holds a token and lies within the grid. Raises ValueError otherwise."""
    region = Region(*(int(n) for n in region))
    top, left, height, width = region
    if min(top, left) < 0 or min(height, width) < 1:
        raise ValueError(
            f"region {region}: top and left start at 0, height and width are at least 1"
        )
    if top + height > grid[0] or left + width > grid[1]:
        raise ValueError(
            f"the region ends at row {top + height}, column {left + width}, outside the grid of "
            f"{grid[0]} x {grid[1]} tokens; make it smaller or move it"
        )
    return region


def region_tokens(codes: np.ndarray, grid: tuple[int, int], region: Region) -> np.ndarray:
    """Positions in (K, N) codes of a region's tokens, row by row. Raises as `check_region`."""
    top, left, height, width = check_region(region, grid)
    numbers = np.arange(grid[0] * grid[1]).reshape(grid)
    return numbers[top : top + height, left : left + width].ravel() + first_image_token(codes, grid)


def most_frequent(codes: np.ndarray) -> np.ndarray:
    """The code that each codebook uses most, as (K, N) codes; of equals the smallest."""
    top = [np.bincount(row).argmax() for row in codes]
    return np.broadcast_to(np.array(top, codes.dtype)[:, None], codes.shape)


def replace(
    codes: np.ndarray, other: np.ndarray, tokens: np.ndarray, books: Sequence[int]
) -> np.ndarray:
    """`codes` with those of `other` at some tokens of some codebooks.

    Args:
      codes, other: (K, N).
      tokens: positions in N.
      books: codebooks from 0.

    Raises:
      ValueError: shapes that differ, no codebook or one that is not there.
    """
    _check_same(codes, other)
    where = np.ix_(_check_books(books, len(codes)), tokens)
    out = np.array(codes)
    out[where] = other[where]
    return out


def shuffle(codes: np.ndarray, tokens: np.ndarray, books: Sequence[int], seed: int) -> np.ndarray:
    """`codes` with the tokens in another order, the same one in each of `books`; raises as above"""
    books = _check_books(books, len(codes))
    out = np.array(codes)
    mixed = np.random.default_rng(seed).permutation(tokens)
    out[np.ix_(books, tokens)] = codes[np.ix_(books, mixed)]
    return out


def blend_books(codes: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """The first `count` codebooks of `codes`, the rest of `other`.

    Raises:
      ValueError: shapes that differ, a count outside 0 to K.
    """
    _check_same(codes, other)
    if not 0 <= count <= len(codes):
        raise ValueError(f"{count} codebooks of the first image: there are {len(codes)}")
    return np.concatenate([codes[:count], other[count:]])


def blend_share(codes: np.ndarray, other: np.ndarray, share: float, seed: int) -> np.ndarray:
    """That share of the tokens from `other`, all codebooks of each, chosen by a seed.

    Raises:
      ValueError: shapes that differ, a share outside 0 to 1.
    """
    _check_same(codes, other)
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share}: it is a number from 0 to 1")
    tokens = codes.shape[1]
    chosen = np.random.default_rng(seed).permutation(tokens)[: round(share * tokens)]
    return replace(codes, other, chosen, range(len(codes)))


def blend_split(
    codes: np.ndarray, other: np.ndarray, grid: tuple[int, int], columns: int
) -> np.ndarray:
    """The left `columns` of the grid from `codes`, the others from `other`.

    Raises:
      ValueError: shapes that differ, columns outside 0 to the grid's.
    """
    _check_same(codes, other)
    if not 0 <= columns <= grid[1]:
        raise ValueError(f"{columns} columns of the first image: the grid has {grid[1]}")
    if columns == grid[1]:
        return np.array(codes)
    tokens = region_tokens(codes, grid, Region(0, columns, grid[0], grid[1] - columns))
    return replace(codes, other, tokens, range(len(codes)))


def _check_same(codes, other):
    if codes.shape != other.shape:
        raise ValueError(f"codes of shapes {codes.shape} and {other.shape} cannot be mixed")


def _check_books(books, count):
    books = sorted({int(book) for book in books})
    if not books:
        raise ValueError("no codebook is chosen: nothing would change")
    if books[0] < 0 or books[-1] >= count:
        raise ValueError(f"codebooks {books}: there are {count}, from 0")
    return books
