"""Editing of codes by hand: regions and mixtures.

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
    """Returns a region that has a token and lies in the grid; raises ValueError otherwise."""
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
    """Returns the positions in (K, N) codes of a region's tokens; raises as `check_region`."""
    top, left, height, width = check_region(region, grid)
    numbers = np.arange(grid[0] * grid[1]).reshape(grid)
    return numbers[top : top + height, left : left + width].ravel() + first_image_token(codes, grid)


def most_frequent(codes: np.ndarray) -> np.ndarray:
    """Returns each codebook's most frequent code, as (K, N) codes; ties give the smallest."""
    top = [np.bincount(row).argmax() for row in codes]
    return np.broadcast_to(np.array(top, codes.dtype)[:, None], codes.shape)


def replace(
    codes: np.ndarray, other: np.ndarray, tokens: np.ndarray, books: Sequence[int]
) -> np.ndarray:
    """Replaces codes by those of `other` at given tokens and codebooks.

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
    """Permutes tokens of `codes`, equally in each of `books`; raises as `replace`."""
    books = _check_books(books, len(codes))
    out = np.array(codes)
    mixed = np.random.default_rng(seed).permutation(tokens)
    out[np.ix_(books, tokens)] = codes[np.ix_(books, mixed)]
    return out


def blend_books(codes: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """Joins the first `count` codebooks of `codes` with the rest of `other`.

    Raises:
      ValueError: shapes that differ, a count outside 0 to K.
    """
    _check_same(codes, other)
    if not 0 <= count <= len(codes):
        raise ValueError(f"{count} codebooks of the first image: there are {len(codes)}")
    return np.concatenate([codes[:count], other[count:]])


def blend_share(codes: np.ndarray, other: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Takes a share of the tokens from `other`, with all their codebooks, chosen by a seed.

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
    """Joins the left `columns` of the grid from `codes` with the others from `other`.

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
