"""Pictures of codes, regions, errors and reconstructions."""

import numpy as np
import pytest

from unitok_jax.pictures.codes import code_maps, outline, palette
from unitok_jax.pictures.comparison import comparison, error_picture, tile

GRID = (3, 4)


@pytest.fixture
def codes():
    """(3, 14) codes: a grid of 3 x 4 behind two query tokens."""
    return np.arange(3 * 14, dtype=np.int32).reshape(3, 14)


def test_palette_is_the_same_for_every_size_and_tells_codes_apart():
    colours = palette(4096)
    np.testing.assert_array_equal(palette(256), colours[:256])
    assert colours.dtype == np.uint8 and len(np.unique(colours[:256], axis=0)) == 256
    steps = np.abs(np.diff(colours.astype(int), axis=0)).max(axis=1)
    assert steps.min() > 60


def test_code_maps_paint_each_token_and_no_query_token(codes):
    maps = code_maps(codes, GRID, 64, cell=5)
    assert maps.shape == (3, 15, 20, 3)
    for book, row, column in np.ndindex(3, *GRID):
        square = maps[book, 5 * row : 5 * row + 5, 5 * column : 5 * column + 5].reshape(-1, 3)
        colour = palette(64)[codes[book, 2 + 4 * row + column]]
        np.testing.assert_array_equal(square, np.tile(colour, (25, 1)))


def test_outline_frames_the_region():
    image = np.full((48, 64, 3), 7, np.uint8)
    out = outline(image, (1, 2, 2, 1), 16)
    rows, columns = np.nonzero((out != image).any(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 32, 47)
    assert (out[20:40, 36:44] == 7).all() and (image == 7).all()


def test_error_picture():
    first, second = np.array([[10, 200, 0]], np.uint8), np.array([[20, 180, 255]], np.uint8)
    assert error_picture(first, second).tolist() == [[20, 40, 255]]


def test_comparison():
    images = np.zeros((2, 4, 6, 3), np.uint8)
    rebuilt = np.full_like(images, 40)
    picture = comparison(images, rebuilt)
    assert picture.shape == (2 * 8, 3 * 10, 3)
    row = picture[4]
    assert row[4].tolist() == [0] * 3 and row[14].tolist() == [40] * 3
    assert row[24].tolist() == [80] * 3 and row[0].tolist() == [255] * 3


def test_tile_fills_up_with_white():
    picture = tile([np.zeros((2, n, 3), np.uint8) for n in (3, 5, 4)], height=2)
    assert picture.shape == (4, 9, 3)
    assert picture[0, 4].tolist() == [255] * 3 and picture[3, 6].tolist() == [255] * 3
    assert picture[2, 4].tolist() == picture[0, 8].tolist() == [0] * 3
