"""Codes changed by hand: regions and mixtures."""

import numpy as np
import pytest

from unitok_jax.demo import editing
from unitok_jax.demo.editing import Region

GRID = (3, 4)


@pytest.fixture
def pair():
    """Two (3, 14) codes that differ everywhere: a grid of 3 x 4 behind two query tokens."""
    codes = np.arange(3 * 14, dtype=np.int32).reshape(3, 14)
    return codes, codes + 100


def test_region_tokens(pair):
    tokens = editing.region_tokens(pair[0], GRID, Region(1, 2, 2, 2))
    assert tokens.tolist() == [2 + 6, 2 + 7, 2 + 10, 2 + 11]


@pytest.mark.parametrize(
    "region, words",
    [
        (Region(-1, 0, 1, 1), "top and left start at 0"),
        (Region(0, 0, 0, 1), "at least 1"),
        (Region(2, 0, 2, 1), "row 4"),
        (Region(0, 3, 1, 2), "column 5, outside the grid of 3 x 4"),
    ],
)
def test_bad_regions(pair, region, words):
    with pytest.raises(ValueError, match=words):
        editing.region_tokens(pair[0], GRID, region)


def test_replace_touches_the_chosen_tokens_and_codebooks_alone(pair):
    codes, other = pair
    before = codes.copy()
    out = editing.replace(codes, other, np.array([3, 5]), [2, 0])
    changed = out != codes
    assert np.argwhere(changed).tolist() == [[0, 3], [0, 5], [2, 3], [2, 5]]
    np.testing.assert_array_equal(out[changed], other[changed])
    np.testing.assert_array_equal(codes, before)


@pytest.mark.parametrize("books, words", [([], "no codebook"), ([3], "there are 3"), ([-1], "-1")])
def test_bad_codebooks(pair, books, words):
    for work in (
        lambda: editing.replace(*pair, np.array([0]), books),
        lambda: editing.shuffle(pair[0], np.array([0]), books, 0),
    ):
        with pytest.raises(ValueError, match=words):
            work()


def test_shuffle_keeps_tokens_whole(pair):
    tokens = np.arange(2, 12)
    out = editing.shuffle(pair[0], tokens, [0, 1], seed=1)
    assert (out[:2, tokens] != pair[0][:2, tokens]).any()
    np.testing.assert_array_equal(out[1] - out[0], pair[0][1] - pair[0][0])
    np.testing.assert_array_equal(np.sort(out[0]), pair[0][0])
    np.testing.assert_array_equal(out[2], pair[0][2])
    np.testing.assert_array_equal(out[:, [0, 1, 12, 13]], pair[0][:, [0, 1, 12, 13]])
    np.testing.assert_array_equal(out, editing.shuffle(pair[0], tokens, [0, 1], seed=1))


def test_most_frequent():
    codes = np.array([[1, 2, 2, 0], [5, 4, 4, 5]])
    np.testing.assert_array_equal(editing.most_frequent(codes), [[2] * 4, [4] * 4])


def test_blends(pair):
    codes, other = pair
    out = editing.blend_books(codes, other, 2)
    assert (out[:2] == codes[:2]).all() and (out[2] == other[2]).all()
    out = editing.blend_share(codes, other, 0.5, seed=3)
    second = (out == other).all(axis=0)
    assert second.sum() == 7 and (out == codes).all(axis=0).sum() == 7
    assert (editing.blend_share(codes, other, 0.5, seed=4) != out).any()
    out = editing.blend_split(codes, other, GRID, 1)
    second = (out == other).all(axis=0)
    assert not second[:2].any() and (out == codes).all(axis=0).sum() == 2 + 3
    assert second[2:].reshape(GRID).tolist() == [[False, True, True, True]] * 3


def test_the_ends_of_each_blend_are_the_pictures(pair):
    codes, other = pair
    for first in (
        editing.blend_books(codes, other, 3),
        editing.blend_share(codes, other, 0, 0),
        editing.blend_split(codes, other, GRID, 4),
    ):
        np.testing.assert_array_equal(first, codes)
    for second in (editing.blend_books(codes, other, 0), editing.blend_share(codes, other, 1, 0)):
        np.testing.assert_array_equal(second, other)


def test_bad_blends(pair):
    codes, other = pair
    with pytest.raises(ValueError, match="there are 3"):
        editing.blend_books(codes, other, 4)
    with pytest.raises(ValueError, match="from 0 to 1"):
        editing.blend_share(codes, other, 1.5, 0)
    with pytest.raises(ValueError, match="the grid has 4"):
        editing.blend_split(codes, other, GRID, 5)
    with pytest.raises(ValueError, match="cannot be mixed"):
        editing.blend_books(codes, other[:, :5], 1)
